//! What single vendors do otherwise than the standard (DSP0266, and the schema ComputerSystem), each
//! with where it was learnt. What many do, and what can be seen as it happens, is no quirk: it is
//! handled for all, where it happens.
//!
//! | Seen with | What | Handled in |
//! |---|---|---|
//! | HPE iLO | `BootSourceOverrideMode` cannot be written (community.general#3509, #3581) | `boot`: written only where it must change; refused, the rest is written without it |
//! | Dell iDRAC 8 | the same (community.general#5091) | the same |
//! | AMI | the override is written to `Systems/Self/SD` (DMTF/Redfish-Tacklebox#111); Fujitsu too | `boot`: to the settings resource, if it has the override (as openstack/sushy does) |
//! | Dell iDRAC 9 | has a settings resource that refuses the override (dsx-ai-factory/libredfish#75) | the same |
//! | HPE iLO | `If-Match: *` is refused (nv-redfish-quirks 0.22) | `session`: the resource's own tag comes first |
//! | Lenovo XCC, AMI | a write without `If-Match` is refused (community.general#11261, theforeman/smart-proxy#930) | `session` |
//! | HPE iLO | switching off what is off is an error (goldyfruit/ansible-ilo#1) | `orders`: what is so already is no error |
//! | HPE iLO 4 and 5 | offers `PushPowerButton` and no `GracefulShutdown` (openstack-archive/proliantutils, `ris_sample_outputs.py`) | `orders` |
//! | iDRAC | no free session is HTTP 503 (stmcginnis/gofish#75) | `session`: the account itself is sent |
//! | Supermicro | sessions end after 300 s (Linuxfabrik/lib#246) | `session`: a new one |

use serde_json::Value;

/// What a BMC does otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quirk {
    /// It refuses its own ETag and takes `If-Match: *` only.
    AnyTag,
    /// A boot override without its mode sets the mode back to the firmware's default.
    ModeWithOverride,
}

/// Whose quirk it is.
struct Entry {
    quirk: Quirk,
    is_here: fn(&Value) -> bool,
    /// Where it was learnt.
    source: &'static str,
}

const TABLE: &[Entry] = &[
    Entry {
        quirk: Quirk::AnyTag,
        is_here: |root| vendor_is(root, "AMI"),
        source: "crate nv-redfish-quirks 0.22.1, platform.rs, RejectsOwnEtag",
    },
    Entry {
        quirk: Quirk::AnyTag,
        // Lenovo's machines with AMI's firmware, not those with its own XCC.
        is_here: |root| vendor_is(root, "Lenovo") && root.pointer("/Oem/Ami").is_some(),
        source: "crate nv-redfish-quirks 0.22.1, platform.rs, RejectsOwnEtag",
    },
    Entry {
        quirk: Quirk::ModeWithOverride,
        is_here: |root| vendor_is(root, "Supermicro") || vendor_is(root, "Super Micro Computer"),
        source: "https://github.com/DMTF/Redfishtool/pull/106",
    },
];

/// The quirks of the BMC whose service root this is.
pub(super) fn of(root: &Value) -> Vec<Quirk> {
    let mut quirks = Vec::new();
    for Entry { quirk, source, .. } in TABLE.iter().filter(|entry| (entry.is_here)(root)) {
        tracing::debug!(vendor = ?root["Vendor"].as_str(), ?quirk, source, "a BMC has a quirk");
        quirks.push(*quirk);
    }
    quirks
}

/// `Vendor` came with ServiceRoot 1.5; older services name themselves by the key of their own part.
fn vendor_is(root: &Value, name: &str) -> bool {
    let vendor = root["Vendor"].as_str().unwrap_or_default().trim_end_matches(", Inc.");
    let oem = root["Oem"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    vendor.eq_ignore_ascii_case(name)
        || (vendor.is_empty() && oem.into_iter().any(|key| key.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bmc_has_the_quirks_of_its_vendor_and_firmware() {
        for (root, quirks) in [
            (json!({ "Vendor": "AMI" }), vec![Quirk::AnyTag]),
            (json!({ "Vendor": "Lenovo", "Oem": { "Ami": {} } }), vec![Quirk::AnyTag]),
            (json!({ "Vendor": "Lenovo" }), vec![]),
            (json!({ "Vendor": "Supermicro" }), vec![Quirk::ModeWithOverride]),
            (json!({ "Oem": { "Supermicro": {} } }), vec![Quirk::ModeWithOverride]),
            (json!({ "Vendor": "HPE", "Oem": { "Supermicro": {} } }), vec![]),
            (json!({ "Vendor": 7 }), vec![]),
            (json!(null), vec![]),
        ] {
            assert_eq!(of(&root), quirks, "{root}");
        }
    }

    #[test]
    fn each_quirk_says_where_it_was_learnt() {
        assert!(TABLE.iter().all(|entry| entry.source.len() > 20));
    }
}
