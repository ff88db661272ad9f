//! How a machine is, by its BMC: device id, sensors, log, FRUs.
//!
//! A BMC is a slow computer with better things to do. So what cannot have changed is not read again: the
//! sensors' records and FRUs while the repository has the same dates, and the log while it has. Before each
//! command it is waited until no power call is under way, and everything that a BMC can say without end
//! has a bound.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt};
use haas_api::hardware::{BmcInfo, Fru, FruField, Level, SelEntry, Sensor, tame};
use ipmi_lan::{
    Bmc, Error,
    command::{
        FRU_HEADER, GetPowerReading, GetReading, GetSdr, GetSdrInfo, GetSelRecord, Measured,
        ReadFru, ReserveSdr, SDR_HEADER, SdrInfo, SdrRecord, SelRecord, SensorRecord, Severity,
        fru_area_length, fru_areas, kind, sdr_length,
    },
    ipmi_rs_core::{
        app::{DeviceId, GetDeviceId},
        connection::{CompletionErrorCode as Code, IpmiCommand},
        storage::{
            Timestamp,
            sel::{ClearSel, ErasureProgress, GetSelInfo, ReserveSel},
        },
    },
};

use super::{
    super::{BmcReport, HealthDriver, PowerError, SelReport, Turn},
    BmcFault, Ipmi, unless_refused,
};

/// How long one command may take, and all of a look.
const COMMAND: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(300);
/// Sensors and FRUs of one BMC.
const MOST_RECORDS: usize = 512;
/// Entries of a log that are kept.
const MOST_ENTRIES: u16 = 128;
/// Entries that are walked to find the last ones, where their numbers do not tell.
const LONGEST_WALK: usize = 8_192;
/// FRUs of one machine, and bytes of one area.
const MOST_FRUS: usize = 16;
const LONGEST_AREA: u16 = 1_024;
/// Bytes that are read at once: every BMC can do that many, or half of it.
const PIECE: u8 = 16;
/// How often the repository may change under the reading.
const RESTARTS: usize = 5;
/// How long a BMC may take to clear its log.
const CLEARING: Duration = Duration::from_secs(30);

/// What need not be read again, by BMC.
static KNOWN: LazyLock<Mutex<HashMap<SocketAddr, Known>>> = LazyLock::new(Mutex::default);

#[derive(Debug, Clone, Default)]
struct Known {
    /// What the repository said of itself as its records were read.
    repository: Option<SdrInfo>,
    records: Arc<Vec<SdrRecord>>,
    frus: Vec<Fru>,
    /// The log's dates, and what stood in it.
    log: Option<(LogDates, Vec<SelRecord>)>,
}

/// When an entry was last added and erased, and how many there are.
type LogDates = (Timestamp, Timestamp, u16);

impl HealthDriver for Ipmi {
    fn look(&self) -> BoxFuture<'_, Result<BmcReport, PowerError>> {
        let tried = "read the sensors and the log";
        self.gently(tried, WHOLE, |gentle| async move { gentle.look().await }).boxed()
    }

    fn clear_sel(&self) -> BoxFuture<'_, Result<(), PowerError>> {
        self.gently("clear the log", WHOLE, |gentle| async move { gentle.clear_sel().await })
            .boxed()
    }
}

impl Ipmi {
    pub(super) async fn gently<T, F: Future<Output = Result<T, Error>>>(
        &self,
        tried: &'static str,
        limit: Duration,
        work: impl FnOnce(Gentle) -> F,
    ) -> Result<T, PowerError> {
        let bmc = self.login.bmc;
        let error = |fault| PowerError::Bmc { bmc, tried, fault };
        let account = self.login.account()?.map_err(error)?;
        let gentle = Gentle { bmc: self.fleet.bmc(bmc, &account), turn: Arc::clone(&self.turn) };
        match tokio::time::timeout(limit, work(gentle)).await {
            Ok(outcome) => outcome.map_err(|told| error(BmcFault::of(told, COMMAND))),
            Err(_) => Err(error(BmcFault::TooSlow(limit))),
        }
    }
}

/// A BMC that is asked behind everybody else.
pub(super) struct Gentle {
    bmc: Bmc,
    turn: Turn,
}

impl Gentle {
    pub(super) async fn ask<C: IpmiCommand>(&self, command: C) -> Result<C::Output, Error> {
        drop(self.turn.lock().await);
        self.bmc.ask(command, Instant::now() + COMMAND).await
    }

    async fn look(&self) -> Result<BmcReport, Error> {
        let address = self.bmc.address();
        let mut known = KNOWN.lock().unwrap_or_else(|p| p.into_inner()).get(&address).cloned();
        let known = known.get_or_insert_default();
        let device = self.ask(GetDeviceId).await?;
        if let Some(repository) = unless_refused(self.ask(GetSdrInfo).await)?
            && known.repository != Some(repository)
        {
            known.records = Arc::new(self.records(repository).await?);
            known.frus = self.frus(&known.records).await?;
            known.repository = Some(repository);
        }
        let sensors = self.sensors(&known.records).await?;
        // Not every BMC speaks DCMI, and many do not measure while the machine is off.
        let watts = match self.ask(GetPowerReading).await {
            Err(Error::Garbled(_)) => None,
            told => unless_refused(told)?.flatten().map(u32::from),
        };
        let sel = self.sel(known).await?;
        let info = BmcInfo { frus: known.frus.clone(), ..info(&device) };
        KNOWN.lock().unwrap_or_else(|p| p.into_inner()).insert(address, known.clone());
        Ok(BmcReport { info, sensors, watts, sel })
    }

    /// Every record that says something, from the first to the last.
    async fn records(&self, repository: SdrInfo) -> Result<Vec<SdrRecord>, Error> {
        let mut restarts = 0;
        let mut reservation = self.ask(ReserveSdr).await?;
        let mut piece = PIECE;
        let mut records = Vec::new();
        let mut record = 0;
        // A repository may hold other records too, and its links may run in a circle.
        for _ in 0..usize::from(repository.records).clamp(1, 4 * MOST_RECORDS) {
            if records.len() >= MOST_RECORDS {
                break;
            }
            let next = loop {
                match self.record(reservation, record, piece).await {
                    Ok((next, bytes)) => {
                        records.extend(bytes.and_then(|bytes| SdrRecord::parse(&bytes)));
                        break next;
                    }
                    Err(Error::Refused { code: Code::ReservationCancelledOrInvalidId, .. })
                        if restarts < RESTARTS =>
                    {
                        restarts += 1;
                        reservation = self.ask(ReserveSdr).await?;
                    }
                    Err(Error::Refused { code: Code::CannotReturnNumOfRequestedBytes, .. })
                        if piece == PIECE =>
                    {
                        piece = PIECE / 2;
                    }
                    // It has none, or no more.
                    Err(Error::Refused { code: Code::RequestedDatapointNotPresent, .. }) => {
                        return Ok(records);
                    }
                    Err(error) => return Err(error),
                }
            };
            if next == u16::MAX || next == record {
                break;
            }
            record = next;
        }
        Ok(records)
    }

    /// The record behind one, and its bytes where they are wanted.
    async fn record(
        &self,
        reservation: u16,
        record: u16,
        piece: u8,
    ) -> Result<(u16, Option<Vec<u8>>), Error> {
        let head = GetSdr { reservation, record, offset: 0, count: SDR_HEADER };
        let head = self.ask(head).await?;
        let Some(length) = sdr_length(&head.bytes) else { return Ok((head.next, None)) };
        let end = SDR_HEADER.saturating_add(length);
        let mut bytes = head.bytes;
        bytes.truncate(SDR_HEADER.into());
        while let Some(offset) = u8::try_from(bytes.len()).ok().filter(|at| *at < end) {
            let count = piece.min(end - offset);
            let part = self.ask(GetSdr { reservation, record, offset, count }).await?;
            if part.bytes.is_empty() {
                break;
            }
            bytes.extend(part.bytes);
        }
        Ok((head.next, Some(bytes)))
    }

    async fn sensors(&self, records: &[SdrRecord]) -> Result<Vec<Sensor>, Error> {
        let mut sensors = Vec::new();
        for record in records {
            let SdrRecord::Sensor(record) = record else { continue };
            // A sensor that is not there is refused; one that is slow is not worth the others.
            let reading = unless_refused(self.ask(GetReading { sensor: record.number }).await)?;
            sensors.push(sensor(record, reading.map(|reading| record.read(&reading))));
        }
        Ok(sensors)
    }

    async fn frus(&self, records: &[SdrRecord]) -> Result<Vec<Fru>, Error> {
        // The machine's own is always 0, whether a record names it or not.
        let mut devices = vec![(0, "machine".to_owned())];
        for record in records {
            if let SdrRecord::Fru { device, name } = record
                && devices.len() < MOST_FRUS
            {
                match devices.iter_mut().find(|(known, _)| known == device) {
                    Some((_, known)) => known.clone_from(name),
                    None => devices.push((*device, name.clone())),
                }
            }
        }
        let mut frus = Vec::new();
        for (device, name) in devices {
            // One that is not plugged in is refused.
            if let Some(fields) = unless_refused(self.fru(device).await)?
                && !fields.is_empty()
            {
                frus.push(Fru { name: tame(&name), fields });
            }
        }
        Ok(frus)
    }

    async fn fru(&self, device: u8) -> Result<Vec<FruField>, Error> {
        let header = self.fru_bytes(device, 0, FRU_HEADER.into()).await?;
        let mut fields = Vec::new();
        for (area, at) in fru_areas(&header).unwrap_or_default() {
            let head = self.fru_bytes(device, at, 2).await?;
            let Some(length) = fru_area_length(&head) else { continue };
            let bytes = self.fru_bytes(device, at, length.min(LONGEST_AREA)).await?;
            let known = area.fields(&bytes).into_iter();
            fields.extend(
                known.map(|(name, value)| FruField { name: name.to_owned(), value: tame(&value) }),
            );
        }
        Ok(fields)
    }

    async fn fru_bytes(&self, device: u8, from: u16, length: u16) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(left) = length.checked_sub(u16::try_from(bytes.len()).unwrap_or(length))
            && left > 0
        {
            let offset = from.saturating_add(length - left);
            let count = u8::try_from(left).unwrap_or(PIECE).min(PIECE);
            let part = self.ask(ReadFru { device, offset, count }).await?;
            if part.is_empty() {
                break;
            }
            bytes.extend(part);
        }
        Ok(bytes)
    }

    async fn sel(&self, known: &mut Known) -> Result<SelReport, Error> {
        let Some(info) = unless_refused(self.ask(GetSelInfo).await)? else {
            return Ok(SelReport::default());
        };
        let dates = (info.last_add_time, info.last_del_time, info.entries);
        let unchanged = known.log.take().filter(|(before, _)| *before == dates);
        let entries = match unchanged {
            Some((_, entries)) => entries,
            None if info.entries == 0 => Vec::new(),
            None => self.last_entries(info.entries).await?,
        };
        let items = entries.iter().map(|entry| shown(entry, &known.records)).collect();
        known.log = Some((dates, entries));
        let used = 16 * u32::from(info.entries);
        let room = used + u32::from(info.bytes_free);
        // All ones: it is more than fits, or not known.
        let is_told = info.bytes_free != u16::MAX && room > 0;
        Ok(SelReport {
            total: info.entries.into(),
            used_percent: is_told.then(|| 100 * used / room),
            items,
        })
    }

    /// The last entries, oldest first. Their numbers mostly have no gaps, so that it is begun a little
    /// before the last one; else at the first.
    async fn last_entries(&self, count: u16) -> Result<Vec<SelRecord>, Error> {
        let last = self.ask(GetSelRecord { record: u16::MAX }).await?;
        let start = match last.id().checked_sub(MOST_ENTRIES - 1) {
            Some(start) if count > MOST_ENTRIES && start > 0 => start,
            _ => 0,
        };
        let mut record = start;
        let mut entries: Vec<SelRecord> = Vec::new();
        for _ in 0..LONGEST_WALK {
            let entry = match self.ask(GetSelRecord { record }).await {
                Err(Error::Refused { .. }) if record == start && start != 0 => {
                    record = 0;
                    continue;
                }
                // It was cleared meanwhile.
                Err(Error::Refused { .. }) => break,
                answer => answer?,
            };
            let next = entry.next;
            entries.push(entry);
            if entries.len() > MOST_ENTRIES.into() {
                entries.remove(0);
            }
            if next == u16::MAX || next == record {
                break;
            }
            record = next;
        }
        Ok(entries)
    }

    async fn clear_sel(&self) -> Result<(), Error> {
        // A BMC that knows no reservations wants none.
        let reservation = unless_refused(self.ask(ReserveSel).await)?;
        let mut progress = self.ask(ClearSel::initiate(reservation)).await?;
        let until = Instant::now() + CLEARING;
        while progress == ErasureProgress::InProgress {
            if Instant::now() > until {
                return Err(Error::TooSlow);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            progress = self.ask(ClearSel::get_status(reservation)).await?;
        }
        Ok(())
    }
}

fn info(device: &DeviceId) -> BmcInfo {
    BmcInfo {
        protocol: format!("IPMI {}.{}", device.major_version, device.minor_version),
        firmware: Some(format!("{}.{:02}", device.major_fw_revision, device.minor_fw_revision)),
        vendor: Some(vendor(device.manufacturer_id)),
        product: Some(format!("{:#06x}", device.product_id)),
        frus: Vec::new(),
    }
}

/// Who has this number of IANA's (enterprise numbers), of those who make BMCs.
fn vendor(number: u32) -> String {
    let name = match number & 0x000F_FFFF {
        2 => "IBM",
        11 => "HPE",
        42 => "Oracle",
        343 => "Intel",
        674 => "Dell",
        7_154 => "IPMI forum",
        10_368 => "Fujitsu",
        10_876 => "Supermicro",
        15_370 => "Gigabyte",
        19_046 => "Lenovo",
        20_301 => "IBM",
        2_011 => "Huawei",
        49_622 | 7_244 => "Quanta",
        number => return format!("IANA {number}"),
    };
    name.to_owned()
}

fn sensor(record: &SensorRecord, measured: Option<Measured>) -> Sensor {
    let kind = tame(&kind(record.sensor_type));
    let empty = Measured { value: None, severity: None, states: Vec::new() };
    let Measured { value, severity, states } = measured.unwrap_or(empty);
    Sensor {
        name: tame(&record.name),
        kind,
        unit: if value.is_some() { record.unit.clone() } else { String::new() },
        value,
        level: severity.map_or(Level::Unknown, level),
        states,
    }
}

fn shown(entry: &SelRecord, records: &[SdrRecord]) -> SelEntry {
    let event = entry.event();
    let named = records.iter().find_map(|record| match record {
        SdrRecord::Sensor(sensor) if Some(sensor.number) == event.sensor => Some(&sensor.name),
        SdrRecord::Sensor(_) | SdrRecord::Fru { .. } => None,
    });
    let sensor = match (named, event.sensor) {
        (Some(name), _) => name.clone(),
        (None, Some(number)) => format!("{} {number:#04x}", event.kind),
        (None, None) => event.kind,
    };
    SelEntry {
        id: entry.id().into(),
        at: event.at.map(|at| crate::clock::rfc3339(i64::from(at) * crate::model::SECOND)),
        sensor: tame(&sensor),
        event: tame(&event.text),
        asserted: event.asserted,
        level: level(event.severity),
    }
}

fn level(severity: Severity) -> Level {
    match severity {
        Severity::Ok => Level::Ok,
        Severity::Warning => Level::Warning,
        Severity::Critical => Level::Critical,
    }
}
