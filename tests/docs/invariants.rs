//! Invariants of ARCHITECTURE.md that the source itself shows.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use tests::pages::root;

#[test]
fn only_the_store_contains_sql() -> Result<()> {
    let found = sources_with("sqlx::", &["store"])?;
    ensure!(found.is_empty(), "SQL outside of controller/src/store: {found:?}");
    Ok(())
}

/// What changes a node without a new stamp would not be seen by those who know the node from before.
#[test]
fn nodes_change_with_their_stamps() -> Result<()> {
    let found = sources_with("update nodes", &["store/mod.rs"])?;
    ensure!(found.is_empty(), "nodes are changed without update_nodes!: {found:?}");
    Ok(())
}

#[test]
fn only_act_speaks_to_power_drivers() -> Result<()> {
    let found = sources_with("power::driver(", &["power", "reconcile/act.rs"])?;
    ensure!(found.is_empty(), "nodes are powered elsewhere than in reconcile/act.rs: {found:?}");
    Ok(())
}

#[test]
fn decisions_read_no_clock() -> Result<()> {
    let source = root().join("controller/src");
    let lifecycle = [
        "lifecycle.rs",
        "lifecycle/deadline.rs",
        "lifecycle/drain_hook.rs",
        "lifecycle/ending.rs",
        "lifecycle/kexec.rs",
        "lifecycle/proof.rs",
        "lifecycle/silence.rs",
    ];
    let mut files: Vec<_> = lifecycle.iter().map(|file| source.join(file)).collect();
    for entry in fs::read_dir(root().join("scheduler/src"))? {
        files.push(entry?.path());
    }
    ensure!(files.len() > 10, "where is the scheduler's source?");
    for file in files {
        let text = fs::read_to_string(&file)?;
        for clock in
            ["SystemTime", "Instant", "Clock", "clock::", "async fn", "std::fs", "std::env"]
        {
            ensure!(!text.contains(clock), "{} has {clock}: decisions take `now`", file.display());
        }
    }
    Ok(())
}

/// A route that is written where it is served would be seen by no test of who may.
#[test]
fn routes_stand_in_lists_that_the_test_of_roles_walks() -> Result<()> {
    let found = sources_with(".route(\"", &["webhooks/tests.rs"])?;
    ensure!(
        found.is_empty(),
        "routes outside of the lists of api/mod.rs and netboot/http.rs: {found:?}"
    );
    Ok(())
}

/// The files of controller/src that contain `text`, but for those below `allowed`.
fn sources_with(text: &str, allowed: &[&str]) -> Result<Vec<String>> {
    let source = root().join("controller/src");
    let mut found = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(&source)?.to_owned();
            if allowed.iter().any(|place| name.starts_with(Path::new(place))) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs")
                && fs::read_to_string(&path)?.contains(text)
            {
                found.push(name.display().to_string());
            }
        }
    }
    Ok(found)
}
