//! Bytes received and the PDUs in them. No more is held than the largest PDU that we accept, so that
//! no peer can make us hold more.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::cell::RefCell;
use std::io;

use crate::negotiate::OUR_MAX_RECV;
use crate::pdu::{BHS, Bhs, Pdu, pad};
use crate::wire::WireError;

/// Bytes held at most: headers of two hundred reads, or one PDU of the largest kind.
const CAPACITY: usize = 10 << 10;

/// Bytes of memory that an inbox keeps for another time.
const KEPT: usize = 2 << 10;

/// The longest additional header segments that a header can announce.
const MAX_AHS: usize = 255 * 4;

// A PDU that did not fit could never be completed.
const _: () = assert!(CAPACITY >= BHS + MAX_AHS + 4 + OUR_MAX_RECV + 4);

thread_local! {
    /// Where bytes are received to. Sessions hold only what came, and that is little.
    static LANDING: RefCell<Vec<u8>> = RefCell::new(vec![0; CAPACITY]);
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buf: Vec<u8>,
    /// How much of it was taken.
    start: usize,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
}

impl Inbox {
    /// Receives by `read`, which is given room and answers how many bytes it has put there.
    pub(crate) fn receive(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.buf.drain(..self.start);
        self.start = 0;
        LANDING.with_borrow_mut(|landing| {
            let room = CAPACITY.saturating_sub(self.buf.len());
            let count = read(landing.get_mut(..room).unwrap_or_default())?;
            self.buf.extend_from_slice(landing.get(..count).unwrap_or_default());
            Ok(count)
        })
    }

    /// Gives memory back if nothing is in it.
    pub(crate) fn release(&mut self) {
        if self.start == self.buf.len() {
            self.buf.clear();
            self.buf.shrink_to(KEPT);
            self.start = 0;
        }
    }

    /// Takes the next PDU that is wholly here.
    pub(crate) fn take(&mut self) -> Result<Option<Pdu>, WireError> {
        let here = self.buf.get(self.start..).unwrap_or_default();
        let Some(header) = here.first_chunk::<BHS>() else { return Ok(None) };
        let bhs = Bhs(*header);
        let len = bhs.data_len();
        if len > OUR_MAX_RECV {
            return Err(WireError::TooLong { opcode: bhs.opcode(), len });
        }
        let headers = BHS + bhs.ahs_len();
        let data_at = headers + if self.header_digest { 4 } else { 0 };
        let padded = len + pad(len);
        let total = data_at + padded + if self.data_digest && len > 0 { 4 } else { 0 };
        let Some(whole) = here.get(..total) else { return Ok(None) };
        if self.header_digest && !digest_fits(whole, 0, headers) {
            return Err(WireError::Digest);
        }
        let spoilt = self.data_digest && len > 0 && !digest_fits(whole, data_at, padded);
        let data = match spoilt {
            true => Vec::new(),
            false => whole.get(data_at..data_at + len).unwrap_or_default().to_vec(),
        };
        self.start += total;
        Ok(Some(Pdu { bhs, data, spoilt }))
    }
}

/// Whether the CRC32C behind `len` bytes at `at` is theirs. It travels least significant byte first.
fn digest_fits(whole: &[u8], at: usize, len: usize) -> bool {
    let part = whole.get(at..at + len).unwrap_or_default();
    let digest = whole.get(at + len..).and_then(|rest| rest.first_chunk::<4>());
    digest.is_some_and(|digest| u32::from_le_bytes(*digest) == crc32c::crc32c(part))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn feed(inbox: &mut Inbox, bytes: &[u8]) {
        let count = inbox.receive(|room| {
            room[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!(count.unwrap(), bytes.len());
    }

    #[test]
    fn pdus_come_out_whole_however_they_arrive() {
        let mut bhs = Bhs::new(0x04, 0x80);
        bhs.set_data_len(5);
        let mut bytes = bhs.0.to_vec();
        bytes.extend_from_slice(b"a=b\0c\0\0\0");
        let twice = [bytes.clone(), bytes].concat();
        let mut inbox = Inbox::default();
        let mut got = 0;
        for byte in twice {
            feed(&mut inbox, &[byte]);
            while let Some(pdu) = inbox.take().unwrap() {
                assert_eq!(pdu.data, b"a=b\0c");
                got += 1;
            }
        }
        assert_eq!(got, 2);
        inbox.release();
        assert!(inbox.buf.is_empty() && inbox.buf.capacity() <= KEPT);
    }

    #[test]
    fn a_pdu_longer_than_declared_is_refused_by_its_header() {
        let mut bhs = Bhs::new(0x03, 0);
        bhs.set_data_len(0xff_ffff);
        let mut inbox = Inbox::default();
        feed(&mut inbox, &bhs.0);
        assert!(matches!(inbox.take(), Err(WireError::TooLong { len: 0xff_ffff, .. })));
    }

    #[test]
    fn a_wrong_digest_is_noticed() {
        let mut inbox = Inbox { header_digest: true, ..Inbox::default() };
        let bhs = Bhs::new(0, 0x80);
        feed(&mut inbox, &bhs.0);
        feed(&mut inbox, &crc32c::crc32c(&bhs.0).to_le_bytes());
        assert!(inbox.take().unwrap().is_some());
        feed(&mut inbox, &bhs.0);
        feed(&mut inbox, &[0; 4]);
        assert!(matches!(inbox.take(), Err(WireError::Digest)));
    }
}
