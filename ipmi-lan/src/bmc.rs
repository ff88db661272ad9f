//! A BMC as callers have it, and the task that gives its [`Link`] a socket and a clock.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use ipmi_rs_core::connection::IpmiCommand;
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{sleep_until, timeout_at},
};

use crate::{
    account::Account,
    console::{Console, Ends, Input},
    error::Error,
    figures::{Figures, Shown, Sums},
    link::{Answer, Link, Output, Step, Task},
    options::Options,
    wire::packet::LONGEST,
};

/// Calls that may wait for their turn.
const QUEUE: usize = 64;
/// How long after a call's deadline its task may take to say what came of it.
const GRACE: Duration = Duration::from_millis(100);
/// Packets that are taken before anything else has its turn.
const AT_ONCE: usize = 32;

/// One BMC. Its clones are the same one: they share its session, and one command is with the BMC at a
/// time. The session begins with the first call and ends when it was not needed for a while, or when
/// the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Bmc {
    address: SocketAddr,
    queue: mpsc::Sender<Word>,
    shown: Arc<Shown>,
}

/// What its task is told.
#[derive(Debug)]
enum Word {
    Order(Order),
    /// Close the session and end.
    Close,
}

#[derive(Debug)]
struct Order {
    task: Task,
    deadline: Instant,
    reply: oneshot::Sender<Result<Reply, Error>>,
}

#[derive(Debug)]
enum Reply {
    Data(Vec<u8>),
    Console(Console),
}

impl Bmc {
    /// Starts the task of a BMC. Nothing is sent before the first call.
    pub(crate) fn start(
        address: SocketAddr,
        account: Account,
        options: Options,
        handshakes: Arc<Semaphore>,
        sums: Arc<Sums>,
    ) -> Self {
        let (queue, words) = mpsc::channel(QUEUE);
        let link = Link::new(account, address, options, Instant::now());
        let shown = Arc::new(Shown::default());
        let keeper = Keeper {
            address,
            link,
            handshakes,
            sums,
            shown: Arc::clone(&shown),
            permit: None,
            socket: None,
            reply: None,
            console: None,
        };
        tokio::spawn(keeper.run(words));
        Self { address, queue, shown }
    }

    /// Counts it.
    pub(crate) fn count(&self, figures: &mut Figures, now: Instant) {
        self.shown.count(figures, now);
    }

    /// Its address and UDP port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks a command that does no harm if it is done twice. It is sent again, also in other
    /// sessions, until it is answered or `deadline` has come.
    ///
    /// # Errors
    /// See [`Error`]; a completion code other than 0 is [`Error::Refused`].
    pub async fn ask<C: IpmiCommand>(
        &self,
        command: C,
        deadline: Instant,
    ) -> Result<C::Output, Error> {
        parse::<C>(&self.data(Task::Ask(command.into()), deadline).await?)
    }

    /// Gives an order: a command that is sent at most once.
    ///
    /// # Errors
    /// [`Error::Unanswered`] if it may have been obeyed and only its answer was lost: the caller has
    /// to look. After any other error it was not obeyed.
    pub async fn order<C: IpmiCommand>(
        &self,
        command: C,
        deadline: Instant,
    ) -> Result<C::Output, Error> {
        parse::<C>(&self.data(Task::Order(command.into()), deadline).await?)
    }

    /// Begins a serial console over LAN. One that was begun by this BMC's clones ends.
    ///
    /// # Errors
    /// [`Error::ConsoleInUse`] if another session has it; see [`Error`].
    pub async fn console(&self, deadline: Instant) -> Result<Console, Error> {
        self.begin_console(Step::Activate, deadline).await
    }

    /// The same, and who has it already loses it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn take_console(&self, deadline: Instant) -> Result<Console, Error> {
        self.begin_console(Step::Take, deadline).await
    }

    async fn begin_console(&self, step: Step, deadline: Instant) -> Result<Console, Error> {
        match self.call(Task::Console(step), deadline).await? {
            Reply::Console(console) => Ok(console),
            Reply::Data(_) => Err(Error::Closed),
        }
    }

    /// Whether its task has ended: with the runtime that it was started in.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Closes its session as soon as no call is under way. Waiting calls fail.
    pub(crate) async fn close(&self) {
        if self.queue.send(Word::Close).await.is_ok() {
            self.queue.closed().await;
        }
    }

    async fn data(&self, task: Task, deadline: Instant) -> Result<Vec<u8>, Error> {
        match self.call(task, deadline).await? {
            Reply::Data(data) => Ok(data),
            Reply::Console(_) => Err(Error::Closed),
        }
    }

    async fn call(&self, task: Task, deadline: Instant) -> Result<Reply, Error> {
        let (reply, answer) = oneshot::channel();
        let once = task.once();
        let order = Word::Order(Order { task, deadline, reply });
        match timeout_at(deadline.into(), self.queue.send(order)).await {
            Err(_) => return Err(Error::Busy),
            Ok(Err(_)) => return Err(Error::Closed),
            Ok(Ok(())) => {}
        }
        match timeout_at((deadline + GRACE).into(), answer).await {
            Err(_) if once => Err(Error::Unanswered),
            Err(_) => Err(Error::Busy),
            Ok(answer) => answer.unwrap_or(Err(Error::Closed)),
        }
    }
}

/// Some parsers of `ipmi_rs_core` panic on odd bytes (those of Get SDR and of Get SDR Repository Info), and
/// a BMC may send any.
fn parse<C: IpmiCommand>(data: &[u8]) -> Result<C::Output, Error> {
    match catch_unwind(AssertUnwindSafe(|| C::parse_success_response(data))) {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(_)) | Err(_) => Err(Error::Garbled("its answer does not have the command's form")),
    }
}

/// The task of a BMC.
struct Keeper {
    address: SocketAddr,
    link: Link,
    handshakes: Arc<Semaphore>,
    sums: Arc<Sums>,
    shown: Arc<Shown>,
    /// One of the logins that may be under way.
    permit: Option<OwnedSemaphorePermit>,
    socket: Option<UdpSocket>,
    reply: Option<oneshot::Sender<Result<Reply, Error>>>,
    console: Option<Ends>,
}

impl Keeper {
    async fn run(mut self, mut words: mpsc::Receiver<Word>) {
        loop {
            // Before a caller has its answer, so that he finds its figures.
            self.publish();
            self.carry_out().await;
            self.publish();
            if !self.link.is_logging_in() {
                self.permit = None;
            }
            if self.link.is_closed() {
                self.socket = None;
            }
            let now = Instant::now();
            let (wake_at, wants_login) = (self.link.wake_at(now), self.link.wants_login(now));
            let handshakes = Arc::clone(&self.handshakes);
            tokio::select! {
                () = readable(self.socket.as_ref()) => self.receive(),
                word = words.recv(), if self.link.is_free() => match word {
                    Some(Word::Order(order)) => self.start(order),
                    Some(Word::Close) | None => break,
                },
                Ok(permit) = handshakes.acquire_owned(), if wants_login => {
                    self.permit = Some(permit);
                    self.link.begin(Instant::now());
                }
                written = written(self.console.as_mut()), if self.link.console_has_room() => {
                    match written {
                        Some(Input::Characters(characters)) => {
                            self.link.write(&characters, Instant::now());
                        }
                        Some(Input::Break) => self.link.send_break(Instant::now()),
                        None => {
                            self.link.end_console();
                            self.console = None;
                        }
                    }
                }
                () = until(wake_at) => self.link.tick(Instant::now()),
            }
        }
        self.link.close(Instant::now());
        self.carry_out().await;
    }

    fn publish(&mut self) {
        self.sums.add(self.link.take_done());
        self.shown.set(self.link.standing());
    }

    fn start(&mut self, order: Order) {
        // Its caller may have gone while it waited.
        if order.reply.is_closed() {
            return;
        }
        let now = Instant::now();
        if order.deadline <= now {
            let _ = order.reply.send(Err(Error::Busy));
            return;
        }
        self.reply = Some(order.reply);
        self.link.start(order.task, order.deadline, now);
    }

    async fn carry_out(&mut self) {
        while let Some(output) = self.link.output() {
            match output {
                Output::Connect => match connect(self.address).await {
                    Ok(socket) => self.socket = Some(socket),
                    Err(error) => self.link.failed(error, Instant::now()),
                },
                Output::Send(bytes) => {
                    let Some(socket) = &self.socket else { continue };
                    if let Err(error) = socket.send(&bytes).await {
                        self.network(error);
                    }
                }
                Output::Done(outcome) => self.reply(outcome),
                Output::Characters(characters) => {
                    if let Some(console) = &self.console {
                        console.give(Ok(characters));
                    }
                }
                Output::ConsoleOver(error) => {
                    if let Some(console) = self.console.take() {
                        console.give(Err(error));
                    }
                }
            }
        }
    }

    fn reply(&mut self, outcome: Result<Answer, Error>) {
        let Some(reply) = self.reply.take() else { return };
        let outcome = outcome.map(|answer| match answer {
            Answer::Data(data) => Reply::Data(data),
            Answer::Console => {
                let (console, ends) = Console::new();
                self.console = Some(ends);
                Reply::Console(console)
            }
        });
        // If nobody waits for a console any more, its end is seen by `written`.
        let _ = reply.send(outcome);
    }

    fn receive(&mut self) {
        let mut bytes = [0; LONGEST];
        for _ in 0..AT_ONCE {
            let Some(socket) = &self.socket else { return };
            match socket.try_recv(&mut bytes) {
                Ok(length) => {
                    let room = self.console.as_ref().is_none_or(Ends::has_room);
                    let bytes = bytes.get(..length).unwrap_or_default();
                    self.link.receive(bytes, room, Instant::now());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.network(error);
                    return;
                }
            }
        }
    }

    fn network(&mut self, error: std::io::Error) {
        let now = Instant::now();
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => self.link.refused(now),
            _ => self.link.failed(error, now),
        }
    }
}

/// A socket of its own for each login: what is on its way to an old one reaches nobody. Connected,
/// so that the system tells if nobody listens at the other side.
async fn connect(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        // An error is told by what reads then.
        Some(socket) => drop(socket.readable().await),
        None => std::future::pending().await,
    }
}

async fn written(console: Option<&mut Ends>) -> Option<Input> {
    match console {
        Some(console) => console.written().await,
        None => std::future::pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use ipmi_rs_core::storage::sdr::{GetDeviceSdr, GetSdrRepositoryInfo};

    use super::*;

    #[test]
    fn a_codec_that_panics_is_told_as_an_answer_without_form() {
        // Found by fuzzing: a compact sensor record whose name has no known form.
        let mut record = vec![2, 2, 3, 7, 0x25, 2, 0x25, 2, 2, 12];
        record.extend([0xFF; 34]);
        record.push(5);
        assert!(matches!(parse::<GetDeviceSdr>(&record), Err(Error::Garbled(_))));
        assert!(matches!(parse::<GetSdrRepositoryInfo>(&[0x51]), Err(Error::Garbled(_))));
    }
}
