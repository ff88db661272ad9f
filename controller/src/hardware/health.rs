//! How well a node is, from all that is known of its hardware. Pure.

use haas_api::hardware::{Health, Level, Sel};

use crate::{
    model::{Micros, SECOND},
    store::HardwareRow,
};

/// For how long an entry of the BMC's log counts.
const RECENT: Micros = 24 * 3_600 * SECOND;

/// More reasons than fit on a screen.
const MOST: usize = 16;

/// A log that is fuller than this is told, in percent: a full one takes no more entries.
const FULL: u32 = 90;

/// The worst of all parts, and why. `is_off`: the machine is, so that what its fans and supplies measure
/// says nothing. `now` is of the wall clock.
pub(super) fn roll_up(row: &HardwareRow, is_off: bool, now: Micros) -> Health {
    let mut reasons: Vec<(Level, String)> = Vec::new();
    let mut is_known = false;
    if let Some((inventory, _)) = &row.inventory {
        is_known = true;
        for disk in &inventory.disks {
            if disk.smart.level > Level::Ok {
                let serial = disk.serial.as_deref().unwrap_or("without serial number");
                let why = disk.smart.reasons.join(", ");
                reasons.push((disk.smart.level, format!("disk {} ({serial}): {why}", disk.name)));
            }
        }
    }
    if row.reaches_boot.is_some() {
        is_known = true;
        let reaches = row.reaches.iter().map(|what| (Level::Warning, format!("reaches {what}")));
        reasons.extend(reaches);
    }
    if let Some(error) = &row.bmc_error {
        reasons.push((Level::Warning, error.clone()));
    }
    if row.bmc_at.is_some() {
        is_known = true;
        let bad = row.sensors.iter().filter(|sensor| sensor.level > Level::Ok);
        for sensor in bad.filter(|sensor| !is_off || sensor.value.is_none()) {
            let value = sensor.value.map(|value| format!(" {value} {}", sensor.unit));
            let states = sensor.states.join(", ");
            let what = format!("{}:{} {states}", sensor.name, value.unwrap_or_default());
            reasons.push((sensor.level, what));
        }
        reasons.extend(log(row, now));
    }
    reasons.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let worst = reasons.first().map(|(level, _)| *level);
    let level = worst.unwrap_or(if is_known { Level::Ok } else { Level::Unknown });
    let more = reasons.len().saturating_sub(MOST);
    let mut reasons: Vec<_> = reasons.into_iter().take(MOST).map(|(_, what)| what).collect();
    if more > 0 {
        reasons.push(format!("{more} more"));
    }
    Health { level, reasons }
}

/// What the BMC's log says. It tells of what was, so that it is never more than a warning: what still is
/// so, a sensor says.
fn log(row: &HardwareRow, now: Micros) -> Vec<(Level, String)> {
    let mut reasons = Vec::new();
    let bad = row.sel.items.iter().filter(|entry| entry.level > Level::Ok && entry.asserted);
    let recent = bad.filter(|entry| {
        let at: Option<jiff::Timestamp> = entry.at.as_ref().and_then(|at| at.parse().ok());
        at.is_some_and(|at| (now - at.as_microsecond()).abs() < RECENT)
    });
    let mut told: Vec<String> = Vec::new();
    for entry in recent {
        let what = format!("log: {} {}", entry.sensor, entry.event);
        // A correctable error comes a thousand times.
        if !told.contains(&what) {
            told.push(what);
        }
    }
    reasons.extend(told.into_iter().map(|what| (Level::Warning, what)));
    if row.sel.used_percent.is_some_and(|used| used > FULL) {
        let used = row.sel.used_percent.unwrap_or_default();
        let what = format!("the BMC's log is {used} % full: `haasctl node sel NODE --clear`");
        reasons.push((Level::Warning, what));
    }
    reasons
}

/// What the API says of the log.
pub(crate) fn shown_sel(row: HardwareRow) -> Sel {
    Sel {
        at: row.bmc_at.map(crate::clock::rfc3339),
        error: row.bmc_error,
        total: row.sel.total,
        used_percent: row.sel.used_percent,
        clearing: row.clear_by,
        items: row.sel.items,
    }
}

#[cfg(test)]
mod tests {
    use haas_api::hardware::{DiskDrive, Inventory, SelEntry, Sensor, Smart};

    use super::*;
    use crate::power::SelReport;

    const NOW: Micros = 1_800_000_000 * SECOND;

    fn sensor(name: &str, level: Level) -> Sensor {
        Sensor {
            name: name.to_owned(),
            value: Some(97.0),
            unit: "°C".to_owned(),
            level,
            states: vec!["above upper critical".to_owned()],
            ..Sensor::default()
        }
    }

    fn entry(level: Level, ago: Micros) -> SelEntry {
        SelEntry {
            at: Some(crate::clock::rfc3339(NOW - ago)),
            sensor: "DIMM A3".to_owned(),
            event: "uncorrectable".to_owned(),
            asserted: true,
            level,
            ..SelEntry::default()
        }
    }

    fn asked(sensors: Vec<Sensor>, items: Vec<SelEntry>) -> HardwareRow {
        let sel = SelReport { total: 1, used_percent: Some(1), items };
        HardwareRow { bmc_at: Some(NOW), sensors, sel, ..HardwareRow::default() }
    }

    #[test]
    fn who_has_told_nothing_is_not_called_well() {
        assert_eq!(roll_up(&HardwareRow::default(), false, NOW).level, Level::Unknown);
        let row = asked(vec![sensor("CPU", Level::Ok), sensor("x", Level::Unknown)], Vec::new());
        assert_eq!(roll_up(&row, false, NOW), Health { level: Level::Ok, reasons: Vec::new() });
    }

    #[test]
    fn the_worst_part_decides_and_comes_first() {
        let mut row = asked(vec![sensor("CPU", Level::Critical)], vec![entry(Level::Critical, 60)]);
        row.inventory = Some((
            Inventory {
                disks: vec![DiskDrive {
                    name: "sda".to_owned(),
                    serial: Some("D1".to_owned()),
                    smart: Smart {
                        level: Level::Warning,
                        reasons: vec!["3 media errors".to_owned()],
                        ..Smart::default()
                    },
                    ..DiskDrive::default()
                }],
                ..Inventory::default()
            },
            NOW,
        ));
        let health = roll_up(&row, false, NOW);
        assert_eq!(health.level, Level::Critical);
        assert_eq!(
            health.reasons,
            [
                "CPU: 97 °C above upper critical",
                "disk sda (D1): 3 media errors",
                "log: DIMM A3 uncorrectable"
            ]
        );
    }

    #[test]
    fn an_old_entry_of_the_log_does_not_count_and_a_silent_bmc_does() {
        let old = asked(Vec::new(), vec![entry(Level::Critical, 2 * RECENT)]);
        assert_eq!(roll_up(&old, false, NOW).level, Level::Ok);
        let many = asked(Vec::new(), vec![entry(Level::Warning, SECOND); 500]);
        assert_eq!(roll_up(&many, false, NOW).reasons.len(), 1);
        let error = Some("BMC 10.0.0.1:623: no answer".to_owned());
        let silent = HardwareRow { bmc_error: error, ..HardwareRow::default() };
        assert_eq!(roll_up(&silent, false, NOW).level, Level::Warning);
    }
    #[test]
    fn fans_that_stand_still_in_a_machine_that_is_off_are_well() {
        let stopped = Sensor { value: Some(0.0), ..sensor("FAN1", Level::Critical) };
        let failed = Sensor { value: None, ..sensor("PSU1", Level::Critical) };
        let fan = asked(vec![stopped.clone()], Vec::new());
        assert_eq!(roll_up(&fan, true, NOW).level, Level::Ok);
        assert_eq!(roll_up(&fan, false, NOW).level, Level::Critical);
        let supply = asked(vec![stopped, failed], Vec::new());
        assert_eq!(roll_up(&supply, true, NOW).reasons.len(), 1);
    }
}
