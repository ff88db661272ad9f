//! The hardware that a BMC sees: the system and its processors, memory, drives and network interfaces.

use haas_api::{
    bmc::{Cpu, Drive, Hardware, MemoryModule, NetworkInterface},
    names::Mac,
};
use serde_json::Value;

use super::{
    fault::RedfishFault,
    parts::{Ask, PARTS_MAX, is_there, part, parts, path, text},
    session::id,
};

/// Reads all of it.
pub(super) async fn read(ask: &mut impl Ask, name: Option<&str>) -> Result<Hardware, RedfishFault> {
    let (_, system) = ask.system(name).await?;
    let system = system.body;
    let mut hardware = Hardware {
        manufacturer: text(&system["Manufacturer"]),
        model: text(&system["Model"]),
        serial: text(&system["SerialNumber"]),
        uuid: text(&system["UUID"]),
        bios: text(&system["BiosVersion"]),
        ..Hardware::default()
    };
    for part in parts(ask, &system["Processors"]).await? {
        hardware.cpus.extend(cpu(&part));
    }
    for part in parts(ask, &system["Memory"]).await? {
        hardware.memory.extend(module(&part));
    }
    for storage in parts(ask, &system["Storage"]).await? {
        let drives = storage["Drives"].as_array().into_iter().flatten();
        let paths: Vec<_> = drives.filter_map(path).take(PARTS_MAX).collect();
        for path in paths {
            let found = part(ask, &path).await?.filter(is_there);
            hardware.drives.extend(found.as_ref().map(drive));
        }
    }
    if hardware.drives.is_empty() {
        for storage in parts(ask, &system["SimpleStorage"]).await? {
            let devices = storage["Devices"].as_array().into_iter().flatten();
            hardware.drives.extend(devices.filter(|part| is_there(part)).map(drive));
        }
    }
    for part in parts(ask, &system["EthernetInterfaces"]).await? {
        hardware.nics.extend(nic(&part));
    }
    Ok(hardware)
}

fn cpu(part: &Value) -> Option<Cpu> {
    let socket = text(&part["Socket"]).or_else(|| named(part))?;
    Some(Cpu {
        socket,
        kind: text(&part["ProcessorType"]),
        model: text(&part["Model"]),
        cores: part["TotalCores"].as_u64(),
        threads: part["TotalThreads"].as_u64(),
    })
}

fn module(part: &Value) -> Option<MemoryModule> {
    let slot = text(&part["DeviceLocator"]).or_else(|| named(part))?;
    let size = part["CapacityMiB"].as_u64().and_then(|mib| mib.checked_mul(1 << 20));
    if size == Some(0) {
        return None;
    }
    Some(MemoryModule {
        slot,
        size,
        kind: text(&part["MemoryDeviceType"]),
        manufacturer: text(&part["Manufacturer"]),
        part: text(&part["PartNumber"]),
        serial: text(&part["SerialNumber"]),
    })
}

fn drive(part: &Value) -> Drive {
    Drive {
        name: named(part).unwrap_or_else(|| "drive".to_owned()),
        model: text(&part["Model"]),
        serial: text(&part["SerialNumber"]),
        size: part["CapacityBytes"].as_u64(),
        media: text(&part["MediaType"]),
        protocol: text(&part["Protocol"]),
        health: text(&part["Status"]["Health"]),
    }
}

fn nic(part: &Value) -> Option<NetworkInterface> {
    let macs = [&part["PermanentMACAddress"], &part["MACAddress"]];
    let mac = macs.into_iter().find_map(|mac| mac.as_str()?.parse::<Mac>().ok())?;
    Some(NetworkInterface {
        name: named(part)?,
        mac,
        speed_mbps: part["SpeedMbps"].as_u64().filter(|speed| *speed > 0),
        link: match part["LinkStatus"].as_str() {
            Some("LinkUp") => Some(true),
            Some("LinkDown" | "NoLink") => Some(false),
            Some(_) | None => None,
        },
    })
}

/// Its Id, which is there but for the devices of SimpleStorage.
fn named(part: &Value) -> Option<String> {
    let last = part["@odata.id"].as_str().map(id).map(str::to_owned);
    text(&part["Id"]).or(last).or_else(|| text(&part["Name"]))
}
