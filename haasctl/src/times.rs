//! Lengths and moments as people of this field write them: Slurm's forms, and `2h`.

use jiff::{Timestamp, Zoned, civil, tz::TimeZone};

const LENGTHS: &str = "write a time as 90 (minutes), 8:00:00, 2-12:00, 2h or 1d12h";
const MOMENTS: &str =
    "write a moment as 16:00, 2026-12-01, 2026-12-01T08:00, 2026-12-01T08:00:00Z or now+2h";

/// Seconds in `90` (minutes), `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`, `2h` or `1d12h`.
pub(crate) fn length(text: &str) -> Result<u64, String> {
    let found = slurm(text).or_else(|| units(text)).filter(|seconds| *seconds > 0);
    found.ok_or_else(|| format!("{text:?} is no time; {LENGTHS}"))
}

fn slurm(text: &str) -> Option<u64> {
    let numbers = |text: &str| {
        let parts = text.split(':').map(|part| part.parse::<u64>().ok());
        parts.collect::<Option<Vec<u64>>>()
    };
    let seconds = match text.split_once('-') {
        Some((days, rest)) => {
            let days = days.parse::<u64>().ok()?;
            let [hours, minutes, seconds] = match numbers(rest)?.as_slice() {
                [hours] => [*hours, 0, 0],
                [hours, minutes] => [*hours, *minutes, 0],
                [hours, minutes, seconds] => [*hours, *minutes, *seconds],
                _ => return None,
            };
            [
                days.checked_mul(86_400)?,
                hours.checked_mul(3_600)?,
                minutes.checked_mul(60)?,
                seconds,
            ]
        }
        None => match numbers(text)?.as_slice() {
            [minutes] => [0, 0, minutes.checked_mul(60)?, 0],
            [minutes, seconds] => [0, 0, minutes.checked_mul(60)?, *seconds],
            [hours, minutes, seconds] => {
                [0, hours.checked_mul(3_600)?, minutes.checked_mul(60)?, *seconds]
            }
            _ => return None,
        },
    };
    seconds.into_iter().try_fold(0u64, u64::checked_add)
}

fn units(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let factor = match &rest[digits..unit] {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[unit..];
    }
    Some(sum)
}

/// The moment that is meant, seen from `now`; none: now.
pub(crate) fn moment(text: &str, now: &Zoned) -> Result<Option<Timestamp>, String> {
    let bad = || format!("{text:?} is no moment; {MOMENTS}");
    if text == "now" {
        return Ok(None);
    }
    if let Some(after) = text.strip_prefix("now+") {
        let after = i64::try_from(length(after)?).map_err(|_| bad())?;
        let at = now.timestamp().as_second().saturating_add(after);
        return Timestamp::from_second(at).map(Some).map_err(|_| bad());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Some(at));
    }
    let zone = now.time_zone();
    let local = |at: civil::DateTime| in_zone(at, zone).ok_or_else(bad);
    if let Ok(at) = text.parse::<civil::DateTime>() {
        return local(at).map(Some);
    }
    if let Ok(time) = text.parse::<civil::Time>() {
        let today = local(now.date().to_datetime(time))?;
        if today > now.timestamp() {
            return Ok(Some(today));
        }
        let tomorrow = now.date().tomorrow().map_err(|_| bad())?;
        return local(tomorrow.to_datetime(time)).map(Some);
    }
    Err(bad())
}

fn in_zone(at: civil::DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_timestamp(at).ok()
}

/// A length as people read it: `8:00:00`, `2-12:00:00`.
pub(crate) fn shown(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match days {
        0 => format!("{hours}:{minutes:02}:{seconds:02}"),
        days => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_slurm_has_them_and_with_units() {
        for (text, seconds) in [
            ("90", 5_400),
            ("2:30", 150),
            ("8:00:00", 28_800),
            ("2-12", 216_000),
            ("2-12:30", 217_800),
            ("1-00:00:01", 86_401),
            ("2h", 7_200),
            ("1d12h", 129_600),
            ("90min", 5_400),
            ("45s", 45),
        ] {
            assert_eq!(length(text), Ok(seconds), "{text}");
        }
        for bad in ["", "0", "-1", "2x", "h", "1:2:3:4", "1-", "2h3", "99999999999999999999d"] {
            assert!(length(bad).is_err(), "{bad:?}");
        }
        assert_eq!((shown(28_800), shown(129_661)), ("8:00:00".into(), "1-12:01:01".into()));
    }

    #[test]
    fn moments_are_read_in_the_readers_own_time() {
        let now: Zoned = "2026-11-27T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let at = |text: &str| moment(text, &now).map(|at| at.map(|at| at.to_string()));
        for (text, expected) in [
            ("16:00", "2026-11-27T15:00:00Z"),
            ("08:30", "2026-11-28T07:30:00Z"),
            ("2026-12-01", "2026-11-30T23:00:00Z"),
            ("2026-12-01T08:00", "2026-12-01T07:00:00Z"),
            ("2026-12-01T08:00:00Z", "2026-12-01T08:00:00Z"),
            ("now+2h", "2026-11-27T13:00:00Z"),
        ] {
            assert_eq!(at(text), Ok(Some(expected.to_owned())), "{text}");
        }
        assert_eq!(at("now"), Ok(None));
        for bad in ["", "soon", "25:00", "2026-13-01", "now+", "now+x"] {
            assert!(at(bad).is_err(), "{bad:?}");
        }
    }
}
