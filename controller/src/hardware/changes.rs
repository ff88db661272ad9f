//! What is different between two inventories of a node, in words. Pure.

use std::collections::BTreeMap;

use haas_api::hardware::{Dimm, DiskDrive, Inventory, Level};

/// More changes than a person reads; the rest is counted.
const MOST: usize = 32;

/// One thing that is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// What kind of part: `dimm`, `disk`, `nic`, `cpu`, `pci`, `memory`, `system`.
    pub(super) part: &'static str,
    /// In words: `DIMM A3 (32 GiB, serial 17) is gone`.
    pub(super) what: String,
}

/// What is different, worst first as far as that can be said: parts that are gone before new ones.
pub(super) fn changes(before: &Inventory, after: &Inventory) -> Vec<Change> {
    let mut all = Vec::new();
    system(before, after, &mut all);
    cpus(before, after, &mut all);
    dimms(before, after, &mut all);
    disks(before, after, &mut all);
    nics(before, after, &mut all);
    pci(before, after, &mut all);
    all.sort_by_key(|change| !change.what.ends_with(GONE));
    if all.len() > MOST {
        let more = all.len() - MOST;
        all.truncate(MOST);
        all.push(Change { part: "system", what: format!("{more} more changes") });
    }
    all
}

const GONE: &str = "is gone";

fn system(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    let (old, new) = (&before.system, &after.system);
    for (name, old, new) in [
        ("the machine's serial number", &old.serial, &new.serial),
        ("the board's serial number", &old.board_serial, &new.board_serial),
        ("the firmware", &old.firmware, &new.firmware),
    ] {
        if let (Some(old), Some(new)) = (old, new)
            && old != new
        {
            all.push(Change { part: "system", what: format!("{name} was {old}, it is {new}") });
        }
    }
}

fn cpus(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    let mut push = |what| all.push(Change { part: "cpu", what });
    for old in &before.cpus {
        match after.cpus.iter().find(|new| new.socket == old.socket) {
            None => push(format!("CPU {} ({}) {GONE}", old.socket, old.model)),
            Some(new) if new.model != old.model => {
                push(format!("CPU {} was a {}, it is a {}", old.socket, old.model, new.model));
            }
            Some(new) if (new.cores, new.threads) != (old.cores, old.threads) => push(format!(
                "CPU {} had {} cores and {} threads, it has {} and {}",
                old.socket, old.cores, old.threads, new.cores, new.threads
            )),
            Some(_) => {}
        }
    }
    for new in &after.cpus {
        if !before.cpus.iter().any(|old| old.socket == new.socket) {
            push(format!("CPU {} ({}) is new", new.socket, new.model));
        }
    }
}

fn dimms(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    if before.dimms.is_empty() || after.dimms.is_empty() {
        memory(before, after, all);
        return;
    }
    let mut push = |what| all.push(Change { part: "dimm", what });
    let by_slot =
        |list: &[Dimm]| list.iter().map(|dimm| (dimm.slot.clone(), dimm.clone())).collect();
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (by_slot(&before.dimms), by_slot(&after.dimms));
    for (slot, dimm) in &old {
        match new.get(slot) {
            None => push(format!("DIMM {slot} ({}) {GONE}", of_dimm(dimm))),
            Some(other) if other.serial != dimm.serial || other.size != dimm.size => push(format!(
                "DIMM {slot} ({}) was replaced by one with {}",
                of_dimm(dimm),
                of_dimm(other)
            )),
            Some(other) => {
                if let (Some(was), Some(is)) = (dimm.speed_mts, other.speed_mts)
                    && was != is
                {
                    push(format!("DIMM {slot} ran with {was} MT/s, it runs with {is}"));
                }
            }
        }
    }
    for (slot, dimm) in &new {
        if !old.contains_key(slot) {
            push(format!("DIMM {slot} ({}) is new", of_dimm(dimm)));
        }
    }
}

/// Where modules are not told: what the kernel has differs a little from kernel to kernel.
fn memory(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    let (old, new) = (before.memory, after.memory);
    if old != 0 && new != 0 && old.abs_diff(new) > old / 16 {
        let what = format!("there were {} of memory, there are {}", size(old), size(new));
        all.push(Change { part: "memory", what });
    }
}

fn of_dimm(dimm: &Dimm) -> String {
    let serial = dimm.serial.as_ref().map(|serial| format!(", serial {serial}"));
    format!("{}{}", size(dimm.size), serial.unwrap_or_default())
}

fn disks(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    let mut push = |what| all.push(Change { part: "disk", what });
    let is = |one: &DiskDrive, other: &DiskDrive| match (&one.serial, &other.serial) {
        (Some(one), Some(other)) => one == other,
        // Names change from boot to boot, but what has no serial number has nothing else.
        _ => one.serial.is_none() && other.serial.is_none() && one.name == other.name,
    };
    let missing = |from: &[DiskDrive], of: &[DiskDrive]| -> Vec<DiskDrive> {
        of.iter().filter(|disk| !from.iter().any(|other| is(disk, other))).cloned().collect()
    };
    let gone = missing(&after.disks, &before.disks);
    let mut fresh = missing(&before.disks, &after.disks);
    for old in &gone {
        // One of the same size and kind that came as it went was put in its place.
        let place = fresh
            .iter()
            .position(|new| new.transport == old.transport && new.size == old.size)
            .or_else(|| fresh.iter().position(|new| new.name == old.name));
        match place {
            Some(place) => {
                let new = fresh.remove(place);
                push(format!("disk {} was replaced by {}", of_disk(old), of_disk(&new)));
            }
            None => push(format!("disk {} {GONE}", of_disk(old))),
        }
    }
    for new in &fresh {
        push(format!("disk {} is new", of_disk(new)));
    }
    for old in &before.disks {
        let Some(new) = after.disks.iter().find(|new| is(old, new)) else { continue };
        if new.smart.level > old.smart.level.max(Level::Ok) {
            let reasons = new.smart.reasons.join(", ");
            push(match new.smart.level {
                Level::Critical => {
                    format!("disk {}: SMART says that it fails: {reasons}", of_disk(new))
                }
                _ => format!("disk {}: SMART warns: {reasons}", of_disk(new)),
            });
        }
    }
}

fn of_disk(disk: &DiskDrive) -> String {
    match &disk.serial {
        Some(serial) => format!("S/N {serial} ({}, {})", disk.name, decimal(disk.size)),
        None => format!("{} ({})", disk.name, decimal(disk.size)),
    }
}

fn nics(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    let mut push = |what| all.push(Change { part: "nic", what });
    for old in &before.nics {
        match after.nics.iter().find(|new| new.mac == old.mac) {
            None => push(format!("NIC {} ({}) {GONE}", old.mac, old.name)),
            Some(new) => {
                if let (Some(was), Some(is)) = (old.speed_mbps, new.speed_mbps)
                    && was != is
                {
                    push(format!("NIC {} had {was} Mbit/s, it has {is}", new.mac));
                }
                if let (Some(was), Some(is)) = (&old.firmware, &new.firmware)
                    && was != is
                {
                    push(format!("NIC {}: its firmware was {was}, it is {is}", new.mac));
                }
            }
        }
    }
    for new in &after.nics {
        if !before.nics.iter().any(|old| old.mac == new.mac) {
            push(format!("NIC {} ({}) is new", new.mac, new.name));
        }
    }
}

fn pci(before: &Inventory, after: &Inventory, all: &mut Vec<Change>) {
    if before.pci.is_empty() || after.pci.is_empty() {
        return;
    }
    // Addresses change with what is plugged elsewhere, so that kinds are counted.
    let count = |inventory: &Inventory| {
        let mut kinds: BTreeMap<(String, String), (i64, String)> = BTreeMap::new();
        for function in &inventory.pci {
            let key = (function.vendor.clone(), function.device.clone());
            kinds.entry(key).or_insert((0, function.kind.clone())).0 += 1;
        }
        kinds
    };
    let (old, new) = (count(before), count(after));
    for (key, (was, kind)) in &old {
        let is = new.get(key).map_or(0, |(count, _)| *count);
        let name = format!("PCI {}:{} ({kind})", key.0, key.1);
        match is {
            0 => all.push(Change { part: "pci", what: format!("{name} {GONE}") }),
            is if is != *was => all.push(Change {
                part: "pci",
                what: format!("{name}: there were {was}, there are {is}"),
            }),
            _ => {}
        }
    }
    for (key, (_, kind)) in &new {
        if !old.contains_key(key) {
            let what = format!("PCI {}:{} ({kind}) is new", key.0, key.1);
            all.push(Change { part: "pci", what });
        }
    }
}

/// Memory, in powers of two.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => {
            format!("{} GiB", bytes >> 30)
        }
        bytes => format!("{} MiB", bytes >> 20),
    }
}

/// A disk, as it is sold.
fn decimal(bytes: u64) -> String {
    format!("{} GB", bytes / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use haas_api::hardware::{Cpu, NicPort, PciFunction, Smart};

    use super::*;

    fn dimm(slot: &str, serial: &str) -> Dimm {
        Dimm {
            slot: slot.to_owned(),
            size: 32 << 30,
            serial: Some(serial.to_owned()),
            ..Dimm::default()
        }
    }

    fn disk(name: &str, serial: &str, level: Level) -> DiskDrive {
        let smart = Smart { level, reasons: vec!["3 media errors".to_owned()], ..Smart::default() };
        DiskDrive {
            name: name.to_owned(),
            serial: Some(serial.to_owned()),
            size: 960_000_000_000,
            transport: "nvme".to_owned(),
            smart,
            ..DiskDrive::default()
        }
    }

    fn sample() -> Inventory {
        Inventory {
            cpus: vec![Cpu { socket: 0, model: "X".to_owned(), cores: 16, threads: 32 }],
            memory: 64 << 30,
            dimms: vec![dimm("A1", "1"), dimm("A3", "3")],
            disks: vec![disk("nvme0n1", "D1", Level::Ok), disk("nvme1n1", "D2", Level::Ok)],
            nics: vec![NicPort {
                name: "eno1".to_owned(),
                mac: "52:54:00:00:00:01".to_owned(),
                speed_mbps: Some(25_000),
                ..NicPort::default()
            }],
            ..Inventory::default()
        }
    }

    fn told(after: &Inventory) -> Vec<String> {
        changes(&sample(), after).into_iter().map(|change| change.what).collect()
    }

    #[test]
    fn what_is_the_same_is_not_told() {
        assert_eq!(told(&sample()), [""; 0]);
        let mut renamed = sample();
        renamed.disks.swap(0, 1);
        renamed.disks[0].name = "nvme0n1".to_owned();
        renamed.disks[1].name = "nvme1n1".to_owned();
        renamed.memory -= 1 << 20;
        renamed.disks[0].smart.temperature_c = Some(40);
        assert_eq!(told(&renamed), [""; 0]);
    }

    #[test]
    fn a_module_that_is_gone_and_one_that_was_replaced_are_told() {
        let mut after = sample();
        after.dimms.pop();
        assert_eq!(told(&after), ["DIMM A3 (32 GiB, serial 3) is gone"]);
        after.dimms.push(dimm("A3", "9"));
        assert_eq!(
            told(&after),
            ["DIMM A3 (32 GiB, serial 3) was replaced by one with 32 GiB, serial 9"]
        );
    }

    #[test]
    fn a_disk_that_is_gone_replaced_or_failing_is_told() {
        let mut after = sample();
        after.disks.remove(0);
        assert_eq!(told(&after), ["disk S/N D1 (nvme0n1, 960 GB) is gone"]);
        after.disks.push(disk("nvme5n1", "D7", Level::Ok));
        assert_eq!(
            told(&after),
            ["disk S/N D1 (nvme0n1, 960 GB) was replaced by S/N D7 (nvme5n1, 960 GB)"]
        );
        let mut failing = sample();
        failing.disks[1] = disk("nvme1n1", "D2", Level::Critical);
        assert_eq!(
            told(&failing),
            ["disk S/N D2 (nvme1n1, 960 GB): SMART says that it fails: 3 media errors"]
        );
    }

    #[test]
    fn a_slower_link_a_missing_core_and_other_cards_are_told() {
        let mut after = sample();
        after.nics[0].speed_mbps = Some(1_000);
        after.cpus[0].cores = 15;
        assert_eq!(
            told(&after),
            [
                "CPU 0 had 16 cores and 32 threads, it has 15 and 32",
                "NIC 52:54:00:00:00:01 had 25000 Mbit/s, it has 1000"
            ]
        );
        let card = |device: &str| PciFunction {
            vendor: "10de".to_owned(),
            device: device.to_owned(),
            kind: "3D controller".to_owned(),
            ..PciFunction::default()
        };
        let (mut four, mut three) = (sample(), sample());
        four.pci = vec![card("2330"); 4];
        three.pci = vec![card("2330"); 3];
        let told: Vec<_> = changes(&four, &three).into_iter().map(|change| change.what).collect();
        assert_eq!(told, ["PCI 10de:2330 (3D controller): there were 4, there are 3"]);
    }

    #[test]
    fn no_inventory_floods_the_log_of_events() {
        let mut after = sample();
        after.dimms = (0..200).map(|n| dimm(&format!("Z{n}"), "x")).collect();
        let all = changes(&sample(), &after);
        assert_eq!(all.len(), MOST + 1);
        assert!(all[0].what.ends_with(GONE), "what is gone comes first");
    }
}
