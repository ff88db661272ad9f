//! An open session: one command at a time, sent again until it is answered; the console; signs of
//! life while nobody asks anything.

use std::time::{Duration, Instant};

use ipmi_rs_core::{
    app::GetDeviceId,
    connection::{CompletionErrorCode, IpmiCommand, Message},
};

use super::{
    Link, Output, Phase,
    work::{Answer, Step, Task},
};
use crate::{
    account::Privilege,
    command::{Activate, Deactivate, GetHolder, PAYLOAD_ACTIVE, SetSessionPrivilege},
    error::Error,
    options::{Options, jittered},
    session::Session,
    sol::Sol,
    wire::{
        message,
        packet::{Sealed, payload},
    },
};

/// Requests without an answer, one after the other, after which a session is not used any more. It
/// must be less than the 64 numbers that requests have.
const MOST_UNANSWERED: u32 = 16;
/// The port that BMCs name for the console though theirs is behind another.
const USUAL_PORT: u16 = 623;

/// A session and what it does.
#[derive(Debug)]
pub(super) struct Open {
    session: Session,
    /// What has to be asked for before anything else.
    privilege: Option<Privilege>,
    exchange: Option<Exchange>,
    unanswered: u32,
    keepalive_at: Instant,
}

/// A request under way.
#[derive(Debug)]
struct Exchange {
    purpose: Purpose,
    message: Message,
    number: u8,
    /// The BMC's newest packet when this was sent first: its answer is newer.
    after: u32,
    tries: u32,
    wait: Duration,
    again_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The session's privilege.
    Raise,
    /// The command.
    Work,
    /// That the session is not ended.
    Keepalive,
}

impl Open {
    pub(super) fn new(
        session: Session,
        privilege: Privilege,
        options: &Options,
        now: Instant,
    ) -> Self {
        // Section 6.8: a session begins as USER.
        let privilege = (privilege > Privilege::User).then_some(privilege);
        let keepalive_at = now + jittered(options.keepalive);
        Self { session, privilege, exchange: None, unanswered: 0, keepalive_at }
    }

    /// Whether it is good for commands.
    pub(super) fn is_raised(&self) -> bool {
        self.privilege.is_none()
    }

    pub(super) fn again_at(&self) -> Option<Instant> {
        self.exchange.as_ref().map(|exchange| exchange.again_at)
    }

    pub(super) fn keepalive_at(&self) -> Instant {
        self.keepalive_at
    }

    /// The packet that closes it.
    pub(super) fn farewell(&mut self) -> Vec<u8> {
        self.session.farewell()
    }

    /// Waits for the answer no longer.
    pub(super) fn give_up(&mut self) {
        if self.exchange.take().is_some() {
            self.unanswered += 1;
        }
    }

    fn begin(
        &mut self,
        purpose: Purpose,
        message: Message,
        wait: Duration,
        now: Instant,
    ) -> Vec<u8> {
        self.give_up();
        let (number, after) = (self.session.next_number(), self.session.newest());
        let again_at = now + jittered(wait);
        let exchange = Exchange { purpose, message, number, after, tries: 1, wait, again_at };
        let packet = self.session.seal(payload::IPMI, &exchange.request());
        self.exchange = Some(exchange);
        packet
    }

    /// The request once more. It keeps its number, so that a late answer to the first one counts.
    fn again(&mut self, options: &Options, now: Instant) -> Option<Vec<u8>> {
        let exchange = self.exchange.as_mut().filter(|exchange| exchange.tries < options.tries)?;
        exchange.tries += 1;
        exchange.wait = options.after(exchange.wait);
        exchange.again_at = now + jittered(exchange.wait);
        Some(self.session.seal(payload::IPMI, &exchange.request()))
    }

    /// Asks the same once more in a while, because the BMC was busy.
    fn later(&mut self, mut exchange: Exchange, options: &Options, now: Instant) {
        exchange.number = self.session.next_number();
        exchange.after = self.session.newest();
        exchange.tries = 0;
        exchange.again_at = now + jittered(exchange.wait);
        exchange.wait = options.after(exchange.wait);
        self.exchange = Some(exchange);
    }

    /// The request that this answers, and the answer's code and data.
    fn answered(&mut self, sequence: u32, bytes: &[u8]) -> Option<(Exchange, u8, Vec<u8>)> {
        let response = message::parse(bytes)?;
        let fits = |exchange: &Exchange| {
            let asked = (exchange.message.netfn_raw() | 1, exchange.message.cmd(), exchange.number);
            sequence > exchange.after
                && exchange.tries > 0
                && asked == (response.netfn, response.command, response.number)
        };
        let exchange = self.exchange.take_if(|exchange| fits(exchange))?;
        self.unanswered = 0;
        Some((exchange, response.code, response.data.to_vec()))
    }
}

impl Exchange {
    fn request(&self) -> Vec<u8> {
        message::request(self.number, &self.message)
    }
}

impl Link {
    /// Sends what is next, if the session is free for it.
    pub(super) fn advance(&mut self, now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        let busy = |exchange: &Exchange| exchange.purpose != Purpose::Keepalive;
        if open.exchange.as_ref().is_some_and(busy) {
            return;
        }
        let wait = self.options.first_wait;
        let packet = match (open.privilege, &mut self.work) {
            (Some(privilege), _) => {
                open.begin(Purpose::Raise, SetSessionPrivilege(privilege).into(), wait, now)
            }
            (None, Some(_)) if open.unanswered >= MOST_UNANSWERED => {
                self.restart(Error::Garbled("it has not answered for long"), now);
                return;
            }
            (None, Some(work)) => {
                work.ordered();
                let wait = if work.task.once() { self.options.order_wait } else { wait };
                open.begin(Purpose::Work, work.task.message(), wait, now)
            }
            (None, None) => return,
        };
        self.send(packet);
    }

    pub(super) fn receive_sealed(&mut self, sealed: &Sealed<'_>, room: bool, now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        let Some(opened) = open.session.open(sealed) else { return };
        open.keepalive_at = now + jittered(self.options.keepalive);
        match opened.payload_type {
            payload::IPMI => {
                if let Some((exchange, code, data)) =
                    open.answered(opened.sequence, &opened.payload)
                {
                    self.note_heard();
                    self.answered(exchange, code, data, now);
                }
            }
            payload::SOL => self.receive_characters(&opened.payload, room, now),
            _ => {}
        }
    }

    fn answered(&mut self, exchange: Exchange, code: u8, data: Vec<u8>, now: Instant) {
        let refusal = CompletionErrorCode::try_from(code);
        match (exchange.purpose, refusal) {
            // Any answer is a sign of life; not every BMC can say who has its console.
            (Purpose::Keepalive, Err(())) => self.note_holder(&exchange, &data),
            (Purpose::Keepalive, Ok(_)) => {}
            (_, Ok(code)) if is_busy(code) && !self.is_spent() => {
                let busy = Error::Overloaded("it is busy");
                if let Some(work) = &mut self.work {
                    work.note(busy);
                }
                if let Phase::Open(open) = &mut self.phase {
                    open.later(exchange, &self.options, now);
                }
                return;
            }
            (Purpose::Raise, Err(())) => self.raised(&data, now),
            (Purpose::Raise, Ok(code)) => {
                self.give_up(self.not_raised(code, exchange.message.cmd()), now);
            }
            (Purpose::Work, Err(())) => self.done(data, now),
            (Purpose::Work, Ok(code)) => self.declined(exchange.message.cmd(), code, now),
        }
        self.advance(now);
    }

    /// The answer names the privilege that the session has now.
    fn raised(&mut self, data: &[u8], now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        let has = data.first().map_or(0, |level| level & 0x0F);
        match open.privilege {
            Some(wanted) if has < wanted.code() => self.give_up(Error::Privilege(wanted), now),
            _ => open.privilege = None,
        }
    }

    fn is_spent(&self) -> bool {
        self.work.as_ref().is_some_and(super::Work::is_spent)
    }

    /// Section 22.18: not for this user, above its limit; or a user who may not even ask.
    fn not_raised(&self, code: CompletionErrorCode, command: u8) -> Error {
        use CompletionErrorCode as Code;
        match code {
            Code::CommandSpecific(0x80 | 0x81) | Code::InsufficientPrivilege => {
                Error::Privilege(self.account.privilege)
            }
            code => Error::Refused { command, code },
        }
    }

    fn done(&mut self, data: Vec<u8>, now: Instant) {
        let Some(work) = &mut self.work else { return };
        match &mut work.task {
            Task::Ask(_) | Task::Order(_) => self.finish(Ok(Answer::Data(data)), now),
            Task::Console(step @ Step::Deactivate) => *step = Step::ActivateAgain,
            Task::Console(step @ Step::AskHolder) => match GetHolder::parse_success_response(&data)
            {
                Ok(0) => *step = Step::ActivateAgain,
                Ok(id) if matches!(&self.phase, Phase::Open(open) if open.session.is_known_as(id)) =>
                {
                    *step = Step::Deactivate;
                }
                Ok(_) | Err(_) => self.finish(Err(Error::ConsoleInUse), now),
            },
            Task::Console(Step::Activate | Step::Take | Step::ActivateAgain) => {
                let outcome = self.console_begun(&data);
                self.finish(outcome, now);
            }
        }
    }

    fn console_begun(&mut self, data: &[u8]) -> Result<Answer, Error> {
        let activated = Activate::parse_success_response(data)
            .map_err(|_| Error::Garbled("its answer to a console is too short"))?;
        if ![0, USUAL_PORT, self.bmc.port()].contains(&activated.port) {
            return Err(Error::Garbled("it has its console on another UDP port"));
        }
        // Of whoever of us had it before.
        self.lose(Error::Closed);
        self.console = Some(Sol::new(activated.longest));
        Ok(Answer::Console)
    }

    fn declined(&mut self, command: u8, code: CompletionErrorCode, now: Instant) {
        use CompletionErrorCode as Code;
        match (self.work.as_mut().map(|work| &mut work.task), code) {
            (Some(Task::Console(step)), Code::CommandSpecific(PAYLOAD_ACTIVE)) => match step {
                Step::Activate => *step = Step::AskHolder,
                Step::Take => *step = Step::Deactivate,
                // Whoever had it has ended it just now.
                Step::Deactivate => *step = Step::ActivateAgain,
                Step::AskHolder | Step::ActivateAgain => {
                    self.finish(Err(Error::ConsoleInUse), now);
                }
            },
            (Some(Task::Console(Step::AskHolder)), _) => {
                self.finish(Err(Error::ConsoleInUse), now);
            }
            (Some(Task::Console(step @ Step::Deactivate)), _) => *step = Step::ActivateAgain,
            (_, code) if is_busy(code) => self.finish(Err(Error::Overloaded("it is busy")), now),
            (_, code) => self.finish(Err(Error::Refused { command, code }), now),
        }
    }

    pub(super) fn tick_open(&mut self, now: Instant) {
        let idle = self.is_idle();
        let Phase::Open(open) = &mut self.phase else { return };
        match &open.exchange {
            Some(exchange) if exchange.again_at > now => {}
            Some(exchange) => {
                let (keepalive, first) =
                    (exchange.purpose == Purpose::Keepalive, exchange.tries == 0);
                if self.is_spent() && !keepalive {
                    if let Phase::Open(open) = &mut self.phase {
                        open.give_up();
                    }
                    self.finish(Err(Error::Unanswered), now);
                    return;
                }
                self.send_again(keepalive && !first, now);
            }
            None if idle && self.used_at + self.options.idle <= now => {
                self.leave(Error::Closed);
                self.phase = Phase::Closed { not_before: now };
            }
            None if open.keepalive_at <= now => {
                let wait = self.options.first_wait;
                let message =
                    if self.console.is_some() { GetHolder.into() } else { GetDeviceId.into() };
                let packet = open.begin(Purpose::Keepalive, message, wait, now);
                self.out.push_back(Output::Send(packet));
            }
            None => {}
        }
    }

    fn send_again(&mut self, keepalive: bool, now: Instant) {
        let Phase::Open(open) = &mut self.phase else { return };
        match open.again(&self.options, now) {
            Some(packet) if keepalive => self.out.push_back(Output::Send(packet)),
            Some(packet) => self.repeat(packet),
            // Its end is silent: a BMC answers nothing to a session that it does not know.
            None => self.restart(Error::Garbled("it stopped answering in a session"), now),
        }
    }

    fn receive_characters(&mut self, bytes: &[u8], room: bool, now: Instant) {
        let Some(console) = &mut self.console else { return };
        let heard = console.receive(bytes, room);
        if !heard.characters.is_empty() {
            self.out.push_back(Output::Characters(heard.characters));
        }
        if let Some(answer) = heard.answer {
            self.send_characters(&answer);
        }
        if heard.over {
            self.lose(Error::Closed);
        }
        self.pump(now);
    }

    /// Another session can take the console without a word to this one.
    fn note_holder(&mut self, keepalive: &Exchange, data: &[u8]) {
        let (Phase::Open(open), Some(console)) = (&self.phase, &mut self.console) else { return };
        if keepalive.message.cmd() != Message::from(GetHolder).cmd() {
            return;
        }
        let Ok(id) = GetHolder::parse_success_response(data) else { return };
        let ours = open.session.is_known_as(id);
        if id == 0 || (console.was_ours && !ours) {
            self.lose(Error::ConsoleTaken);
        } else {
            console.was_ours |= ours;
        }
    }

    /// Sends the console's next characters, if it is time for them.
    pub(super) fn pump(&mut self, now: Instant) {
        let next = self.console.as_mut().and_then(|console| console.next(&self.options, now));
        if let Some(packet) = next {
            self.send_characters(&packet);
        }
    }

    pub(super) fn tick_console(&mut self, now: Instant) {
        let Some(console) = &mut self.console else { return };
        match console.tick(&self.options, now) {
            Ok(Some(packet)) => self.send_characters(&packet),
            Ok(None) => {}
            Err(()) => self.lose(Error::Garbled("its console takes no characters")),
        }
    }

    /// Ends the console, and lets the BMC know.
    pub(crate) fn end_console(&mut self) {
        if self.console.take().is_none() {
            return;
        }
        if let Phase::Open(open) = &mut self.phase {
            let request = message::request(open.session.next_number(), &Deactivate.into());
            let packet = open.session.seal(payload::IPMI, &request);
            self.out.push_back(Output::Send(packet));
        }
    }

    fn send_characters(&mut self, payload: &[u8]) {
        if let Phase::Open(open) = &mut self.phase {
            let packet = open.session.seal(payload::SOL, payload);
            self.out.push_back(Output::Send(packet));
        }
    }
}

/// Codes of table 5-2 that say "not now".
fn is_busy(code: CompletionErrorCode) -> bool {
    use CompletionErrorCode as Code;
    let later = matches!(code, Code::ResponseUnavailable { .. });
    later || matches!(code, Code::NodeBusy | Code::OutOfSpace | Code::ProcessingTimeout)
}
