//! The hardware that a BMC sees: the system and its processors, memory, drives and network interfaces.
//! A part that cannot be read is left out; the account's role may not let it be seen.

use haas_api::{
    bmc::{Cpu, Drive, Hardware, MemoryModule, NetworkInterface},
    names::Mac,
};
use serde_json::Value;

use super::{
    fault::RedfishFault,
    http::path_of,
    session::{Link, id},
};

/// Parts of one kind that are read at most.
const PARTS_MAX: usize = 128;
/// The longest text that is kept.
const TEXT_MAX: usize = 200;

/// Reads all of it.
pub(super) async fn read(link: &mut Link, name: Option<&str>) -> Result<Hardware, RedfishFault> {
    let (_, system) = link.system(name).await?;
    let system = system.body;
    let mut hardware = Hardware {
        manufacturer: text(&system["Manufacturer"]),
        model: text(&system["Model"]),
        serial: text(&system["SerialNumber"]),
        uuid: text(&system["UUID"]),
        bios: text(&system["BiosVersion"]),
        ..Hardware::default()
    };
    for part in parts(link, &system["Processors"]).await? {
        hardware.cpus.extend(cpu(&part));
    }
    for part in parts(link, &system["Memory"]).await? {
        hardware.memory.extend(module(&part));
    }
    for storage in parts(link, &system["Storage"]).await? {
        let drives = storage["Drives"].as_array().into_iter().flatten();
        let paths: Vec<_> = drives.filter_map(path).take(PARTS_MAX).collect();
        for path in paths {
            hardware.drives.extend(part(link, &path).await?.as_ref().map(drive));
        }
    }
    if hardware.drives.is_empty() {
        for storage in parts(link, &system["SimpleStorage"]).await? {
            let devices = storage["Devices"].as_array().into_iter().flatten();
            hardware.drives.extend(devices.filter(|part| is_there(part)).map(drive));
        }
    }
    for part in parts(link, &system["EthernetInterfaces"]).await? {
        hardware.nics.extend(nic(&part));
    }
    Ok(hardware)
}

/// The members of the collection that a resource links to; none if it has no such link.
async fn parts(link: &mut Link, collection: &Value) -> Result<Vec<Value>, RedfishFault> {
    let Some(collection) = path(collection) else { return Ok(Vec::new()) };
    let members = match link.members(&collection).await {
        Ok(members) => members,
        Err(fault) if is_about_this(&fault) => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let mut parts = Vec::new();
    for path in members.into_iter().take(PARTS_MAX) {
        parts.extend(part(link, &path).await?);
    }
    Ok(parts)
}

async fn part(link: &mut Link, path: &str) -> Result<Option<Value>, RedfishFault> {
    match link.get(path).await {
        Ok(answer) => Ok(Some(answer.body).filter(is_there)),
        Err(fault) if is_about_this(&fault) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Whether a fault says something about one resource, rather than about the BMC.
fn is_about_this(fault: &RedfishFault) -> bool {
    use RedfishFault::{Garbled, NotNow, Overloaded, Rejected, TooLittle};
    matches!(fault, Rejected(_) | TooLittle(_) | NotNow(_) | Garbled(_) | Overloaded(_))
}

/// Many BMCs list empty sockets and bays.
pub(super) fn is_there(part: &Value) -> bool {
    part.pointer("/Status/State").and_then(Value::as_str) != Some("Absent")
}

pub(super) fn path(reference: &Value) -> Option<String> {
    reference["@odata.id"].as_str().and_then(path_of)
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

/// A text that says something: without control characters, and not too long.
pub(super) fn text(value: &Value) -> Option<String> {
    let text: String = value.as_str()?.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
