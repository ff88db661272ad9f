//! A BMC's own log of events: IPMI 2.0 chapters 31 and 32.
//!
//! Info, reservation and clearing are `ipmi_rs_core`'s. An entry of a kind that it does not know would hide all
//! behind it, so entries are read here as bytes first.

use ipmi_rs_core::{
    connection::{IpmiCommand, Message, NetFn, NotEnoughData},
    storage::sel::{Entry, EventDirection},
};

use super::event::{Severity, State, kind};

/// Section 31.5: one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetSelRecord {
    /// Which; 0 is the first, 0xFFFF the last.
    pub record: u16,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelRecord {
    /// The entry behind it; 0xFFFF is none.
    pub next: u16,
    bytes: [u8; 16],
}

impl From<GetSelRecord> for Message {
    fn from(record: GetSelRecord) -> Self {
        let [r0, r1] = record.record.to_le_bytes();
        Self::new_request(NetFn::Storage, 0x43, vec![0, 0, r0, r1, 0, 0xFF])
    }
}

impl IpmiCommand for GetSelRecord {
    type Output = SelRecord;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<SelRecord, NotEnoughData> {
        let (next, rest) = data.split_first_chunk().ok_or(NotEnoughData)?;
        let bytes = *rest.first_chunk().ok_or(NotEnoughData)?;
        Ok(SelRecord { next: u16::from_le_bytes(*next), bytes })
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelEvent {
    /// Seconds since 1970, by the BMC's clock.
    pub at: Option<u32>,
    /// The sensor's number, where it is about one.
    pub sensor: Option<u8>,
    /// What the sensor measures, or what kind of entry it is.
    pub kind: String,
    /// What happened.
    pub text: String,
    /// Whether it began; else it ended.
    pub asserted: bool,
    /// How bad that is.
    pub severity: Severity,
}

impl SelRecord {
    /// The entry's number.
    pub fn id(&self) -> u16 {
        let [low, high, ..] = self.bytes;
        u16::from_le_bytes([low, high])
    }

    /// What it says.
    pub fn event(&self) -> SelEvent {
        let [_, _, record_type, t0, t1, t2, t3, ..] = self.bytes;
        let time = u32::from_le_bytes([t0, t1, t2, t3]);
        // Below 0x20000000 a clock counts from its own start, and all ones are none (section 37.1).
        let at = (0x2000_0000..u32::MAX).contains(&time).then_some(time);
        match Entry::parse(&self.bytes) {
            Ok(Entry::System {
                sensor_type,
                sensor_number,
                event_direction,
                event_type,
                event_data,
                ..
            }) => {
                let offset = event_data.offset & 0x0F;
                let state = State { event_type, sensor_type, offset };
                let asserted = event_direction == EventDirection::Assert;
                SelEvent {
                    at,
                    sensor: Some(sensor_number),
                    kind: kind(sensor_type),
                    text: state.to_string(),
                    asserted,
                    severity: if asserted { state.severity() } else { Severity::Ok },
                }
            }
            Ok(Entry::OemTimestamped { data, .. }) => {
                self.foreign(at, format!("the maker's own: {}", hex::encode(data)))
            }
            Ok(Entry::OemNotTimestamped { data, .. }) => {
                self.foreign(None, format!("the maker's own: {}", hex::encode(data)))
            }
            Err(_) => self.foreign(None, format!("of unknown kind {record_type:#04x}")),
        }
    }

    fn foreign(&self, at: Option<u32>, text: String) -> SelEvent {
        let kind = "OEM".to_owned();
        SelEvent { at, sensor: None, kind, text, asserted: true, severity: Severity::Ok }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(entry: [u8; 16]) -> SelRecord {
        let data = [&[0xFF, 0xFF][..], &entry].concat();
        GetSelRecord::parse_success_response(&data).unwrap()
    }

    #[test]
    fn an_entry_says_what_happened_to_which_sensor() {
        let entry =
            [7, 0, 2, 0x00, 0x00, 0x00, 0x60, 0x20, 0, 4, 0x0C, 0x51, 0x6F, 0x01, 0xFF, 0xFF];
        let event = record(entry).event();
        assert_eq!((record(entry).id(), event.sensor, event.asserted), (7, Some(0x51), true));
        assert_eq!(event.at, Some(0x6000_0000));
        assert_eq!((event.kind.as_str(), event.severity), ("Memory", Severity::Critical));
        assert!(event.text.to_lowercase().contains("uncorrectable"), "{event:?}");
    }

    #[test]
    fn every_entry_says_something() {
        for record_type in 0..=0xFF {
            for byte in [0, 0x7F, 0xFF] {
                let mut entry = [byte; 16];
                entry[2] = record_type;
                assert!(!record(entry).event().text.is_empty());
            }
        }
        assert!(GetSelRecord::parse_success_response(&[0; 17]).is_err());
    }
}
