//! Sizes, times and node names as people read them.

use jiff::Timestamp;
use nodeset::{IdRangeList, NodeSet};

/// Bytes with three digits: `12.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be printed as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The same for a count that SQL gave; below zero it is not known.
pub(crate) fn signed_bytes(count: i64) -> String {
    u64::try_from(count).map_or_else(|_| "-".to_owned(), bytes)
}

/// RFC 3339 text as `2026-11-21 02:46:14Z`; anything else as it is.
pub(crate) fn time(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// Seconds from one RFC 3339 time to another; none if one of them is no time.
pub(crate) fn seconds_between(from: &str, to: &str) -> Option<f64> {
    let (from, to) = (from.parse::<Timestamp>().ok()?, to.parse::<Timestamp>().ok()?);
    Some(to.duration_since(from).as_secs_f64())
}

/// Seconds from an RFC 3339 time until now by this computer's clock, not below zero.
pub(crate) fn seconds_since(from: &str) -> f64 {
    seconds_between(from, &Timestamp::now().to_string()).unwrap_or(0.0).max(0.0)
}

/// Node names folded into a node set, `n[01-16]`.
pub(crate) fn fold<S: AsRef<str>>(nodes: &[S]) -> String {
    let list = nodes.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",");
    match list.parse::<NodeSet<IdRangeList>>() {
        Ok(set) => set.to_string(),
        Err(_) => list,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345_678, "12.3 MB"),
            (999_960, "1.0 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(signed_bytes(-1), "-");
    }

    #[test]
    fn times_are_read_and_compared() {
        assert_eq!(time("2026-11-21T02:46:14.5Z"), "2026-11-21 02:46:14Z");
        assert_eq!(time("soon"), "soon");
        assert_eq!(seconds_between("2026-11-21T00:00:00Z", "2026-11-21T00:00:03.25Z"), Some(3.25));
        assert_eq!(seconds_between("x", "2026-11-21T00:00:03Z"), None);
    }

    #[test]
    fn node_names_are_folded() {
        assert_eq!(fold(&["n01", "n02", "n03", "gpu7"]), "gpu7,n[01-03]");
        assert_eq!(fold::<&str>(&[]), "");
    }
}
