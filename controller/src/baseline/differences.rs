//! What is not as it was. Pure.

use std::collections::{BTreeMap, BTreeSet};

use haas_api::baseline::{Difference, Facts, Part, Source};

/// What differs of what this source tells.
///
/// A BMC that does not tell a part any more which it has told is not as it was. What an agent can see
/// hangs on the image's kernel too, so that of its parts only those are compared that it has told both times.
pub(crate) fn differences(recorded: &Facts, seen: &Facts, source: Source) -> Vec<Difference> {
    let mut found = Vec::new();
    for (part, was) in recorded.iter().filter(|(part, _)| part.source() == source) {
        match (seen.get(part), source) {
            (Some(is), _) => found.extend(of_part(*part, was, is)),
            (None, Source::Bmc) => found.push(Difference {
                part: *part,
                what: "as a whole".to_owned(),
                was: Some("told by the BMC".to_owned()),
                is: Some("not told any more".to_owned()),
            }),
            (None, Source::Agent) => {}
        }
    }
    found
}

fn of_part(
    part: Part,
    was: &BTreeMap<String, String>,
    is: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let names: BTreeSet<_> = was.keys().chain(is.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let (was, is) = (was.get(name), is.get(name));
        let is_same = match part {
            Part::BootCode => is_harmless(was, is),
            Part::BmcUsers | Part::BmcLan | Part::BmcFirmware | Part::Firmware | Part::EfiBoot => {
                was == is
            }
        };
        if !is_same {
            let (was, is) = (was.cloned(), is.cloned());
            found.push(Difference { part, what: name.clone(), was, is });
        }
    }
    found
}

/// What a disk holds that the firmware could start: none of a disk that has gone, and one from which nothing
/// can be started is like none; haasd itself makes such ones when a disk is claimed.
fn is_harmless(was: Option<&String>, is: Option<&String>) -> bool {
    let nothing = haas_api::baseline::NOTHING;
    is.is_none_or(|is| is == nothing || was == Some(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(parts: &[(Part, &[(&str, &str)])]) -> Facts {
        let named = |told: &[(&str, &str)]| {
            told.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        parts.iter().map(|(part, told)| (*part, named(told))).collect()
    }

    #[track_caller]
    fn words(recorded: &Facts, seen: &Facts, source: Source) -> Vec<String> {
        differences(recorded, seen, source).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_added_changed_and_taken_away_is_told() {
        let was = facts(&[
            (Part::BmcUsers, &[("1", "root, administrator"), ("2", "ops, operator")]),
            (Part::EfiBoot, &[("order", "0001")]),
        ]);
        let is = facts(&[(Part::BmcUsers, &[("2", "ops, administrator"), ("3", "eve, user")])]);
        assert_eq!(
            words(&was, &is, Source::Bmc),
            [
                "BMC user 1: was root, administrator, is not there",
                "BMC user 2: was ops, operator, is ops, administrator",
                "BMC user 3: was not there, is eve, user",
            ]
        );
        assert_eq!(words(&was, &was, Source::Bmc), [""; 0]);
    }

    #[test]
    fn a_bmc_that_stops_telling_is_not_as_it_was_and_what_it_never_told_is_not_compared() {
        let all = facts(&[
            (Part::BmcUsers, &[("1", "root")]),
            (Part::BmcFirmware, &[("of the BMC", "1.00")]),
        ]);
        let some = facts(&[(Part::BmcFirmware, &[("of the BMC", "1.00")])]);
        assert_eq!(
            words(&all, &some, Source::Bmc),
            ["BMC user as a whole: was told by the BMC, is not told any more"]
        );
        assert_eq!(words(&some, &all, Source::Bmc), [""; 0]);
    }

    #[test]
    fn what_an_image_cannot_see_is_not_compared() {
        let was = facts(&[
            (Part::Firmware, &[("mode", "UEFI")]),
            (Part::EfiBoot, &[("order", "0001, 0000")]),
        ]);
        let without = facts(&[(Part::Firmware, &[("mode", "UEFI")])]);
        assert_eq!(words(&was, &without, Source::Agent), [""; 0]);
        let bios = facts(&[(Part::Firmware, &[("mode", "BIOS")])]);
        assert_eq!(words(&was, &bios, Source::Agent), ["firmware mode: was UEFI, is BIOS"]);
    }

    #[test]
    fn a_disk_that_could_start_something_else_is_told_and_one_that_has_gone_is_not() {
        let nothing = haas_api::baseline::NOTHING;
        let was = facts(&[(Part::BootCode, &[("A", nothing), ("B", "boot code 1")])]);
        let is =
            |told: &[(&str, &str)]| words(&was, &facts(&[(Part::BootCode, told)]), Source::Agent);
        assert_eq!(is(&[("A", nothing), ("C", nothing)]), [""; 0]);
        assert_eq!(
            is(&[("A", "boot code 2"), ("B", nothing), ("D", "boot code 3")]),
            [
                "disk A: was nothing to start, is boot code 2",
                "disk D: was not there, is boot code 3",
            ]
        );
    }
}
