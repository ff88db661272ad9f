//! The firmware's own tables: who made the machine, and its memory modules (DMTF DSP0134, SMBIOS).
//!
//! They are whatever a firmware has put there, so nothing in them is trusted: what does not fit is
//! left out.

use std::{fs, path::Path};

use haas_api::hardware::{Dimm, System};

/// More structures than any firmware has.
const MOST: usize = 4_096;

/// The structure tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    structures: Vec<Structure>,
}

/// One structure: its formatted part and the strings behind it.
#[derive(Debug)]
struct Structure {
    bytes: Vec<u8>,
    strings: Vec<String>,
}

impl Tables {
    /// Reads them; a machine without has none.
    pub(super) fn read(path: &Path) -> Self {
        Self::parse(&fs::read(path).unwrap_or_default())
    }

    fn parse(mut table: &[u8]) -> Self {
        let mut structures = Vec::new();
        while structures.len() < MOST
            && let Some((structure, rest)) = Structure::split(table)
        {
            structures.push(structure);
            table = rest;
        }
        Self { structures }
    }

    fn of_kind(&self, kind: u8) -> impl Iterator<Item = &Structure> {
        self.structures.iter().filter(move |structure| structure.byte(0) == Some(kind))
    }

    /// Types 0, 1 and 2 (sections 7.1 to 7.3).
    pub(super) fn system(&self) -> System {
        let text = |kind, at| self.of_kind(kind).find_map(|structure| structure.text(at));
        System {
            firmware_vendor: text(0, 4),
            firmware: text(0, 5),
            firmware_date: text(0, 8),
            vendor: text(1, 4),
            product: text(1, 5),
            serial: text(1, 7),
            board_vendor: text(2, 4),
            board: text(2, 5),
            board_serial: text(2, 7),
        }
    }

    /// Type 17 (section 7.18).
    pub(super) fn dimms(&self) -> Vec<Dimm> {
        self.of_kind(17).filter_map(Structure::dimm).collect()
    }
}

impl Structure {
    /// The first structure of a table, and what is behind it.
    fn split(table: &[u8]) -> Option<(Self, &[u8])> {
        let length = usize::from(*table.get(1)?);
        if length < 4 {
            return None;
        }
        let bytes = table.get(..length)?.to_vec();
        let mut rest = table.get(length..)?;
        // Strings end with a NUL each, and all of them with one more; none are two NULs.
        let mut strings = Vec::new();
        if let [0, 0, after @ ..] = rest {
            return Some((Self { bytes, strings }, after));
        }
        loop {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let (string, after) = (rest.get(..end)?, rest.get(end + 1..)?);
            rest = after;
            if string.is_empty() {
                return Some((Self { bytes, strings }, rest));
            }
            strings.push(String::from_utf8_lossy(string).into_owned());
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn double(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }

    /// The string whose number stands at `at`, unless it is one of those that say nothing.
    fn text(&self, at: usize) -> Option<String> {
        const NOTHING: [&str; 11] = [
            "",
            "none",
            "n/a",
            "unknown",
            "default string",
            "not specified",
            "not available",
            "not provided",
            "no dimm",
            "to be filled by o.e.m.",
            "undefined",
        ];
        let number = usize::from(self.byte(at)?);
        let text = self.strings.get(number.checked_sub(1)?)?.trim();
        (!NOTHING.contains(&text.to_lowercase().as_str())).then(|| text.to_owned())
    }

    fn dimm(&self) -> Option<Dimm> {
        let size = match self.word(0x0C)? {
            // Nothing in the slot, or its size is not known.
            0 | 0xFFFF => return None,
            // More than 32 GiB - 1 MiB: in MiB elsewhere.
            0x7FFF => u64::from(self.double(0x1C)? & 0x7FFF_FFFF) << 20,
            kib if kib & 0x8000 != 0 => u64::from(kib & 0x7FFF) << 10,
            mib => u64::from(mib) << 20,
        };
        let kind = match self.byte(0x12)? {
            0x18 => Some("DDR3"),
            0x1A => Some("DDR4"),
            0x20 => Some("HBM"),
            0x21 => Some("HBM2"),
            0x22 => Some("DDR5"),
            0x24 => Some("HBM3"),
            _ => None,
        };
        // The speed that it runs with; older tables only have what it could.
        let speed = self.word(0x20).filter(|speed| *speed != 0).or_else(|| self.word(0x15));
        let speed = speed.filter(|speed| !matches!(speed, 0 | 0xFFFF));
        let slot = self.text(0x10).or_else(|| self.text(0x11));
        Some(Dimm {
            // Two slots without a name are still two.
            slot: slot.unwrap_or_else(|| format!("handle {:#06x}", self.word(2).unwrap_or(0))),
            size,
            kind: kind.map(str::to_owned),
            speed_mts: speed.map(u32::from),
            vendor: self.text(0x17),
            serial: self.text(0x18),
            part: self.text(0x1A),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(kind: u8, formatted: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(formatted.len() + 4).unwrap(), 7, 0];
        bytes.extend(formatted);
        for string in strings {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    fn module(size: u16, extended: u32, strings: &[&str]) -> Vec<u8> {
        let mut body = vec![0; 0x22 - 4];
        body[0x0C - 4..0x0E - 4].copy_from_slice(&size.to_le_bytes());
        body[0x10 - 4] = 1;
        body[0x12 - 4] = 0x1A;
        body[0x15 - 4..0x17 - 4].copy_from_slice(&3200_u16.to_le_bytes());
        body[0x17 - 4] = 2;
        body[0x18 - 4] = 3;
        body[0x1A - 4] = 4;
        body[0x1C - 4..0x20 - 4].copy_from_slice(&extended.to_le_bytes());
        body[0x20 - 4..].copy_from_slice(&2933_u16.to_le_bytes());
        structure(17, &body, strings)
    }

    fn sample() -> Vec<u8> {
        [
            structure(0, &[1, 2, 0, 0, 3, 0], &["SeaBIOS", "1.16.2", "04/01/2014"]),
            structure(1, &[1, 2, 0, 3], &["ACME", "Box 3000", " S/N 12 "]),
            structure(2, &[1, 2, 0, 3], &["ACME", "Board", "To Be Filled By O.E.M."]),
            structure(16, &[0; 11], &[]),
            module(0x7FFF, 64 << 10, &["A1", "Maker", "0001", "PART-9"]),
            module(0, 0, &["A2", "NO DIMM", "NO DIMM", "NO DIMM"]),
            module(16 << 10, 0, &["A3", "Maker", "Unknown", "PART-9"]),
            structure(127, &[], &[]),
        ]
        .concat()
    }

    #[test]
    fn makers_names_and_modules_are_read() {
        let tables = Tables::parse(&sample());
        let system = tables.system();
        assert_eq!(system.firmware.as_deref(), Some("1.16.2"));
        assert_eq!(system.product.as_deref(), Some("Box 3000"));
        assert_eq!(system.serial.as_deref(), Some("S/N 12"));
        assert_eq!(system.board_serial, None, "a placeholder is no serial number");
        let dimms = tables.dimms();
        let shown: Vec<_> = dimms.iter().map(|d| (d.slot.as_str(), d.size >> 30)).collect();
        assert_eq!(shown, [("A1", 64), ("A3", 16)]);
        assert_eq!(dimms[0].part.as_deref(), Some("PART-9"));
        assert_eq!((dimms[0].speed_mts, dimms[0].kind.as_deref()), (Some(2933), Some("DDR4")));
        assert_eq!(dimms[1].serial, None);
    }

    #[test]
    fn no_bytes_of_a_firmware_stop_the_boot() {
        let whole = sample();
        for end in 0..whole.len() {
            let tables = Tables::parse(&whole[..end]);
            let _ = (tables.system(), tables.dimms());
        }
        for place in 0..whole.len() {
            for byte in [0, 1, 3, 0x7F, 0xFF] {
                let mut bent = whole.clone();
                bent[place] = byte;
                let tables = Tables::parse(&bent);
                let _ = (tables.system(), tables.dimms());
            }
        }
        assert!(Tables::parse(&[17, 4, 0, 0, 0, 0].repeat(10_000)).structures.len() <= MOST);
    }
}
