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
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_recv: DEFAULT_MAX_RECV,
            max_burst: 256 << 10,
            header_digest: false,
            data_digest: false,
            declared: false,
        }
    }
}

/// A value that cannot be negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadValue;

impl Params {
    /// Takes one pair and appends the answer to it, if it wants one.
    pub(crate) fn answer(
        &mut self,
        key: &str,
        value: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), BadValue> {
        // An answer to something that we said is the end of that negotiation.
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            return Ok(());
        }
        match key {
            "HeaderDigest" => self.header_digest = digest(key, value, out),
            "DataDigest" => self.data_digest = digest(key, value, out),
            "MaxRecvDataSegmentLength" => {
                self.max_recv = length(value)?;
                self.declare(out);
            }
            "MaxBurstLength" => {
                self.max_burst = length(value)?.min(OUR_MAX_BURST);
                text::push(out, key, &self.max_burst.to_string());
            }
            "FirstBurstLength" => {
                let first = length(value)?.min(OUR_FIRST_BURST).min(self.max_burst);
                text::push(out, key, &first.to_string());
            }
            "DefaultTime2Wait" => {
                text::push(out, key, &number(value)?.min(3600).to_string());
            }
            "InitialR2T" | "DataPDUInOrder" | "DataSequenceInOrder" => text::push(out, key, "Yes"),
            "ImmediateData" | "IFMarker" | "OFMarker" => text::push(out, key, "No"),
            "MaxConnections" | "MaxOutstandingR2T" => text::push(out, key, "1"),
            "ErrorRecoveryLevel" | "DefaultTime2Retain" => text::push(out, key, "0"),
            "IFMarkInt" | "OFMarkInt" => text::push(out, key, "Irrelevant"),
            "TaskReporting" => text::push(out, key, "RFC3720"),
            "InitiatorAlias" | "InitiatorName" | "TargetName" | "SessionType" => {}
            _ => text::push(out, key, "NotUnderstood"),
        }
        Ok(())
    }

    /// Tells the initiator our own limit, once.
    pub(crate) fn declare(&mut self, out: &mut Vec<u8>) {
        if !self.declared {
            self.declared = true;
            text::push(out, "MaxRecvDataSegmentLength", &OUR_MAX_RECV.to_string());
        }
    }
}

fn number(value: &str) -> Result<u32, BadValue> {
    text::number(value).ok_or(BadValue)
}

/// A length within the bounds of the RFC. One outside (zero, say) is taken as the nearest that is
/// inside, which no initiator can mind: it gets PDUs that it must be able to take.
fn length(value: &str) -> Result<u32, BadValue> {
    Ok(number(value)?.clamp(MIN_LENGTH, MAX_LENGTH))
}

/// Picks the first digest in the initiator's order that we know; true means CRC32C.
fn digest(key: &str, value: &str, out: &mut Vec<u8>) -> bool {
    let choice = value.split(',').find(|offer| matches!(*offer, "None" | "CRC32C"));
    text::push(out, key, choice.unwrap_or("Reject"));
    choice == Some("CRC32C")
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
        let mut params = Params::default();
        ask(&mut params, "MaxRecvDataSegmentLength", "0");
        assert_eq!(params.max_recv, 512);
        ask(&mut params, "MaxRecvDataSegmentLength", "4294967295");
        assert_eq!(params.max_recv, (1 << 24) - 1);
        assert_eq!(
            params.answer("MaxRecvDataSegmentLength", "many", &mut Vec::new()),
            Err(BadValue)
        );
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
        assert_eq!(ask(&mut params, "DataDigest", "X"), "DataDigest=Reject;");
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        assert_eq!(ask(&mut Params::default(), "X-a.b", "1"), "X-a.b=NotUnderstood;");
    }
}
