//! What grows as long as haasd lives is never read whole, so that a pass takes as long after a year as on the first
//! day.

use std::{fs, path::Path};

use crate::promises::{Db, on_sqlite};

/// What grows with each boot, switch and reservation; as the statements name it.
const GROWS: [&str; 15] = [
    "a",
    "attempts",
    "assignments",
    "audit",
    "b",
    "d",
    "desired",
    "events",
    "given_nodes",
    "o",
    "operation_nodes",
    "operations",
    "reservation_steps",
    "reservations",
    "serves",
];

/// These begin with the newest and end soon, or go through an index of those alone that are not over.
const LIMITED: [&str; 3] = [
    "select * from operations order by created_at desc, id desc limit $1",
    "select * from operations where state in ('running', 'paused', 'rolling-back') order by created_at, id",
    "select * from reservations order by id desc limit $1",
];

#[test]
fn nothing_that_grows_is_read_whole() {
    on_sqlite(every_statement_finds_what_it_looks_for);
}

async fn every_statement_finds_what_it_looks_for(db: Db) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/src/store");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        for statement in statements(&source) {
            let Some(plan) = db.plan(&statement).await else { continue };
            seen += 1;
            let whole: Vec<_> = plan.iter().filter(|step| reads_whole(step)).collect();
            let is_limited = LIMITED.contains(&statement.as_str());
            assert!(whole.is_empty() || is_limited, "{}: {whole:?}: {statement}", path.display());
        }
    }
    assert!(seen > 150, "only {seen} statements were found");
}

/// The texts of a source file that are whole statements, in one line each.
fn statements(source: &str) -> impl Iterator<Item = String> {
    let texts = source.split('"').skip(1).step_by(2);
    let texts = texts.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    texts.filter(|text| {
        ["select ", "update ", "delete ", "with "].iter().any(|verb| text.starts_with(verb))
    })
}

/// `SCAN desired`, and not `SEARCH desired USING INDEX ...`.
fn reads_whole(step: &str) -> bool {
    let table = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
    table.is_some_and(|table| GROWS.contains(&table))
}
