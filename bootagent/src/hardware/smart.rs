//! What a disk says of its own health: NVMe's log page, ATA's SMART, SCSI's informational exceptions.
//! Each is one command or two, which read only.

use std::{fs::File, path::Path};

use haas_api::hardware::{Level, Smart};

use crate::sys;

/// Asks a disk; whoever does not understand says nothing.
pub(super) fn ask(device: &Path, transport: &str) -> Smart {
    let Ok(disk) = File::open(device) else { return Smart::default() };
    match transport {
        "nvme" => sys::nvme_log(&disk, 0x02).map_or_else(|_| Smart::default(), |log| nvme(&log)),
        "sata" => ata(&disk),
        "sas" | "scsi" => {
            let page = sys::scsi_log(&disk, 0x2F);
            page.map_or_else(|_| Smart::default(), |page| scsi(&page))
        }
        _ => Smart::default(),
    }
}

fn smart(warnings: Vec<String>, critical: Vec<String>) -> Smart {
    let level = match (warnings.is_empty(), critical.is_empty()) {
        (_, false) => Level::Critical,
        (false, true) => Level::Warning,
        (true, true) => Level::Ok,
    };
    Smart { level, reasons: [critical, warnings].concat(), ..Smart::default() }
}

/// NVM Express Base Specification, log page 02h.
fn nvme(log: &[u8; 512]) -> Smart {
    let [flags, t0, t1, spare, threshold, used, ..] = *log;
    let mut critical = Vec::new();
    for (bit, meaning) in [
        (0, "spare blocks are used up"),
        (2, "it has had too many errors"),
        (3, "it has become read-only"),
        (4, "its backup of volatile memory has failed"),
    ] {
        if flags & (1 << bit) != 0 {
            critical.push(meaning.to_owned());
        }
    }
    let mut warnings = Vec::new();
    if flags & 0x02 != 0 {
        warnings.push("its temperature is out of bounds".to_owned());
    }
    if used >= 100 {
        warnings.push(format!("{used} % of the writes that it was made for are used up"));
    }
    if critical.is_empty() && spare < threshold {
        warnings.push(format!("{spare} % spare blocks are left, below {threshold} %"));
    }
    let errors = counter(log, 160);
    if errors > 0 {
        warnings.push(format!("{errors} media errors"));
    }
    let kelvin = i64::from(u16::from_le_bytes([t0, t1]));
    Smart {
        temperature_c: (kelvin > 0).then_some(kelvin - 273),
        hours: Some(counter(log, 128)),
        used_percent: Some(u64::from(used)),
        ..smart(warnings, critical)
    }
}

/// The low half of a counter of 16 bytes.
fn counter(log: &[u8; 512], at: usize) -> u64 {
    let bytes = log.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// ATA Command Set 3: SMART RETURN STATUS, and what is in use of SMART READ DATA.
fn ata(disk: &File) -> Smart {
    let Ok(fails) = sys::ata_smart_status(disk) else { return Smart::default() };
    let attributes = sys::ata_smart_data(disk).map(|data| attributes(&data)).unwrap_or_default();
    let raw = |id: u8| attributes.iter().find(|(known, _)| *known == id).map(|(_, raw)| *raw);
    let mut warnings = Vec::new();
    for (id, meaning) in
        [(197, "blocks that cannot be read"), (198, "blocks that cannot be mended")]
    {
        if let Some(count) = raw(id).map(|raw| raw & 0xFFFF_FFFF).filter(|count| *count > 0) {
            warnings.push(format!("{count} {meaning}"));
        }
    }
    let critical =
        if fails { vec!["it says that it will fail soon".to_owned()] } else { Vec::new() };
    Smart {
        // The bytes above are the lowest and highest so far.
        temperature_c: raw(194).map(|raw| i64::try_from(raw & 0xFF).unwrap_or(0)),
        hours: raw(9).map(|raw| raw & 0xFFFF_FFFF),
        ..smart(warnings, critical)
    }
}

/// Attributes and their raw values of six bytes.
fn attributes(data: &[u8; 512]) -> Vec<(u8, u64)> {
    let entries = data.get(2..362).unwrap_or_default().chunks_exact(12);
    let known = entries.filter(|entry| entry.first() != Some(&0));
    known
        .filter_map(|entry| {
            let mut raw = [0; 8];
            raw.get_mut(..6)?.copy_from_slice(entry.get(5..11)?);
            Some((*entry.first()?, u64::from_le_bytes(raw)))
        })
        .collect()
}

/// SCSI Primary Commands 4, log page 2Fh: a sense code other than 0 is a failure that is foreseen.
fn scsi(page: &[u8; 64]) -> Smart {
    let [number, _, _, _, 0, 0, _, length, asc, ascq, celsius, ..] = *page else {
        return Smart::default();
    };
    if number & 0x3F != 0x2F || length < 3 {
        return Smart::default();
    }
    let critical = match asc {
        0 => Vec::new(),
        _ => vec![format!("it foresees that it fails (sense code {asc:02x}h/{ascq:02x}h)")],
    };
    Smart {
        temperature_c: (!matches!(celsius, 0 | 0xFF)).then_some(i64::from(celsius)),
        ..smart(Vec::new(), critical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nvme_log(changes: &[(usize, u8)]) -> [u8; 512] {
        let mut log = [0; 512];
        log[..6].copy_from_slice(&[0, 0x36, 0x01, 100, 10, 3]);
        log[128] = 200;
        for (at, byte) in changes {
            log[*at] = *byte;
        }
        log
    }

    #[test]
    fn an_nvme_disk_says_how_it_is() {
        let well = nvme(&nvme_log(&[]));
        assert_eq!((well.level, &well.reasons[..]), (Level::Ok, &[][..]));
        assert_eq!(
            (well.temperature_c, well.hours, well.used_percent),
            (Some(37), Some(200), Some(3))
        );
        let worn = nvme(&nvme_log(&[(5, 120)]));
        assert_eq!(worn.level, Level::Warning);
        assert!(worn.reasons[0].starts_with("120 %"), "{worn:?}");
        assert_eq!(nvme(&nvme_log(&[(0, 1 << 3)])).level, Level::Critical);
        assert_eq!(nvme(&nvme_log(&[(160, 2)])).reasons, ["2 media errors"]);
    }

    #[test]
    fn atas_attributes_are_read() {
        let mut data = [0; 512];
        data[2..14].copy_from_slice(&[197, 0, 0, 100, 100, 8, 0, 0, 0, 0, 0, 0]);
        data[14..26].copy_from_slice(&[194, 0, 0, 60, 50, 40, 0, 20, 0, 55, 0, 0]);
        let found = attributes(&data);
        assert_eq!(found[0], (197, 8));
        assert_eq!(found[1].1 & 0xFF, 40);
        assert!(attributes(&[0xFF; 512]).len() <= 30);
    }

    #[test]
    fn a_scsi_disk_foresees_its_failure_or_says_nothing() {
        let page = |bytes: &[u8]| {
            let mut page = [0; 64];
            page[..bytes.len()].copy_from_slice(bytes);
            scsi(&page)
        };
        assert_eq!(page(&[0x2F, 0, 0, 8, 0, 0, 3, 4, 0, 0, 33, 0]).level, Level::Ok);
        let fails = page(&[0x2F, 0, 0, 8, 0, 0, 3, 4, 0x5D, 0x10, 33, 0]);
        assert_eq!((fails.level, fails.temperature_c), (Level::Critical, Some(33)));
        assert_eq!(page(&[]).level, Level::Unknown);
        assert_eq!(page(&[0xFF; 64]).level, Level::Unknown);
    }
}
