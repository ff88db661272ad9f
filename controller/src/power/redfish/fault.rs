//! What can go wrong with a BMC that speaks Redfish, told apart by what a person would do about it.

use std::time::Duration;

/// What came of a call, and what to check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedfishFault {
    /// The other side says that nobody listens on that port.
    #[error(
        "nothing listens on that TCP port; check address and port, and that Redfish (HTTPS) is enabled"
    )]
    NobodyThere,
    /// No connection, or no answer.
    #[error("no answer; check its address, cable and VLAN, and that Redfish (HTTPS) is enabled")]
    Silent,
    /// TLS could not be agreed on.
    #[error(
        "no TLS connection ({0}); it needs TLS 1.2 or 1.3 and a certificate with RSA of at least 2048 bits or \
         ECDSA: renew its certificate or update its firmware, or use driver = \"ipmi\""
    )]
    Tls(String),
    /// It has another certificate than the inventory names.
    #[error(
        "its certificate has the fingerprint {seen}, not {pinned}; nothing was sent to it. If the certificate \
         was renewed, compare the new fingerprint at the BMC itself and write it to nodes.toml; else somebody \
         is in between"
    )]
    OtherCertificate {
        /// What it has.
        seen: String,
        /// What the inventory names.
        pinned: String,
    },
    /// The authorities of the inventory do not vouch for its certificate.
    #[error(
        "its certificate (fingerprint {seen}) is not accepted by ca_file: {why}; nothing was sent to it. Check \
         ca_file and server_name, or pin the certificate by its fingerprint"
    )]
    NotTrusted {
        /// The certificate's fingerprint.
        seen: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file of authorities is no use.
    #[error("ca_file cannot be used: {0}")]
    CaFile(String),
    /// The login was refused.
    #[error(
        "it refuses user or password; check the account, that it may use Redfish, and the file or variable \
         that the inventory names"
    )]
    WrongAccount,
    /// The account is not allowed to do this.
    #[error("the account may not do this ({0}); it needs the role Operator or Administrator")]
    TooLittle(String),
    /// The account must get another password first.
    #[error("it wants the account's password changed before anything else; change it at the BMC")]
    PasswordExpired,
    /// It has no session free, and takes no login without one.
    #[error("it has no free session ({0}); other tools may hold its sessions open")]
    NoSession(String),
    /// What answers is no Redfish service.
    #[error("what answers there is no Redfish service ({0}); check address and port")]
    NotRedfish(String),
    /// It has no system to switch.
    #[error("it has no system that could be switched")]
    NoSystem,
    /// It has several systems.
    #[error("it has several systems ({}); say which one is the node: system = \"{}\"", .0.join(", "), .0.first().map_or("", String::as_str))]
    ManySystems(Vec<String>),
    /// It has not the system that the inventory names.
    #[error("it has no system {wanted:?} but {}; check system", known.join(", "))]
    OtherSystem {
        /// What the inventory names.
        wanted: String,
        /// What it has.
        known: Vec<String>,
    },
    /// It does not offer what is needed.
    #[error("it does not offer {wanted} (it offers {})", offered.join(", "))]
    NotOffered {
        /// What was looked for.
        wanted: &'static str,
        /// What there is.
        offered: Vec<String>,
    },
    /// It is busy, starting, or out of order for now.
    #[error("it is busy or not ready ({0}); it may be starting")]
    Overloaded(String),
    /// The order makes no sense in its present state.
    #[error("it says that this cannot be done in its present state ({0})")]
    NotNow(String),
    /// It refused.
    #[error("it answered {0}; check that the BMC supports this")]
    Rejected(String),
    /// An order had no answer, and was not obeyed as far as can be seen.
    #[error("it did not answer the order; it may be obeyed or not")]
    Unanswered,
    /// What came back made no sense.
    #[error("its answers made no sense ({0})")]
    Garbled(String),
    /// The system would not send or receive, or the connection broke.
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
        last: Box<RedfishFault>,
    },
}

impl RedfishFault {
    /// Whether only a person can mend it: trying again, by itself, will not.
    pub(in super::super) fn needs_person(&self) -> bool {
        match self {
            Self::Tls(_) | Self::OtherCertificate { .. } | Self::NotTrusted { .. } => true,
            Self::CaFile(_) | Self::NotRedfish(_) | Self::NoSystem | Self::ManySystems(_) => true,
            Self::OtherSystem { .. } | Self::NotOffered { .. } | Self::Rejected(_) => true,
            Self::NobodyThere | Self::Silent | Self::NoSession(_) | Self::Overloaded(_) => false,
            Self::NotNow(_) | Self::Unanswered | Self::Garbled(_) | Self::Network(_) => false,
            Self::Busy(_) | Self::TooSlow(_) => false,
            Self::WrongAccount | Self::TooLittle(_) | Self::PasswordExpired => true,
            Self::Paused { last, .. } => last.needs_person(),
        }
    }

    /// Whether the login was refused: trying again soon may lock the account.
    pub(super) fn is_login(&self) -> bool {
        matches!(self, Self::WrongAccount | Self::PasswordExpired)
    }

    /// Whether the BMC does not work at all.
    pub(super) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::NobodyThere
                | Self::Silent
                | Self::Network(_)
                | Self::Overloaded(_)
                | Self::Garbled(_)
        )
    }

    /// Whether the same question, asked again, may be answered.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Silent | Self::Network(_) | Self::Overloaded(_))
    }
}
