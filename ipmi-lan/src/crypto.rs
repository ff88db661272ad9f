//! Keys and ciphers of a session: IPMI 2.0 sections 13.28 to 13.33.

use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::NoPadding};
use hmac::{Hmac, Mac, digest::KeyInit};
use sha1::Sha1;
use sha2::Sha256;

/// Length of an AES block, and of the initialization vector in front of what is encrypted.
const BLOCK: usize = 16;

/// What all keyed digests of a session are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    /// Bytes of a whole digest, as RAKP messages 2 and 3 carry it.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Bytes of a digest behind a packet and in RAKP message 4: HMAC-SHA1-96, HMAC-SHA256-128.
    pub(crate) fn short(self) -> usize {
        match self {
            Self::Sha1 => 12,
            Self::Sha256 => 16,
        }
    }

    pub(crate) fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::Sha1 => mac::<Hmac<Sha1>>(key, parts).finalize().into_bytes().to_vec(),
            Self::Sha256 => mac::<Hmac<Sha256>>(key, parts).finalize().into_bytes().to_vec(),
        }
    }

    /// Whether `tag` is the first `length` bytes of the digest, found out in constant time.
    pub(crate) fn verify(self, key: &[u8], parts: &[&[u8]], tag: &[u8], length: usize) -> bool {
        let verified = match self {
            Self::Sha1 => mac::<Hmac<Sha1>>(key, parts).verify_truncated_left(tag),
            Self::Sha256 => mac::<Hmac<Sha256>>(key, parts).verify_truncated_left(tag),
        };
        tag.len() == length && verified.is_ok()
    }
}

fn mac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> M {
    let mut mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}

/// The keys that packets are signed and encrypted with.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) hash: Hash,
    pub(crate) k1: Vec<u8>,
    pub(crate) k2: [u8; BLOCK],
}

impl Keys {
    /// Section 13.32: K1 signs; the first 128 bits of K2 encrypt.
    pub(crate) fn from_sik(hash: Hash, sik: &[u8]) -> Self {
        let constant = |n: u8| hash.hmac(sik, &[&[n; 20]]);
        let mut k2 = [0; BLOCK];
        for (to, from) in k2.iter_mut().zip(constant(2)) {
            *to = from;
        }
        Self { hash, k1: constant(1), k2 }
    }

    /// Section 13.29: the vector, then the data with its padding encrypted by AES-CBC-128.
    pub(crate) fn encrypt(&self, data: &[u8]) -> Vec<u8> {
        let vector: [u8; BLOCK] = rand::random();
        let mut plain = data.to_vec();
        // 1, 2, 3 and so on, then their count, up to whole blocks.
        let padding = BLOCK - 1 - data.len() % BLOCK;
        plain.extend((1u8..).take(padding));
        plain.extend(u8::try_from(padding));
        let cipher = cbc::Encryptor::<aes::Aes128>::new(&self.k2.into(), &vector.into());
        let encrypted = cipher.encrypt_padded_vec_mut::<NoPadding>(&plain);
        [&vector[..], &encrypted].concat()
    }

    /// What was encrypted so; none if it cannot have been.
    pub(crate) fn decrypt(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let (vector, encrypted) = payload.split_first_chunk::<BLOCK>()?;
        let cipher = cbc::Decryptor::<aes::Aes128>::new(&self.k2.into(), vector.into());
        let mut plain = cipher.decrypt_padded_vec_mut::<NoPadding>(encrypted).ok()?;
        let padding = usize::from(plain.pop()?);
        // Its bytes are not looked at: the packet's signature covers them, and some BMCs pad oddly.
        let length = plain.len().checked_sub(padding)?;
        plain.truncate(length);
        Some(plain)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("hash", &self.hash).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_is_whole_blocks_and_comes_back() {
        let keys = Keys::from_sik(Hash::Sha256, &[7; 32]);
        for length in 0..70 {
            let data = vec![0xA5; length];
            let sealed = keys.encrypt(&data);
            assert_eq!(sealed.len() % BLOCK, 0);
            assert_eq!(sealed.len(), BLOCK + (length / BLOCK + 1) * BLOCK);
            assert_eq!(keys.decrypt(&sealed), Some(data));
        }
    }

    #[test]
    fn what_cannot_have_been_encrypted_is_refused() {
        let keys = Keys::from_sik(Hash::Sha1, &[7; 20]);
        for length in [0, 15, 16, 17, 31] {
            assert_eq!(keys.decrypt(&vec![0; length]), None, "{length} bytes");
        }
    }

    // RFC 2202 case 2 and RFC 4231 case 2.
    #[test]
    fn digests_are_those_of_the_standards() {
        let (key, text): (&[u8], &[u8]) = (b"Jefe", b"what do ya want for nothing?");
        let known = [
            (Hash::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (Hash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ];
        for (hash, digest) in known {
            let made = hash.hmac(key, &[text]);
            assert_eq!(hex::encode(&made), digest);
            assert_eq!(made.len(), hash.length());
            let (short, long) = (&made[..hash.short()], &made[..hash.short() + 1]);
            assert!(hash.verify(key, &[text], short, hash.short()));
            assert!(!hash.verify(key, &[text], long, hash.short()), "a longer tag");
            assert!(!hash.verify(key, &[text], &made[..1], hash.short()), "a shorter tag");
            assert!(!hash.verify(key, &[text, b"!"], short, hash.short()));
        }
    }
}
