//! What a node is made of and how well it is, for people.

use haas_api::{
    hardware::{Hardware, Inventory, Level, Sel, Sensor, Sensors},
    node::Node,
};

use crate::{
    cli::Session,
    error::Error,
    format,
    out::{Format, Out},
    pci::Names,
    table::{Field, Table, Tone, number, or_dash, toned},
};

/// A level in its colour.
pub(crate) fn level(level: Level) -> Field {
    let tone = match level {
        Level::Unknown => return toned("-", Tone::Faint),
        Level::Ok => Tone::Good,
        Level::Warning => Tone::Busy,
        Level::Critical => Tone::Bad,
    };
    toned(level, tone)
}

/// The sections of a node's hardware. Programs have them in the node.
pub(crate) fn show(session: &Session<'_>, node: &Node) -> Result<(), Error> {
    let out = session.out;
    let Some(hardware) = &node.hardware else { return Ok(()) };
    if out.format != Format::Table {
        return Ok(());
    }
    if let Some(inventory) = &hardware.inventory {
        for (title, table) in inventory_sections(inventory, hardware.inventory_at.as_deref()) {
            section(out, &title, &table)?;
        }
    }
    match bmc_section(hardware) {
        Some((title, table)) => section(out, &title, &table),
        None => Ok(()),
    }
}

fn section(out: &Out, title: &str, table: &Table) -> Result<(), Error> {
    out.text("")?;
    out.text(title)?;
    out.table(table)
}

fn inventory_sections(inventory: &Inventory, at: Option<&str>) -> Vec<(String, Table)> {
    let mut sections = Vec::new();
    let at = at.map(|at| format!(" (as its agent found it {})", format::time(at)));
    sections.push((format!("SYSTEM{}", at.unwrap_or_default()), system(inventory)));
    let mut add = |title: String, table: Table, is_there: bool| {
        if is_there {
            sections.push((title, table));
        }
    };
    let mut cpus = Table::new(["SOCKET", "MODEL", "CORES", "THREADS"]);
    for cpu in &inventory.cpus {
        let (cores, threads) = (number(cpu.cores), number(cpu.threads));
        cpus.row([number(cpu.socket), (&cpu.model).into(), cores, threads]);
    }
    add("PROCESSORS".to_owned(), cpus, !inventory.cpus.is_empty());
    let mut dimms = Table::new(["SLOT", "SIZE", "KIND", "MT/s", "MAKER", "PART", "SERIAL"]);
    for dimm in &inventory.dimms {
        dimms.row([
            (&dimm.slot).into(),
            number(format::bytes(dimm.size)),
            or_dash(dimm.kind.as_ref()),
            or_dash(dimm.speed_mts),
            or_dash(dimm.vendor.as_ref()),
            or_dash(dimm.part.as_ref()),
            or_dash(dimm.serial.as_ref()),
        ]);
    }
    let title = format!("MEMORY: {} for the kernel", format::bytes(inventory.memory));
    add(title, dimms, !inventory.dimms.is_empty());
    let mut disks = Table::new([
        "DISK", "MODEL", "SERIAL", "SIZE", "BUS", "FIRMWARE", "SMART", "°C", "HOURS", "USED %",
        "WHY",
    ]);
    for disk in &inventory.disks {
        disks.row([
            (&disk.name).into(),
            or_dash(disk.model.as_ref()),
            or_dash(disk.serial.as_ref()),
            number(format::bytes(disk.size)),
            (&disk.transport).into(),
            or_dash(disk.firmware.as_ref()),
            level(disk.smart.level),
            or_dash(disk.smart.temperature_c),
            or_dash(disk.smart.hours),
            or_dash(disk.smart.used_percent),
            disk.smart.reasons.join(", ").into(),
        ]);
    }
    add("DISKS".to_owned(), disks, !inventory.disks.is_empty());
    let mut nics = Table::new(["NIC", "MAC", "DRIVER", "FIRMWARE", "Mbit/s", "PCI"]);
    for nic in &inventory.nics {
        nics.row([
            (&nic.name).into(),
            (&nic.mac).into(),
            or_dash(nic.driver.as_ref()),
            or_dash(nic.firmware.as_ref()),
            or_dash(nic.speed_mbps),
            or_dash(nic.pci.as_ref()),
        ]);
    }
    add("NETWORK".to_owned(), nics, !inventory.nics.is_empty());
    let mut pci = Table::new(["PCI", "VENDOR:DEVICE", "WHAT", "NAME"]);
    let names = Names::of_system();
    for function in &inventory.pci {
        let ids = format!("{}:{}", function.vendor, function.device);
        let name = names.of(&function.vendor, &function.device);
        let kind = (&function.kind).into();
        pci.row([(&function.address).into(), ids.into(), kind, name.unwrap_or_default().into()]);
    }
    add("PCI".to_owned(), pci, !inventory.pci.is_empty());
    sections
}

fn system(inventory: &Inventory) -> Table {
    let system = &inventory.system;
    let mut table = Table::pairs();
    let join = |one: &Option<String>, two: &Option<String>| {
        let both: Vec<_> = [one, two].into_iter().flatten().cloned().collect();
        Some(both.join(" ")).filter(|text| !text.is_empty())
    };
    table.pair("product", or_dash(join(&system.vendor, &system.product)));
    table.pair("serial", or_dash(system.serial.as_ref()));
    table.pair("board", or_dash(join(&system.board_vendor, &system.board)));
    table.pair("board serial", or_dash(system.board_serial.as_ref()));
    let version = join(&system.firmware_vendor, &system.firmware);
    table.pair("firmware", or_dash(join(&version, &system.firmware_date)));
    table
}

fn bmc_section(hardware: &Hardware) -> Option<(String, Table)> {
    let mut table = Table::pairs();
    if let Some(bmc) = &hardware.bmc {
        table.pair("protocol", &bmc.protocol);
        table.pair("maker", or_dash(bmc.vendor.as_ref()));
        table.pair("product", or_dash(bmc.product.as_ref()));
        table.pair("firmware", or_dash(bmc.firmware.as_ref()));
        for fru in &bmc.frus {
            for field in &fru.fields {
                table.pair(&format!("{}: {}", fru.name, field.name), &field.value);
            }
        }
    }
    if let Some(error) = &hardware.bmc_error {
        table.pair("error", toned(error, Tone::Bad));
    }
    if hardware.bmc.is_none() && hardware.bmc_error.is_none() {
        return None;
    }
    let at = hardware.bmc_at.as_ref().map(|at| format!(" (asked {})", format::time(at)));
    Some((format!("BMC{}", at.unwrap_or_default()), table))
}

/// What sensors measured.
pub(crate) fn sensors(session: &Session<'_>, sensors: &Sensors) -> Result<(), Error> {
    told(session, sensors.at.as_deref(), sensors.error.as_deref())?;
    session.out.show(sensors, || sensors_table(&sensors.items))
}

fn sensors_table(sensors: &[Sensor]) -> Table {
    let mut table = Table::new(["SENSOR", "KIND", "VALUE", "UNIT", "LEVEL", "STATES"]);
    for sensor in sensors {
        table.row([
            (&sensor.name).into(),
            (&sensor.kind).into(),
            sensor.value.map_or_else(|| or_dash(None::<&str>), number),
            (&sensor.unit).into(),
            level(sensor.level),
            sensor.states.join(", ").into(),
        ]);
    }
    table
}

/// A BMC's log.
pub(crate) fn sel(session: &Session<'_>, sel: &Sel) -> Result<(), Error> {
    told(session, sel.at.as_deref(), sel.error.as_deref())?;
    if session.out.format == Format::Table {
        let left_out = usize::try_from(sel.total).unwrap_or(0).saturating_sub(sel.items.len());
        if left_out > 0 {
            session.out.note(&format!("{left_out} older entries are in the BMC only."))?;
        }
        if let Some(by) = &sel.clearing {
            session.out.note(&format!("{by} wants it cleared, which is not done yet."))?;
        }
    }
    session.out.show(sel, || sel_table(sel))
}

fn sel_table(sel: &Sel) -> Table {
    let mut table = Table::new(["ID", "TIME", "SENSOR", "EVENT", "", "LEVEL"]);
    for entry in &sel.items {
        table.row([
            number(entry.id),
            or_dash(entry.at.as_deref().map(format::time)),
            (&entry.sensor).into(),
            (&entry.event).into(),
            if entry.asserted { "begins" } else { "ends" }.into(),
            level(entry.level),
        ]);
    }
    table
}

/// How old it is, and why it is not newer: for people only.
fn told(session: &Session<'_>, at: Option<&str>, error: Option<&str>) -> Result<(), Error> {
    let out = session.out;
    if out.format != Format::Table {
        return Ok(());
    }
    match at {
        Some(at) => out.note(&format!("As the BMC said {}.", format::time(at)))?,
        None => out.note("The BMC has not said anything yet.")?,
    }
    match error {
        Some(error) => out.note(&format!("It could not be asked since: {error}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use haas_api::hardware::{Cpu, Dimm, DiskDrive, SelEntry, Smart};

    use super::*;

    #[test]
    fn a_nodes_hardware_has_a_section_for_each_kind_of_part() {
        let inventory = Inventory {
            cpus: vec![Cpu { socket: 0, model: "X".to_owned(), cores: 16, threads: 32 }],
            memory: 1 << 30,
            dimms: vec![Dimm { slot: "A3".to_owned(), size: 1 << 30, ..Dimm::default() }],
            disks: vec![DiskDrive {
                name: "vda".to_owned(),
                serial: Some("S1".to_owned()),
                transport: "virtio".to_owned(),
                smart: Smart { level: Level::Critical, ..Smart::default() },
                ..DiskDrive::default()
            }],
            ..Inventory::default()
        };
        let sections = inventory_sections(&inventory, None);
        let titles: Vec<_> = sections.iter().map(|(title, _)| title.as_str()).collect();
        let memory = titles.iter().find(|title| title.starts_with("MEMORY")).expect("a section");
        assert_eq!(
            titles,
            ["SYSTEM", "PROCESSORS", memory, "DISKS"],
            "what is not there is left out"
        );
        let disks = sections.last().expect("disks").1.render(None, false);
        assert!(disks.contains("S1") && disks.contains("critical"), "{disks}");
    }

    #[test]
    fn a_log_is_a_table() {
        let entry = SelEntry {
            id: 7,
            at: None,
            sensor: "DIMM A3".to_owned(),
            event: "Uncorrectable ECC".to_owned(),
            asserted: true,
            level: Level::Critical,
        };
        let sel = Sel { total: 1, items: vec![entry], ..Sel::default() };
        assert_eq!(
            sel_table(&sel).render(None, false),
            "ID  TIME  SENSOR   EVENT                      LEVEL\n \
             7  -     DIMM A3  Uncorrectable ECC  begins  critical\n"
        );
    }
}
