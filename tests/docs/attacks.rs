//! The tests that docs/security.md names are there: a defence that nothing tests is told as none.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::sources;
use tests::pages::root;

/// Where a file stands that the page names in short.
const PLACES: [&str; 3] = ["tests", "controller/src", ""];

#[test]
fn every_test_that_the_page_on_security_names_is_there() -> Result<()> {
    let page = fs::read_to_string(root().join("docs/security.md"))?;
    let mut code = String::new();
    for folder in fs::read_dir(root())? {
        let folder = folder?.path();
        let is_package = folder.join("Cargo.toml").is_file();
        for file in if is_package { sources(&folder)? } else { Vec::new() } {
            code.push_str(&fs::read_to_string(file)?);
        }
    }
    let (mut tests, mut steps) = (0, 0);
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let mut file = None;
        for (at, piece) in row.split('`').enumerate() {
            // What is between two marks, and what is between that.
            let is_named = at % 2 == 1;
            if is_named && piece.ends_with(".rs") {
                let path = found(piece).with_context(|| format!("there is no {piece}: {row}"))?;
                file = Some(fs::read_to_string(path)?);
            } else if is_named && is_a_test(piece) {
                ensure!(code.contains(&format!("fn {piece}(")), "there is no test {piece}: {row}");
                tests += 1;
            } else if let (false, Some(file)) = (is_named, &file) {
                for step in piece.split('*').skip(1).step_by(2) {
                    ensure!(file.contains(&format!("\"{step}\"")), "no step is {step:?}: {row}");
                    steps += 1;
                }
            }
        }
    }
    ensure!(tests > 20 && steps > 2, "only {tests} tests and {steps} steps: has the form changed?");
    Ok(())
}

fn found(name: &str) -> Option<PathBuf> {
    PLACES.into_iter().map(|place| root().join(place).join(name)).find(|path| path.is_file())
}

/// Tests are sentences.
fn is_a_test(word: &str) -> bool {
    let is_name = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    is_name && word.matches('_').count() > 2
}
