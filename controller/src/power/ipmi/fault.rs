//! What can go wrong with a BMC, told apart by what a person would do about it.

use std::{convert::Infallible, io, time::Duration};

use ipmi_rs::{
    IpmiError,
    connection::CompletionErrorCode,
    rmcp::{
        ActivationError, ParseSessionResponseError, RakpMessage2ErrorStatusCode,
        RakpMessage2ParseError, RmcpIpmiError, RmcpIpmiReceiveError, V2_0ActivationError,
    },
};

/// What came of a call, and what to check.
#[derive(Debug, thiserror::Error)]
pub enum BmcFault {
    /// No packet came back.
    #[error(
        "no answer in {sessions} attempts; check its address, cable and VLAN, and that IPMI over \
         LAN is enabled"
    )]
    Silent {
        /// Sessions that were tried.
        sessions: usize,
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
    /// The account may not do this.
    #[error(
        "it refuses the privilege ADMINISTRATOR; raise the account's privilege limit on the LAN channel"
    )]
    Privilege,
    /// The password has more bytes than IPMI 2.0 has room for.
    #[error("the password is longer than IPMI's 20 bytes; set a shorter one")]
    LongPassword,
    /// It refuses the only cipher suite that we speak.
    #[error("it refuses cipher suite 3 (HMAC-SHA1, AES-CBC-128): {0}; enable that suite")]
    CipherSuite(String),
    /// It speaks IPMI 1.5, or none.
    #[error("it offers no IPMI 2.0 session; enable RMCP+, or update its firmware")]
    OldIpmi,
    /// It has no session free, or is busy.
    #[error("it is busy or has no free session ({0}); other tools may hold its sessions open")]
    Overloaded(String),
    /// The order makes no sense in its present state.
    #[error("it says that this cannot be done in its present state")]
    NotNow,
    /// It answered with an error code.
    #[error("it answered {code}; check that the BMC supports this command")]
    Rejected {
        /// The completion code's name.
        code: String,
    },
    /// What came back made no sense.
    #[error(
        "its answers made no sense ({0}); try again, check for packet loss or a duplicate address"
    )]
    Garbled(String),
    /// The system would not send or receive.
    #[error("network error: {0}")]
    Network(io::Error),
    /// Another call was with the BMC all the time.
    #[error("not tried: an earlier call has not ended for {} s", .0.as_secs_f32())]
    Busy(Duration),
    /// It answered, but too slowly.
    #[error("not done within {} s; it answers too slowly", .0.as_secs_f32())]
    TooSlow(Duration),
}

impl BmcFault {
    /// Whether a new session may do better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Overloaded(_) | Self::Garbled(_) => true,
            // Trying a password again locks accounts.
            Self::WrongPassword | Self::WrongUser | Self::Privilege | Self::LongPassword => false,
            Self::CipherSuite(_) | Self::OldIpmi | Self::NotNow | Self::Rejected { .. } => false,
            Self::NobodyThere | Self::Network(_) | Self::Busy(_) | Self::TooSlow(_) => false,
        }
    }

    pub(in super::super) fn needs_person(&self) -> bool {
        match self {
            Self::WrongPassword | Self::WrongUser | Self::Privilege | Self::LongPassword => true,
            Self::CipherSuite(_) | Self::OldIpmi | Self::Rejected { .. } => true,
            Self::Silent { .. } | Self::Overloaded(_) | Self::Garbled(_) | Self::NotNow => false,
            Self::NobodyThere | Self::Network(_) | Self::Busy(_) | Self::TooSlow(_) => false,
        }
    }
}

pub(super) fn of_socket(error: io::Error) -> BmcFault {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => BmcFault::Silent { sessions: 1 },
        io::ErrorKind::ConnectionRefused => BmcFault::NobodyThere,
        _ => BmcFault::Network(error),
    }
}

pub(super) fn of_command(error: IpmiError<RmcpIpmiError, Infallible>) -> BmcFault {
    use CompletionErrorCode as Code;
    match error {
        IpmiError::Connection(error) => of_connection(error),
        IpmiError::Failed { completion_code, cmd, .. } => match completion_code {
            Code::InsufficientPrivilege => BmcFault::Privilege,
            // Set Session Privilege Level: not available to this user, or above its limit.
            Code::CommandSpecific(0x80..=0x81) if cmd == 0x3B => BmcFault::Privilege,
            Code::CannotExecuteCommandInCurrentState => BmcFault::NotNow,
            Code::NodeBusy | Code::OutOfSpace | Code::ProcessingTimeout => {
                BmcFault::Overloaded(format!("{completion_code:?}"))
            }
            Code::ResponseUnavailable { .. } => {
                BmcFault::Overloaded(format!("{completion_code:?}"))
            }
            other => BmcFault::Rejected { code: format!("{other:?}") },
        },
        IpmiError::Command { error, .. } => match error {},
        IpmiError::UnexpectedResponse { cmd_sent, cmd_recvd, .. } => BmcFault::Garbled(format!(
            "the answer to command {cmd_recvd:#04x} came for command {cmd_sent:#04x}"
        )),
        IpmiError::NetFnIsResponse(_) => BmcFault::Garbled("a response as request".to_owned()),
    }
}

pub(super) fn of_activation(error: ActivationError) -> BmcFault {
    match error {
        ActivationError::BindSocket(error)
        | ActivationError::PingSend(error)
        | ActivationError::PongReceive(error) => of_socket(error),
        ActivationError::PongRead | ActivationError::RmcpError(_) => {
            BmcFault::Garbled("no answer to an RMCP ping".to_owned())
        }
        ActivationError::GetChannelAuthenticationCapabilities(IpmiError::Connection(error)) => {
            of_connection(error)
        }
        ActivationError::GetChannelAuthenticationCapabilities(_) => {
            BmcFault::Garbled("its authentication capabilities".to_owned())
        }
        ActivationError::IpmiNotSupported
        | ActivationError::NoSupportedIpmiLANVersions
        | ActivationError::V1_5(_) => BmcFault::OldIpmi,
        ActivationError::V2_0(error) => of_login(error),
    }
}

fn of_login(error: V2_0ActivationError) -> BmcFault {
    use RakpMessage2ErrorStatusCode as Code;
    match error {
        V2_0ActivationError::Io(error) => of_socket(error),
        V2_0ActivationError::OpenSessionResponseReceive(error)
        | V2_0ActivationError::RakpMessage2Receive(error)
        | V2_0ActivationError::RakpMessage4Receive(error) => of_receive(error),
        V2_0ActivationError::OpenSessionResponseParse(
            ParseSessionResponseError::HaveErrorCode(code),
        ) => of_open_session(&format!("{code:?}")),
        V2_0ActivationError::RakpMessage2Parse(RakpMessage2ParseError::ErrorStatusCode(code)) => {
            match code {
                Code::UnauthorizedName | Code::InvalidNameLength => BmcFault::WrongUser,
                Code::UnauthorizedRoleOrPrivilegeLevelRequested | Code::InvalidRole => {
                    BmcFault::Privilege
                }
                Code::InsufficientResourcesToCreateSessionAtRequestedRole
                | Code::InactiveSessionId
                | Code::Common(_) => BmcFault::Overloaded(format!("{code:?}")),
            }
        }
        // The BMC proved in RAKP message 2 that it knows another password than ours.
        // A refusal is as short as the second, and `probe` then says what was refused.
        V2_0ActivationError::ServerAuthenticationFailed
        | V2_0ActivationError::RakpMessage2Parse(RakpMessage2ParseError::NotEnoughData) => {
            BmcFault::WrongPassword
        }
        V2_0ActivationError::RakpMessage4Parse(code)
            if format!("{code:?}").contains("InvalidIntegrityCheckValue") =>
        {
            BmcFault::WrongPassword
        }
        other => BmcFault::Garbled(format!("login: {}", first_word(&other))),
    }
}

// ipmi-rs does not export the type of these codes, only their Debug text.
fn of_open_session(code: &str) -> BmcFault {
    if code.contains("InsufficientResources") {
        BmcFault::Overloaded(code.to_owned())
    } else if code.contains("InvalidRole") {
        BmcFault::Privilege
    } else if code.contains("Algorithm") || code.contains("Matching") {
        BmcFault::CipherSuite(code.to_owned())
    } else {
        BmcFault::Garbled(format!("open session: {code}"))
    }
}

fn of_connection(error: RmcpIpmiError) -> BmcFault {
    match error {
        RmcpIpmiError::Receive(error) => of_receive(error),
        other => BmcFault::Garbled(first_word(&other)),
    }
}

fn of_receive(error: RmcpIpmiReceiveError) -> BmcFault {
    match error {
        RmcpIpmiReceiveError::Io(error) => of_socket(error),
        other => BmcFault::Garbled(first_word(&other)),
    }
}

// Only the variant's name: what stands inside may hold bytes of a packet.
fn first_word(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("").to_owned()
}
