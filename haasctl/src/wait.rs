//! Follows an operation to its end: the event stream says when something happened, the operation
//! itself says what. Two tasks bring both; each survives a haasd that is away for a while.

use std::{
    future::pending,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use haas_api::{
    client::{Client, ClientError, Events},
    event::Event,
    operation::Operation,
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    cli::Session,
    error::Error,
    format,
    out::{Format, Out, terminal_picture},
    progress::Progress,
    report,
};

/// How often the operation is read when no event tells.
const POLL: Duration = Duration::from_secs(2);

/// Many events come at once; one look at the operation serves them all.
const GATHER: Duration = Duration::from_millis(150);

/// How often a live table is drawn again, for its clocks.
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until every node is there, and show how it goes.
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// With --wait: give up waiting after this many seconds (exit code 7). The operation goes on.
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u64>,
}

impl WaitArgs {
    /// How long to wait; for ever where none is given.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }
}

/// Longer and longer pauses between tries, up to 5 s.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// Waits before the next try.
    pub(crate) async fn pause(&mut self) {
        sleep(self.next()).await;
    }

    /// After a success the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    fn next(&mut self) -> Duration {
        let pause = Duration::from_millis(250 << self.tries.min(5)).min(Duration::from_secs(5));
        self.tries = self.tries.saturating_add(1);
        pause
    }
}

enum Message {
    Event(Event),
    /// The event stream stands or does not.
    Stream(bool),
    Operation(Box<Operation>),
    /// haasd does not answer at the moment.
    Away(String),
    /// Waiting has no sense any more.
    Fatal(ClientError),
}

/// Shows the operation's progress until it is over, then where the time went. An error says which
/// nodes are not there.
pub(crate) async fn follow(
    session: &Session<'_>,
    client: &Client,
    mut operation: Operation,
    timeout: Option<Duration>,
) -> Result<(), Error> {
    let out = session.out;
    let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
    let began = Instant::now();
    let before = format::seconds_since(&operation.created_at);
    let elapsed = || before + began.elapsed().as_secs_f64();

    let (sender, mut inbox) = mpsc::channel(256);
    let wake = Arc::new(Notify::new());
    // Dropped at the end, which ends both tasks.
    let mut tasks = JoinSet::new();
    let events = client.events(Some(0), Some(&operation.id));
    tasks.spawn(bring_events(events, wake.clone(), sender.clone()));
    tasks.spawn(bring_operation(client.clone(), operation.id.clone(), wake, sender));

    let mut progress = Progress::new(&operation.created_at);
    progress.on_operation(&operation, elapsed());
    // One listener for the whole time, so that no Ctrl-C falls between two.
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut screen = Screen { out, lines: 0, away: false };
    while !operation.state.is_over() {
        screen.draw(&mut progress, elapsed())?;
        tokio::select! {
            message = inbox.recv() => match message {
                Some(Message::Event(event)) => progress.on_event(&event, elapsed()),
                Some(Message::Stream(stands)) => progress.stream_stands = stands,
                Some(Message::Operation(now)) => {
                    screen.back()?;
                    progress.on_operation(&now, elapsed());
                    operation = *now;
                }
                Some(Message::Away(why)) => screen.gone(&why)?,
                Some(Message::Fatal(error)) => return Err(error.into()),
                None => return Err(Error::Failed("waiting ended unexpectedly".to_owned())),
            },
            () = sleep(TICK), if out.live => {}
            () = until(deadline) => return Err(Error::Timeout(format!(
                "the operation is not over after {} s and goes on; follow it: \
                 haasctl operation wait {}",
                timeout.unwrap_or_default().as_secs(), operation.id
            ))),
            _ = &mut interrupt => return Err(Error::Interrupted(format!(
                "no longer waiting; the operation goes on. Follow it: haasctl operation wait {0}, \
                 or look at it: haasctl operation show {0}",
                operation.id
            ))),
        }
    }
    screen.draw(&mut progress, elapsed())?;
    drop(tasks);
    match out.format {
        Format::Table => {
            if let Some(table) = report::boot_table(&operation) {
                out.table(&table)?;
            }
        }
        Format::Json | Format::Yaml => out.show_text(&operation, String::new)?,
    }
    report::outcome(out, &operation)
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Hands on events, and wakes whoever reads the operation. Ends when nobody listens, or when haasd
/// refuses: then reading the operation goes on alone and tells the reason, if it has the same.
async fn bring_events(mut events: Events, wake: Arc<Notify>, sender: mpsc::Sender<Message>) {
    let mut backoff = Backoff::default();
    loop {
        match events.next().await {
            Ok(event) => {
                backoff.reset();
                let sent = sender.send(Message::Stream(true)).await;
                if sent.is_err() || sender.send(Message::Event(event)).await.is_err() {
                    return;
                }
                wake.notify_one();
            }
            Err(error) => {
                if sender.send(Message::Stream(false)).await.is_err() || !error.is_transient() {
                    return;
                }
                backoff.pause().await;
            }
        }
    }
}

/// Hands on the operation each time it may have changed.
async fn bring_operation(
    client: Client,
    id: String,
    wake: Arc<Notify>,
    sender: mpsc::Sender<Message>,
) {
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = wake.notified() => sleep(GATHER).await,
            () = sleep(POLL) => {}
        }
        let message = match client.operation(&id).await {
            Ok(operation) => {
                backoff.reset();
                Message::Operation(Box::new(operation))
            }
            Err(error) if error.is_transient() => {
                let away = Message::Away(error.to_string());
                backoff.pause().await;
                away
            }
            Err(error) => Message::Fatal(error),
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

/// Where progress is shown: a table drawn over itself on a terminal, lines elsewhere.
struct Screen<'a> {
    out: &'a Out,
    lines: usize,
    away: bool,
}

impl Screen<'_> {
    fn draw(&mut self, progress: &mut Progress, elapsed: f64) -> Result<(), Error> {
        let lines = progress.take_lines();
        if !self.out.live {
            return lines.iter().try_for_each(|line| self.out.note(line));
        }
        let (width, height) = terminal_picture();
        let picture = progress.picture(elapsed, width, height);
        self.out.redraw(self.lines, &picture)?;
        self.lines = picture.lines().count();
        Ok(())
    }

    fn gone(&mut self, why: &str) -> Result<(), Error> {
        if !std::mem::replace(&mut self.away, true) {
            self.out.note(&format!("{why}; trying again, the nodes go on meanwhile"))?;
            self.lines = 0;
        }
        Ok(())
    }

    fn back(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.away) {
            self.out.note("haasd is back")?;
            self.lines = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_start_over() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next().as_millis(), 250);
    }
}
