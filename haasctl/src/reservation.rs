//! `reservation`, `mine`, `extend`, `release`, `explain`: what is in the calendar.

use clap::{Args, Subcommand};
use haas_api::{
    List,
    reservation::{Explanation, ExtendReservation, Reservation, ReservationState},
};

use crate::{
    cli::Session,
    error::Error,
    format,
    table::{Field, Table, Tone, number, or_dash, toned},
    times,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the reservations that you may see.
    #[command(
        after_help = "Examples:\n  haasctl reservation list\n  haasctl reservation list --all"
    )]
    List {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
    },
    /// Show a reservation: its nodes, and its line of time.
    #[command(after_help = "Examples:\n  haasctl reservation show 17")]
    Show {
        /// Its number.
        id: i64,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  haasctl mine\n  haasctl mine --all")]
pub(crate) struct MineArgs {
    /// Also those that are over.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl extend 17 2h
  haasctl extend 17 1-00:00:00 --as-far-as-possible")]
pub(crate) struct ExtendArgs {
    /// The reservation's number.
    id: i64,
    /// By how much: 90 (minutes), 8:00:00, 2h.
    #[arg(value_parser = times::length)]
    by: u64,
    /// Take what can be had, if that is less.
    #[arg(long)]
    as_far_as_possible: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  haasctl release 17")]
pub(crate) struct ReleaseArgs {
    /// The reservation's number.
    id: i64,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  haasctl explain 17")]
pub(crate) struct ExplainArgs {
    /// The reservation's number.
    id: i64,
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        match self {
            Self::List { all } => {
                let list = List::whole(client.reservations(all, false).await?);
                session.out.show(&list, || list_table(&list.items))
            }
            Self::Show { id } => {
                let one = client.reservation(id).await?;
                session.out.show_text(&one, || whole(&one))
            }
        }
    }
}

impl MineArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let list = List::whole(session.client()?.reservations(self.all, true).await?);
        session.out.show(&list, || list_table(&list.items))
    }
}

impl ExtendArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let (by_s, as_far_as_possible) = (self.by, self.as_far_as_possible);
        let wanted = ExtendReservation { by_s, as_far_as_possible };
        let one = session.client()?.extend_reservation(self.id, &wanted).await?;
        session.out.show_text(&one, || sentence(&one))
    }
}

impl ReleaseArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let one = session.client()?.release_reservation(self.id).await?;
        session.out.show_text(&one, || sentence(&one))
    }
}

impl ExplainArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let told = session.client()?.explain_reservation(self.id).await?;
        session.out.show_text(&told, || explained(&told))
    }
}

/// A reservation in a sentence.
pub(crate) fn sentence(one: &Reservation) -> String {
    let mut text = format!("Reservation {} is {}: {}", one.id, one.state.as_str(), one.reason);
    let until = one.end_at.as_deref().map(format::time);
    let from = one.start_at.as_deref().map(format::time);
    match (one.state, from, until) {
        (ReservationState::Planned, Some(from), Some(until)) => {
            text.push_str(&format!("; from {from} until {until}"));
        }
        (ReservationState::Starting | ReservationState::Active, _, Some(until)) => {
            text.push_str(&format!("; until {until}"));
        }
        _ => {}
    }
    text
}

fn tone(state: ReservationState) -> Tone {
    match state {
        ReservationState::Active => Tone::Good,
        ReservationState::Pending
        | ReservationState::Planned
        | ReservationState::Starting
        | ReservationState::Ending => Tone::Busy,
        ReservationState::Failed => Tone::Bad,
        ReservationState::Ended | ReservationState::Cancelled => Tone::Faint,
    }
}

fn state(one: &Reservation) -> Field {
    toned(one.state.as_str(), tone(one.state))
}

/// The nodes that it has, as a node set.
fn held(one: &Reservation) -> Option<String> {
    let held = one.assigned.iter().filter(|node| node.state != "lost");
    let names: Vec<&str> = held.map(|node| node.node.as_str()).collect();
    (!names.is_empty()).then(|| format::fold(&names))
}

fn list_table(list: &[Reservation]) -> Table {
    let mut table = Table::new([
        "ID", "USER", "PROJECT", "QUEUE", "N", "TIME", "STATE", "START", "END", "NODES",
    ]);
    for one in list {
        table.row([
            number(one.id),
            (&one.user).into(),
            (&one.project).into(),
            one.queue.as_str().into(),
            number(one.nodes),
            times::shown(one.walltime_s).into(),
            state(one),
            or_dash(one.start_at.as_deref().map(format::time)),
            or_dash(one.end_at.as_deref().map(format::time)),
            match held(one) {
                Some(nodes) => nodes.into(),
                None => toned(format!("({})", one.code.as_str()), Tone::Faint),
            },
        ]);
    }
    table
}

/// Its nodes by rank.
pub(crate) fn nodes_table(one: &Reservation) -> Table {
    let mut table = Table::new(["RANK", "NODE", "STATE"]);
    for node in &one.assigned {
        table.row([number(node.rank), (&node.node).into(), (&node.state).into()]);
    }
    table
}

fn whole(one: &Reservation) -> String {
    let mut table = Table::pairs();
    table.pair("reservation", one.id);
    table.pair("state", state(one));
    table.pair("why", format!("{} ({})", one.reason, one.code.as_str()));
    table.pair("user", &one.user);
    table.pair("project", &one.project);
    table.pair("queue", one.queue.as_str());
    table.pair("nodes", one.nodes);
    table.pair("time", times::shown(one.walltime_s));
    table.pair("image", format!("{} ({})", one.image, one.image_digest));
    table.pair("overlay", one.overlay.as_deref().unwrap_or("none, in RAM"));
    table.pair("start", or_dash(one.start_at.as_deref().map(format::time)));
    table.pair("ready", or_dash(one.ready_at.as_deref().map(format::time)));
    table.pair("end", or_dash(one.end_at.as_deref().map(format::time)));
    let mut text = table.render(None, false);
    if !one.assigned.is_empty() {
        text.push('\n');
        text.push_str(&nodes_table(one).render(None, false));
    }
    if !one.steps.is_empty() {
        let mut steps = Table::new(["AFTER", "WHAT", "WHY", "DETAIL"]);
        for step in &one.steps {
            steps.row([
                number(format!("{:.1} s", step.after_s)),
                (&step.what).into(),
                step.code.as_str().into(),
                (&step.detail).into(),
            ]);
        }
        text.push('\n');
        text.push_str(&steps.render(None, false));
    }
    text
}

fn explained(told: &Explanation) -> String {
    let mut lines = vec![format!("{} ({})", told.reason, told.code.as_str())];
    if told.ahead > 0 {
        lines.push(format!("{} before it", told.ahead));
    }
    let rough = if told.is_rough { ", roughly" } else { "" };
    if let Some(start) = &told.start_at {
        lines.push(format!("starts at {}{rough}", format::time(start)));
    }
    if let Some(start) = &told.promised_at {
        lines.push(format!("at the latest at {}", format::time(start)));
    }
    if told.busy > 0 {
        lines.push(format!("{} nodes serve it and are in use", told.busy));
    }
    for excluded in &told.excluded {
        lines.push(format!("{} nodes are kept from it by: {}", excluded.nodes, excluded.rule));
    }
    for without in &told.without {
        let start = format::time(&without.start_at);
        lines.push(format!("would start at {start} without: {}", without.rule));
    }
    lines.join("\n")
}
