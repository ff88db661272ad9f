//! `reserve --every`: the same again, some days or weeks later by the reader's own clock. haasd accepts or
//! refuses each for itself.

use haas_api::{
    client::{Client, ClientError, Reserved},
    reservation::NewReservation,
};
use jiff::{Span, Timestamp, Zoned};
use serde::Serialize;

use crate::{
    cli::Session,
    error::{Error, Exit},
    format,
    table::{Table, Tone, toned},
};

/// What became of one of a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Instance {
    begin: String,
    /// Its number, where it is in the calendar now.
    id: Option<i64>,
    /// Why there is none.
    refused: Option<String>,
}

/// Days in `1d` or `2w`.
pub(crate) fn days(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is no number of days or weeks; write 1d or 2w");
    let (number, factor) = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 7),
        (None, None) => return Err(bad()),
    };
    let number: u32 = number.parse().map_err(|_| bad())?;
    number.checked_mul(factor).filter(|days| (1..=366).contains(days)).ok_or_else(bad)
}

/// The hours of a series: at the same time of day, also where the clocks are changed between.
fn hours(first: &Zoned, every_days: u32, times: u32) -> Result<Vec<Timestamp>, Error> {
    let hour = |n: u32| {
        let span = Span::new().try_days(i64::from(n) * i64::from(every_days))?;
        Ok(first.checked_add(span)?.timestamp())
    };
    let hours: Result<_, jiff::Error> = (0..times).map(hour).collect();
    hours.map_err(|_| Error::Usage("the series reaches too far ahead".to_owned()))
}

/// Asks for each, and says what became of all.
pub(crate) async fn reserve(
    session: &Session<'_>,
    client: &Client,
    new: &NewReservation,
    first: &Zoned,
    (every_days, times): (u32, u32),
) -> Result<(), Error> {
    let (mut series, mut broken) = (Vec::new(), None);
    for hour in hours(first, every_days, times)? {
        let begin = hour.to_string();
        let one = NewReservation { begin: Some(begin.clone()), ..new.clone() };
        let (id, refused) = match client.reserve(&one).await {
            Ok(Reserved::Made(made)) => (Some(made.id), None),
            Ok(Reserved::Plan(_)) => (None, None),
            Err(ClientError::Problem(problem)) if [409, 422].contains(&problem.status) => {
                (None, Some(problem.detail.clone()))
            }
            // What was accepted before is told all the same: who asks again would have it twice.
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        series.push(Instance { begin, id, refused });
    }
    session.out.show(&series, || table(&series))?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    let refused = series.iter().filter(|one| one.refused.is_some()).count();
    let exit = if refused == series.len() { Exit::Conflict } else { Exit::Partial };
    match refused {
        0 => Ok(()),
        n => Err(Error::Nodes { exit, summary: format!("{n} of {} are refused", series.len()) }),
    }
}

fn table(series: &[Instance]) -> Table {
    let mut table = Table::new(["BEGIN", "ID", "WHAT"]);
    for one in series {
        let id = one.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let what = match (&one.refused, one.id) {
            (Some(why), _) => toned(format!("refused: {why}"), Tone::Bad),
            (None, Some(_)) => "accepted".into(),
            (None, None) => "would be accepted".into(),
        };
        table.row([format::time(&one.begin).into(), id.into(), what]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_at_the_same_time_of_day_though_clocks_are_changed() {
        let first: Zoned = "2026-10-24T09:00:00+02:00[Europe/Berlin]".parse().unwrap();
        let shown: Vec<_> = hours(&first, 1, 3).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["2026-10-24T07:00:00Z", "2026-10-25T08:00:00Z", "2026-10-26T08:00:00Z"]);
        assert!(hours(&first, 366, 40_000).is_err());
    }

    #[test]
    fn days_and_weeks_are_read() {
        assert_eq!((days("1d"), days("2w"), days("366d")), (Ok(1), Ok(14), Ok(366)));
        for bad in ["", "d", "0d", "367d", "1", "1h", "-1d"] {
            assert!(days(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_became_of_each_is_shown() {
        let one = |id, refused: Option<&str>| Instance {
            begin: "2026-12-01T08:00:00Z".into(),
            id,
            refused: refused.map(str::to_owned),
        };
        let text = table(&[one(Some(17), None), one(None, Some("busy")), one(None, None)]);
        assert_eq!(
            text.render(None, false),
            "BEGIN                 ID  WHAT\n\
             2026-12-01 08:00:00Z  17  accepted\n\
             2026-12-01 08:00:00Z  -   refused: busy\n\
             2026-12-01 08:00:00Z  -   would be accepted\n"
        );
    }
}
