//! Tables for people: left-aligned columns, two blanks between them, no lines.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, presets::NOTHING};

/// How a cell is coloured on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    text: String,
    tone: Tone,
    number: bool,
}

/// A number, aligned to the right.
pub(crate) fn number(text: impl ToString) -> Field {
    Field { text: text.to_string(), tone: Tone::Plain, number: true }
}

/// Text with a tone.
pub(crate) fn toned(text: impl ToString, tone: Tone) -> Field {
    Field { text: text.to_string(), tone, number: false }
}

impl<T: ToString> From<T> for Field {
    fn from(text: T) -> Self {
        toned(text, Tone::Plain)
    }
}

/// Text, or a dash for none.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> Field {
    value.map_or_else(|| toned("-", Tone::Faint), |value| value.into())
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Field>>,
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new<S: ToString>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(|name| name.to_string()).collect(), rows: Vec::new() }
    }

    /// A list of names and values, one per line.
    pub(crate) fn pairs() -> Self {
        Self { header: Vec::new(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, row: impl IntoIterator<Item = Field>) {
        self.rows.push(row.into_iter().collect());
    }

    /// Adds a name and its value.
    pub(crate) fn pair(&mut self, name: &str, value: impl Into<Field>) {
        self.row([toned(name, Tone::Faint), value.into()]);
    }

    /// The table as text: folded into `width` columns where one is given, coloured if asked.
    pub(crate) fn render(&self, width: Option<u16>, colour: bool) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(NOTHING);
        match width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if !self.header.is_empty() {
            table.set_header(
                self.header.iter().map(|name| paint(Cell::new(name), Tone::Faint, colour)),
            );
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|field| cell(field, colour)));
        }
        let last = table.column_count().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// From the wire or from disk: a cell must not move the cursor of somebody's terminal.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn cell(field: &Field, colour: bool) -> Cell {
    let cell = Cell::new(tame(&field.text));
    let cell = if field.number { cell.set_alignment(CellAlignment::Right) } else { cell };
    paint(cell, field.tone, colour)
}

fn paint(cell: Cell, tone: Tone, colour: bool) -> Cell {
    let paint = match tone {
        _ if !colour => return cell,
        Tone::Plain => return cell,
        Tone::Good => Color::Green,
        Tone::Busy => Color::Yellow,
        Tone::Bad => Color::Red,
        Tone::Faint => Color::DarkGrey,
    };
    cell.fg(paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["NODE", "STATE", "MB"]);
        table.row(["n01".into(), toned("ready", Tone::Good), number(7)]);
        table.row(["n02".into(), or_dash(None::<&str>), number(1234)]);
        table
    }

    #[test]
    fn columns_line_up_and_a_pipe_gets_no_colour() {
        assert_eq!(
            sample().render(None, false),
            "NODE  STATE  MB\nn01   ready     7\nn02   -      1234\n"
        );
        assert!(sample().render(None, true).contains("\x1b["));
    }

    #[test]
    fn a_narrow_terminal_folds_long_text() {
        let mut table = Table::new(["NODE", "REASON"]);
        table.row(["n01".into(), "the disk is not blank and not ours".into()]);
        let text = table.render(Some(24), false);
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert!(text.lines().count() > 2, "{text}");
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        let mut table = Table::new(["A"]);
        table.row(["\x1b[2Jx".into()]);
        assert_eq!(table.render(None, false), "A\n\u{fffd}[2Jx\n");
    }
}
