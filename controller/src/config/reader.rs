//! Reads TOML so that every mistake is found in one go, and each is told with its place.
//!
//! serde stops at the first error; a person who fills a file wants all of them. So a file is walked
//! as a tree of values that know their span. What is wrong is noted in [`Notes`] and reading goes
//! on; a file with any note is refused whole. Nothing here knows what the keys mean.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt,
    ops::{Range, RangeInclusive},
    str::FromStr,
};

use haas_api::names::NameError;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Problem, Problems};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    /// The value.
    pub(crate) value: T,
    /// Its bytes in the file.
    pub(crate) span: Range<usize>,
}

/// What was found wrong so far.
#[derive(Debug)]
pub(crate) struct Notes<'t> {
    file: &'t str,
    text: &'t str,
    list: RefCell<Vec<(usize, Problem)>>,
    broken: Cell<bool>,
}

impl<'t> Notes<'t> {
    /// Starts a file; `file` is only its name for messages.
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, list: RefCell::default(), broken: Cell::new(false) }
    }

    /// Parses the text. Errors of syntax are noted, and then nothing else is: what follows from
    /// half a file would only mislead.
    pub(crate) fn parse(&self) -> Spanned<DeTable<'t>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let message = error.message().replace('\n', " ");
            self.add(error.span().unwrap_or(0..0), "", message, "correct TOML");
        }
        self.broken.set(!self.list.borrow().is_empty());
        root
    }

    /// The root table of what [`Notes::parse`] returned.
    pub(crate) fn root<'a>(&'a self, root: &'a Spanned<DeTable<'a>>) -> Table<'a> {
        Table {
            notes: self,
            path: String::new(),
            span: 0..0,
            entries: root.get_ref(),
            asked: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// Notes that something is wrong.
    pub(crate) fn add(
        &self,
        span: Range<usize>,
        key: &str,
        wrong: impl Into<String>,
        right: impl fmt::Display,
    ) {
        if self.broken.get() {
            return;
        }
        let (line, column) = self.place(span.start);
        let right = format!("expected {right}");
        let problem = Problem { line, column, key: key.to_owned(), wrong: wrong.into(), right };
        self.list.borrow_mut().push((span.start, problem));
    }

    /// The line of a place, for messages that name two.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.place(span.start).0
    }

    /// All that was noted, or `value` when nothing was.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Problems> {
        let mut list = self.list.into_inner();
        if list.is_empty() {
            return Ok(value);
        }
        list.sort_by_key(|(at, _)| *at);
        let list = list.into_iter().map(|(_, problem)| problem).collect();
        Err(Problems { file: self.file.to_owned(), list })
    }

    fn place(&self, at: usize) -> (usize, usize) {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// A table that remembers which keys were asked for, so that the others can be refused.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    notes: &'a Notes<'a>,
    path: String,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
    asked: RefCell<BTreeSet<&'static str>>,
    refused: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Table<'a> {
    /// Where the table begins.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The line in which it begins.
    pub(crate) fn line(&self) -> usize {
        self.notes.line(&self.span)
    }

    /// The path of one of its keys.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A key's value, when it is there.
    pub(crate) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().insert(key);
        self.peek(key)
    }

    /// The value of a key that is no key of ours, to refuse it with words of its own.
    pub(crate) fn forbidden(&self, key: &'static str) -> Option<Value<'a>> {
        let value = self.peek(key)?;
        self.refused.borrow_mut().insert(key);
        Some(value)
    }

    fn peek(&self, key: &str) -> Option<Value<'a>> {
        let value = self.entries.get(key)?;
        Some(Value {
            notes: self.notes,
            path: self.path_of(key),
            span: value.span(),
            value: value.get_ref(),
        })
    }

    /// A key that must be there; `right` says what it should hold.
    pub(crate) fn need(&self, key: &'static str, right: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.refuse(&self.path_of(key), "is missing", right);
        }
        value
    }

    /// Notes something about the table itself.
    pub(crate) fn refuse(&self, key: &str, wrong: impl Into<String>, right: impl fmt::Display) {
        self.notes.add(self.span(), key, wrong, right);
    }

    /// The tables of `[[key]]`.
    pub(crate) fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        value.items("one or more tables").into_iter().filter_map(|item| item.table()).collect()
    }

    /// All entries of a table whose keys are the user's own.
    pub(crate) fn all(&self) -> Vec<(At<String>, Value<'a>)> {
        let entry = |(key, value): (&Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let key: At<String> =
                At { value: <_ as AsRef<str>>::as_ref(key.get_ref()).to_owned(), span: key.span() };
            let path = self.path_of(&key.value);
            let span = value.span();
            (key, Value { notes: self.notes, path, span, value: value.get_ref() })
        };
        self.entries.iter().map(entry).collect()
    }

    /// Refuses the keys that nobody asked for.
    pub(crate) fn refuse_unknown(&self) {
        let asked = self.asked.borrow();
        for key in self.entries.keys() {
            let name: &str = key.get_ref();
            if !asked.contains(name) && !self.refused.borrow().contains(name) {
                let known = asked.iter().copied().collect::<Vec<_>>().join(", ");
                let right = format!("one of {known}");
                self.notes.add(key.span(), &self.path_of(name), "unknown key", right);
            }
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Value<'a> {
    notes: &'a Notes<'a>,
    path: String,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    /// Where it stands.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Notes that this value will not do.
    pub(crate) fn refuse<T>(
        &self,
        wrong: impl Into<String>,
        right: impl fmt::Display,
    ) -> Option<T> {
        self.notes.add(self.span(), &self.path, wrong, right);
        None
    }

    /// `value` with this place.
    pub(crate) fn at<T>(&self, value: T) -> At<T> {
        At { value, span: self.span() }
    }

    /// Whether it is a table.
    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether it is a list without items.
    pub(crate) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|array| array.is_empty())
    }

    /// Text that is not empty.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.value.as_str() {
            Some("") => self.refuse("is empty", "some text"),
            Some(text) if text.chars().any(char::is_control) => {
                self.refuse("holds a control character", "plain text on one line")
            }
            Some(text) => Some(text),
            None => self.refuse(format!("is {}", self.kind()), "text in quotes"),
        }
    }

    /// One of our checked names.
    pub(crate) fn name<T: FromStr<Err = NameError>>(&self) -> Option<T> {
        self.text()?
            .parse()
            .or_else(|error: NameError| {
                let wrong = format!("{:?} is not a valid {}", error.value, error.what);
                self.refuse(wrong, error.expected).ok_or(())
            })
            .ok()
    }

    /// Anything else that is read from text; `right` says how it looks.
    pub(crate) fn parsed<T: FromStr>(&self, right: &str) -> Option<T> {
        self.with(right, |text| text.parse().ok())
    }

    /// Text that `read` understands; `right` says how it looks.
    pub(crate) fn with<T>(&self, right: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text()?;
        read(text).or_else(|| self.refuse(format!("{text:?} is not understood"), right))
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let right = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>();
        let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, v)| *v);
        self.with(&right.join(" or "), find)
    }

    /// A whole number within `range`.
    pub(crate) fn number(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let right = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.as_integer() else {
            return self.refuse(format!("is {}", self.kind()), right);
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => self.refuse(format!("{integer} is out of range"), right),
        }
    }

    /// A program by its absolute path, with its first arguments.
    pub(crate) fn command(&self) -> Option<Vec<String>> {
        const RIGHT: &str = "a list such as [\"/usr/local/sbin/pdu\", \"outlet7\"]";
        let items = self.items(RIGHT);
        let words: Vec<_> = items.iter().filter_map(|v| v.text().map(str::to_owned)).collect();
        match words.first() {
            // haasd's own folder and PATH are nobody's business to rely on.
            Some(program) if !program.starts_with('/') => {
                self.refuse(format!("{program:?} is no absolute path"), RIGHT)
            }
            Some(_) if words.len() == items.len() => Some(words),
            Some(_) => None,
            None if self.is_empty_list() => self.refuse("is empty", RIGHT),
            None => None,
        }
    }

    /// True or false.
    /// True or false.
    pub(crate) fn flag(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.refuse(format!("is {}", self.kind()), "true or false"))
    }

    /// A list's items.
    pub(crate) fn items(&self, right: &str) -> Vec<Value<'a>> {
        let Some(array) = self.value.as_array() else {
            let _: Option<()> = self.refuse(format!("is {}", self.kind()), right);
            return Vec::new();
        };
        let item = |item: &'a Spanned<DeValue<'a>>| Value {
            notes: self.notes,
            path: self.path.clone(),
            span: item.span(),
            value: item.get_ref(),
        };
        array.iter().map(item).collect()
    }

    /// A table.
    pub(crate) fn table(&self) -> Option<Table<'a>> {
        let Some(entries) = self.value.as_table() else {
            return self.refuse(format!("is {}", self.kind()), "a table");
        };
        let (notes, path, span) = (self.notes, self.path.clone(), self.span());
        Some(Table {
            notes,
            path,
            span,
            entries,
            asked: RefCell::default(),
            refused: RefCell::default(),
        })
    }

    fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let text = "\"ä\" = 1\nport = \"x\"\nname = 'a'\n[t]\nq = 5\n";
        let notes = Notes::new("f.toml", text);
        let parsed = notes.parse();
        let root = notes.root(&parsed);
        assert_eq!(root.get("port").and_then(|v| v.number(1..=9)), None);
        assert_eq!(root.get("name").and_then(|v| v.text()), Some("a"));
        let table = root.get("t").and_then(|v| v.table()).expect("[t] is a table");
        assert_eq!(table.get("q").and_then(|v| v.number(1..=3)), None);
        table.refuse_unknown();
        root.refuse_unknown();
        let told = notes.finish(()).unwrap_err().to_string();
        let expected = "\
f.toml:1:1: ä: unknown key; expected one of name, port, t
f.toml:2:8: port: is text; expected a whole number from 1 to 9
f.toml:5:5: t.q: 5 is out of range; expected a whole number from 1 to 3";
        assert_eq!(told, expected);
    }

    #[test]
    fn broken_toml_is_told_with_its_line() {
        let notes = Notes::new("f.toml", "a = 1\nb = \n");
        let _ = notes.parse();
        let told = notes.finish(()).unwrap_err().to_string();
        assert!(told.starts_with("f.toml:2:"), "{told}");
    }
}
