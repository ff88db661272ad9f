//! What the node is made of, for haasd: read from sysfs, procfs, the firmware's tables and the disks
//! themselves, before the overlay is mounted and so before any code of a user runs.
//!
//! Nothing here fails a boot: what cannot be read is left out. Disks are asked in threads of their own,
//! since one that is about to die may take minutes to answer.

mod pci;
mod smart;
mod smbios;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use haas_api::{
    agent::DiskName,
    hardware::{Cpu, DiskDrive, Inventory, NicPort, Smart},
};

use crate::{disk::Candidate, log, sys};

/// How long all disks together may take to say how they are.
const DISKS_WITHIN: Duration = Duration::from_secs(3);

/// Looks at everything. `named` are the disks of which the node's entry says something.
pub(crate) fn look(named: &[DiskName]) -> Inventory {
    let tables = smbios::Tables::read(Path::new("/sys/firmware/dmi/tables/DMI"));
    let inventory = Inventory {
        system: tables.system(),
        cpus: cpus(
            Path::new("/sys/devices/system/cpu"),
            &read("/proc/cpuinfo").unwrap_or_default(),
        ),
        memory: memory(&read("/proc/meminfo").unwrap_or_default()),
        dimms: tables.dimms(),
        disks: disks(named),
        nics: nics(Path::new("/sys/class/net")),
        pci: pci::functions(Path::new("/sys/bus/pci/devices")),
    };
    inventory.bounded()
}

/// The version of the machine's firmware, with who made it and when.
pub(crate) fn firmware() -> Option<String> {
    let system = smbios::Tables::read(Path::new("/sys/firmware/dmi/tables/DMI")).system();
    let words = [system.firmware_vendor, system.firmware, system.firmware_date];
    let words: Vec<_> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Threads that are on, by socket and core.
fn cpus(folder: &Path, cpuinfo: &str) -> Vec<Cpu> {
    let is_cpu = |name: &String| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
    let mut sockets: BTreeMap<u32, (BTreeSet<String>, u32)> = BTreeMap::new();
    for name in names(folder).into_iter().filter(is_cpu) {
        let topology = folder.join(&name).join("topology");
        // One that is off has no topology. Some virtual machines say that the socket is -1.
        let Some(socket) = read(topology.join("physical_package_id")) else { continue };
        let core = read(topology.join("core_id")).unwrap_or_default();
        // Cores of several dies of one socket may have the same number.
        let die = read(topology.join("die_id")).unwrap_or_default();
        let (cores, threads) = sockets.entry(socket.parse().unwrap_or(0)).or_default();
        cores.insert(format!("{die}.{core}"));
        *threads += 1;
    }
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    let model = model.unwrap_or_default();
    let count = |cores: &BTreeSet<String>| u32::try_from(cores.len()).unwrap_or(u32::MAX);
    sockets
        .into_iter()
        .map(|(socket, (cores, threads))| Cpu {
            socket,
            model: model.clone(),
            cores: count(&cores),
            threads,
        })
        .collect()
}

fn memory(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn disks(named: &[DiskName]) -> Vec<DiskDrive> {
    let own = crate::disk::list().into_iter().filter(is_own).collect::<Vec<_>>();
    let health = health(&own);
    own.iter().zip(health).map(|(disk, smart)| drive(disk, smart, named)).collect()
}

/// Not a network's, and none that a person or a BMC puts in and out.
pub(crate) fn is_own(disk: &Candidate) -> bool {
    let path = disk.sysfs.to_string_lossy();
    let is_removable = read(disk.sysfs.join("removable")).as_deref() == Some("1");
    !disk.is_iscsi() && !path.contains("/rport-") && !is_removable && !disk.name.starts_with("sr")
}

fn drive(disk: &Candidate, smart: Smart, named: &[DiskName]) -> DiskDrive {
    let path = |name: &DiskName| match name {
        DiskName::Path(path) if disk.is(name) => Some(path.clone()),
        DiskName::Path(_) | DiskName::Serial(_) => None,
    };
    let text = |file: &str| read(disk.sysfs.join(file));
    DiskDrive {
        name: disk.name.clone(),
        model: disk.model.clone().or_else(|| text("device/model")),
        serial: disk.serial.clone(),
        firmware: text("device/firmware_rev").or_else(|| text("device/rev")),
        size: disk.size,
        transport: transport(disk).to_owned(),
        rotational: text("queue/rotational").as_deref() == Some("1"),
        smart,
        paths: named.iter().filter_map(path).collect(),
    }
}

fn transport(disk: &Candidate) -> &'static str {
    let path = disk.sysfs.to_string_lossy();
    let is_ata = read(disk.sysfs.join("device/vendor")).as_deref() == Some("ATA");
    if disk.name.starts_with("nvme") {
        "nvme"
    } else if path.contains("/usb") {
        "usb"
    } else if is_ata || path.contains("/ata") {
        "sata"
    } else if path.contains("/end_device-") {
        "sas"
    } else if path.contains("/virtio") && disk.name.starts_with("vd") {
        "virtio"
    } else {
        "scsi"
    }
}

/// What each disk says, or that it does not in time.
fn health(disks: &[Candidate]) -> Vec<Smart> {
    let (say, said) = mpsc::channel();
    for (index, disk) in disks.iter().enumerate() {
        let (say, device, transport) = (say.clone(), disk.device(), transport(disk));
        let spawned =
            thread::Builder::new().name("smart".into()).stack_size(128 * 1024).spawn(move || {
                let _ = say.send((index, smart::ask(&device, transport)));
            });
        if let Err(error) = spawned {
            log::error(&format!("no thread to ask {} how it is: {error}", disk.name));
        }
    }
    drop(say);
    let silent = || Smart {
        reasons: vec![format!("no answer within {} s", DISKS_WITHIN.as_secs())],
        ..Smart::default()
    };
    let mut health: Vec<_> = disks.iter().map(|_| silent()).collect();
    let until = Instant::now() + DISKS_WITHIN;
    while let Ok((index, smart)) =
        said.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        if let Some(place) = health.get_mut(index) {
            *place = smart;
        }
    }
    health
}

/// Ports of network cards; not what is made of them or of nothing.
fn nics(folder: &Path) -> Vec<NicPort> {
    let port = |name: String| {
        let at = folder.join(&name);
        let device = fs::canonicalize(at.join("device")).ok()?;
        let last = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
        let driver = fs::read_link(device.join("driver")).ok();
        let mut parts = device.iter().rev().filter_map(|part| part.to_str());
        let pci = parts.find(|part| pci::is_address(part)).map(str::to_owned);
        Some(NicPort {
            mac: address(&read(at.join("address"))?).to_owned(),
            driver: driver.as_deref().and_then(last),
            firmware: sys::nic_firmware(&name).ok().flatten(),
            // -1, or unreadable, without a link.
            speed_mbps: read(at.join("speed")).and_then(|speed| speed.parse().ok()),
            pci,
            name,
        })
    };
    names(folder).into_iter().filter_map(port).collect()
}

/// Of InfiniBand's 20 bytes the last eight, which stay: the port's GUID.
fn address(text: &str) -> &str {
    match text.len() {
        59 => text.get(36..).unwrap_or(text),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_known_by_the_part_of_its_address_that_stays() {
        assert_eq!(address("52:54:00:77:00:01"), "52:54:00:77:00:01");
        let long = "80:00:10:29:fe:80:00:00:00:00:00:00:24:8a:07:03:00:91:3a:42";
        assert_eq!(address(long), "24:8a:07:03:00:91:3a:42");
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn processors_are_counted_by_socket_and_core() {
        let sys = tempfile::tempdir().unwrap();
        for (cpu, socket, core) in [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 0), (10, 0, 0)] {
            let at = |file: &str| format!("cpu{cpu}/topology/{file}");
            let package = at("physical_package_id");
            write(
                sys.path(),
                &[(&package, &format!("{socket}\n")), (&at("core_id"), &core.to_string())],
            );
        }
        // One that is off, and what is none.
        write(sys.path(), &[("cpu4/online", "0\n"), ("cpufreq/x", ""), ("cpuidle/x", "")]);
        let info = "processor\t: 0\nmodel name\t: Test  CPU @ 2.00GHz\nmodel name\t: other\n";
        let found = cpus(sys.path(), info);
        let shown: Vec<_> = found.iter().map(|cpu| (cpu.socket, cpu.cores, cpu.threads)).collect();
        assert_eq!(shown, [(0, 2, 3), (1, 1, 2)]);
        assert_eq!(found[0].model, "Test CPU @ 2.00GHz");
    }

    #[test]
    fn memory_is_read_and_what_cannot_be_is_nothing() {
        assert_eq!(memory("MemTotal:       2016288 kB\nMemFree: 1 kB\n"), 2_016_288 << 10);
        assert_eq!(memory("MemTotal: many\n"), 0);
        assert_eq!(memory(""), 0);
    }
}
