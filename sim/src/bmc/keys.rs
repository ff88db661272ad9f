//! Keyed digests and encryption of a session [13.28 to 13.32].

use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit, generic_array::GenericArray};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;

/// One of the two suites that a good BMC has: 3 is made of SHA1, 17 of SHA256; both encrypt with
/// AES-CBC-128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    Three,
    Seventeen,
}

impl Suite {
    /// By its numbers of authentication, integrity and confidentiality.
    pub(super) fn of(algorithms: [u8; 3]) -> Option<Self> {
        match algorithms {
            [1, 1, 1] => Some(Self::Three),
            [3, 4, 1] => Some(Self::Seventeen),
            _ => None,
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Seventeen => 17,
        }
    }

    /// The digest of all parts, one behind the other.
    pub(super) fn digest(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let all = parts.concat();
        match self {
            Self::Three => {
                let mut mac =
                    <Hmac<Sha1> as Mac>::new_from_slice(key).expect("any length is a key");
                mac.update(&all);
                mac.finalize().into_bytes().to_vec()
            }
            Self::Seventeen => {
                let mut mac =
                    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any length is a key");
                mac.update(&all);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    /// Bytes of a digest that follow a packet.
    pub(super) fn short(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }
}

/// The keys of a session.
pub(super) struct Keys {
    suite: Suite,
    k1: Vec<u8>,
    aes: aes::Aes128,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(suite: Suite, session_key: &[u8]) -> Self {
        let k1 = suite.digest(session_key, &[&[0x01; 20]]);
        let k2 = suite.digest(session_key, &[&[0x02; 20]]);
        let aes = aes::Aes128::new(GenericArray::from_slice(&k2[..16]));
        Self { suite, k1, aes }
    }

    /// Puts the trailer behind a packet that begins at its authentication type [13.28.4].
    pub(super) fn sign(&self, mut packet: Vec<u8>) -> Vec<u8> {
        let mut pad = 0;
        while !(packet.len() + 2).is_multiple_of(4) {
            packet.push(0xFF);
            pad += 1;
        }
        packet.extend([pad, 0x07]);
        let signature = self.suite.digest(&self.k1, &[&packet]);
        packet.extend(&signature[..self.suite.short()]);
        packet
    }

    /// Whether the signature at the end is right.
    pub(super) fn is_signed(&self, packet: &[u8]) -> bool {
        let Some(length) = packet.len().checked_sub(self.suite.short()) else { return false };
        let (signed, signature) = packet.split_at(length);
        signed.ends_with(&[0x07])
            && signed.len().is_multiple_of(4)
            && self.suite.digest(&self.k1, &[signed]).starts_with(signature)
    }

    /// AES-CBC-128 with the vector in front [13.29].
    pub(super) fn encrypt(&self, data: &[u8]) -> Vec<u8> {
        let mut plain = data.to_vec();
        let mut pad = 0;
        while !(plain.len() + 1).is_multiple_of(16) {
            pad += 1;
            plain.push(pad);
        }
        plain.push(pad);
        let mut sealed: Vec<u8> = rand::random::<[u8; 16]>().to_vec();
        for block in plain.chunks(16) {
            let before = &sealed[sealed.len() - 16..];
            let mut mixed = GenericArray::from_iter(before.iter().zip(block).map(|(a, b)| a ^ b));
            self.aes.encrypt_block(&mut mixed);
            sealed.extend(mixed);
        }
        sealed
    }

    /// The same backwards; none where length or padding cannot be.
    pub(super) fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        if sealed.len() < 32 || !sealed.len().is_multiple_of(16) {
            return None;
        }
        let mut plain = Vec::new();
        for (before, block) in sealed.chunks(16).zip(sealed.chunks(16).skip(1)) {
            let mut mixed = GenericArray::clone_from_slice(block);
            self.aes.decrypt_block(&mut mixed);
            plain.extend(mixed.iter().zip(before).map(|(a, b)| a ^ b));
        }
        let pad = plain.pop()?;
        for expected in (1..=pad).rev() {
            if plain.pop()? != expected {
                return None;
            }
        }
        Some(plain)
    }
}
