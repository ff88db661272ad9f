//! Bytes on their way out: headers and small payloads, gathered so that many PDUs leave in one
//! write. Whoever fills it flushes it at [`HIGH_WATER`], so it stays small.

use crate::pdu::{BHS, Bhs, pad};

/// Bytes gathered before they must go out.
pub(crate) const HIGH_WATER: usize = 64 << 10;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Its length is the room that there was need for once; what is beyond `end` is of another time.
    bytes: Vec<u8>,
    sent: usize,
    end: usize,
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
        self.end - self.sent
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..self.end]
    }

    /// `count` bytes of [`Outbox::unsent`] were sent.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.end {
            (self.sent, self.end) = (0, 0);
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(crate) fn release(&mut self) {
        if self.end == 0 {
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
        self.append(&bhs.0);
        if self.header_digest {
            self.append(&crc32c::crc32c(&bhs.0).to_le_bytes());
        }
    }

    /// Adds the padding behind a payload that went out by itself.
    pub(crate) fn push_padding(&mut self, len: usize) {
        self.append(&[0; 4][..pad(len)]);
    }

    /// Makes room for a PDU with `len` bytes of payload, to be filled before its header is known.
    pub(crate) fn reserve(&mut self, len: usize) -> Slot {
        let at = self.end;
        let payload = at + BHS + if self.header_digest { 4 } else { 0 };
        self.grow(payload + len);
        self.push_padding(len);
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
            let digest = crc32c::crc32c(&self.bytes[slot.payload..self.end]).to_le_bytes();
            self.append(&digest);
        }
    }

    /// Takes the room back, for a payload that could not be had.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        self.end = slot.at;
    }

    fn append(&mut self, bytes: &[u8]) {
        let at = self.end;
        self.grow(at + bytes.len());
        self.bytes[at..self.end].copy_from_slice(bytes);
    }

    fn grow(&mut self, end: usize) {
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        self.end = end;
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
            let received = inbox.receive(|room| {
                room[..len].copy_from_slice(outbox.unsent());
                Ok(len)
            });
            assert_eq!(received.unwrap(), len);
            outbox.advance(len);
            assert_eq!(outbox.len(), 0);
            let first = inbox.take().unwrap().unwrap();
            assert_eq!((first.bhs.itt(), &first.data[..]), (7, &b"ping!"[..]));
            assert!(inbox.take().unwrap().unwrap().data.is_empty());
        }
    }
}
