use haas_api::{
    hardware::{Dimm, DiskDrive, Health, Level, Summary},
    node::Node,
};
use serde_json::json;

use super::*;

fn node() -> Node {
    let mut node: Node = serde_json::from_value(json!({
        "id": "01J", "name": "n01", "address": "10.0.0.11", "mac": "52:54:00:77:00:01",
        "groups": ["rack1", "gpu"], "labels": { "rack": "r1", "row": "7" }, "power_driver": "ipmi",
        "managed": true, "state": "ready", "reason": "", "desired": null,
        "observed": { "power": "on", "power_at": null, "power_error": null, "stage": null,
            "agent_at": null, "logins": [], "root_attached": null, "store_free": null }
    }))
    .unwrap();
    node.health = Health { level: Level::Warning, reasons: Vec::new() };
    node.summary = Some(Summary {
        sockets: 2,
        cores: 32,
        threads: 64,
        cpu: Some("AMD EPYC 9334".to_owned()),
        memory: 64 << 30,
        disks: 2,
        ..Summary::default()
    });
    node
}

fn inventory() -> Inventory {
    let disk = |serial: &str, size| DiskDrive {
        serial: Some(serial.to_owned()),
        size,
        ..DiskDrive::default()
    };
    Inventory {
        dimms: vec![Dimm { slot: "A3".to_owned(), ..Dimm::default() }],
        disks: vec![disk("S1", 960_000_000_000), disk("S2", 4_000_000_000_000)],
        ..Inventory::default()
    }
}

fn labels() -> BTreeSet<String> {
    ["rack", "row"].map(str::to_owned).into()
}

#[track_caller]
fn holds(text: &str) -> bool {
    let condition = Condition::parse(text, &labels()).unwrap_or_else(|e| panic!("{text}: {e}"));
    condition.holds(&node(), Some(&inventory()))
}

#[track_caller]
fn refused(text: &str) -> String {
    Condition::parse(text, &labels()).expect_err(text).to_string()
}

#[test]
fn fields_are_compared_by_what_they_are() {
    assert!(holds("memory>=64G and rack==r1"));
    assert!(holds("memory == 64GiB") && holds("memory > 64GB") && !holds("memory > 64G"));
    assert!(holds("memory < 0.1T") && holds("memory = 65536M") && !holds("memory >= 64.5G"));
    assert!(holds("cores >= 32") && !holds("cores > 32") && holds("sockets != 1"));
    assert!(holds("cpu ~ epyc") && holds("cpu == 'amd epyc 9334'") && !holds("cpu ~ xeon"));
    assert!(holds("health != ok") && holds("managed == yes") && holds("state==ready"));
    assert!(holds("label.row == 7") && holds("row==7") && holds("name >= n01"));
    assert!(holds("mac == 52:54:00:77:00:01") && holds("address == 10.0.0.11"));
}

#[test]
fn one_of_many_values_is_enough_and_unequal_means_none_of_them() {
    assert!(holds("group == gpu") && holds("group == rack1") && !holds("group != gpu"));
    assert!(holds("disk.size >= 3TB") && holds("disk.size < 1T") && holds("disk.serial == S2"));
    assert!(holds("disk.serial != S3") && holds("dimm.slot == a3"));
}

#[test]
fn what_is_not_known_meets_nothing_but_unequal() {
    let mut bare = node();
    bare.summary = None;
    let parse = |text| Condition::parse(text, &labels()).unwrap();
    for text in ["memory >= 0", "memory < 1T", "disk.serial == S1", "image == x", "label.none == x"]
    {
        assert!(!parse(text).holds(&bare, None), "{text}");
    }
    assert!(parse("memory != 1").holds(&bare, None));
    assert!(parse("not memory >= 0").holds(&bare, None));
}

#[test]
fn and_goes_before_or_and_not_before_both() {
    assert!(holds("cores==1 and cores==2 or cores==32"));
    assert!(!holds("cores==1 and (cores==2 or cores==32)"));
    assert!(holds("not cores==1 and rack==r1"));
    assert!(!holds("not (cores==1 or rack==r1)"));
    assert!(holds("NOT cores==1 AND rack==r1"));
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_would_be_right() {
    for (text, at, words) in [
        ("", 1, "expected a field"),
        ("memory>=64G and", 16, "expected a field"),
        ("memory", 7, "expected =="),
        ("memory >=", 10, "expected a value"),
        ("memory >= lots", 11, "64G and 64GiB"),
        ("memory >= 64X", 11, "64G and 64GiB"),
        ("memory ~ 64", 10, "no text"),
        ("memroy>=64G", 1, "no field \"memroy\""),
        ("state == redy", 10, "it is one of: unmanaged"),
        ("state > off", 9, "equal (==)"),
        ("cores >= 1.5", 10, "a whole number"),
        ("(cores==1", 1, "not closed"),
        ("cores==1)", 9, "expected and, or, or the end"),
        ("cores==1 rack==r1", 10, "expected and, or"),
        ("cores=='1", 8, "has no end"),
        ("cores==1 & rack==r1", 10, "means nothing"),
        ("cores == == 1", 10, "no value"),
        ("nic.speed >= 10GHz", 14, "bits per second"),
    ] {
        let told = refused(text);
        assert!(told.contains(words), "{text}: {told}");
        assert!(told.ends_with(&format!("(at character {at})")), "{text}: {told}");
    }
    assert!(refused("memroy>=64G").contains("rack, row"), "labels are fields too");
}

#[test]
fn no_text_is_too_much() {
    assert!(refused(&"(".repeat(2_000)).contains("nested"));
    assert!(refused(&"not ".repeat(400)).contains("nested"));
    assert!(refused(&"x".repeat(2_001)).contains("characters"));
    assert!(refused("memory >= 99999999999999999999G").contains("64G"));
    assert!(refused("memory >= 18446744073709551615K").contains("64G"));
    // Any text is a condition or refused.
    let pieces = ["memory", ">=", "64G", "(", ")", "and", "not", "'", "é", "~", " ", "0.", "!"];
    for a in pieces {
        for b in pieces {
            for c in pieces {
                let _ = Condition::parse(&format!("{a}{b}{c}"), &labels());
                let _ = Condition::parse(&format!("cores {a} {b} {c}"), &labels());
            }
        }
    }
}

#[test]
fn only_what_lists_lack_needs_the_whole_inventory() {
    let needs = |text| Condition::parse(text, &labels()).unwrap().needs_inventory();
    assert!(!needs("memory>=64G and rack==r1 or not health==ok"));
    assert!(needs("cores==1 or not (disk.serial==S1)"));
}
