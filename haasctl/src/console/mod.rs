//! `console`: a node's serial console, to type and to watch, and its log.

mod escape;
mod log;
mod terminal;

use std::{
    io::{IsTerminal, Read, Write},
    time::Duration,
};

use clap::Args;
use haas_api::{
    client::{Client, ClientError, Console, ConsoleHeard, ConsoleMode},
    console::{ConsoleAsk, ConsoleNote, ConsoleState},
    names::NodeName,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use self::{
    escape::{Escapes, HELP, Typed},
    terminal::Raw,
};
use crate::{
    cli::Session,
    error::{Error, io_error},
    wait::Backoff,
};

/// haasd gives a sign of life every 15 s; after this the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(45);

#[derive(Debug, Args)]
#[command(after_help = "\
While you type, at the beginning of a line:
  ~.  end    ~?  list all of these    ~t  take over    ~B  BREAK

Examples:
  haasctl console n01
  haasctl console n01 --watch
  haasctl console n01 --force
  haasctl console --log n01 --lines 200
  haasctl console --log n01 --follow")]
pub(crate) struct ConsoleArgs {
    /// The node.
    node: NodeName,
    /// Only watch. Needs no terminal; Ctrl-C ends it.
    #[arg(long, conflicts_with_all = ["force", "log"])]
    watch: bool,
    /// Type whoever else does, and take the BMC's console from another tool's session.
    #[arg(long, conflicts_with = "log")]
    force: bool,
    /// Show what was logged, without what would do something to a terminal.
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    part: log::Part,
}

impl ConsoleArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        if self.log {
            return self.part.run(session, &self.node).await;
        }
        let client = session.client()?;
        let keys = match self.watch {
            true => None,
            false if std::io::stdin().is_terminal() => Some(Keys::of_terminal()?),
            false => {
                // If haasd cannot be reached at all, that is what to say.
                client.whoami().await?;
                let detail =
                    "a console is typed on in a terminal; without one use --watch or --log";
                return Err(Error::Usage(detail.to_owned()));
            }
        };
        let mode = match (self.watch, self.force) {
            (true, _) => ConsoleMode::Watch,
            (false, true) => ConsoleMode::Take,
            (false, false) => ConsoleMode::Write,
        };
        Talk { client, node: self.node, keys, raw: None, state: None, over: false }.run(mode).await
    }
}

/// What is typed, and what may end us meanwhile.
struct Keys {
    typed: mpsc::Receiver<Vec<u8>>,
    escapes: Escapes,
    ends: [Signal; 4],
}

impl Keys {
    fn of_terminal() -> Result<Self, Error> {
        let (send, typed) = mpsc::channel(16);
        // Not tokio's: it would hold the exit back until another key comes.
        std::thread::spawn(move || {
            let mut keys = [0; 1024];
            while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut keys) {
                if send.blocking_send(keys[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let on = |kind| signal(kind).map_err(io_error("signals cannot be caught"));
        let ends = [
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
            on(SignalKind::interrupt())?,
            on(SignalKind::quit())?,
        ];
        Ok(Self { typed, escapes: Escapes::default(), ends })
    }

    /// What is typed next; an error if we are told to end, none at the end of the terminal.
    async fn next(&mut self) -> Result<Option<Vec<Typed>>, Error> {
        let [terminate, hangup, interrupt, quit] = &mut self.ends;
        tokio::select! {
            keys = self.typed.recv() => Ok(keys.map(|keys| self.escapes.feed(&keys))),
            _ = terminate.recv() => Err(Error::Interrupted("terminated".to_owned())),
            _ = hangup.recv() => Err(Error::Interrupted("the terminal is gone".to_owned())),
            _ = interrupt.recv() => Err(Error::Interrupted("interrupted".to_owned())),
            _ = quit.recv() => Err(Error::Interrupted("told to quit".to_owned())),
        }
    }
}

/// A console, over all its connections.
struct Talk {
    client: Client,
    node: NodeName,
    /// None where it is only watched.
    keys: Option<Keys>,
    /// The terminal passes keys on as they are; it is put back when this goes, however.
    raw: Option<Raw>,
    /// What was said last.
    state: Option<ConsoleState>,
    /// The user wants to end.
    over: bool,
}

impl Talk {
    async fn run(mut self, mode: ConsoleMode) -> Result<(), Error> {
        let mut console = self.client.console(&self.node, mode).await?;
        if self.keys.is_some() {
            self.raw = Some(Raw::enter().map_err(io_error("the terminal cannot be set"))?);
        }
        loop {
            match self.talk(&mut console).await? {
                None => {
                    console.close().await;
                    self.note("closed")?;
                    return Ok(());
                }
                Some(lost) => self.note(&format!("{lost}; trying again, ~. ends"))?,
            }
            match self.connect_again(mode).await? {
                Some(again) => console = again,
                None => return Ok(()),
            }
        }
    }

    /// Until the user ends it, which is none, or the connection is lost.
    async fn talk(&mut self, console: &mut Console) -> Result<Option<ClientError>, Error> {
        self.state = None;
        let mut heard_at = Instant::now();
        loop {
            tokio::select! {
                heard = console.next() => {
                    heard_at = Instant::now();
                    match heard {
                        Ok(ConsoleHeard::Characters(characters)) => show(&characters)?,
                        Ok(ConsoleHeard::Note(note)) => self.told(note)?,
                        Ok(ConsoleHeard::Alive) => {}
                        Err(lost) if lost.is_transient() => return Ok(Some(lost)),
                        Err(error) => return Err(error.into()),
                    }
                }
                keys = next(self.keys.as_mut()) => {
                    let Some(keys) = keys? else { return Ok(None) };
                    for key in keys {
                        if let Err(lost) = self.typed(console, key).await? {
                            return Ok(Some(lost));
                        }
                        if self.over {
                            return Ok(None);
                        }
                    }
                }
                () = sleep_until(heard_at + SILENCE) => {
                    return Ok(Some(ClientError::Ended { url: self.client.url().to_owned() }));
                }
            }
        }
    }

    /// Tries until there is a connection again; none if the user ends it.
    async fn connect_again(&mut self, mode: ConsoleMode) -> Result<Option<Console>, Error> {
        // Nothing is taken from whoever types by now.
        let mode = if mode == ConsoleMode::Take { ConsoleMode::Write } else { mode };
        let mut backoff = Backoff::default();
        loop {
            let (client, node) = (self.client.clone(), self.node.clone());
            let attempt = async {
                backoff.pause().await;
                timeout(SILENCE, client.console(&node, mode)).await
            };
            let mut attempt = std::pin::pin!(attempt);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut attempt => break outcome,
                    keys = next(self.keys.as_mut()) => match keys? {
                        None => return Ok(None),
                        Some(keys) if keys.contains(&Typed::End) => return Ok(None),
                        Some(_) => {}
                    }
                }
            };
            match outcome {
                Ok(Ok(console)) => return Ok(Some(console)),
                Ok(Err(error)) if !error.is_transient() => return Err(error.into()),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    async fn typed(
        &mut self,
        console: &mut Console,
        key: Typed,
    ) -> Result<Result<(), ClientError>, Error> {
        match key {
            Typed::Keys(keys) => return Ok(console.write(&keys).await),
            Typed::Take => return Ok(console.ask(ConsoleAsk::Take).await),
            Typed::Break => return Ok(console.ask(ConsoleAsk::Break).await),
            Typed::End => self.over = true,
            Typed::Help => self.note(HELP)?,
            Typed::Who => {
                let state = self.state.clone().unwrap_or_default();
                let names: Vec<_> = state.watchers.iter().map(ToString::to_string).collect();
                self.note(&format!("{}; here: {}", typist(&state), names.join(", ")))?;
            }
            Typed::Suspend => {
                if let Some(raw) = &self.raw {
                    raw.suspend().map_err(io_error("the terminal cannot be set"))?;
                }
            }
        }
        Ok(Ok(()))
    }

    fn told(&mut self, note: ConsoleNote) -> Result<(), Error> {
        match note {
            ConsoleNote::State(state) => {
                let before = self.state.replace(state.clone());
                self.show_change(before, &state)
            }
            ConsoleNote::Skipped(pieces) => {
                self.note(&format!("too slow: {pieces} pieces of output are left out"))
            }
            ConsoleNote::Ended(reason) => Err(Error::Failed(format!("{}: {reason}", self.node))),
        }
    }

    fn show_change(&self, before: Option<ConsoleState>, now: &ConsoleState) -> Result<(), Error> {
        let Some(before) = before else {
            let (node, logged) = (&self.node, if now.logged { ", logged" } else { "" });
            let typing = if self.keys.is_some() { typist(now) } else { "watching".to_owned() };
            let ends = if self.keys.is_some() { "~. ends, ~? helps" } else { "Ctrl-C ends" };
            self.note(&format!("console of {node}{logged}: {typing}; {ends}"))?;
            return if now.connected { Ok(()) } else { self.note(&now.reason) };
        };
        if (before.connected, &before.reason) != (now.connected, &now.reason) {
            self.note(if now.connected { "connected" } else { &now.reason })?;
        }
        if (&before.writer, before.you_write) != (&now.writer, now.you_write) {
            self.note(&typist(now))?;
        }
        Ok(())
    }

    /// Says something beside what the node prints.
    fn note(&self, text: &str) -> Result<(), Error> {
        let text = text.replace('\n', "\r\n");
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "\r\n[{text}]\r\n")?;
        Ok(stderr.flush()?)
    }
}

async fn next(keys: Option<&mut Keys>) -> Result<Option<Vec<Typed>>, Error> {
    match keys {
        Some(keys) => keys.next().await,
        None => std::future::pending().await,
    }
}

fn typist(state: &ConsoleState) -> String {
    match &state.writer {
        _ if state.you_write => "you type".to_owned(),
        Some(writer) => format!("{writer} types, ~t takes over"),
        None => "nobody types, ~t to type".to_owned(),
    }
}

fn show(characters: &[u8]) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(characters)?;
    Ok(stdout.flush()?)
}
