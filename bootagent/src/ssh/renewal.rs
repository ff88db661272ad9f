//! New certificates for a node that runs for months, long before the old ones end.
//!
//! The keys are looked at anew each time, since the node's user may have made others. That and the
//! writing happen on a thread: reading the root may wait for the image's target, and the agent must not.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use haas_api::agent::{SshCertificates, ToController};

use super::{Found, RUNNING, find, install};
use crate::{agent::Agent, log};

/// When something did not work.
const AGAIN: Duration = Duration::from_secs(600);
/// How long haasd may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Not more often, whatever haasd says.
const LEAST: Duration = Duration::from_secs(600);

/// When to ask next, and how far asking has come.
#[derive(Debug)]
pub(crate) struct Renewal {
    due: Instant,
    state: State,
    /// Whether the haasd that is connected makes certificates. An older one would not understand.
    is_possible: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing is to be done before it is due.
    Waiting,
    /// A process reads the public keys.
    Finding(mpsc::Receiver<Result<Found, String>>),
    /// haasd was asked, at that time.
    Asked(Found, Instant),
    /// A process writes certificates; new ones are due that long after.
    Installing(mpsc::Receiver<Result<(), String>>, Duration),
}

impl Renewal {
    /// New certificates are due then; `None` where there are none yet.
    pub(crate) fn new(renew_in: Option<Duration>, is_possible: bool) -> Self {
        let due = Instant::now() + renew_in.map_or(Duration::ZERO, |time| time.max(LEAST));
        Self { due, state: State::Waiting, is_possible }
    }

    /// There is a new connection, to a haasd that makes certificates or does not.
    pub(crate) fn welcomed(&mut self, is_possible: bool) {
        self.is_possible = is_possible;
        // What haasd answered before is lost.
        if let State::Asked(..) = self.state {
            self.again(Duration::ZERO);
        }
    }

    /// haasd has answered.
    pub(crate) fn take(&mut self, certificates: SshCertificates) {
        let State::Asked(found, _) = std::mem::replace(&mut self.state, State::Waiting) else {
            return;
        };
        let next = Duration::from_secs(certificates.renew_in_s).max(LEAST);
        match on_a_thread(move || install(RUNNING, found, certificates)) {
            Ok(ended) => self.state = State::Installing(ended, next),
            Err(error) => self.failed(&error),
        }
    }

    /// Goes on as far as is possible now.
    pub(crate) fn go_on(&mut self, agent: &Agent) {
        match &mut self.state {
            State::Waiting => {
                if !self.is_possible || Instant::now() < self.due {
                    return;
                }
                let plan = agent.plan.clone();
                match on_a_thread(move || find(RUNNING, &plan)) {
                    Ok(found) => self.state = State::Finding(found),
                    Err(error) => self.failed(&error),
                }
            }
            State::Finding(found) => match found.try_recv() {
                Ok(Ok(found)) => {
                    agent.channel.say(ToController::SshKeys(found.keys()));
                    self.state = State::Asked(found, Instant::now());
                }
                Ok(Err(error)) => self.failed(&error),
                Err(mpsc::TryRecvError::Disconnected) => self.failed("the thread for it is lost"),
                Err(mpsc::TryRecvError::Empty) => {}
            },
            State::Asked(_, since) => {
                if since.elapsed() > ANSWER_WITHIN {
                    self.failed("haasd does not answer");
                }
            }
            State::Installing(ended, next) => match ended.try_recv() {
                Ok(Ok(())) => {
                    log::info("ssh has new certificates");
                    let next = *next;
                    self.again(next);
                }
                Ok(Err(error)) => self.failed(&error),
                Err(mpsc::TryRecvError::Disconnected) => self.failed("the thread for it is lost"),
                Err(mpsc::TryRecvError::Empty) => {}
            },
        }
    }

    fn again(&mut self, after: Duration) {
        self.state = State::Waiting;
        self.due = Instant::now() + after;
    }

    fn failed(&mut self, why: &str) {
        log::error(&format!("ssh gets no new certificates: {why}; tried again in 10 minutes"));
        self.again(AGAIN);
    }
}

fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<mpsc::Receiver<T>, String> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new()
        .name("ssh".into())
        .stack_size(256 * 1024)
        .spawn(move || drop(tell.send(work())))
        .map_err(|e| format!("no thread: {e}"))?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Renewal {
        let due = Instant::now() + AGAIN;
        let state = State::Asked(Found::default(), Instant::now());
        Renewal { due, state, is_possible: true }
    }

    #[test]
    fn an_answer_that_was_lost_with_its_connection_is_asked_for_again_at_once() {
        let mut renewal = asked();
        renewal.welcomed(true);
        assert!(matches!(renewal.state, State::Waiting) && renewal.due <= Instant::now());
    }

    #[test]
    fn an_answer_that_nobody_waits_for_changes_nothing() {
        let mut renewal = Renewal::new(Some(LEAST), true);
        let due = renewal.due;
        renewal.take(SshCertificates::default());
        renewal.welcomed(false);
        assert!(matches!(renewal.state, State::Waiting) && renewal.due == due);
    }

    #[test]
    fn a_haasd_that_is_silent_is_asked_again_later_and_not_at_once() {
        let mut renewal = asked();
        renewal.failed("haasd does not answer");
        assert!(matches!(renewal.state, State::Waiting));
        assert!(renewal.due > Instant::now() + AGAIN / 2);
    }
}
