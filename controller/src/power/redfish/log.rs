//! The BMC's log of what happened to the machine (schemas LogService and LogEntry). Each vendor has it at
//! another place and under another name:
//!
//! | Name | Seen with |
//! |---|---|
//! | `SEL` | AMI, below the manager (DMTF/Redfishtool#9); Dell, written `Sel` (mrlhansen/idrac_exporter#168) |
//! | `IML` | HPE (HewlettPackard/python-ilorest-library, `clear_ilo_IEL_IML_log.py`) |
//! | `EventLog` | OpenBMC (ibm-openbmc/dev#559) |
//! | `Log1`, `Log` | Supermicro; others with its firmware (xcat2/xcat2-task-management#523) |
//!
//! Some begin with the newest entry and some with the oldest, and pages have 50 entries with some
//! (stmcginnis/gofish#243): only as many are read as are kept.

use haas_api::hardware::{Level, SelEntry, tame};
use serde_json::{Value, json};

use super::{
    super::SelReport,
    fault::RedfishFault,
    orders::target,
    parts::{Ask, Page, is_link, page, path, resolve, text},
    session::id,
};
use crate::clock;

/// Entries that are kept, and read one by one where the log only links to them.
const ENTRIES_MAX: usize = 128;
const LINKED_MAX: usize = 32;
/// Pages that are read of one log.
const PAGES_MAX: usize = 16;
/// Names of the log that is looked for, in small letters; the first that is there is taken.
const NAMES: [&str; 5] = ["sel", "iml", "eventlog", "log1", "log"];

/// The log's service: by its name, or else the first of the system's, or the first of the manager's.
pub(super) async fn service(
    ask: &mut impl Ask,
    system: &Value,
    manager: Option<&Value>,
) -> Result<Option<Value>, RedfishFault> {
    let mut services = Vec::new();
    for owner in [Some(system), manager].into_iter().flatten() {
        let Some(path) = path(&owner["LogServices"]) else { continue };
        let page = page(ask, &path).await?;
        services.extend(page.map(|page| page.members).unwrap_or_default());
    }
    let rank = |service: &Value| {
        let name = path(service).map(|path| id(&path).to_ascii_lowercase());
        let known = NAMES.iter().position(|known| name.as_deref() == Some(known));
        known.unwrap_or(NAMES.len())
    };
    let mut best: Vec<_> = services.into_iter().min_by_key(rank).into_iter().collect();
    resolve(ask, &mut best).await?;
    Ok(best.pop())
}

/// What stands in a log.
pub(super) async fn read(ask: &mut impl Ask, service: &Value) -> Result<SelReport, RedfishFault> {
    let Some(path) = path(&service["Entries"]) else { return Ok(SelReport::default()) };
    let Some(first) = page(ask, &path).await? else { return Ok(SelReport::default()) };
    let total = first.count;
    let mut entries = last_entries(ask, &path, first).await?;
    resolve(ask, &mut entries).await?;
    let mut items: Vec<_> = entries.iter().enumerate().map(|(at, entry)| item(at, entry)).collect();
    // Oldest first, whatever the log's own order is.
    items.sort_by(|a, b| (&a.at, a.id).cmp(&(&b.at, b.id)));
    items.drain(..items.len().saturating_sub(ENTRIES_MAX));
    let room = service["MaxNumberOfRecords"].as_u64().filter(|room| *room > 0);
    // One that forgets its oldest entries is never full.
    let room = room.filter(|_| service["OverWritePolicy"] == "NeverOverWrites");
    let used = room.map(|room| 100 * u64::try_from(total).unwrap_or(u64::MAX).min(room) / room);
    Ok(SelReport {
        total: u32::try_from(total).unwrap_or(u32::MAX),
        used_percent: used.and_then(|used| used.try_into().ok()),
        items,
    })
}

/// The members that are the newest, in no order; some may be links.
async fn last_entries(
    ask: &mut impl Ask,
    path: &str,
    first: Page,
) -> Result<Vec<Value>, RedfishFault> {
    let (total, mut next) = (first.count, first.next);
    let mut entries = first.members;
    let is_newest_first = match entries.as_slice() {
        [first, .., last] => order(first) > order(last),
        [_] | [] => false,
    };
    // Where pages are had by number, those before the last entries are not read.
    let skips = next.as_deref().is_some_and(|next| next.contains("$skip="));
    if skips && !is_newest_first && total > entries.len() + ENTRIES_MAX {
        next = Some(format!("{path}?$skip={}", total - ENTRIES_MAX));
        entries.clear();
    }
    for _ in 1..PAGES_MAX {
        if is_newest_first && entries.len() >= ENTRIES_MAX {
            break;
        }
        let Some(path) = next.take() else { break };
        let Some(page) = page(ask, &path).await? else { break };
        entries.extend(page.members);
        next = page.next;
    }
    let is_linked = entries.iter().any(is_link);
    let most = if is_linked { LINKED_MAX } else { ENTRIES_MAX };
    if is_newest_first {
        entries.truncate(most);
    } else {
        entries.drain(..entries.len().saturating_sub(most));
    }
    Ok(entries)
}

/// By what entries are ordered: their time, and their number where there is one.
fn order(entry: &Value) -> (Option<i64>, Option<u64>) {
    let time = entry["Created"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    (time.map(jiff::Timestamp::as_microsecond), number(entry))
}

/// The number at the end of its Id or path.
fn number(entry: &Value) -> Option<u64> {
    let id = text(&entry["Id"]).or_else(|| path(entry).map(|path| id(&path).to_owned()))?;
    let start = id.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    id.get(start..)?.parse().ok()
}

/// `at`: its place among those that were read.
fn item(at: usize, entry: &Value) -> SelEntry {
    let time = entry["Created"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let number = number(entry).unwrap_or(u64::try_from(at).unwrap_or_default() + 1);
    let sensor = ["SensorType", "OemSensorType", "EntryType"];
    let sensor = sensor.iter().find_map(|key| text(&entry[key])).unwrap_or_default();
    let event = ["Message", "MessageId", "Name"];
    let event = event.iter().find_map(|key| text(&entry[key])).unwrap_or_default();
    SelEntry {
        id: u32::try_from(number).unwrap_or(u32::MAX),
        at: time.map(|time| clock::rfc3339(time.as_microsecond())),
        sensor: tame(&sensor),
        event: tame(&event),
        asserted: entry["EntryCode"] != "Deassert",
        level: match entry["Severity"].as_str() {
            Some("OK") => Level::Ok,
            Some("Warning") => Level::Warning,
            Some("Critical") => Level::Critical,
            Some(_) | None => Level::Unknown,
        },
    }
}

/// What is to be posted, and where, to clear a log; none where it cannot be cleared.
pub(super) fn clearing(service: &Value) -> Option<(String, Value)> {
    const CLEAR: &str = "LogService.ClearLog";
    let path = path(service)?;
    let is_offered = service["Actions"][format!("#{CLEAR}")].is_object();
    is_offered.then(|| (target(service, &path, CLEAR), json!({})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_happened_when_and_how_bad_it_is() {
        let entry = json!({
            "@odata.id": "/redfish/v1/x/Entries/17", "Id": "17", "Created": "2026-11-21T02:00:00+02:00",
            "SensorType": "Memory", "EntryCode": "Assert", "Severity": "Critical",
            "Message": "DIMM A3:\u{1b}[2J uncorrectable", "EntryType": "SEL"
        });
        let item = item(0, &entry);
        assert_eq!((item.id, item.at.as_deref()), (17, Some("2026-11-21T00:00:00.000Z")));
        assert_eq!(
            (item.sensor.as_str(), item.level, item.asserted),
            ("Memory", Level::Critical, true)
        );
        assert!(item.event.starts_with("DIMM A3:") && !item.event.contains('\u{1b}'), "{item:?}");
    }

    #[test]
    fn an_odd_entry_is_one_all_the_same() {
        for (entry, id) in [
            (json!({}), 5),
            (json!({ "Id": "LogEntry-0x9" }), 9),
            (json!({ "Id": [1], "Created": "yesterday", "Severity": 3, "Message": {} }), 5),
            (json!({ "@odata.id": "/redfish/v1/Entries/1679400000" }), 1_679_400_000),
            (json!({ "Id": "99999999999" }), u32::MAX),
        ] {
            let item = item(4, &entry);
            assert_eq!((item.id, item.at, item.level), (id, None, Level::Unknown), "{entry}");
        }
    }
}
