//! The 48-byte basic header segment of RFC 7143 section 11, read and written field by field.
//!
//! Pure bytes: no I/O, no session. A header is always whole, so no field access can fail.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

/// Bytes in a basic header segment.
pub(crate) const BHS: usize = 48;

/// "No tag": no answer is wanted, or none belongs to it.
pub(crate) const NO_TAG: u32 = 0xffff_ffff;

/// What initiators send.
pub(crate) mod request {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const SNACK: u8 = 0x10;
}

/// What targets send.
pub(crate) mod response {
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x22;
    pub(crate) const LOGIN: u8 = 0x23;
    pub(crate) const TEXT: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT: u8 = 0x26;
    pub(crate) const READY_TO_TRANSFER: u8 = 0x31;
    pub(crate) const ASYNC_MESSAGE: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

/// Bits of the second byte.
pub(crate) mod flag {
    /// Final PDU of a sequence; in a login "transit to the next stage".
    pub(crate) const FINAL: u8 = 0x80;
    /// Text goes on in the next PDU.
    pub(crate) const CONTINUE: u8 = 0x40;
    /// The SCSI command reads.
    pub(crate) const READ: u8 = 0x40;
    /// The SCSI command writes.
    pub(crate) const WRITE: u8 = 0x20;
    /// More data than expected.
    pub(crate) const OVERFLOW: u8 = 0x04;
    /// Less data than expected.
    pub(crate) const UNDERFLOW: u8 = 0x02;
    /// A Data-In that carries the status.
    pub(crate) const STATUS: u8 = 0x01;
}

/// Reasons of a Reject PDU.
pub(crate) mod reject {
    pub(crate) const DATA_DIGEST: u8 = 0x02;
    pub(crate) const SNACK: u8 = 0x03;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x04;
    pub(crate) const NOT_SUPPORTED: u8 = 0x05;
    pub(crate) const INVALID_FIELD: u8 = 0x09;
}

/// A basic header segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bhs(pub(crate) [u8; BHS]);

impl Bhs {
    /// A header of a PDU that the target sends, otherwise zero.
    pub(crate) fn new(opcode: u8, flags: u8) -> Self {
        let mut bytes = [0; BHS];
        bytes[0] = opcode;
        bytes[1] = flags;
        Self(bytes)
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(crate) fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    pub(crate) fn flags(&self) -> u8 {
        self.0[1]
    }

    /// Bytes of additional header segments behind this header.
    pub(crate) fn ahs_len(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// Bytes of data, padding not counted.
    pub(crate) fn data_len(&self) -> usize {
        usize::from(self.0[5]) << 16 | usize::from(self.0[6]) << 8 | usize::from(self.0[7])
    }

    /// The data length, at most 2^24-1 (callers stay far below).
    pub(crate) fn set_data_len(&mut self, len: usize) {
        let [.., high, mid, low] = len.to_be_bytes();
        self.0[5] = high;
        self.0[6] = mid;
        self.0[7] = low;
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(crate) fn lun(&self) -> u64 {
        u64::from_be_bytes(self.array(8))
    }

    /// Initiator task tag.
    pub(crate) fn itt(&self) -> u32 {
        self.u32(16)
    }

    /// Target transfer tag.
    pub(crate) fn ttt(&self) -> u32 {
        self.u32(20)
    }

    pub(crate) fn cmd_sn(&self) -> u32 {
        self.u32(24)
    }

    pub(crate) fn put<const N: usize>(mut self, at: usize, bytes: [u8; N]) -> Self {
        if let Some(field) = self.0.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *field = bytes;
        }
        self
    }

    pub(crate) fn put_u32(self, at: usize, value: u32) -> Self {
        self.put(at, value.to_be_bytes())
    }

    pub(crate) fn put_itt(self, itt: u32) -> Self {
        self.put_u32(16, itt)
    }
}

/// One received PDU. The data is only allocated when there is some, which reads do not have.
#[derive(Debug)]
pub(crate) struct Pdu {
    pub(crate) bhs: Bhs,
    pub(crate) data: Vec<u8>,
    /// The data does not fit its digest; there is none of it.
    pub(crate) spoilt: bool,
}

impl Pdu {
    /// How long it is, without what is only there to protect or to fill up.
    pub(crate) fn bytes(&self) -> u64 {
        (BHS + self.bhs.data_len()) as u64
    }
}

/// Padding behind a segment of `len` bytes.
pub(crate) fn pad(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Whether `a` comes before `b` in serial number arithmetic (RFC 1982).
pub(crate) fn sn_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian_and_in_their_place() {
        let mut bhs = Bhs::new(0x21, 0x80).put_itt(0x0102_0304).put(8, [9; 8]);
        bhs.set_data_len(0x0a_0b0c);
        assert_eq!(bhs.array::<8>(5)[..3], [0x0a, 0x0b, 0x0c]);
        assert_eq!(bhs.data_len(), 0x0a_0b0c);
        assert_eq!(bhs.itt(), 0x0102_0304);
        assert_eq!(bhs.u16(16), 0x0102);
        assert_eq!(bhs.lun(), 0x0909_0909_0909_0909);
    }

    #[test]
    fn padding_fills_to_four() {
        assert_eq!([pad(0), pad(1), pad(2), pad(3), pad(4)], [0, 3, 2, 1, 0]);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(sn_before(u32::MAX, 0) && !sn_before(0, u32::MAX) && !sn_before(7, 7));
    }
}
