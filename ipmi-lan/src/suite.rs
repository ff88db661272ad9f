//! Cipher suites: 17 where a BMC has it, 3 where it has not, and never one below.
//!
//! IPMI 2.0 section 13.17 lets a BMC pick from what is offered, and what comes before a session can
//! be forged. So each login proposes one suite only, an answer with another is refused
//! (`handshake`), and a BMC that has spoken 17 once is not spoken to with 3 any more (`link`).

use std::fmt;

use crate::crypto::Hash;

/// A cipher suite (section 22.15.2) that we speak. Those without confidentiality, without
/// integrity, with MD5 or with RC4 are not here, so that none can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    /// RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
    Three,
    /// RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Seventeen,
}

/// Which suites may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suites {
    /// The better one of those that the BMC has.
    Best,
    /// This one.
    Only(CipherSuite),
}

impl CipherSuite {
    /// Its number in the standard.
    pub fn number(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Seventeen => 17,
        }
    }

    /// The suite of this number, if we speak it.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            3 => Some(Self::Three),
            17 => Some(Self::Seventeen),
            _ => None,
        }
    }

    /// Numbers of its algorithms for authentication, integrity and confidentiality (sections 13.28
    /// to 13.30).
    pub(crate) fn algorithms(self) -> [u8; 3] {
        match self {
            Self::Three => [1, 1, 1],
            Self::Seventeen => [3, 4, 1],
        }
    }

    pub(crate) fn hash(self) -> Hash {
        match self {
            Self::Three => Hash::Sha1,
            Self::Seventeen => Hash::Sha256,
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// The suites of ours that a BMC lists, the better one first. `records` is what Get Channel Cipher
/// Suites (section 22.15, table 22-18) gave, its pieces put together.
pub(crate) fn offered(records: &[u8]) -> Vec<CipherSuite> {
    let mut numbers = Vec::new();
    let mut rest = records.iter();
    while let Some(byte) = rest.next() {
        // 0xC0 begins a standard suite and its number follows; 0xC1 one of a vendor's. Any other
        // byte tells an algorithm, which the number has told already.
        if *byte == 0xC0
            && let Some(number) = rest.next()
        {
            numbers.push(*number);
        }
    }
    let listed = |suite: &CipherSuite| numbers.contains(&suite.number());
    [CipherSuite::Seventeen, CipherSuite::Three].into_iter().filter(listed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_read_and_the_better_one_comes_first() {
        let three = [0xC0, 3, 0x01, 0x41, 0x81];
        let seventeen = [0xC0, 17, 0x03, 0x44, 0x81];
        let oem = [0xC1, 0x80, 0x01, 0x02, 0x03, 0x01, 0x41, 0x81];
        let all = [&three[..], &oem, &seventeen].concat();
        assert_eq!(offered(&all), [CipherSuite::Seventeen, CipherSuite::Three]);
        assert_eq!(offered(&three), [CipherSuite::Three]);
        assert_eq!(offered(&[0xC0, 0, 0x00, 0x40, 0x80, 0xC0, 2, 0x01, 0x41, 0x80]), []);
        assert_eq!(offered(&[0xC0]), []);
    }
}
