//! Our iSCSI target beside tgtd and beside a bare sendfile server: the same page-cached file, the same
//! client (libiscsi), in turns within one run, so that whatever else the machine does hits all
//! alike. Prints the medians, and the ratios, which are what to trust.

mod cells;
mod load;
mod servers;
mod storm;

use std::{fs, io::Write, path::Path, thread, time::Duration};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::{run, setup};
use load::Programs;
use servers::Server;

/// Bytes of the disk that is read.
const BYTES: u64 = 512 << 20;
const BLOCK: u64 = 512;
/// Times that each figure is taken; the median counts.
const ROUNDS: usize = 5;

/// Numbers by name, with their units in the names.
type Numbers = Map<String, Value>;

/// Measures, and answers the numbers.
pub(crate) fn run() -> Result<Numbers> {
    setup::run()?;
    let build = ["build", "--release", "--package", "iscsi-target", "--bin", "haas-iscsi"];
    run::run(&mut run::cargo(&build))?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    make_image(&image)?;
    let programs = Programs::build(folder.path(), BYTES / BLOCK)?;

    let mut numbers = Map::new();
    storm::measure(&programs, folder.path(), &mut numbers)?;
    memory(&programs, &image, &mut numbers)?;
    logins(&programs, &image, &mut numbers)?;
    cells::measure(&programs, &image, &mut numbers)?;
    Ok(numbers)
}

/// What sessions cost that do nothing, that ask for much, and that take nothing of what they ask for.
fn memory(programs: &Programs, image: &Path, numbers: &mut Numbers) -> Result<()> {
    const IDLE: u32 = 500;
    for (name, server) in [("haas", Server::haas(image)?), ("tgtd", Server::tgtd(image)?)] {
        let before = server.memory()?;
        let held = programs.hold("idle", IDLE, &server.url)?;
        thread::sleep(Duration::from_secs(2));
        let each = server.memory()?.saturating_sub(before) as f64 / f64::from(IDLE);
        numbers.insert(format!("idle_session_{name}_kib"), round(each / 1024.0));
        drop(held);
        programs.measure(&["reads", "64", "32", "2048", "seq", "2", &server.url], &server)?;
        numbers.insert(format!("load_64x32x1m_{name}_mib"), mebibytes(&server)?);
    }
    for (name, server) in [("haas", Server::haas(image)?), ("tgtd", Server::tgtd(image)?)] {
        let _held = programs.hold("deaf", 20, &server.url)?;
        thread::sleep(Duration::from_secs(3));
        numbers.insert(format!("deaf_20_{name}_mib"), mebibytes(&server)?);
    }
    Ok(())
}

fn mebibytes(server: &Server) -> Result<Value> {
    Ok(round(server.memory()? as f64 / f64::from(1 << 20)))
}

/// 500 logins at once.
fn logins(programs: &Programs, image: &Path, numbers: &mut Numbers) -> Result<()> {
    let (haas, tgtd) = (Server::haas(image)?, Server::tgtd(image)?);
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        us.push(programs.run(&["logins", "500", &haas.url])?.get("p99_us")? / 1e3);
        them.push(programs.run(&["logins", "500", &tgtd.url])?.get("p99_us")? / 1e3);
    }
    numbers.insert("logins_500_haas_p99_ms".to_owned(), round(median(us)));
    numbers.insert("logins_500_tgtd_p99_ms".to_owned(), round(median(them)));
    Ok(())
}

/// A disk of which each block begins with its own number.
fn make_image(path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for block in 0..BYTES / BLOCK {
        let mut data = [0; BLOCK as usize];
        data[..8].copy_from_slice(&block.to_le_bytes());
        file.write_all(&data)?;
    }
    file.flush()?;
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn round(value: f64) -> Value {
    Value::from((value * 1000.0).round() / 1000.0)
}
