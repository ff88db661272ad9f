//! `reserve`: nodes for a time.

use std::time::{Duration, Instant};

use clap::Args;
use haas_api::{
    client::{Client, Reserved},
    names::{ImageRef, OverlayRef, QueueName, UserName},
    reservation::{
        Grow, NewReservation, OnNodeLoss, Reservation, ReservationPlan, ReservationState,
    },
};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    format, reservation, series,
    table::{Table, or_dash},
    times,
    wait::Backoff,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl reserve -N 4 -t 8:00:00 --image minimal --overlay dev --wait
  haasctl reserve -N 2 -t 2h --begin 16:00 --image debian-12 --dry-run
  haasctl reserve -N 8 -t 4h --begin 2026-12-01T08:00 --every 7d --times 10 --image minimal
  haasctl reserve -N 32 -t 1-00:00:00 -p gpu -A vision -C 'memory>=64G' -x n07 --image minimal")]
pub(crate) struct ReserveArgs {
    /// How many nodes.
    #[arg(short = 'N', long, value_name = "N")]
    nodes: u32,
    /// For how long: 90 (minutes), 8:00:00, 2-12:00, 2h; as the queue says where none is given.
    #[arg(short = 't', long, value_name = "TIME", value_parser = times::length)]
    time: Option<u64>,
    /// From when: 16:00, 2026-12-01T08:00, now+2h; as soon as can be where none is given.
    #[arg(long, value_name = "MOMENT")]
    begin: Option<String>,
    /// The same again each 1d, 7d or 2w, at the same time of day; each is accepted or refused for itself.
    #[arg(long, value_name = "DAYS", value_parser = series::days,
          requires_all = ["begin", "times"], conflicts_with = "wait")]
    every: Option<u32>,
    /// With --every: how many in all.
    #[arg(long, value_name = "N", requires = "every",
          value_parser = clap::value_parser!(u32).range(2..=366))]
    times: Option<u32>,
    /// The queue, where you may use several.
    #[arg(short = 'p', long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// The project that the nodes are for, where you are in several.
    #[arg(short = 'A', long)]
    project: Option<UserName>,
    /// Only nodes for which this holds now, as in `node list --where`.
    #[arg(short = 'C', long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// Only nodes of this set.
    #[arg(short = 'w', long, value_name = "NODESET", value_parser = nodeset)]
    nodelist: Option<String>,
    /// No node of this set.
    #[arg(short = 'x', long, value_name = "NODESET", value_parser = nodeset)]
    exclude: Option<String>,
    /// What to boot: `name`, `name:tag` or `sha256:...`.
    #[arg(short, long)]
    image: ImageRef,
    /// The overlay, `name` (mine) or `owner/name`; in RAM where none is given.
    #[arg(long)]
    overlay: Option<OverlayRef>,
    /// What new ranks begin with, where the overlay has data on fewer nodes.
    #[arg(long, value_enum)]
    grow: Option<GrowArg>,
    /// Boot what the image's tag means at the start, not what the overlay last ran on.
    #[arg(long)]
    follow_tag: bool,
    /// What becomes of the reservation when a node is lost.
    #[arg(long, value_enum, default_value = "replace")]
    on_node_loss: OnNodeLossArg,
    /// Say what would happen, change nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until the nodes are yours. (`-w` names nodes here, as with Slurm.)
    #[arg(long)]
    wait: bool,
    /// With --wait: give up waiting after this many seconds (exit code 7). The reservation stays.
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u64>,
}

/// What new ranks begin with.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum GrowArg {
    /// Nothing.
    Empty,
}

/// What becomes of a reservation of which a node is lost.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum OnNodeLossArg {
    /// Another node takes its place if there is one.
    Replace,
    /// It goes on with the others.
    Shrink,
    /// It ends.
    Fail,
}

impl ReserveArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let now = jiff::Zoned::now();
        let begin = match &self.begin {
            Some(text) => times::moment(text, &now).map_err(Error::Usage)?,
            None => None,
        };
        let series = self.every.zip(self.times);
        let new = NewReservation {
            nodes: self.nodes,
            walltime_s: self.time,
            begin: begin.map(|at| at.to_string()),
            queue: self.queue,
            project: self.project,
            condition: self.condition,
            nodeset: self.nodelist,
            exclude: self.exclude,
            image: self.image,
            overlay: self.overlay,
            grow: self.grow.map(|GrowArg::Empty| Grow::Empty),
            follow_tag: self.follow_tag,
            on_node_loss: match self.on_node_loss {
                OnNodeLossArg::Replace => OnNodeLoss::Replace,
                OnNodeLossArg::Shrink => OnNodeLoss::Shrink,
                OnNodeLossArg::Fail => OnNodeLoss::Fail,
            },
            dry_run: self.dry_run,
        };
        let client = session.client()?;
        if let Some(series) = series {
            let first = begin.unwrap_or(now.timestamp()).to_zoned(now.time_zone().clone());
            return series::reserve(session, &client, &new, &first, series).await;
        }
        match client.reserve(&new).await? {
            Reserved::Plan(plan) => session.out.show(&plan, || plan_table(&plan)),
            Reserved::Made(made) if self.wait => {
                follow(session, &client, *made, self.timeout.map(Duration::from_secs)).await
            }
            Reserved::Made(made) => session.out.show_text(&*made, || {
                format!(
                    "{}\nLook at it: haasctl reservation show {}",
                    reservation::sentence(&made),
                    made.id
                )
            }),
        }
    }
}

/// Says how the reservation stands until its nodes are its user's.
async fn follow(
    session: &Session<'_>,
    client: &Client,
    mut now: Reservation,
    timeout: Option<Duration>,
) -> Result<(), Error> {
    let began = Instant::now();
    let mut backoff = Backoff::default();
    let mut told = String::new();
    loop {
        let sentence = reservation::sentence(&now);
        if sentence != told {
            session.out.note(&sentence)?;
            told = sentence;
            backoff.reset();
        }
        if now.state == ReservationState::Active {
            return session.out.show(&now, || reservation::nodes_table(&now));
        }
        if now.state.is_over() || now.state == ReservationState::Ending {
            return Err(Error::Failed(format!("reservation {} came to nothing", now.id)));
        }
        if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            return Err(Error::Timeout(format!(
                "reservation {0} is not active yet and stays in the calendar; look at it: haasctl \
                 reservation show {0}",
                now.id
            )));
        }
        backoff.pause().await;
        match client.reservation(now.id).await {
            Ok(read) => now = read,
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn plan_table(plan: &ReservationPlan) -> Table {
    let mut table = Table::pairs();
    table.pair("state", plan.state.as_str());
    table.pair("why", format!("{} ({})", plan.reason, plan.code.as_str()));
    table.pair("start", or_dash(plan.start_at.as_deref().map(format::time)));
    table.pair("end", or_dash(plan.end_at.as_deref().map(format::time)));
    let nodes = (!plan.nodes.is_empty()).then(|| format::fold(&plan.nodes));
    table.pair("nodes", or_dash(nodes));
    table.pair("image", &plan.image_digest);
    table
}
