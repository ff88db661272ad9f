//! The boot storm: what a boot of `debian-12` was recorded to read, with its gaps, by many nodes at the
//! same second, every byte compared; and another tenant's single boot in the middle of it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
};

use anyhow::{Context, Result};

use super::{Numbers, load::Programs, round, servers::Server};
use crate::run;

/// The recording, `haasctl image reads debian-12` of a node's first boot.
const TRACE: &str = "xtask/load/debian-12.trace";

/// Nodes that people of this field boot at once.
const NODES: &str = "640";

/// An initiator of another naming authority, and so of another class than the others.
const OTHER_TENANT: &str = "iqn.2026-11.org.other:node";

pub(super) fn measure(programs: &Programs, folder: &Path, numbers: &mut Numbers) -> Result<()> {
    let trace = run::root().join(TRACE);
    let image = folder.join("storm");
    make_image(&trace, &image)?;
    let (trace, image) = (path(&trace)?, path(&image)?);
    let haas = Server::haas(Path::new(image))?;
    let bare = Server::bare(&programs.bare_server, Path::new(image))?;

    let other = ["replay", "1", trace, image, &haas.url, OTHER_TENANT];
    let (lone, _) = programs.measure(&other, &haas)?;
    let lone_s = lone.get("last_s")?;
    let (storm, cpu) = programs.measure(&["replay", NODES, trace, image, &haas.url], &haas)?;
    let (_, bare_cpu) = programs.measure(&["replay", NODES, trace, image, &bare.url], &bare)?;
    let both = ["replay", "641", trace, image, &haas.url, OTHER_TENANT];
    let (shared, _) = programs.measure(&both, &haas)?;

    let mut note = |name: &str, value: f64| {
        run::say(format!("{name:<36} {value:.3}"));
        numbers.insert(name.to_owned(), round(value));
    };
    note("storm_640_gb", storm.get("bytes")? / 1e9);
    note("storm_640_slowest_s", storm.get("slowest_s")?);
    note("storm_640_p99_ms", storm.get("p99_us")? / 1e3);
    note("storm_640_cpu_s", cpu);
    note("storm_640_ratio_cpu_to_sendfile", cpu / bare_cpu);
    note("storm_lone_boot_s", lone_s);
    note("storm_other_tenant_boot_s", shared.get("last_s")?);
    note("storm_other_tenant_ratio", shared.get("last_s")? / lone_s);
    note("storm_haas_mib", haas.memory()? as f64 / f64::from(1 << 20));
    Ok(())
}

/// A disk large enough for the recording, full of numbers, each eight bytes another.
fn make_image(trace: &Path, image: &Path) -> Result<()> {
    let file = fs::File::open(trace).with_context(|| format!("no {}", trace.display()))?;
    let mut end = 0;
    for line in BufReader::new(file).lines() {
        let line = line?;
        let mut fields = line.split_whitespace().skip(1).map(str::parse::<u64>);
        let mut field = || anyhow::Ok(fields.next().context("a field is missing")??);
        let (lba, blocks) = (field()?, field()?);
        end = end.max(lba + blocks);
    }
    let mut out = std::io::BufWriter::new(fs::File::create(image)?);
    for word in 0..end * 64 {
        out.write_all(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())?;
    }
    out.flush()?;
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary folder has a plain name")
}
