//! `calendar`: how many nodes are free when.

use clap::Args;
use haas_api::{
    client::CalendarOf,
    names::QueueName,
    reservation::{Calendar, Slot},
};

use crate::{
    cli::Session,
    error::Error,
    format,
    table::{Table, number},
    times,
};

/// A bar for all nodes is so wide.
const WIDTH: u32 = 40;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl calendar
  haasctl calendar -p gpu --span 2d
  haasctl calendar -N 32 -t 4h")]
pub(crate) struct CalendarArgs {
    /// The queue, where you may use several.
    #[arg(short = 'p', long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// How far ahead to look; a week where nothing is given.
    #[arg(long, value_name = "TIME", value_parser = times::length)]
    span: Option<u64>,
    /// Also the next starts for so many nodes.
    #[arg(short = 'N', long, value_name = "N")]
    nodes: Option<u32>,
    /// With -N: for how long; as the queue says where nothing is given.
    #[arg(short = 't', long, value_name = "TIME", value_parser = times::length, requires = "nodes")]
    time: Option<u64>,
}

impl CalendarArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let of = CalendarOf {
            queue: self.queue.as_ref(),
            span_s: self.span,
            nodes: self.nodes,
            walltime_s: self.time,
        };
        let calendar = session.client()?.calendar(of).await?;
        session.out.show_text(&calendar, || picture(&calendar, self.nodes))
    }
}

fn picture(calendar: &Calendar, nodes: Option<u32>) -> String {
    let mut table = Table::new(["FROM", "UNTIL", "FREE", ""]);
    for slot in &calendar.slots {
        table.row([
            format::time(&slot.from).into(),
            format::time(&slot.until).into(),
            number(slot.free),
            bar(slot, calendar.nodes).into(),
        ]);
    }
    let mut text = format!("Queue {}, {} nodes\n", calendar.queue, calendar.nodes);
    text.push_str(&table.render(None, false));
    if let Some(nodes) = nodes {
        let starts: Vec<_> = calendar.next_starts.iter().map(|at| format::time(at)).collect();
        let starts = if starts.is_empty() { "none".to_owned() } else { starts.join(", ") };
        text.push_str(&format!("Next starts for {nodes} nodes: {starts}\n"));
    }
    text
}

/// Free nodes as a bar, the others as dots.
fn bar(slot: &Slot, all: u32) -> String {
    let width = all.clamp(1, WIDTH);
    let free = u64::from(slot.free) * u64::from(width) / u64::from(all.max(1));
    let free = usize::try_from(free).unwrap_or(0);
    let rest = usize::try_from(width).unwrap_or(0).saturating_sub(free);
    "#".repeat(free) + &".".repeat(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_nodes_are_drawn() {
        let slot =
            |from: &str, until: &str, free| Slot { from: from.into(), until: until.into(), free };
        let calendar = Calendar {
            queue: "default".parse().unwrap(),
            nodes: 4,
            slots: vec![
                slot("2026-12-01T08:00:00Z", "2026-12-01T10:00:00Z", 1),
                slot("2026-12-01T10:00:00Z", "2026-12-08T08:00:00Z", 4),
            ],
            next_starts: vec!["2026-12-01T10:00:00Z".into()],
        };
        assert_eq!(
            picture(&calendar, Some(3)),
            "Queue default, 4 nodes\n\
             FROM                  UNTIL                 FREE\n\
             2026-12-01 08:00:00Z  2026-12-01 10:00:00Z     1  #...\n\
             2026-12-01 10:00:00Z  2026-12-08 08:00:00Z     4  ####\n\
             Next starts for 3 nodes: 2026-12-01 10:00:00Z\n"
        );
        assert_eq!(bar(&slot("", "", 500), 1000).matches('#').count(), 20);
    }
}
