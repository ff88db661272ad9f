//! `key=value` text as logins and Text PDUs carry it (RFC 7143 section 6.1).
//!
//! Bounded: text that is split over several PDUs is collected up to [`MAX_TEXT`] bytes.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

/// Bytes of text that one request may have, over all its PDUs.
pub(crate) const MAX_TEXT: usize = 16 << 10;

/// The pairs of a request, in the order sent. `None` when it is no text, or a pair is none.
pub(crate) fn parse(bytes: &[u8]) -> Option<Vec<(&str, &str)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.split('\0')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').filter(|(key, _)| is_key(key)))
        .collect()
}

/// The first value of `key`.
pub(crate) fn find<'a>(pairs: &[(&str, &'a str)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

/// Appends one pair.
pub(crate) fn push(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// Whether `list` (`A,B,C`) offers `choice`.
pub(crate) fn offers(list: &str, choice: &str) -> bool {
    list.split(',').any(|offer| offer == choice)
}

/// A number, decimal or `0x` hexadecimal.
pub(crate) fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

/// A key name: 1 to 63 letters, digits and `.-+@_` (section 6.1), with `#` for registered extensions.
/// Only those are ever echoed.
fn is_key(key: &str) -> bool {
    (1..=63).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+@_#".contains(&b))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_split_at_nul_and_the_first_equals_sign() {
        let pairs = parse(b"A=1\0B=x=y\0\0").unwrap();
        assert_eq!(pairs, [("A", "1"), ("B", "x=y")]);
        assert_eq!(find(&pairs, "B"), Some("x=y"));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert!(parse(b"A").is_none());
        assert!(parse(b"=1\0").is_none());
        assert!(parse(b"\xff=1\0").is_none());
        assert!(parse(b"a b=1\0").is_none());
    }

    #[test]
    fn numbers_come_in_two_bases() {
        assert_eq!(number("0x200"), Some(512));
        assert_eq!(number("512"), Some(512));
        assert_eq!(number("99999999999"), None);
        assert_eq!(number("-1"), None);
    }
}
