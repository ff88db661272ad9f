//! CHAP with MD5 (RFC 1994, RFC 7143 section 12.1.3): challenges, responses and their text form.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use md5::{Digest, Md5};

use crate::exports::Chap;

/// The longest binary value that RFC 7143 allows, in bytes.
const MAX_BINARY: usize = 1024;

/// What one side asks the other to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) id: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Challenge {
    /// A fresh one.
    pub(crate) fn random() -> Self {
        Self { id: rand::random(), bytes: rand::random::<[u8; 16]>().to_vec() }
    }

    /// The right response to it.
    pub(crate) fn response(&self, chap: &Chap) -> [u8; 16] {
        let mut md5 = Md5::new();
        md5.update([self.id]);
        md5.update(chap.secret.bytes());
        md5.update(&self.bytes);
        md5.finalize().into()
    }

    /// Whether `user` and `response` prove knowledge of the secret; takes as long when they do not.
    pub(crate) fn is_met(&self, chap: &Chap, user: &str, response: &[u8]) -> bool {
        let expected = self.response(chap);
        let same_user = same(chap.user.as_bytes(), user.as_bytes());
        let same_response = same(&expected, response);
        same_user & same_response
    }
}

/// A binary value as text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("0x"), |text, byte| text + &format!("{byte:02x}"))
}

/// A binary value from text, hexadecimal (`0x`) or base64 (`0b`), at most 1024 bytes.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = match text.get(..2)? {
        "0x" | "0X" => decode_hex(text.get(2..)?.as_bytes())?,
        "0b" | "0B" => decode_base64(text.get(2..)?.as_bytes())?,
        _ => return None,
    };
    (1..=MAX_BINARY).contains(&bytes.len()).then_some(bytes)
}

fn decode_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = digits
        .iter()
        .map(|digit| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok()))
        .collect();
    let digits = digits?;
    // An odd count lacks its leading zero.
    let (first, rest) = digits.split_at(digits.len() % 2);
    let pairs =
        rest.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit));
    Some(first.iter().copied().chain(pairs).collect())
}

fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
    let (digits, padding) = text.split_at_checked(end)?;
    if padding.len() > 2
        || padding.iter().any(|byte| *byte != b'=')
        || !text.len().is_multiple_of(4)
    {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Compares without telling by the time taken where two values differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::exports::Secret;

    #[test]
    fn only_the_right_name_and_secret_meet_a_challenge() {
        let chap = Chap { user: "node1".into(), secret: Secret::new("open sesame 123") };
        let other = Chap { user: "node1".into(), secret: Secret::new("another secret") };
        let challenge = Challenge::random();
        let response = challenge.response(&chap);
        assert!(challenge.is_met(&chap, "node1", &response));
        assert!(!challenge.is_met(&chap, "node2", &response));
        assert!(!challenge.is_met(&chap, "node1", &challenge.response(&other)));
        assert!(!challenge.is_met(&chap, "node1", &response[..15]));
        assert!(!challenge.is_met(&chap, "node1", &[]));
    }

    #[test]
    fn the_response_is_md5_of_id_secret_and_challenge() {
        let chap = Chap { user: String::new(), secret: Secret::new("bc") };
        let challenge = Challenge { id: b'a', bytes: Vec::new() };
        // MD5 of "abc", RFC 1321 appendix A.5.
        assert_eq!(encode(&challenge.response(&chap)), "0x900150983cd24fb0d6963f7d28e17f72");
    }

    #[test]
    fn binary_values_come_in_hex_and_base64() {
        assert_eq!(decode("0x0aFf"), Some(vec![0x0a, 0xff]));
        assert_eq!(decode("0xaff"), Some(vec![0x0a, 0xff]));
        assert_eq!(decode("0bZm9vYg=="), Some(b"foob".to_vec()));
        assert_eq!(decode("0bZm9v"), Some(b"foo".to_vec()));
        for bad in ["", "0", "0x", "0xg0", "0b", "0bZm9", "0bZ===", "12", "é0", "0b===="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode(&format!("0x{}", "00".repeat(1025))), None);
    }
}
