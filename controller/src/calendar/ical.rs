//! The calendar for programs that show calendars: iCalendar (RFC 5545). Pure.

use haas_api::reservation::ReservationState;

use crate::{
    clock::Clock,
    model::{Micros, Reservation, SECOND},
    store::MaintenanceRow,
};

/// Octets of a line, without its end (RFC 5545, 3.1).
const LINE: usize = 75;

/// A time in somebody's calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What makes it the same entry when it is read again.
    uid: String,
    /// How often it was changed.
    sequence: i64,
    /// From when, wall clock.
    begin: Micros,
    /// Until when, wall clock.
    end: Micros,
    summary: String,
    description: String,
    /// `TENTATIVE`, `CONFIRMED` or `CANCELLED`.
    status: &'static str,
    /// Whether its reader is busy then.
    is_busy: bool,
}

impl Entry {
    /// A reservation; none where nobody can say when it is, or it never was. `nodes` are the names of its nodes.
    pub fn of(one: &Reservation, nodes: &str, clock: Clock, cluster: &str) -> Option<Self> {
        let (begin, end) = (one.start_at?, one.end_at?);
        // One that was over before its begin was at no time (RFC 5545, 3.8.2.2).
        if end.div_euclid(SECOND) <= begin.div_euclid(SECOND) {
            return None;
        }
        let status = match one.state {
            ReservationState::Pending | ReservationState::Planned if !one.is_advance => "TENTATIVE",
            ReservationState::Pending
            | ReservationState::Planned
            | ReservationState::Starting
            | ReservationState::Active
            | ReservationState::Ending
            | ReservationState::Ended => "CONFIRMED",
            ReservationState::Cancelled | ReservationState::Failed => "CANCELLED",
        };
        let nodes_in_words =
            if one.count == 1 { "1 node".into() } else { format!("{} nodes", one.count) };
        Some(Self {
            uid: format!("reservation-{}@{cluster}", one.id),
            sequence: one.version,
            begin: clock.to_wall(begin),
            end: clock.to_wall(end),
            summary: format!("{nodes_in_words} with {} ({})", one.image.name, one.state.as_str()),
            description: format!(
                "Reservation {} in the queue {}\n{nodes}\n{}",
                one.id, one.queue, one.reason
            ),
            status,
            is_busy: true,
        })
    }

    /// A maintenance window.
    pub fn of_window(window: &MaintenanceRow, nodes: &str, clock: Clock, cluster: &str) -> Self {
        Self {
            uid: format!("maintenance-{}@{cluster}", window.id),
            sequence: 0,
            begin: clock.to_wall(window.begin_at),
            end: clock.to_wall(window.end_at),
            summary: format!("Maintenance: {}", window.reason),
            description: nodes.to_owned(),
            status: "CONFIRMED",
            is_busy: false,
        }
    }
}

/// The calendar as a file, as of a moment of the wall clock.
pub fn feed(entries: &[Entry], now: Micros) -> String {
    let mut text = String::new();
    for head in ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//haas//haasd//EN", "X-WR-CALNAME:haas"]
    {
        line(&mut text, head);
    }
    for entry in entries {
        let lines = [
            "BEGIN:VEVENT".to_owned(),
            format!("UID:{}", escaped(&entry.uid)),
            format!("SEQUENCE:{}", entry.sequence),
            format!("DTSTAMP:{}", moment(now)),
            format!("DTSTART:{}", moment(entry.begin)),
            format!("DTEND:{}", moment(entry.end)),
            format!("SUMMARY:{}", escaped(&entry.summary)),
            format!("DESCRIPTION:{}", escaped(&entry.description)),
            format!("STATUS:{}", entry.status),
            format!("TRANSP:{}", if entry.is_busy { "OPAQUE" } else { "TRANSPARENT" }),
            "END:VEVENT".to_owned(),
        ];
        for one in lines {
            line(&mut text, &one);
        }
    }
    line(&mut text, "END:VCALENDAR");
    text
}

/// A moment in UTC, to the second: `20261201T080000Z`.
fn moment(at: Micros) -> String {
    let at = jiff::Timestamp::from_second(at.div_euclid(SECOND)).unwrap_or_default();
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Text as a value (3.3.11).
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace(';', "\\;").replace(',', "\\,");
    text.replace('\r', "").replace('\n', "\\n")
}

/// Adds a line, folded where it is too long: what follows begins with a space.
fn line(text: &mut String, mut rest: &str) {
    let mut room = LINE;
    while rest.len() > room {
        let at = rest.floor_char_boundary(room);
        text.push_str(&rest[..at]);
        text.push_str("\r\n ");
        rest = &rest[at..];
        room = LINE - 1;
    }
    text.push_str(rest);
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            uid: "reservation-17@C".into(),
            sequence: 3,
            begin: 1_796_112_000 * SECOND,
            end: 1_796_119_200 * SECOND + 5,
            summary: "2 nodes with minimal (active)".into(),
            description: "n[1-2]; a, b\nmore".into(),
            status: "CONFIRMED",
            is_busy: true,
        }
    }

    #[test]
    fn an_entry_is_as_rfc_5545_has_it() {
        assert_eq!(
            feed(&[entry()], 1_796_000_000 * SECOND),
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//haas//haasd//EN\r\nX-WR-CALNAME:haas\r\n\
             BEGIN:VEVENT\r\nUID:reservation-17@C\r\nSEQUENCE:3\r\nDTSTAMP:20261130T005320Z\r\n\
             DTSTART:20261201T080000Z\r\nDTEND:20261201T100000Z\r\n\
             SUMMARY:2 nodes with minimal (active)\r\n\
             DESCRIPTION:n[1-2]\\; a\\, b\\nmore\r\nSTATUS:CONFIRMED\r\nTRANSP:OPAQUE\r\n\
             END:VEVENT\r\nEND:VCALENDAR\r\n"
        );
    }

    #[test]
    fn long_lines_are_folded_between_characters() {
        let long = Entry { summary: "ö".repeat(100), ..entry() };
        let text = feed(&[long], 0);
        assert!(text.split("\r\n").all(|line| line.len() <= LINE), "{text}");
        assert!(text.replace("\r\n ", "").contains(&format!("SUMMARY:{}", "ö".repeat(100))));
    }
}
