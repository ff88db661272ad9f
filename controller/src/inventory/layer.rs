//! What `[defaults]`, `[[group]]` and `[[node]]` have in common, and how one lies over the other.

use std::{collections::BTreeMap, path::Path};

use haas_api::{
    agent::{DiskName, DiskSelector},
    check::ReadyCheck,
};

use super::{
    Arch, Firmware,
    power::{Level, PowerLayer},
};
use crate::config::{
    reader::{Table, Value},
    units,
};

/// What one table says; what it does not say comes from the layer below.
#[derive(Debug, Default, Clone)]
pub(super) struct Layer {
    pub(super) firmware: Option<Firmware>,
    pub(super) arch: Option<Arch>,
    pub(super) overlay_disk: Option<DiskSelector>,
    pub(super) scratch_disks: Option<Vec<DiskName>>,
    pub(super) detached_disks: Option<Vec<DiskName>>,
    pub(super) cache_mib: Option<u64>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) kernel_args: Vec<String>,
    pub(super) ipxe: Option<String>,
    pub(super) secure_boot: Option<bool>,
    pub(super) ready_checks: Vec<ReadyCheck>,
    pub(super) power: PowerLayer,
}

impl Layer {
    /// Reads the common keys of a table.
    pub(super) fn read(table: &Table<'_>, level: Level, folder: &Path) -> Self {
        let firmware = [("bios", Firmware::Bios), ("uefi", Firmware::Uefi)];
        let arch = [("x86_64", Arch::X86_64), ("aarch64", Arch::Aarch64)];
        Self {
            firmware: table.get("firmware").and_then(|v| v.word(&firmware)),
            arch: table.get("arch").and_then(|v| v.word(&arch)),
            overlay_disk: table.get("overlay_disk").and_then(|v| overlay_disk(&v)),
            scratch_disks: table.get("scratch_disks").map(|v| disks(&v)),
            detached_disks: table.get("detached_disks").map(|v| disks(&v)),
            cache_mib: table
                .get("cache")
                .and_then(|v| v.with("a size such as \"20 GiB\" or \"0\"", units::mebibytes)),
            labels: table.get("labels").map(|v| labels(&v)).unwrap_or_default(),
            kernel_args: table.get("kernel_args").map(|v| kernel_args(&v)).unwrap_or_default(),
            ipxe: table.get("ipxe").and_then(|v| {
                v.with("a file name in the iPXE directory such as \"snponly.efi\"", |name| {
                    (!name.contains('/') && !name.starts_with('.')).then(|| name.to_owned())
                })
            }),
            secure_boot: table.get("secure_boot").and_then(|v| v.flag()),
            ready_checks: table.get("ready_checks").map(|v| ready_checks(&v)).unwrap_or_default(),
            power: table
                .get("power")
                .and_then(|v| v.table())
                .map(|t| PowerLayer::read(t, level, folder))
                .unwrap_or_default(),
        }
    }

    /// This layer over another: single values replace, labels replace by key, kernel arguments and
    /// ready checks add up.
    pub(super) fn over(self, below: Self) -> Self {
        let mut labels = below.labels;
        labels.extend(self.labels);
        let mut kernel_args = below.kernel_args;
        kernel_args.extend(self.kernel_args);
        let mut ready_checks = below.ready_checks;
        ready_checks.extend(self.ready_checks);
        Self {
            firmware: self.firmware.or(below.firmware),
            arch: self.arch.or(below.arch),
            overlay_disk: self.overlay_disk.or(below.overlay_disk),
            scratch_disks: self.scratch_disks.or(below.scratch_disks),
            detached_disks: self.detached_disks.or(below.detached_disks),
            cache_mib: self.cache_mib.or(below.cache_mib),
            labels,
            kernel_args,
            ipxe: self.ipxe.or(below.ipxe),
            secure_boot: self.secure_boot.or(below.secure_boot),
            ready_checks,
            power: self.power.over(below.power),
        }
    }
}

fn overlay_disk(value: &Value<'_>) -> Option<DiskSelector> {
    const RIGHT: &str = "\"auto\", { serial = \"…\" } or { path = \"/dev/…\" }";
    if !value.is_table() {
        return value.with(RIGHT, |text| (text == "auto").then_some(DiskSelector::Auto));
    }
    disk(value, RIGHT).map(DiskSelector::One)
}

fn disks(value: &Value<'_>) -> Vec<DiskName> {
    const RIGHT: &str = "{ serial = \"…\" } or { path = \"/dev/…\" }";
    let right = "a list such as [{ serial = \"S3Z8NX0K\" }]";
    value.items(right).iter().filter_map(|item| disk(item, RIGHT)).collect()
}

fn disk(value: &Value<'_>, right: &str) -> Option<DiskName> {
    let table = value.table()?;
    let serial = table.get("serial");
    let path = table.get("path");
    table.refuse_unknown();
    match (serial, path) {
        (Some(serial), None) => Some(DiskName::Serial(serial.text()?.to_owned())),
        (None, Some(path)) => path.with("a path such as \"/dev/disk/by-path/…\"", |text| {
            let inside = text.starts_with("/dev/") && !text.contains("..");
            inside.then(|| DiskName::Path(text.to_owned()))
        }),
        (Some(_), Some(_)) => value.refuse("names a disk twice", right),
        (None, None) => value.refuse("names no disk", right),
    }
}

fn labels(value: &Value<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in value.table().map(|t| t.all()).unwrap_or_default() {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if key.value.is_empty() || !key.value.bytes().all(good) {
            let wrong = format!("{:?} is no label", key.value);
            let _: Option<()> = value.refuse(wrong, "letters, digits, '-', '_', '.' and '/'");
        } else if let Some(text) = value.text() {
            labels.insert(key.value, text.to_owned());
        }
    }
    labels
}

// haasd writes these itself, from what it knows of the boot.
const OURS: [&str; 9] = [
    "BOOTIF=",
    "BOOT_IMAGE=",
    "haas.",
    "ifname=",
    "ip=",
    "iscsi_target_name=",
    "netroot=",
    "overlay=",
    "rd.iscsi.",
];

fn kernel_args(value: &Value<'_>) -> Vec<String> {
    let argument = |item: Value<'_>| {
        let text = item.text()?;
        if text.contains(char::is_whitespace) {
            return item.refuse(format!("{text:?} holds a space"), "one argument in each item");
        }
        if let Some(ours) = OURS.iter().find(|ours| text.starts_with(*ours)) {
            let wrong = format!("{text:?} begins with {ours:?}, which haasd itself sets");
            return item.refuse(wrong, "another argument");
        }
        Some(text.to_owned())
    };
    value.items("a list such as [\"quiet\"]").into_iter().filter_map(argument).collect()
}

fn ready_checks(value: &Value<'_>) -> Vec<ReadyCheck> {
    const RIGHT: &str =
        "[\"nvidia-smi\", \"-L\"] or { command = [\"nvidia-smi\", \"-L\"], within = \"60s\" }";
    let command = |value: &Value<'_>| -> Option<Vec<String>> {
        let words = value.items(RIGHT);
        words.iter().map(|word| word.text().map(str::to_owned)).collect()
    };
    let check = |item: Value<'_>| {
        let (command, within_s) = match item.is_table().then(|| item.table()).flatten() {
            None => (command(&item)?, ReadyCheck::WITHIN_S),
            Some(table) => {
                let words = table.need("command", RIGHT);
                let within = table.get("within").map(|v| {
                    v.with("a duration from \"1s\" to \"1h\"", |text| {
                        units::seconds(text).filter(|s| (1..=ReadyCheck::MOST_S).contains(s))
                    })
                });
                table.refuse_unknown();
                (command(&words?)?, within.unwrap_or(Some(ReadyCheck::WITHIN_S))?)
            }
        };
        let check = ReadyCheck { command, within_s };
        match check.problem() {
            Some(problem) => item.refuse(problem, RIGHT),
            None => Some(check),
        }
    };
    value.items("a list such as [[\"nvidia-smi\", \"-L\"]]").into_iter().filter_map(check).collect()
}
