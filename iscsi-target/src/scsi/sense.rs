//! Sense data: why a command ended in CHECK CONDITION (SPC-4 section 4.5).
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

/// Status codes of SAM-5.
pub(crate) mod status {
    pub(crate) const GOOD: u8 = 0x00;
    pub(crate) const CHECK_CONDITION: u8 = 0x02;
    pub(crate) const TASK_SET_FULL: u8 = 0x28;
}

/// Sense key, additional sense code and its qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sense {
    key: u8,
    code: u8,
    qualifier: u8,
}

impl Sense {
    pub(crate) const NONE: Self = Self::new(0x0, 0x00, 0x00);
    /// MEDIUM ERROR, unrecovered read error.
    pub(crate) const UNREADABLE: Self = Self::new(0x3, 0x11, 0x00);
    pub(crate) const INVALID_OPCODE: Self = Self::new(0x5, 0x20, 0x00);
    pub(crate) const OUT_OF_RANGE: Self = Self::new(0x5, 0x21, 0x00);
    pub(crate) const INVALID_FIELD: Self = Self::new(0x5, 0x24, 0x00);
    pub(crate) const NO_SUCH_UNIT: Self = Self::new(0x5, 0x25, 0x00);
    /// Saving parameters not supported.
    pub(crate) const NOT_SAVED: Self = Self::new(0x5, 0x39, 0x00);
    /// DATA PROTECT, write protected.
    pub(crate) const WRITE_PROTECTED: Self = Self::new(0x7, 0x27, 0x00);
    /// "Protocol service CRC error" (RFC 7143 section 11.4.7.2).
    pub(crate) const SPOILT_DATA: Self = Self::new(0xb, 0x47, 0x05);
    pub(crate) const MISCOMPARE: Self = Self::new(0xe, 0x1d, 0x00);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier }
    }

    /// Key, code and qualifier.
    pub(crate) fn triple(&self) -> [u8; 3] {
        [self.key, self.code, self.qualifier]
    }

    /// In fixed format, current error.
    pub(crate) fn fixed(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        bytes[7] = 10;
        bytes[12] = self.code;
        bytes[13] = self.qualifier;
        bytes
    }

    /// In descriptor format, current error, no descriptors.
    pub(crate) fn descriptor(&self) -> [u8; 8] {
        [0x72, self.key, self.code, self.qualifier, 0, 0, 0, 0]
    }
}
