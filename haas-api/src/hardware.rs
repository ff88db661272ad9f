//! What a node is made of, and how well it is: as its agent found it in the boot, and as its BMC says.
//!
//! The types name no protocol: whoever can look into a machine fills them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an agent found in its node before any code of a user ran there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Inventory {
    /// The machine as a whole.
    pub system: System,
    /// Processors, one per socket that has one.
    pub cpus: Vec<Cpu>,
    /// Bytes of memory that the kernel has.
    pub memory: u64,
    /// Memory modules; empty slots are left out.
    pub dimms: Vec<Dimm>,
    /// Disks of its own: no network's and no removable ones.
    pub disks: Vec<DiskDrive>,
    /// Network cards' ports.
    pub nics: Vec<NicPort>,
    /// PCI functions.
    pub pci: Vec<PciFunction>,
}

/// A machine's makers, names and serial numbers. What the maker left out is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct System {
    /// Who made it.
    pub vendor: Option<String>,
    /// The product's name.
    pub product: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Who made the board.
    pub board_vendor: Option<String>,
    /// The board's name.
    pub board: Option<String>,
    /// The board's serial number.
    pub board_serial: Option<String>,
    /// Who made the firmware.
    pub firmware_vendor: Option<String>,
    /// The firmware's version.
    pub firmware: Option<String>,
    /// When it was released, as its maker writes that.
    pub firmware_date: Option<String>,
}

/// A processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Cpu {
    /// The kernel's number of its socket.
    pub socket: u32,
    /// The maker's name for the model.
    pub model: String,
    /// Cores that are on.
    pub cores: u32,
    /// Threads that are on, all cores' together.
    pub threads: u32,
}

/// A memory module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Dimm {
    /// Where it is, as the board is marked: `A3`.
    pub slot: String,
    /// Bytes.
    pub size: u64,
    /// `DDR4`, `DDR5`.
    pub kind: Option<String>,
    /// The speed that it runs with, in megatransfers per second.
    pub speed_mts: Option<u32>,
    /// Who made it.
    pub vendor: Option<String>,
    /// The maker's part number.
    pub part: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DiskDrive {
    /// The kernel's name at that boot, `nvme0n1`.
    pub name: String,
    /// The maker's name for the model.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// The firmware's version.
    pub firmware: Option<String>,
    /// Bytes.
    pub size: u64,
    /// `nvme`, `sata`, `sas`, `scsi`, `virtio` or `usb`.
    pub transport: String,
    /// Whether it has platters.
    pub rotational: bool,
    /// What it says of its own health.
    pub smart: Smart,
    /// The paths of the inventory's entry that lead to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// What a disk says of its own health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Smart {
    /// `ok`; `warning`: it wears out or has lost blocks; `critical`: it says that it fails; `unknown`:
    /// it says nothing.
    pub level: Level,
    /// Why, if it is not `ok`.
    pub reasons: Vec<String>,
    /// Degrees Celsius.
    pub temperature_c: Option<i64>,
    /// Hours that it has run.
    pub hours: Option<u64>,
    /// How much of the writes it was made for are used up, in percent; may be over 100.
    pub used_percent: Option<u64>,
}

/// A port of a network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NicPort {
    /// The kernel's name at that boot.
    pub name: String,
    /// Its address, `52:54:00:77:00:01`; of an InfiniBand port its GUID, eight bytes.
    pub mac: String,
    /// The kernel's driver.
    pub driver: Option<String>,
    /// The firmware's version.
    pub firmware: Option<String>,
    /// Megabits per second, where it has a link.
    pub speed_mbps: Option<u64>,
    /// Its PCI function.
    pub pci: Option<String>,
}

/// A PCI function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PciFunction {
    /// `0000:3b:00.0`.
    pub address: String,
    /// The vendor's number, four hexadecimal digits.
    pub vendor: String,
    /// The device's number, four hexadecimal digits.
    pub device: String,
    /// The class, six hexadecimal digits.
    pub class: String,
    /// What the class means: `network controller`.
    pub kind: String,
}

/// How well something is.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nobody has said.
    #[default]
    Unknown,
    /// Nothing is known to be wrong.
    Ok,
    /// It works; somebody should look.
    Warning,
    /// It fails, or will soon.
    Critical,
}

impl Level {
    /// All levels, the worst last.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Ok, Self::Warning, Self::Critical];

    /// The level's name as it stands in JSON, tables and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How well a node is, from all that is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// The worst of its parts.
    pub level: Level,
    /// Why, if it is a warning or critical; the worst first.
    pub reasons: Vec<String>,
}

/// A node's hardware in a few numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Summary {
    /// Processors.
    pub sockets: u32,
    /// Cores of all processors.
    pub cores: u32,
    /// Threads of all processors.
    pub threads: u32,
    /// The model of the first processor.
    pub cpu: Option<String>,
    /// Bytes of memory: what the modules have, or what the kernel has where they are not known.
    pub memory: u64,
    /// Bytes of memory that the kernel has.
    pub usable: u64,
    /// Disks.
    pub disks: u32,
    /// Bytes of all disks.
    pub disk_bytes: u64,
}

/// All that is known of a node's hardware. `GET /v1/nodes/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Hardware {
    /// What its agent found in its last boot that came so far.
    pub inventory: Option<Inventory>,
    /// When.
    pub inventory_at: Option<String>,
    /// What its BMC says of itself and of the machine.
    pub bmc: Option<BmcInfo>,
    /// When it said so.
    pub bmc_at: Option<String>,
    /// Why the BMC could not be asked, when the last try failed.
    pub bmc_error: Option<String>,
}

/// A BMC, and what it has on file about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BmcInfo {
    /// `IPMI 2.0`.
    pub protocol: String,
    /// Its firmware's version.
    pub firmware: Option<String>,
    /// Its maker: the name, or IANA's number for it.
    pub vendor: Option<String>,
    /// The maker's number or name for it.
    pub product: Option<String>,
    /// Parts that can be replaced, as they are on file there.
    pub frus: Vec<Fru>,
}

/// A part that can be replaced (field replaceable unit), as it is on file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Fru {
    /// What it is called.
    pub name: String,
    /// What stands there: `product name`, `board serial`.
    pub fields: Vec<FruField>,
}

/// A field of a FRU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FruField {
    /// What it is.
    pub name: String,
    /// What stands there.
    pub value: String,
}

/// `GET /v1/nodes/{name}/sensors`: what the BMC measured, when it was asked last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sensors {
    /// When that was; none: never.
    pub at: Option<String>,
    /// Why it could not be asked, when the last try failed.
    pub error: Option<String>,
    /// The sensors.
    pub items: Vec<Sensor>,
}

/// A sensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sensor {
    /// The BMC's name for it.
    pub name: String,
    /// What it measures: `Temperature`, `Fan`, `Power Supply`.
    pub kind: String,
    /// What it measured; none where it has no number, or none at the moment.
    pub value: Option<f64>,
    /// The number's unit; empty where there is none.
    pub unit: String,
    /// What that means.
    pub level: Level,
    /// What is asserted: `above upper critical`, `Presence detected`.
    pub states: Vec<String>,
}

/// `GET /v1/nodes/{name}/sel`: the BMC's own log of events (SEL), when it was read last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sel {
    /// When that was; none: never.
    pub at: Option<String>,
    /// Why it could not be read, when the last try failed.
    pub error: Option<String>,
    /// Entries in the BMC.
    pub total: u32,
    /// How full it is, in percent, where the BMC says so.
    pub used_percent: Option<u32>,
    /// Who wants it cleared, which is not done yet.
    pub clearing: Option<String>,
    /// The last entries, oldest first.
    pub items: Vec<SelEntry>,
}

/// An entry of a BMC's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SelEntry {
    /// Its number there.
    pub id: u32,
    /// When, by the BMC's clock; none where it has had no time.
    pub at: Option<String>,
    /// The sensor's name, or its kind and number.
    pub sensor: String,
    /// What happened.
    pub event: String,
    /// Whether it began; else it ended.
    pub asserted: bool,
    /// How bad that is.
    pub level: Level,
}

/// More of one kind than any node has.
const MOST_PARTS: usize = 256;
/// So many of one kind fit, whatever they are called.
const FEW_PARTS: usize = 16;
/// Bytes of JSON that fit into a frame of the agent's channel (256 KiB) with what stands around them.
const MOST_BYTES: usize = 240 * 1024;
/// The longest text.
const MOST_CHARS: usize = 128;
/// More PCI functions than are worth to be told of.
const MOST_PCI: usize = 512;

impl Inventory {
    /// The same with bounds on lists and texts, and without control characters: whatever stands in a
    /// machine's tables, it must fit into a frame and into the store.
    pub fn bounded(mut self) -> Self {
        self.system.each(&mut |text| *text = tame(text));
        self.cpus.truncate(MOST_PARTS);
        for cpu in &mut self.cpus {
            cpu.model = tame(&cpu.model);
        }
        self.dimms.truncate(MOST_PARTS);
        for dimm in &mut self.dimms {
            dimm.slot = tame(&dimm.slot);
            each(
                [&mut dimm.kind, &mut dimm.vendor, &mut dimm.part, &mut dimm.serial],
                &mut |text| *text = tame(text),
            );
        }
        self.disks.truncate(MOST_PARTS);
        for disk in &mut self.disks {
            disk.name = tame(&disk.name);
            disk.transport = tame(&disk.transport);
            disk.paths.truncate(8);
            disk.paths.iter_mut().for_each(|path| *path = tame(path));
            disk.smart.reasons.truncate(8);
            disk.smart.reasons.iter_mut().for_each(|reason| *reason = tame(reason));
            let texts = [&mut disk.model, &mut disk.serial, &mut disk.firmware];
            each(texts, &mut |text| *text = tame(text));
        }
        self.nics.truncate(MOST_PARTS);
        for nic in &mut self.nics {
            nic.name = tame(&nic.name);
            nic.mac = tame(&nic.mac);
            each([&mut nic.driver, &mut nic.firmware, &mut nic.pci], &mut |text| {
                *text = tame(text)
            });
        }
        self.pci.truncate(MOST_PCI);
        for function in &mut self.pci {
            let PciFunction { address, vendor, device, class, kind } = function;
            for text in [address, vendor, device, class, kind] {
                *text = text.chars().filter(|c| !c.is_control()).take(40).collect();
            }
        }
        if self.json_bytes() > MOST_BYTES {
            self.pci.clear();
        }
        if self.json_bytes() > MOST_BYTES {
            self.cpus.truncate(FEW_PARTS);
            self.dimms.truncate(FEW_PARTS);
            self.disks.truncate(FEW_PARTS);
            self.nics.truncate(FEW_PARTS);
        }
        self
    }

    fn json_bytes(&self) -> usize {
        serde_json::to_string(self).map_or(usize::MAX, |text| text.len())
    }

    /// The node in a few numbers.
    pub fn summary(&self) -> Summary {
        let modules: u64 = self.dimms.iter().fold(0, |sum, dimm| sum.saturating_add(dimm.size));
        let count = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
        let sum = |of: fn(&Cpu) -> u32| self.cpus.iter().map(of).fold(0, u32::saturating_add);
        Summary {
            sockets: count(self.cpus.len()),
            cores: sum(|cpu| cpu.cores),
            threads: sum(|cpu| cpu.threads),
            cpu: self.cpus.first().map(|cpu| cpu.model.clone()),
            memory: if modules > 0 { modules } else { self.memory },
            usable: self.memory,
            disks: count(self.disks.len()),
            disk_bytes: self.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.size)),
        }
    }
}

impl System {
    fn each(&mut self, change: &mut dyn FnMut(&mut String)) {
        let Self {
            vendor,
            product,
            serial,
            board_vendor,
            board,
            board_serial,
            firmware_vendor,
            firmware,
            firmware_date,
        } = self;
        each([vendor, product, serial, board_vendor, board, board_serial], change);
        each([firmware_vendor, firmware, firmware_date], change);
    }
}

fn each<const N: usize>(texts: [&mut Option<String>; N], change: &mut dyn FnMut(&mut String)) {
    texts.into_iter().flatten().for_each(change);
}

/// A text of a machine, fit to be kept and shown.
pub fn tame(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = plain.take(MOST_CHARS).collect();
    short.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endless() -> String {
        "\u{1b}[2J\u{10FFFF}".repeat(100)
    }

    #[test]
    fn whatever_stands_in_a_machines_tables_fits_into_a_frame() {
        let some = || Some(endless());
        let disk = DiskDrive {
            name: endless(),
            model: some(),
            serial: some(),
            firmware: some(),
            smart: Smart { reasons: vec![endless(); 20], ..Smart::default() },
            ..DiskDrive::default()
        };
        let dimm = Dimm { slot: endless(), part: some(), serial: some(), ..Dimm::default() };
        let pci = PciFunction { address: endless(), kind: endless(), ..PciFunction::default() };
        let system = System { vendor: some(), serial: some(), ..System::default() };
        let inventory = Inventory {
            system,
            dimms: vec![dimm; 300],
            disks: vec![disk; 300],
            pci: vec![pci; 1_000],
            ..Inventory::default()
        };
        let bounded = inventory.bounded();
        let text = serde_json::to_string(&bounded).unwrap();
        assert!(text.len() <= MOST_BYTES, "{} bytes", text.len());
        assert!(!text.contains("\\u001b"), "a control character is kept");
        assert!(!bounded.disks.is_empty() && !bounded.dimms.is_empty());
    }

    #[test]
    fn memory_is_what_the_modules_have_and_else_what_the_kernel_has() {
        let dimm = Dimm { size: 32 << 30, ..Dimm::default() };
        let known = Inventory { memory: 62 << 30, dimms: vec![dimm; 2], ..Inventory::default() };
        assert_eq!(known.summary().memory, 64 << 30);
        let unknown = Inventory { memory: 62 << 30, ..Inventory::default() };
        assert_eq!(unknown.summary().memory, 62 << 30);
    }
}
