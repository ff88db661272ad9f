//! What was used: node-hours of reservations, by project, user and queue.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a user has used for a project through a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Whose the nodes were: a project, or the user himself.
    pub project: String,
    /// Who had reserved them.
    pub user: String,
    /// Through which queue.
    pub queue: String,
    /// How many reservations these were.
    pub reservations: u64,
    /// For how long nodes were held, boots included; two nodes for an hour are two.
    pub node_hours: f64,
}

/// The same as CSV (RFC 4180), with a line that names the fields.
pub fn csv(lines: &[Usage]) -> String {
    let mut text = "project,user,queue,reservations,node_hours\r\n".to_owned();
    for line in lines {
        let names = [&line.project, &line.user, &line.queue].map(|name| field(name));
        let (names, count) = (names.join(","), line.reservations);
        let hours = line.node_hours;
        writeln!(text, "{names},{count},{hours:.4}\r").expect("a String takes any text");
    }
    text
}

/// A field, in quotes where it must be.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_csv_that_spreadsheets_read() {
        let line = |project: &str, node_hours| Usage {
            project: project.into(),
            user: "alice".into(),
            queue: "default".into(),
            reservations: 2,
            node_hours,
        };
        assert_eq!(
            csv(&[line("vision", 1.5), line("a,\"b\"", 0.0)]),
            "project,user,queue,reservations,node_hours\r\n\
             vision,alice,default,2,1.5000\r\n\
             \"a,\"\"b\"\"\",alice,default,2,0.0000\r\n"
        );
    }
}
