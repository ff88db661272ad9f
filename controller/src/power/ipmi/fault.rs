//! What can go wrong with a BMC, told apart by what a person would do about it.

use std::time::Duration;

use ipmi_lan::{Error, Privilege, ipmi_rs_core::connection::CompletionErrorCode as Code};

/// The command that begins a console.
const ACTIVATE_PAYLOAD: u8 = 0x48;

/// What came of a call, and what to check.
#[derive(Debug, thiserror::Error)]
pub enum BmcFault {
    /// No packet came back.
    #[error(
        "no answer to {packets} packets; check its address, cable and VLAN, and that IPMI over \
         LAN is enabled"
    )]
    Silent {
        /// Packets that were sent.
        packets: u32,
    },
    /// The other side says that nobody listens on that port.
    #[error(
        "nothing listens on that UDP port; check address and port, and that IPMI over LAN is enabled"
    )]
    NobodyThere,
    /// The password is wrong.
    #[error("wrong password; check the file or variable that the inventory names")]
    WrongPassword,
    /// The BMC does not know the user, or refuses it over LAN.
    #[error("it refuses the user; check the account's name and that it may use IPMI over LAN")]
    WrongUser,
    /// The account may not have the privilege.
    #[error("it refuses the privilege {0}; raise the account's privilege limit on the LAN channel")]
    Privilege(Privilege),
    /// The privilege is not enough for this.
    #[error("the session's privilege is not enough for this; set privilege = \"administrator\"")]
    TooLittle,
    /// The password has more bytes than IPMI 2.0 has room for.
    #[error("the password is longer than IPMI's 20 bytes; set a shorter one")]
    LongPassword,
    /// What is given as K_g cannot be one.
    #[error("K_g must have 1 to 20 bytes, or be 0x and at most 40 hexadecimal digits")]
    BadKg,
    /// The BMC has another K_g than the inventory names, or one where it names none.
    #[error("its key K_g is another one; check kg_file or kg_env, or set it on the BMC anew")]
    WrongKg,
    /// It refuses the cipher suites that may be used.
    #[error(
        "it has no cipher suite that may be used ({0}); enable 17 or 3 on the BMC, or check cipher_suite"
    )]
    CipherSuite(String),
    /// It has spoken suite 17 before, and refuses it now.
    #[error(
        "it refuses cipher suite 17, which it has spoken before ({0}); somebody may be in between. If \
         its firmware was changed, set cipher_suite = 3 or restart haasd"
    )]
    Downgrade(String),
    /// It speaks IPMI 1.5, or none.
    #[error("it offers no IPMI 2.0 session; enable RMCP+, or update its firmware")]
    OldIpmi,
    /// It has no session free, or is busy.
    #[error("it is busy or has no free session ({0}); other tools may hold its sessions open")]
    Overloaded(&'static str),
    /// The order makes no sense in its present state.
    #[error("it says that this cannot be done in its present state")]
    NotNow,
    /// Another session has its console.
    #[error(
        "another session has its console; end that one, or take it: `~t` in the console, or `haasctl console --force`"
    )]
    ConsoleInUse,
    /// It gives no console over LAN.
    #[error("its serial over LAN is disabled; enable it on the BMC and for the account")]
    ConsoleOff,
    /// It answered with an error code.
    #[error("it answered {code}; check that the BMC supports this command")]
    Rejected {
        /// The completion code's name.
        code: String,
    },
    /// An order had no answer, and was not obeyed as far as can be seen.
    #[error("it did not answer the order; it may be obeyed or not")]
    Unanswered,
    /// What came back made no sense.
    #[error(
        "its answers made no sense ({0}); try again, check for packet loss or a duplicate address"
    )]
    Garbled(&'static str),
    /// The system would not send or receive.
    #[error("network error: {0}")]
    Network(String),
    /// Another call was with the BMC all the time.
    #[error("not tried: an earlier call has not ended for {} s", .0.as_secs_f32())]
    Busy(Duration),
    /// It answered, but too slowly.
    #[error("not done within {} s; it answers too slowly", .0.as_secs_f32())]
    TooSlow(Duration),
    /// Its last calls failed, and it is left alone for a while.
    #[error("{last}. It is left alone until it is asked again in {} s", left.as_secs_f32().ceil())]
    Paused {
        /// How long it is left alone.
        left: Duration,
        /// How the last call failed.
        last: Box<BmcFault>,
    },
    /// haasd is stopping.
    #[error("not tried: haasd is stopping, or the BMC's account has just been changed")]
    Closed,
}

impl BmcFault {
    pub(in super::super) fn needs_person(&self) -> bool {
        match self {
            Self::WrongPassword | Self::WrongUser | Self::Privilege(_) | Self::TooLittle => true,
            Self::LongPassword | Self::BadKg | Self::WrongKg | Self::Downgrade(_) => true,
            Self::CipherSuite(_) | Self::OldIpmi | Self::Rejected { .. } => true,
            Self::ConsoleOff => true,
            Self::ConsoleInUse => false,
            Self::Silent { .. } | Self::Overloaded(_) | Self::Garbled(_) | Self::NotNow => false,
            Self::NobodyThere | Self::Network(_) | Self::Busy(_) | Self::TooSlow(_) => false,
            Self::Unanswered | Self::Closed => false,
            Self::Paused { last, .. } => last.needs_person(),
        }
    }

    /// `limit` is the time that the call had.
    pub(in super::super) fn of(error: Error, limit: Duration) -> Self {
        match error {
            Error::Silent { packets } => Self::Silent { packets },
            Error::NobodyThere => Self::NobodyThere,
            Error::Network(error) => Self::Network(error.to_string()),
            Error::WrongPassword => Self::WrongPassword,
            Error::WrongKg { .. } => Self::WrongKg,
            Error::WrongUser => Self::WrongUser,
            Error::Privilege(privilege) => Self::Privilege(privilege),
            Error::CipherSuite(refusal) => Self::CipherSuite(refusal.to_string()),
            Error::Downgrade(refusal) => Self::Downgrade(refusal.to_string()),
            Error::OldIpmi => Self::OldIpmi,
            Error::Overloaded(why) => Self::Overloaded(why),
            Error::Refused { command: ACTIVATE_PAYLOAD, code: Code::CommandSpecific(0x81) } => {
                Self::ConsoleOff
            }
            Error::Refused { code, .. } => match code {
                Code::InsufficientPrivilege => Self::TooLittle,
                Code::CannotExecuteCommandInCurrentState => Self::NotNow,
                code => Self::Rejected { code: format!("{code:?}") },
            },
            Error::Unanswered => Self::Unanswered,
            Error::Garbled(why) => Self::Garbled(why),
            Error::TooSlow => Self::TooSlow(limit),
            Error::Busy => Self::Busy(limit),
            Error::Paused { left, last } => {
                let last = Self::of((*last).clone(), limit);
                // What only a person can mend is told in its own words, however often it is asked.
                if last.needs_person() { last } else { Self::Paused { left, last: Box::new(last) } }
            }
            Error::ConsoleInUse | Error::ConsoleTaken => Self::ConsoleInUse,
            Error::Closed => Self::Closed,
        }
    }
}
