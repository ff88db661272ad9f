//! Bytes on their way out: headers and small payloads, gathered so that many PDUs leave in one
//! write. Whoever fills it flushes it at [`HIGH_WATER`], so it stays small.

use crate::pdu::{BHS, Bhs, pad};

/// Bytes gathered before they must go out.
pub(crate) const HIGH_WATER: usize = 128 << 10;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
}

/// Room for a payload in the outbox, to be sealed with its header or taken back.
#[derive(Debug)]
pub(crate) struct Slot {
    at: usize,
    payload: usize,
    len: usize,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// `count` bytes of [`Outbox::unsent`] were sent.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(crate) fn release(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Adds a whole PDU.
    pub(crate) fn push(&mut self, bhs: Bhs, data: &[u8]) {
        let slot = self.reserve(data.len());
        self.payload(&slot).copy_from_slice(data);
        self.seal(slot, bhs);
    }

    /// Adds the header of a PDU whose `len` bytes of payload go out by themselves, without digest.
    pub(crate) fn push_header(&mut self, mut bhs: Bhs, len: usize) {
        bhs.set_data_len(len);
        self.bytes.extend_from_slice(&bhs.0);
        if self.header_digest {
            self.bytes.extend_from_slice(&crc32c::crc32c(&bhs.0).to_le_bytes());
        }
    }

    /// Adds the padding behind a payload that went out by itself.
    pub(crate) fn push_padding(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + pad(len), 0);
    }

    /// Makes room for a PDU with `len` bytes of payload, to be filled before its header is known.
    pub(crate) fn reserve(&mut self, len: usize) -> Slot {
        let at = self.bytes.len();
        let payload = at + BHS + if self.header_digest { 4 } else { 0 };
        self.bytes.resize(payload + len + pad(len), 0);
        Slot { at, payload, len }
    }

    /// The room for the payload.
    pub(crate) fn payload(&mut self, slot: &Slot) -> &mut [u8] {
        &mut self.bytes[slot.payload..slot.payload + slot.len]
    }

    /// Completes the PDU, which is the last one in the outbox.
    pub(crate) fn seal(&mut self, slot: Slot, mut bhs: Bhs) {
        bhs.set_data_len(slot.len);
        self.bytes[slot.at..slot.at + BHS].copy_from_slice(&bhs.0);
        if self.header_digest {
            let digest = crc32c::crc32c(&bhs.0).to_le_bytes();
            self.bytes[slot.at + BHS..slot.payload].copy_from_slice(&digest);
        }
        if self.data_digest && slot.len > 0 {
            let digest = crc32c::crc32c(&self.bytes[slot.payload..]).to_le_bytes();
            self.bytes.extend_from_slice(&digest);
        }
    }

    /// Takes the room back, for a payload that could not be had.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        self.bytes.truncate(slot.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Inbox;

    #[test]
    fn what_goes_out_can_be_read_back() {
        for (header_digest, data_digest) in [(false, false), (true, false), (true, true)] {
            let mut outbox = Outbox { header_digest, data_digest, ..Outbox::default() };
            outbox.push(Bhs::new(0x20, 0x80).put_itt(7), b"ping!");
            let slot = outbox.reserve(9);
            outbox.cancel(slot);
            outbox.push(Bhs::new(0x24, 0x80), b"");
            let mut inbox = Inbox::default();
            (inbox.header_digest, inbox.data_digest) = (header_digest, data_digest);
            let len = outbox.len();
            inbox.room()[..len].copy_from_slice(outbox.unsent());
            inbox.received(len);
            outbox.advance(len);
            assert_eq!(outbox.len(), 0);
            let first = inbox.take().unwrap().unwrap();
            assert_eq!((first.bhs.itt(), &first.data[..]), (7, &b"ping!"[..]));
            assert!(inbox.take().unwrap().unwrap().data.is_empty());
        }
    }
}
