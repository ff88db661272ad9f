//! Durations and sizes as a person writes them.

/// Seconds in `"15m"`, `"300s"`, `"1h"` or `"2d"`.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// MiB in `"512 MiB"`, `"20 GiB"`, `"1 TiB"` or `"0"`.
pub(crate) fn mebibytes(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let (number, unit) = split(text)?;
    let factor = match unit {
        "MiB" => 1,
        "GiB" => 1024,
        "TiB" => 1024 * 1024,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_written() {
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("300s"), Some(300));
        assert_eq!(mebibytes("20 GiB"), Some(20 * 1024));
        assert_eq!(mebibytes("0"), Some(0));
        for bad in ["", "s", "5", "5 GB", "-1s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!((seconds(bad), mebibytes(bad)), (None, None), "{bad:?}");
        }
    }
}
