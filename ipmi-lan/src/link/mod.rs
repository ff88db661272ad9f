//! Everything between us and one BMC: login, session, one command at a time, console. No I/O: takes
//! packets and the time, and says what is to be sent and when it wants to be woken. `bmc.rs` gives it
//! a socket and a clock; the tests give it a network that they make up.
//!
//! What it promises: an answer is the BMC's answer to that very command, sent after the command was
//! given; a command that must not be repeated is sent once; each command is over when its time is.

mod login;
mod open;
mod work;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

pub(crate) use self::work::{Answer, Step, Task};
use self::{
    login::{Asking, Opening},
    open::Open,
    work::Work,
};
use crate::{
    account::Account,
    breaker::Breaker,
    error::Error,
    figures::{Done, Standing},
    options::Options,
    sol::Sol,
    suite::CipherSuite,
    wire::packet::{self, Packet, payload},
};

/// One BMC's.
#[derive(Debug)]
pub(crate) struct Link {
    account: Arc<Account>,
    options: Options,
    /// Where the BMC is.
    bmc: SocketAddr,
    phase: Phase,
    /// The command that is being asked.
    work: Option<Work>,
    console: Option<Sol>,
    breaker: Breaker,
    /// Suites to try, the first first; none is known before the BMC was asked.
    candidates: Vec<CipherSuite>,
    /// The suite of the last session.
    spoken: Option<CipherSuite>,
    /// When a command was asked last.
    used_at: Instant,
    done: Done,
    out: VecDeque<Output>,
}

/// How far we are.
#[derive(Debug)]
enum Phase {
    /// No session. If there is work, one is begun, but not before this.
    Closed { not_before: Instant },
    /// Asks which cipher suites it has.
    Asking(Asking),
    /// Logs in.
    Opening(Opening),
    /// Has a session.
    Open(Box<Open>),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send and receive through a new socket from now on.
    Connect,
    /// Send this.
    Send(Vec<u8>),
    /// The command is over.
    Done(Result<Answer, Error>),
    /// Characters from the console.
    Characters(Vec<u8>),
    /// The console is over.
    ConsoleOver(Error),
}

impl Link {
    pub(crate) fn new(account: Account, bmc: SocketAddr, options: Options, now: Instant) -> Self {
        Self {
            account: Arc::new(account),
            options,
            bmc,
            phase: Phase::Closed { not_before: now },
            work: None,
            console: None,
            breaker: Breaker::default(),
            candidates: Vec::new(),
            spoken: None,
            used_at: now,
            done: Done::default(),
            out: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub(crate) fn output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// What was done since this was asked last.
    pub(crate) fn take_done(&mut self) -> Done {
        std::mem::take(&mut self.done)
    }

    /// How the BMC stands.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            has_session: matches!(self.phase, Phase::Open(_)),
            paused_until: self.breaker.paused_until(),
        }
    }

    /// Whether a command may be given.
    pub(crate) fn is_free(&self) -> bool {
        self.work.is_none()
    }

    /// Takes a command; [`Output::Done`] follows, at the latest when `deadline` has come.
    pub(crate) fn start(&mut self, task: Task, deadline: Instant, now: Instant) {
        if let Err(paused) = self.breaker.check(now) {
            self.out.push_back(Output::Done(Err(paused)));
            return;
        }
        self.used_at = now;
        // One that was dead has the time of one login to show that it is not any more.
        let doubtful = self.breaker.is_doubtful(&self.options);
        let silent_logins = if doubtful { 1 } else { self.options.silent_logins };
        self.work = Some(Work::new(task, deadline, silent_logins));
        self.advance(now);
    }

    /// Whether a login is to be begun: by [`Link::begin`], when the fleet has room for one.
    pub(crate) fn wants_login(&self, now: Instant) -> bool {
        let due = matches!(self.phase, Phase::Closed { not_before } if not_before <= now);
        due && self.work.is_some()
    }

    /// Whether there is neither a session nor a login.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed { .. })
    }

    /// Whether a login is under way.
    pub(crate) fn is_logging_in(&self) -> bool {
        match &self.phase {
            Phase::Closed { .. } => false,
            Phase::Asking(_) | Phase::Opening(_) => true,
            Phase::Open(open) => !open.is_raised(),
        }
    }

    /// Takes a packet. `room` says whether the console's reader takes characters.
    pub(crate) fn receive(&mut self, bytes: &[u8], room: bool, now: Instant) {
        match packet::parse(bytes) {
            Some(Packet::Open { payload_type, payload }) => {
                self.receive_outside(payload_type, payload, now);
            }
            Some(Packet::Sealed(sealed)) => self.receive_sealed(&sealed, room, now),
            None => {}
        }
    }

    /// Takes the word of the network that nobody listens at the other side.
    pub(crate) fn refused(&mut self, now: Instant) {
        let again = match &self.phase {
            // Perhaps the BMC is starting anew; the next login will find out.
            Phase::Open(_) => self.work.as_ref().is_some_and(|work| !work.is_spent()),
            Phase::Closed { .. } => return,
            Phase::Asking(_) | Phase::Opening(_) => false,
        };
        self.lose(Error::NobodyThere);
        self.phase = Phase::Closed { not_before: now };
        if !again {
            self.finish(Err(Error::NobodyThere), now);
        }
    }

    /// Takes what the system said when it was to send or to receive.
    pub(crate) fn failed(&mut self, error: std::io::Error, now: Instant) {
        let error = Error::Network(Arc::new(error));
        self.lose(error.clone());
        self.phase = Phase::Closed { not_before: now };
        self.finish(Err(error), now);
    }

    /// Gives a BREAK to the console, behind the characters before it.
    pub(crate) fn send_break(&mut self, now: Instant) {
        if let Some(console) = &mut self.console {
            console.send_break();
        }
        self.pump(now);
    }

    /// Gives characters to the console.
    pub(crate) fn write(&mut self, characters: &[u8], now: Instant) {
        if let Some(console) = &mut self.console {
            console.write(characters);
        }
        self.pump(now);
    }

    /// Whether the console takes characters.
    pub(crate) fn console_has_room(&self) -> bool {
        self.console.as_ref().is_some_and(Sol::has_room)
    }

    /// Ends everything, and lets the BMC know.
    pub(crate) fn close(&mut self, now: Instant) {
        self.leave(Error::Closed);
        self.phase = Phase::Closed { not_before: now };
        self.finish(Err(Error::Closed), now);
    }

    /// When it wants to be woken.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let phase = match &self.phase {
            // Once that time has come it is the fleet that is waited for.
            Phase::Closed { not_before } => {
                Some(*not_before).filter(|at| *at > now && self.work.is_some())
            }
            Phase::Asking(asking) => Some(asking.again_at()),
            Phase::Opening(opening) => Some(opening.again_at()),
            Phase::Open(open) => Some(match open.again_at() {
                Some(again_at) => again_at,
                None if self.is_idle() => open.keepalive_at().min(self.used_at + self.options.idle),
                None => open.keepalive_at(),
            }),
        };
        let deadline = self.work.as_ref().map(Work::deadline);
        let console = self.console.as_ref().and_then(Sol::wake_at);
        [phase, deadline, console].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        if self.work.as_ref().is_some_and(|work| work.deadline() <= now) {
            self.out_of_time(now);
        }
        match &self.phase {
            Phase::Closed { .. } => {}
            Phase::Asking(asking) if asking.again_at() <= now => self.ask_suites_again(now),
            Phase::Opening(opening) if opening.again_at() <= now => self.log_in_again(now),
            Phase::Asking(_) | Phase::Opening(_) => {}
            Phase::Open(_) => self.tick_open(now),
        }
        self.tick_console(now);
    }

    fn is_idle(&self) -> bool {
        self.work.is_none() && self.console.is_none()
    }

    fn out_of_time(&mut self, now: Instant) {
        let Some(work) = &mut self.work else { return };
        let error = work.failure();
        match &mut self.phase {
            Phase::Open(open) if open.is_raised() => open.give_up(),
            Phase::Closed { .. } => {}
            // Nobody wants this login any more.
            Phase::Asking(_) | Phase::Opening(_) | Phase::Open(_) => {
                self.leave(Error::TooSlow);
                self.phase = Phase::Closed { not_before: now };
            }
        }
        self.finish(Err(error), now);
    }

    /// Gives up session or login, and begins another if there is work.
    fn restart(&mut self, error: Error, now: Instant) {
        self.leave(error.clone());
        let pause = self.work.as_mut().map(|work| work.restart(error, &self.options));
        self.phase = Phase::Closed { not_before: now + pause.unwrap_or_default() };
    }

    /// Gives up session or login, and the call with it.
    fn give_up(&mut self, error: Error, now: Instant) {
        self.leave(error.clone());
        self.phase = Phase::Closed { not_before: now };
        self.finish(Err(error), now);
    }

    /// Lets the BMC know that session or login are given up. It has few, and keeps each for a minute.
    fn leave(&mut self, error: Error) {
        let farewell = match &mut self.phase {
            Phase::Closed { .. } | Phase::Asking(_) => None,
            Phase::Opening(opening) => opening.farewell(),
            Phase::Open(open) => Some(open.farewell()),
        };
        self.out.extend(farewell.map(Output::Send));
        self.lose(error);
    }

    /// The console ends with its session.
    fn lose(&mut self, error: Error) {
        if self.console.take().is_some() {
            self.out.push_back(Output::ConsoleOver(error));
        }
    }

    fn finish(&mut self, outcome: Result<Answer, Error>, now: Instant) {
        let Some(work) = self.work.take() else { return };
        let outcome = match outcome {
            // These are the BMC's own words. After any other error nobody knows what it did.
            Err(Error::Refused { .. } | Error::Overloaded(_)) | Ok(_) => outcome,
            Err(_) if work.is_spent() => Err(Error::Unanswered),
            Err(_) => outcome,
        };
        self.breaker.note(outcome.as_ref().map(|_| ()), &self.options, now);
        self.out.push_back(Output::Done(outcome));
    }

    /// Sends a packet that was sent before.
    fn repeat(&mut self, bytes: Vec<u8>) {
        self.done.sent_again += 1;
        self.send(bytes);
    }

    /// Counts a packet of ours and sends it.
    fn send(&mut self, bytes: Vec<u8>) {
        if let Some(work) = &mut self.work {
            work.sent();
        }
        self.out.push_back(Output::Send(bytes));
    }

    fn receive_outside(&mut self, payload_type: u8, bytes: &[u8], now: Instant) {
        match (&self.phase, payload_type) {
            (Phase::Asking(_), payload::IPMI) => self.receive_suites(bytes, now),
            (Phase::Opening(_), payload::IPMI) => self.receive_capabilities(bytes, now),
            (Phase::Opening(_), _) => self.receive_login(payload_type, bytes, now),
            // Left over from a login that is done.
            (Phase::Closed { .. } | Phase::Open(_) | Phase::Asking(_), _) => {}
        }
    }
}
