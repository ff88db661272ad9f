//! Which sensors a BMC has and what they measure: IPMI 2.0 chapters 33, 35 and 43.
//!
//! `ipmi_rs_core` reads records whole, which many BMCs cannot answer, gets factors above 255 wrong and
//! panics on odd records: so commands and records are read here. Names of types and units are its.

use ipmi_rs_core::{
    connection::{IpmiCommand, Message, NetFn, NotEnoughData},
    storage::sdr::Unit,
};

use super::event::{Severity, State, THRESHOLD};

/// Section 33.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetSdrInfo;

/// What tells whether the records are still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SdrInfo {
    /// How many there are.
    pub records: u16,
    /// When one was last added, and erased, by the BMC's clock.
    pub changed: (u32, u32),
}

impl From<GetSdrInfo> for Message {
    fn from(_: GetSdrInfo) -> Self {
        Self::new_request(NetFn::Storage, 0x20, Vec::new())
    }
}

impl IpmiCommand for GetSdrInfo {
    type Output = SdrInfo;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<SdrInfo, NotEnoughData> {
        let [_, r0, r1, _, _, a0, a1, a2, a3, e0, e1, e2, e3] =
            *data.first_chunk().ok_or(NotEnoughData)?;
        let changed = (u32::from_le_bytes([a0, a1, a2, a3]), u32::from_le_bytes([e0, e1, e2, e3]));
        Ok(SdrInfo { records: u16::from_le_bytes([r0, r1]), changed })
    }
}

/// Section 33.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReserveSdr;

impl From<ReserveSdr> for Message {
    fn from(_: ReserveSdr) -> Self {
        Self::new_request(NetFn::Storage, 0x22, Vec::new())
    }
}

impl IpmiCommand for ReserveSdr {
    type Output = u16;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<u16, NotEnoughData> {
        Ok(u16::from_le_bytes(*data.first_chunk().ok_or(NotEnoughData)?))
    }
}

/// Section 33.12: a part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetSdr {
    /// What [`ReserveSdr`] gave.
    pub reservation: u16,
    /// Which record; 0 is the first.
    pub record: u16,
    /// From which byte on.
    pub offset: u8,
    /// How many bytes.
    pub count: u8,
}

/// A part of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdrPart {
    /// The record behind it; 0xFFFF is none.
    pub next: u16,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl From<GetSdr> for Message {
    fn from(part: GetSdr) -> Self {
        let ([v0, v1], [r0, r1]) = (part.reservation.to_le_bytes(), part.record.to_le_bytes());
        Self::new_request(NetFn::Storage, 0x23, vec![v0, v1, r0, r1, part.offset, part.count])
    }
}

impl IpmiCommand for GetSdr {
    type Output = SdrPart;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<SdrPart, NotEnoughData> {
        let (next, bytes) = data.split_first_chunk().ok_or(NotEnoughData)?;
        Ok(SdrPart { next: u16::from_le_bytes(*next), bytes: bytes.to_vec() })
    }
}

/// A record of the repository that says something about the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum SdrRecord {
    /// A sensor that can be read.
    Sensor(SensorRecord),
    /// A part that has an inventory of its own.
    Fru {
        /// Its number for [`ReadFru`](super::ReadFru).
        device: u8,
        /// What it is called.
        name: String,
    },
}

/// A sensor that can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct SensorRecord {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// What it measures (table 42-3).
    pub sensor_type: u8,
    /// The type of its states (table 42-1).
    pub event_type: u8,
    /// The unit of its number; empty where it has none.
    pub unit: String,
    scale: Option<Scale>,
}

/// How a reading becomes a number (section 36.3).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    format: Format,
    linearization: u8,
    m: i16,
    b: i16,
    b_exponent: i8,
    result_exponent: i8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Unsigned,
    OnesComplement,
    TwosComplement,
}

/// Bytes of a record's header: id, version, type and the length of the rest.
pub const SDR_HEADER: u8 = 5;

/// Types of record that are read: full and compact sensors, FRU device locators.
const FULL: u8 = 0x01;
const COMPACT: u8 = 0x02;
const FRU: u8 = 0x11;

/// What a record's header says: the length of the rest, where the record is one of those that are read.
pub fn sdr_length(header: &[u8]) -> Option<u8> {
    let [_, _, _, kind, length] = *header.first_chunk()?;
    matches!(kind, FULL | COMPACT | FRU).then_some(length)
}

impl SdrRecord {
    /// Reads a whole record; none where it is of another kind, or makes no sense.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let kind = *record.get(3)?;
        let byte = |at: usize| record.get(at).copied();
        match kind {
            FULL => {
                let sensor = SensorRecord::parse(record, 47)?;
                let scale = Scale::parse(record)?;
                Some(Self::Sensor(SensorRecord { scale: Some(scale), ..sensor }))
            }
            COMPACT => SensorRecord::parse(record, 31).map(Self::Sensor),
            // Logical FRU devices of the BMC itself; others lie behind buses of their own.
            FRU if byte(5)? == BMC && byte(7)? & 0x80 != 0 => {
                Some(Self::Fru { device: byte(6)?, name: text(record, 15)? })
            }
            _ => None,
        }
    }
}

/// The BMC's own address on its buses; sensors of others would have to be asked through bridges.
const BMC: u8 = 0x20;

impl SensorRecord {
    fn parse(record: &[u8], name_at: usize) -> Option<Self> {
        let byte = |at: usize| record.get(at).copied();
        let (owner, lun) = (byte(5)?, byte(6)?);
        if owner != BMC || lun & 0x03 != 0 {
            return None;
        }
        let unit = match (byte(20)? & 0x01, byte(21)?) {
            (1, _) => "%".to_owned(),
            (_, 0) => String::new(),
            (_, unit) => unit_name(unit),
        };
        Some(Self {
            number: byte(7)?,
            name: text(record, name_at)?,
            sensor_type: byte(12)?,
            event_type: byte(13)? & 0x7F,
            unit,
            scale: None,
        })
    }

    /// What a reading means.
    pub fn read(&self, reading: &Reading) -> Measured {
        let mut measured = Measured { value: None, severity: None, states: Vec::new() };
        if reading.unavailable {
            return measured;
        }
        if self.event_type == THRESHOLD || self.event_type == 0 {
            measured.value = self.scale.and_then(|scale| scale.number(reading.raw));
        }
        let states = (0_u8..16).filter(|&offset| reading.states & (1_u16 << offset) != 0);
        let states: Vec<_> = match self.event_type {
            // Bits of a comparison are in another order than those of events (section 35.14).
            THRESHOLD => states.filter_map(comparison).collect(),
            event_type => states
                .map(|offset| {
                    let state = State { event_type, sensor_type: self.sensor_type, offset };
                    (state.severity(), state.to_string())
                })
                .collect(),
        };
        measured.severity =
            Some(states.iter().map(|(severity, _)| *severity).max().unwrap_or(Severity::Ok));
        measured.states = states.into_iter().map(|(_, text)| text).collect();
        measured
    }
}

fn comparison(bit: u8) -> Option<(Severity, String)> {
    let (severity, text) = match bit {
        0 => (Severity::Warning, "below lower non-critical"),
        1 => (Severity::Critical, "below lower critical"),
        2 => (Severity::Critical, "below lower non-recoverable"),
        3 => (Severity::Warning, "above upper non-critical"),
        4 => (Severity::Critical, "above upper critical"),
        5 => (Severity::Critical, "above upper non-recoverable"),
        _ => return None,
    };
    Some((severity, text.to_owned()))
}

impl Scale {
    fn parse(record: &[u8]) -> Option<Self> {
        let byte = |at: usize| record.get(at).copied();
        let format = match byte(20)? >> 6 {
            0 => Format::Unsigned,
            1 => Format::OnesComplement,
            2 => Format::TwosComplement,
            // It gives no number.
            _ => return Some(Self::NONE),
        };
        // Ten bits, the upper two of which stand at the top of the next byte.
        let ten = |low: u8, high: u8| {
            let number = i16::from(low) | i16::from(high >> 6) << 8;
            if number & 0x200 == 0 { number } else { number - 0x400 }
        };
        let exponents = byte(29)?;
        let four = |nibble: u8| {
            let number = i8::try_from(nibble & 0x0F).unwrap_or(0);
            if number & 8 == 0 { number } else { number - 16 }
        };
        Some(Self {
            format,
            linearization: byte(23)? & 0x7F,
            m: ten(byte(24)?, byte(25)?),
            b: ten(byte(26)?, byte(27)?),
            result_exponent: four(exponents >> 4),
            b_exponent: four(exponents),
        })
    }

    /// A sensor without a number.
    const NONE: Self = Self {
        format: Format::Unsigned,
        linearization: 0x70,
        m: 0,
        b: 0,
        b_exponent: 0,
        result_exponent: 0,
    };

    fn number(self, raw: u8) -> Option<f64> {
        let x = match self.format {
            Format::Unsigned => f64::from(raw),
            Format::OnesComplement if raw & 0x80 != 0 => -f64::from(!raw),
            Format::OnesComplement => f64::from(raw),
            Format::TwosComplement => f64::from(raw.cast_signed()),
        };
        let ten = |exponent: i8| 10_f64.powi(exponent.into());
        let linear = (f64::from(self.m) * x + f64::from(self.b) * ten(self.b_exponent))
            * ten(self.result_exponent);
        let value = match self.linearization {
            0 => linear,
            1 => linear.ln(),
            2 => linear.log10(),
            3 => linear.log2(),
            4 => linear.exp(),
            5 => 10_f64.powf(linear),
            6 => linear.exp2(),
            7 => linear.recip(),
            8 => linear.powi(2),
            9 => linear.powi(3),
            10 => linear.sqrt(),
            11 => linear.cbrt(),
            // Factors of their own for each reading (0x70 and above) are not asked for.
            _ => return None,
        };
        // What is told has no more digits than were measured.
        value.is_finite().then(|| (value * 1_000.0).round() / 1_000.0)
    }
}

/// What a reading means.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The number, where the sensor has one and it is there.
    pub value: Option<f64>,
    /// How bad it is; none where it cannot be read at the moment.
    pub severity: Option<Severity>,
    /// What is asserted, in words.
    pub states: Vec<String>,
}

/// Section 35.14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetReading {
    /// The sensor's number.
    pub sensor: u8,
}

/// A reading as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The number, before it is scaled.
    pub raw: u8,
    /// There is none at the moment, or the sensor is switched off.
    pub unavailable: bool,
    /// Which comparisons hold, or which states are asserted.
    pub states: u16,
}

impl From<GetReading> for Message {
    fn from(reading: GetReading) -> Self {
        Self::new_request(NetFn::SensorEvent, 0x2D, vec![reading.sensor])
    }
}

impl IpmiCommand for GetReading {
    type Output = Reading;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Reading, NotEnoughData> {
        let [raw, flags] = *data.first_chunk().ok_or(NotEnoughData)?;
        let state = |at: usize| u16::from(data.get(at).copied().unwrap_or(0));
        // Bit 15 is reserved, and read as 1.
        let states = (state(2) | state(3) << 8) & 0x7FFF;
        Ok(Reading { raw, unavailable: flags & 0x20 != 0 || flags & 0x40 == 0, states })
    }
}

fn unit_name(unit: u8) -> String {
    let name = match unit {
        1 => "°C",
        2 => "°F",
        4 => "V",
        5 => "A",
        6 => "W",
        7 => "J",
        17 => "CFM",
        18 => "RPM",
        19 => "Hz",
        _ => return Unit::from(unit).display(true, 0_u8).trim_start_matches("0 ").to_owned(),
    };
    name.to_owned()
}

/// A type/length byte and the text behind it (section 43.15).
fn text(record: &[u8], at: usize) -> Option<String> {
    let head = *record.get(at)?;
    let length = usize::from(head & 0x1F);
    let rest = record.get(at + 1..)?;
    let bytes = rest.get(..length).unwrap_or(rest);
    Some(super::fru::decode(head >> 6, bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A full record of a sensor of type `kind`, named `name`.
    fn full(kind: u8, unit: u8, m: i16, exponents: u8, format: u8, name: &str) -> Vec<u8> {
        let mut record = vec![1, 0, 0x51, FULL, 0, BMC, 0, 9];
        record.resize(47, 0);
        record[12] = kind;
        record[13] = THRESHOLD;
        record[20] = format << 6;
        record[21] = unit;
        let [low, high] = m.to_le_bytes();
        (record[24], record[25]) = (low, high << 6);
        record[29] = exponents;
        record.push(0xC0 | u8::try_from(name.len()).unwrap());
        record.extend(name.as_bytes());
        record[4] = u8::try_from(record.len() - 5).unwrap();
        record
    }

    fn sensor(record: &[u8]) -> SensorRecord {
        match SdrRecord::parse(record) {
            Some(SdrRecord::Sensor(sensor)) => sensor,
            other => panic!("{other:?}"),
        }
    }

    fn reading(data: &[u8]) -> Reading {
        GetReading::parse_success_response(data).unwrap()
    }

    #[test]
    fn a_reading_becomes_a_number_with_its_unit() {
        let fan = sensor(&full(0x04, 18, 300, 0, 0, "FAN 1"));
        let measured = fan.read(&reading(&[20, 0xC0, 0xC0, 0x80]));
        assert_eq!((measured.value, fan.unit.as_str()), (Some(6_000.0), "RPM"));
        assert_eq!(measured.severity, Some(Severity::Ok));
        // 0.06 V: the result's exponent is -2.
        let volt = sensor(&full(0x02, 4, 6, 0xE0, 0, "12V"));
        assert_eq!(volt.read(&reading(&[200, 0xC0])).value, Some(12.0));
        let cold = sensor(&full(0x01, 1, 1, 0, 2, "Inlet"));
        assert_eq!(cold.read(&reading(&[0xFB, 0xC0])).value, Some(-5.0));
        let negative = sensor(&full(0x01, 1, -2, 0, 0, "x"));
        assert_eq!(negative.read(&reading(&[3, 0xC0])).value, Some(-6.0));
    }

    #[test]
    fn what_is_above_its_threshold_is_told() {
        let sensor = sensor(&full(0x01, 1, 1, 0, 0, "CPU"));
        let hot = sensor.read(&reading(&[98, 0xC0, 0x18, 0x80]));
        assert_eq!(hot.severity, Some(Severity::Critical));
        assert_eq!(hot.states, ["above upper non-critical", "above upper critical"]);
        let absent = sensor.read(&reading(&[0, 0xE0, 0]));
        assert_eq!((absent.value, absent.severity), (None, None));
        let off = sensor.read(&reading(&[7, 0x00, 0xFF]));
        assert_eq!((off.value, off.severity), (None, None));
    }

    #[test]
    fn a_power_supply_that_has_lost_its_input_is_critical() {
        let mut record = vec![1, 0, 0x51, COMPACT, 30, BMC, 0, 0x70];
        record.resize(31, 0);
        (record[12], record[13]) = (0x08, 0x6F);
        record.extend([0xC4, b'P', b'S', b'U', b'1']);
        let supply = sensor(&record);
        assert_eq!(supply.name, "PSU1");
        let present = supply.read(&reading(&[0, 0xC0, 0x01, 0x80]));
        assert_eq!((present.value, present.severity), (None, Some(Severity::Ok)));
        let dead = supply.read(&reading(&[0, 0xC0, 0x09, 0x80]));
        assert_eq!(dead.severity, Some(Severity::Critical));
        assert_eq!(dead.states.len(), 2, "{dead:?}");
    }

    #[test]
    fn no_record_stops_anybody() {
        let whole = full(0x01, 1, 1, 0, 0, "CPU");
        for end in 0..whole.len() {
            let _ = SdrRecord::parse(&whole[..end]);
        }
        for place in 0..whole.len() {
            for byte in [0, 1, 0x11, 0x1F, 0x3F, 0x7F, 0xFF] {
                let mut bent = whole.clone();
                bent[place] = byte;
                if let Some(SdrRecord::Sensor(sensor)) = SdrRecord::parse(&bent) {
                    for raw in [0, 1, 0x80, 0xFF] {
                        let _ = sensor.read(&reading(&[raw, 0xC0, 0xFF, 0xFF]));
                    }
                }
            }
        }
        for unit in 0..=0xFF {
            assert!(unit == 0 || !unit_name(unit).is_empty());
        }
    }
}
