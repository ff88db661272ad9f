//! What a BMC knows of its machine: sensors [33, 35, 43], its log [31, 32], what is on file about the
//! machine [34].

use std::time::{SystemTime, UNIX_EPOCH};

/// A completion code and the bytes behind it.
type Answer = (u8, Vec<u8>);

const OK: u8 = 0x00;
const LENGTH: u8 = 0xC7;
const RANGE: u8 = 0xC9;
const TOO_MANY_BYTES: u8 = 0xCA;
const ABSENT: u8 = 0xCB;
const FIELD: u8 = 0xCC;
const NO_RESERVATION: u8 = 0xC5;
const UNKNOWN: u8 = 0xC1;

/// The BMC's own address on its buses.
const BMC: u8 = 0x20;

/// A sensor of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sensor {
    /// Its name, of up to 16 characters.
    pub name: String,
    /// What it measures [table 42-3].
    pub kind: u8,
    /// The unit of its number [43.17]; 0 for one that only has states.
    pub unit: u8,
    /// One step of its reading, in units.
    pub step: u8,
    /// What it reads.
    pub raw: u8,
    /// Which comparisons hold, or which states are asserted.
    pub states: u16,
    /// Whether there is a reading.
    pub is_there: bool,
}

impl Sensor {
    fn number(name: &str, kind: u8, unit: u8, step: u8, raw: u8) -> Self {
        Self { name: name.to_owned(), kind, unit, step, raw, states: 0, is_there: true }
    }

    fn discrete(name: &str, kind: u8, states: u16) -> Self {
        Self { name: name.to_owned(), kind, unit: 0, step: 0, raw: 0, states, is_there: true }
    }

    /// A full record [43.1], or a compact one [43.2] for a sensor without a number.
    fn record(&self, id: u16, number: u8) -> Vec<u8> {
        let [i0, i1] = id.to_le_bytes();
        let is_full = self.unit != 0;
        let kind = if is_full { 0x01 } else { 0x02 };
        // Owner, channel and LUN, number; entity: system board, the first.
        let mut record = vec![i0, i1, 0x51, kind, 0, BMC, 0, number, 7, 1];
        // Initialized and scanned; no thresholds that could be read.
        record.extend([0x63, 0x40, self.kind, if is_full { 0x01 } else { 0x6F }]);
        record.extend([0; 6]);
        record.extend([0x00, self.unit, 0]);
        if is_full {
            // Linear; M, then B, accuracy and exponents of nothing.
            record.extend([0, self.step, 0, 0, 0, 0, 0]);
            record.extend([0; 17]);
        } else {
            record.extend([1, 0]);
            record.extend([0; 6]);
        }
        text(&mut record, &self.name);
        record[4] = u8::try_from(record.len() - 5).unwrap_or(u8::MAX);
        record
    }
}

/// A type/length byte and Latin-1 text.
fn text(record: &mut Vec<u8>, name: &str) {
    let name: Vec<u8> = name.bytes().take(16).collect();
    record.push(0xC0 | u8::try_from(name.len()).unwrap_or(0));
    record.extend(name);
}

/// All of it.
#[derive(Debug)]
pub(super) struct Records {
    sensors: Vec<Sensor>,
    /// When the repository was filled; another time is another repository.
    filled_at: u32,
    log: Vec<[u8; 16]>,
    next_entry: u16,
    logged_at: u32,
    erased_at: u32,
    reservation: u16,
    fru: Vec<u8>,
    /// What the machine draws, as DCMI tells it; none: it speaks no DCMI.
    pub(super) watts: Option<u16>,
    /// It answers no more bytes of a record at once.
    pub(super) piece: u8,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            sensors: vec![
                Sensor::number("CPU1 Temp", 0x01, 1, 1, 45),
                Sensor::number("Inlet Temp", 0x01, 1, 1, 22),
                Sensor::number("FAN1", 0x04, 18, 100, 54),
                Sensor::number("Total Power", 0x0B, 6, 4, 60),
                Sensor::discrete("PSU1 Status", 0x08, 1 << 0),
                Sensor::discrete("DIMM A3", 0x0C, 1 << 6),
            ],
            filled_at: now(),
            log: Vec::new(),
            next_entry: 1,
            logged_at: 0,
            erased_at: 0,
            reservation: 0,
            fru: fru(),
            watts: Some(240),
            piece: 0,
        }
    }
}

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

impl Records {
    pub(super) fn sensor_mut(&mut self, name: &str) -> Option<&mut Sensor> {
        self.sensors.iter_mut().find(|sensor| sensor.name == name)
    }

    /// Notes that a sensor came into a state: its event type is that of a sensor with states.
    pub(super) fn note(&mut self, name: &str, state: u8) {
        let found = (1..).zip(&self.sensors).find(|(_, sensor)| sensor.name == name);
        let Some((number, sensor)) = found else { return };
        let event_type = if sensor.unit != 0 { 0x01 } else { 0x6F };
        let time = now();
        let [t0, t1, t2, t3] = time.to_le_bytes();
        let [i0, i1] = self.next_entry.to_le_bytes();
        // A system event; by the BMC; of version 2.
        self.log.push([
            i0,
            i1,
            0x02,
            t0,
            t1,
            t2,
            t3,
            BMC,
            0,
            0x04,
            sensor.kind,
            number,
            event_type,
            state,
            0xFF,
            0xFF,
        ]);
        self.next_entry += 1;
        self.logged_at = time;
    }

    pub(super) fn entries(&self) -> usize {
        self.log.len()
    }

    /// Commands of the network functions Sensor and Storage; none where it is another one.
    pub(super) fn answer(&mut self, function: u8, command: u8, data: &[u8]) -> Answer {
        match (function, command) {
            (0x04, 0x2D) => self.reading(data),
            (0x0A, 0x10) => match data {
                [0] => {
                    let [l0, l1] = u16::try_from(self.fru.len()).unwrap_or(0).to_le_bytes();
                    (OK, vec![l0, l1, 0])
                }
                [_] => (ABSENT, Vec::new()),
                _ => (LENGTH, Vec::new()),
            },
            (0x0A, 0x11) => self.read_fru(data),
            (0x0A, 0x20) => (OK, self.repository_info()),
            (0x0A, 0x22 | 0x42) => {
                self.reservation = self.reservation.wrapping_add(1).max(1);
                (OK, self.reservation.to_le_bytes().to_vec())
            }
            (0x0A, 0x23) => self.record(data),
            (0x0A, 0x40) => (OK, self.log_info()),
            (0x0A, 0x43) => self.entry(data),
            (0x0A, 0x47) => self.clear(data),
            (0x0A, 0x48) => (OK, now().to_le_bytes().to_vec()),
            _ => (UNKNOWN, Vec::new()),
        }
    }

    /// DCMI 1.5, 6.6.1: the power now, and over the last minute as if it had always been the same.
    pub(super) fn power_reading(&self, data: &[u8]) -> Answer {
        let Some(watts) = self.watts else { return (UNKNOWN, Vec::new()) };
        match data {
            [0xDC, 0x01, _, _] => {}
            [0xDC, _, _, _] => return (FIELD, Vec::new()),
            _ => return (LENGTH, Vec::new()),
        }
        let watts = watts.to_le_bytes().repeat(4);
        let (time, period) = (now().to_le_bytes(), 60_000_u32.to_le_bytes());
        (OK, [&[0xDC], &watts[..], &time, &period, &[0x40]].concat())
    }

    /// [35.14]
    fn reading(&self, data: &[u8]) -> Answer {
        let [number] = data else { return (LENGTH, Vec::new()) };
        let at = usize::from(*number).checked_sub(1);
        let Some(sensor) = at.and_then(|at| self.sensors.get(at)) else {
            return (ABSENT, Vec::new());
        };
        let [s0, s1] = sensor.states.to_le_bytes();
        let flags = if sensor.is_there { 0xC0 } else { 0xE0 };
        // The upper bits of comparisons, and the last of states, are read as 1.
        let states = if sensor.unit != 0 { vec![s0 | 0xC0] } else { vec![s0, s1 | 0x80] };
        (OK, [vec![sensor.raw, flags], states].concat())
    }

    /// [33.9]
    fn repository_info(&self) -> Vec<u8> {
        let count = u16::try_from(self.sensors.len()).unwrap_or(0).to_le_bytes();
        let time = self.filled_at.to_le_bytes();
        // Version 2 (1.5h in BCD); free space is not told; it can be reserved.
        [&[0x51], &count[..], &[0xFF, 0xFF], &time[..], &[0; 4], &[0x02]].concat()
    }

    /// [33.12]
    fn record(&self, data: &[u8]) -> Answer {
        let [v0, v1, r0, r1, offset, count] = *data else { return (LENGTH, Vec::new()) };
        let (reservation, id) = (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([r0, r1]));
        if offset != 0 && reservation != self.reservation {
            return (NO_RESERVATION, Vec::new());
        }
        // Records have the ids 1 and up; 0 is the first, 0xFFFF the last.
        let last = u16::try_from(self.sensors.len()).unwrap_or(0);
        let id = match id {
            0 => 1,
            0xFFFF => last,
            id => id,
        };
        let Some(sensor) = self.sensors.get(usize::from(id).wrapping_sub(1)) else {
            return (ABSENT, Vec::new());
        };
        let record = sensor.record(id, u8::try_from(id).unwrap_or(0));
        let left = record.get(usize::from(offset)..).unwrap_or_default();
        let count = if count == 0xFF { left.len() } else { usize::from(count).min(left.len()) };
        if self.piece != 0 && count > usize::from(self.piece) {
            return (TOO_MANY_BYTES, Vec::new());
        }
        let next: u16 = if id == last { 0xFFFF } else { id + 1 };
        (OK, [&next.to_le_bytes(), &left[..count]].concat())
    }

    /// [31.2]
    fn log_info(&self) -> Vec<u8> {
        let count = u16::try_from(self.log.len()).unwrap_or(u16::MAX).to_le_bytes();
        let free = 16_u16.saturating_mul(512_u16.saturating_sub(u16::from_le_bytes(count)));
        let times = [self.logged_at.to_le_bytes(), self.erased_at.to_le_bytes()].concat();
        [&[0x51], &count[..], &free.to_le_bytes(), &times[..], &[0x02]].concat()
    }

    /// [31.5]
    fn entry(&self, data: &[u8]) -> Answer {
        let [_, _, r0, r1, offset, count] = *data else { return (LENGTH, Vec::new()) };
        let id = u16::from_le_bytes([r0, r1]);
        let found = match id {
            0 => self.log.first(),
            0xFFFF => self.log.last(),
            id => self.log.iter().find(|entry| entry[..2] == id.to_le_bytes()),
        };
        let Some(entry) = found else { return (ABSENT, Vec::new()) };
        let behind = self.log.iter().skip_while(|other| *other != entry).nth(1);
        let next = behind.map_or([0xFF, 0xFF], |next| [next[0], next[1]]);
        let left = entry.get(usize::from(offset)..).unwrap_or_default();
        let count = usize::from(count).min(left.len());
        (OK, [&next, &left[..count]].concat())
    }

    /// [31.9]
    fn clear(&mut self, data: &[u8]) -> Answer {
        let [v0, v1, b'C', b'L', b'R', what] = *data else { return (FIELD, Vec::new()) };
        if u16::from_le_bytes([v0, v1]) != self.reservation {
            return (NO_RESERVATION, Vec::new());
        }
        if what == 0xAA {
            self.log.clear();
            self.erased_at = now();
        }
        // It is done at once.
        (OK, vec![0x01])
    }

    /// [34.2]
    fn read_fru(&self, data: &[u8]) -> Answer {
        let [device, o0, o1, count] = *data else { return (LENGTH, Vec::new()) };
        if device != 0 {
            return (ABSENT, Vec::new());
        }
        let Some(left) = self.fru.get(usize::from(u16::from_le_bytes([o0, o1]))..) else {
            return (RANGE, Vec::new());
        };
        let bytes = &left[..usize::from(count).min(left.len())];
        (OK, [&[u8::try_from(bytes.len()).unwrap_or(0)], bytes].concat())
    }
}

/// A board and a product (Platform Management FRU Information Storage Definition).
fn fru() -> Vec<u8> {
    let board = area(&[0, 0, 0, 0], &["Sim Works", "SIM-BOARD", "B-0001", "SB-1"]);
    let product = area(&[0], &["Sim Works", "SIM-2000", "PN-7", "v1", "P-0001", "asset 12"]);
    let second = 1 + u8::try_from(board.len() / 8).unwrap_or(0);
    let mut header = vec![1, 0, 0, 1, second, 0, 0];
    header.push(checksum(&header));
    [header, board, product].concat()
}

/// An area: version, length, what stands before its fields, the fields, and a sum.
fn area(before: &[u8], fields: &[&str]) -> Vec<u8> {
    let mut area = vec![1, 0];
    area.extend(before);
    for field in fields {
        area.push(0xC0 | u8::try_from(field.len()).unwrap_or(0));
        area.extend(field.bytes());
    }
    area.push(0xC1);
    area.resize((area.len() + 1).next_multiple_of(8) - 1, 0);
    area[1] = u8::try_from((area.len() + 1) / 8).unwrap_or(0);
    area.push(checksum(&area));
    area
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}
