//! Operational parameters of RFC 7143 section 13: what the initiator proposes, what we answer.
//!
//! We read only, on one connection, at recovery level 0; so most answers are fixed, and only the
//! digests, the initiator's PDU size and the burst length change what is sent later.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use crate::text;

/// The largest data segment that we accept, in bytes. Small, because nobody has much to tell a
/// read-only disk.
pub(crate) const OUR_MAX_RECV: usize = 8192;

/// What RFC 7143 says a peer takes when it declares nothing.
const DEFAULT_MAX_RECV: u32 = 8192;
const MIN_LENGTH: u32 = 512;
const MAX_LENGTH: u32 = (1 << 24) - 1;
const OUR_MAX_BURST: u32 = 1 << 20;
const OUR_FIRST_BURST: u32 = 64 << 10;

/// The outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Params {
    /// The largest data segment that the initiator accepts, 512..2^24-1.
    pub(crate) max_recv: u32,
    /// Bytes in one sequence of Data-In or Data-Out PDUs, 512..2^20.
    pub(crate) max_burst: u32,
    /// CRC32C behind each header.
    pub(crate) header_digest: bool,
    /// CRC32C behind each data segment.
    pub(crate) data_digest: bool,
    /// We have told our own `MaxRecvDataSegmentLength`.
    declared: bool,
    /// Which of [`ONCE`] have come.
    named: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_recv: DEFAULT_MAX_RECV,
            max_burst: 256 << 10,
            header_digest: false,
            data_digest: false,
            declared: false,
            named: 0,
        }
    }
}

/// Keys that are declared or negotiated at most once in a login, and never behind it but for the
/// first (RFC 7143 section 6.3).
const ONCE: [&str; 20] = [
    MAX_RECV,
    "HeaderDigest",
    "DataDigest",
    "MaxBurstLength",
    "FirstBurstLength",
    "InitialR2T",
    "ImmediateData",
    "MaxConnections",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "TaskReporting",
    "iSCSIProtocolLevel",
    "IFMarker",
    "OFMarker",
    "IFMarkInt",
    "OFMarkInt",
];

const MAX_RECV: &str = "MaxRecvDataSegmentLength";

/// The level of RFC 7143 itself.
const PROTOCOL_LEVEL: u32 = 1;

/// A key came a second time, or a declaration makes no sense: the login ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

impl Params {
    /// Takes one pair of a login and appends the answer to it, if it wants one.
    pub(crate) fn answer(
        &mut self,
        key: &str,
        value: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        if is_answer(value) {
            return Ok(());
        }
        self.note(key)?;
        let choice = match key {
            MAX_RECV => {
                self.max_recv = length(value)?;
                self.declare(out);
                return Ok(());
            }
            "InitiatorAlias" | "InitiatorName" | "TargetName" | "SessionType" => return Ok(()),
            "HeaderDigest" => digest(value, &mut self.header_digest),
            "DataDigest" => digest(value, &mut self.data_digest),
            "MaxBurstLength" => between(value, MIN_LENGTH, MAX_LENGTH).map(|length| {
                self.max_burst = length.min(OUR_MAX_BURST);
                self.max_burst.to_string()
            }),
            "FirstBurstLength" => between(value, MIN_LENGTH, MAX_LENGTH)
                .map(|length| length.min(OUR_FIRST_BURST).min(self.max_burst).to_string()),
            "InitialR2T" | "DataPDUInOrder" | "DataSequenceInOrder" => yes_or_no(value, "Yes"),
            "ImmediateData" | "IFMarker" | "OFMarker" => yes_or_no(value, "No"),
            "MaxConnections" | "MaxOutstandingR2T" => between(value, 1, 65_535).map(|_| "1".into()),
            "ErrorRecoveryLevel" => between(value, 0, 2).map(|_| "0".into()),
            "DefaultTime2Wait" => between(value, 0, 3600).map(|seconds| seconds.to_string()),
            "DefaultTime2Retain" => between(value, 0, 3600).map(|_| "0".into()),
            "TaskReporting" => text::offers(value, "RFC3720").then(|| "RFC3720".into()),
            "iSCSIProtocolLevel" => {
                between(value, 0, 31).map(|level| level.min(PROTOCOL_LEVEL).to_string())
            }
            "IFMarkInt" | "OFMarkInt" => Some("Irrelevant".into()),
            _ => Some("NotUnderstood".into()),
        };
        // A value that is none, or none that we can take, leaves what holds without the key.
        text::push(out, key, choice.as_deref().unwrap_or("Reject"));
        Ok(())
    }

    /// Takes one pair of a Text request in the full feature phase, where only the PDU size may be
    /// declared anew.
    pub(crate) fn answer_later(&mut self, key: &str, value: &str, out: &mut Vec<u8>) {
        match key {
            _ if is_answer(value) => {}
            MAX_RECV => match length(value) {
                Ok(length) => self.max_recv = length,
                Err(Broken) => text::push(out, key, "Reject"),
            },
            "InitiatorAlias" => {}
            "InitiatorName" | "TargetName" | "SessionType" => text::push(out, key, "Reject"),
            _ if ONCE.contains(&key) => text::push(out, key, "Reject"),
            _ => text::push(out, key, "NotUnderstood"),
        }
    }

    /// Tells the initiator our own limit, once.
    pub(crate) fn declare(&mut self, out: &mut Vec<u8>) {
        if !self.declared {
            self.declared = true;
            text::push(out, MAX_RECV, &OUR_MAX_RECV.to_string());
        }
    }

    /// Notes that a key has come, and that it has not come before.
    fn note(&mut self, key: &str) -> Result<(), Broken> {
        let Some(at) = ONCE.iter().position(|name| *name == key) else { return Ok(()) };
        if self.named & 1 << at != 0 {
            return Err(Broken);
        }
        self.named |= 1 << at;
        Ok(())
    }
}

/// An answer to something that we said, which ends that negotiation.
fn is_answer(value: &str) -> bool {
    matches!(value, "NotUnderstood" | "Irrelevant" | "Reject")
}

/// A length within the bounds of the RFC. A declared one outside (zero, say) is taken as the nearest
/// that is inside, which no initiator can mind: it gets PDUs that it must be able to take.
fn length(value: &str) -> Result<u32, Broken> {
    Ok(text::number(value).ok_or(Broken)?.clamp(MIN_LENGTH, MAX_LENGTH))
}

fn between(value: &str, least: u32, most: u32) -> Option<u32> {
    text::number(value).filter(|number| (least..=most).contains(number))
}

/// Our own choice, which decides whatever the initiator's is.
fn yes_or_no(value: &str, ours: &str) -> Option<String> {
    matches!(value, "Yes" | "No").then(|| ours.to_owned())
}

/// Picks the first digest in the initiator's order that we know.
fn digest(offers: &str, crc32c: &mut bool) -> Option<String> {
    let choice = offers.split(',').find(|offer| matches!(*offer, "None" | "CRC32C"))?;
    *crc32c = choice == "CRC32C";
    Some(choice.to_owned())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn ask(params: &mut Params, key: &str, value: &str) -> String {
        let mut out = Vec::new();
        params.answer(key, value, &mut out).unwrap();
        String::from_utf8(out).unwrap().replace('\0', ";")
    }

    #[test]
    fn a_zero_or_huge_pdu_size_is_clamped() {
        for (declared, taken) in [("0", 512), ("4294967295", (1 << 24) - 1), ("0x10000", 65_536)] {
            let mut params = Params::default();
            ask(&mut params, MAX_RECV, declared);
            assert_eq!(params.max_recv, taken);
        }
        assert_eq!(Params::default().answer(MAX_RECV, "many", &mut Vec::new()), Err(Broken));
    }

    #[test]
    fn a_key_may_come_once() {
        for key in ONCE {
            let mut params = Params::default();
            ask(&mut params, key, "1024");
            assert_eq!(params.answer(key, "1024", &mut Vec::new()), Err(Broken), "{key}");
            // An answer is no second offer.
            assert_eq!(params.answer(key, "Irrelevant", &mut Vec::new()), Ok(()));
        }
        let mut params = Params::default();
        for _ in 0..2 {
            assert_eq!(ask(&mut params, "InitiatorName", "iqn.x"), "");
        }
    }

    #[test]
    fn a_value_that_is_none_is_rejected_and_changes_nothing() {
        for (key, value) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "16777216"),
            ("FirstBurstLength", "many"),
            ("MaxConnections", "0"),
            ("MaxOutstandingR2T", "65536"),
            ("ErrorRecoveryLevel", "3"),
            ("DefaultTime2Wait", "3601"),
            ("DefaultTime2Retain", "-1"),
            ("InitialR2T", "Maybe"),
            ("ImmediateData", "yes"),
            ("DataDigest", "MD5"),
            ("TaskReporting", "FastAbort"),
            ("iSCSIProtocolLevel", "32"),
        ] {
            let mut params = Params::default();
            assert_eq!(ask(&mut params, key, value), format!("{key}=Reject;"), "{value}");
            assert_eq!(params.max_burst, Params::default().max_burst);
        }
    }

    #[test]
    fn behind_the_login_only_the_pdu_size_may_change() {
        let mut params = Params::default();
        let mut later = |key: &str, value: &str| {
            let mut out = Vec::new();
            params.answer_later(key, value, &mut out);
            String::from_utf8(out).unwrap().replace('\0', ";")
        };
        assert_eq!(later(MAX_RECV, "65536"), "");
        assert_eq!(later("HeaderDigest", "CRC32C"), "HeaderDigest=Reject;");
        assert_eq!(later("TargetName", "iqn.x"), "TargetName=Reject;");
        assert_eq!(later("X-org.example", "1"), "X-org.example=NotUnderstood;");
        assert_eq!(later("X-org.example", "NotUnderstood"), "");
        assert_eq!(params.max_recv, 65_536);
        assert!(!params.header_digest);
    }

    #[test]
    fn writes_are_never_invited() {
        let mut params = Params::default();
        assert_eq!(ask(&mut params, "InitialR2T", "No"), "InitialR2T=Yes;");
        assert_eq!(ask(&mut params, "ImmediateData", "Yes"), "ImmediateData=No;");
    }

    #[test]
    fn the_initiators_first_known_digest_wins() {
        let mut params = Params::default();
        assert_eq!(ask(&mut params, "HeaderDigest", "None,CRC32C"), "HeaderDigest=None;");
        assert_eq!(ask(&mut params, "DataDigest", "X,CRC32C,None"), "DataDigest=CRC32C;");
        assert!(params.data_digest && !params.header_digest);
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        assert_eq!(ask(&mut Params::default(), "X-a.b", "1"), "X-a.b=NotUnderstood;");
    }
}
