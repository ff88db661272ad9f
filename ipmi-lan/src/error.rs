//! What can go wrong with a BMC, told apart by what a person or a caller would do about it.

use std::{io, sync::Arc, time::Duration};

use ipmi_rs_core::connection::CompletionErrorCode;

use crate::account::Privilege;

/// Why a call failed. No variant holds a secret, or bytes that may be part of one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No packet came back.
    #[error("no answer to {packets} packets")]
    Silent {
        /// Packets that were sent.
        packets: u32,
    },
    /// The other side says that nobody listens on that port.
    #[error("nothing listens on that UDP port")]
    NobodyThere,
    /// The system would not send or receive.
    #[error("network error")]
    Network(#[source] Arc<io::Error>),
    /// The BMC has another password for this user.
    #[error("wrong password")]
    WrongPassword,
    /// The password is right, and the BMC's own key K_g is another one.
    #[error("the BMC's key K_g is not the one that {}", if *given { "was given" } else { "is used where none is given" })]
    WrongKg {
        /// Whether the account has one.
        given: bool,
    },
    /// The BMC does not know the user, or refuses it over LAN.
    #[error("the user is refused")]
    WrongUser,
    /// The account may not have this privilege.
    #[error("the privilege {0} is refused")]
    Privilege(Privilege),
    /// None of the suites that may be used is accepted.
    #[error("no cipher suite that may be used is accepted: {0}")]
    CipherSuite(SuiteRefusal),
    /// It has spoken suite 17 before and now wants a weaker one.
    #[error("cipher suite 17 is refused, which it has spoken before: {0}")]
    Downgrade(SuiteRefusal),
    /// It speaks IPMI 1.5 only.
    #[error("no IPMI 2.0 session is offered")]
    OldIpmi,
    /// It has no session free, or is busy.
    #[error("{0}")]
    Overloaded(&'static str),
    /// It answered a command with an error.
    #[error("command {command:#04x} is answered {code:?}")]
    Refused {
        /// The command's number.
        command: u8,
        /// What it answered.
        code: CompletionErrorCode,
    },
    /// A command that is sent once only had no answer: it may have been obeyed, or not.
    #[error("no answer to an order that may have been obeyed")]
    Unanswered,
    /// What came back made no sense.
    #[error("{0}")]
    Garbled(&'static str),
    /// It answered, but the time was over before all was done.
    #[error("not done in time")]
    TooSlow,
    /// Other calls were with the BMC all the time.
    #[error("not tried: earlier calls took all the time")]
    Busy,
    /// Not tried, because the calls before it failed.
    #[error("not tried, and not for another {} s", left.as_secs_f32().ceil())]
    Paused {
        /// How long until one call is let through.
        left: Duration,
        /// How the last of them failed.
        #[source]
        last: Arc<Error>,
    },
    /// Another session of the BMC has its console.
    #[error("another session has its console")]
    ConsoleInUse,
    /// Another session has taken the console.
    #[error("another session has taken the console")]
    ConsoleTaken,
    /// Somebody closed it: this handle of the BMC, or the console.
    #[error("closed")]
    Closed,
}

impl Error {
    /// Whether it is about who logs in and how: no number of tries will do, and some BMCs lock an
    /// account after a few.
    pub fn is_login(&self) -> bool {
        match self {
            Self::WrongPassword | Self::WrongKg { .. } | Self::WrongUser | Self::Privilege(_) => {
                true
            }
            Self::CipherSuite(_) | Self::Downgrade(_) | Self::OldIpmi => true,
            Self::Paused { last, .. } => last.is_login(),
            Self::Silent { .. } | Self::NobodyThere | Self::Network(_) | Self::Overloaded(_) => {
                false
            }
            Self::Refused { .. } | Self::Unanswered | Self::Garbled(_) | Self::TooSlow => false,
            Self::Busy | Self::Closed | Self::ConsoleInUse | Self::ConsoleTaken => false,
        }
    }

    /// Whether it says that the BMC as such does not work at the moment.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::NobodyThere | Self::Network(_) | Self::Overloaded(_) => {
                true
            }
            Self::Garbled(_) | Self::TooSlow => true,
            Self::WrongPassword | Self::WrongKg { .. } | Self::WrongUser | Self::Privilege(_) => {
                false
            }
            Self::CipherSuite(_) | Self::Downgrade(_) | Self::OldIpmi => false,
            Self::Refused { .. } | Self::Unanswered | Self::Busy => false,
            Self::Paused { .. } | Self::Closed => false,
            Self::ConsoleInUse | Self::ConsoleTaken => false,
        }
    }
}

/// How a BMC refused a cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuiteRefusal {
    /// With a status code of table 13-15.
    #[error("status {0:#04x}")]
    Status(u8),
    /// By opening a session with other algorithms than were proposed.
    #[error("it chose the algorithms {0:?}")]
    Other([u8; 3]),
    /// Its list of suites has none that may be used.
    #[error("its list has neither 17 nor 3")]
    NotListed,
}
