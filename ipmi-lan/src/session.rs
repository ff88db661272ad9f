//! An open session: what seals our packets and opens those of the BMC, and which of these it
//! believes. No I/O, no time.
//!
//! A packet counts if it is for this session, its signature is right and its sequence number is new
//! within a window (IPMI 2.0 sections 6.12.13 and 13.28.4). An answer counts if, besides, function,
//! command and number are the request's, and the BMC sent it later than all that had come from it
//! when the request was first sent. Numbers of requests come again after 64; the last rule keeps an
//! answer that was 64 requests on its way from being taken for a new one.

use crate::{
    command::CloseSession,
    crypto::Keys,
    wire::{
        message,
        packet::{self, Sealed, payload},
    },
};

/// Sequence numbers behind the newest that are still looked at.
const WINDOW: u32 = 32;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Our id, in packets to us.
    console: u32,
    /// The BMC's id, in packets to it.
    managed: u32,
    keys: Keys,
    /// Of the packet that we sent last.
    sent: u32,
    /// The newest sequence number that came, and which of those before it came: bit n for n + 1 less.
    newest: u32,
    seen: u32,
    /// Of the request that we sent last.
    number: u8,
}

/// What was in a packet that counts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) payload_type: u8,
    pub(crate) sequence: u32,
    pub(crate) payload: Vec<u8>,
}

impl Session {
    pub(crate) fn new(console: u32, managed: u32, keys: Keys) -> Self {
        Self { console, managed, keys, sent: 0, newest: 0, seen: 0, number: 0 }
    }

    /// A number for a new request.
    pub(crate) fn next_number(&mut self) -> u8 {
        self.number = (self.number + 1) % 64;
        self.number
    }

    /// The newest sequence number that the BMC has used, as far as we know.
    pub(crate) fn newest(&self) -> u32 {
        self.newest
    }

    /// Whether the BMC may mean this session by an id. The standard does not say which of its two ids
    /// a payload's session has, and BMCs differ.
    pub(crate) fn is_known_as(&self, id: u32) -> bool {
        [self.console, self.managed].contains(&id)
    }

    /// Seals a payload. The same payload sent again is sealed again: BMCs drop a sequence number that
    /// they have seen.
    pub(crate) fn seal(&mut self, payload_type: u8, payload: &[u8]) -> Vec<u8> {
        // Section 6.12.8: 0 stands for packets outside of a session, also when the numbers wrap.
        self.sent = self.sent.checked_add(1).unwrap_or(1);
        let encrypted = self.keys.encrypt(payload);
        packet::sealed(payload_type, self.managed, self.sent, &encrypted, |signed| {
            let mut tag = self.keys.hash.hmac(&self.keys.k1, &[signed]);
            tag.truncate(self.keys.hash.short());
            tag
        })
    }

    /// The packet that closes it.
    pub(crate) fn farewell(&mut self) -> Vec<u8> {
        let close = CloseSession(self.managed).into();
        let request = message::request(self.next_number(), &close);
        self.seal(payload::IPMI, &request)
    }

    /// Opens a packet, once; none if it does not count.
    pub(crate) fn open(&mut self, packet: &Sealed<'_>) -> Option<Opened> {
        if packet.session != self.console || !self.is_new(packet.sequence) {
            return None;
        }
        let hash = self.keys.hash;
        let (signed, tag) = packet.signature(hash.short())?;
        if !hash.verify(&self.keys.k1, &[signed], tag, hash.short()) {
            return None;
        }
        let payload = self.keys.decrypt(packet.payload)?;
        self.note(packet.sequence);
        Some(Opened { payload_type: packet.payload_type, sequence: packet.sequence, payload })
    }

    fn is_new(&self, sequence: u32) -> bool {
        if sequence == 0 || sequence == self.newest {
            return false;
        }
        match self.newest.checked_sub(sequence) {
            None => true,
            Some(behind) => behind <= WINDOW && self.seen & (1 << (behind - 1)) == 0,
        }
    }

    fn note(&mut self, sequence: u32) {
        match sequence.checked_sub(self.newest) {
            Some(ahead) => {
                // What was the newest is now one of those behind, as are all that came before it.
                let shifted = |bits: u32, by: u32| bits.checked_shl(by).unwrap_or(0);
                self.seen = shifted(self.seen, ahead) | shifted(1, ahead - 1);
                self.newest = sequence;
            }
            None => self.seen |= 1 << (self.newest - sequence - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::Hash, wire::packet::Packet};

    fn pair(hash: Hash) -> (Session, Session) {
        let keys = Keys::from_sik(hash, &[3; 20]);
        (Session::new(1, 2, keys.clone()), Session::new(2, 1, keys))
    }

    fn opened(session: &mut Session, bytes: &[u8]) -> Option<Vec<u8>> {
        let Some(Packet::Sealed(sealed)) = packet::parse(bytes) else { return None };
        session.open(&sealed).map(|opened| opened.payload)
    }

    #[test]
    fn a_packet_is_opened_once_and_not_when_it_is_spoilt_or_for_another_session() {
        for hash in [Hash::Sha1, Hash::Sha256] {
            let (mut here, mut there) = pair(hash);
            let bytes = there.seal(0, b"hello");
            for at in 4..bytes.len() {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 1;
                assert_eq!(opened(&mut here, &spoilt), None, "byte {at}");
            }
            let (mut stranger, _) = pair(hash);
            stranger.console = 77;
            assert_eq!(opened(&mut stranger, &bytes), None);
            assert_eq!(opened(&mut here, &bytes), Some(b"hello".to_vec()));
            assert_eq!(opened(&mut here, &bytes), None, "a second time");
        }
    }

    #[test]
    fn packets_are_taken_in_any_order_but_each_once_and_none_that_is_too_old() {
        let (mut here, mut there) = pair(Hash::Sha256);
        let packets: Vec<_> = (0..50u8).map(|n| there.seal(0, &[n])).collect();
        for n in [3, 1, 2, 40] {
            assert_eq!(opened(&mut here, &packets[n]).unwrap()[0], n as u8);
        }
        for n in [1, 2, 3, 40, 0, 7] {
            assert_eq!(opened(&mut here, &packets[n]), None, "{n}: seen, or older than the window");
        }
        for n in [8, 39, 41] {
            assert!(opened(&mut here, &packets[n]).is_some(), "{n}");
            assert_eq!(opened(&mut here, &packets[n]), None, "{n} again");
        }
    }

    #[test]
    fn the_other_hash_opens_nothing() {
        let (_, mut there) = pair(Hash::Sha1);
        let (mut here, _) = pair(Hash::Sha256);
        assert_eq!(opened(&mut here, &there.seal(0, b"x")), None);
    }
}
