//! Our iSCSI target beside tgtd: the same page-cached file, the same client (`iscsi-perf` of
//! libiscsi), in turns within one run, so that whatever else the machine does hits both alike.
//! Prints the medians, and the ratios, which are what to trust.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::{run, setup};

const ROUNDS: usize = 5;
const SECONDS: u64 = 2;
const BYTES: u64 = 512 << 20;
const BLOCK: u64 = 512;

/// A load: name, blocks of 512 bytes in a read, reads under way, random or in sequence.
const LOADS: &[(&str, u64, u32, bool)] = &[
    ("random_4k_qd1", 8, 1, true),
    ("random_4k_qd32", 8, 32, true),
    ("sequential_64k_qd1", 128, 1, false),
    ("sequential_256k_qd8", 512, 8, false),
];

/// Measures, and answers the numbers with their units in their names.
pub(crate) fn run() -> Result<Map<String, Value>> {
    setup::run()?;
    let build = ["build", "--release", "--package", "iscsi-target", "--bin", "haas-iscsi"];
    run::run(&mut run::cargo(&build))?;
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    make_image(&image)?;
    let ours = Ours::start(&image)?;
    let tgtd = Tgtd::start(&image)?;

    let mut numbers = Map::new();
    for (name, blocks, depth, random) in LOADS {
        let (mut us, mut them) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            us.push(measure(&ours.url, ours.child.id(), *blocks, *depth, *random)?);
            them.push(measure(&tgtd.url, tgtd.child.id(), *blocks, *depth, *random)?);
        }
        for (key, of) in [("reads_per_s", 0), ("cpu_us_per_read", 1)] {
            let pick = |all: &[[f64; 2]]| median(all.iter().map(|one| one[of]).collect());
            let (haas, tgt) = (pick(&us), pick(&them));
            numbers.insert(format!("{name}_haas_{key}"), round(haas));
            numbers.insert(format!("{name}_tgtd_{key}"), round(tgt));
            numbers.insert(format!("{name}_ratio_{key}"), round(haas / tgt));
        }
    }
    Ok(numbers)
}

/// Reads for a while: reads per second, and microseconds of the server's CPU for each.
fn measure(url: &str, server: u32, blocks: u64, depth: u32, random: bool) -> Result<[f64; 2]> {
    let mut perf = Command::new("iscsi-perf");
    perf.args(["-b", &blocks.to_string(), "-m", &depth.to_string(), "-t", &SECONDS.to_string()]);
    if random {
        perf.arg("-r");
    }
    let before = cpu(server)?;
    let begun = Instant::now();
    let output = perf.arg(url).output().context("cannot run iscsi-perf (package libiscsi-bin)")?;
    let wall = begun.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    // Its last line says, beside more: `iops average 12345 (67 MB/s)`.
    let average = text
        .rsplit("iops average ")
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok())
        .filter(|_| output.status.success());
    let Some(average) = average else { bail!("iscsi-perf on {url} said:\n{text}") };
    ensure!(average > 0.0, "iscsi-perf on {url} read nothing");
    Ok([average, (cpu(server)? - before) * 1e6 / (average * wall)])
}

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // The kernel counts in hundredths of a second, whatever its own clock.
    Ok(ticks as f64 / 100.0)
}

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

struct Ours {
    child: Child,
    url: String,
}

impl Ours {
    fn start(image: &Path) -> Result<Self> {
        let target = "iqn.2026-11.org.haas:bench";
        let mut command = Command::new(run::target().join("release/haas-iscsi"));
        command.args(["--listen", "127.0.0.1:0", "--target", target]).arg(image);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().context("its output is a pipe")?)
            .read_line(&mut ready)?;
        // `ready: IQN on ADDR:PORT, N bytes`
        let address = ready.split(" on ").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.with_context(|| format!("haas-iscsi said {ready:?}"))?;
        let url = format!("iscsi://{address}/{target}/0");
        Ok(Self { child, url })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

struct Tgtd {
    child: Child,
    url: String,
}

impl Tgtd {
    fn start(image: &Path) -> Result<Self> {
        let target = "iqn.2026-11.org.haas:tgtd";
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Its control socket has a number in the file system; ours should meet nobody else's.
        let control = (port % 10_000 + 20_000).to_string();
        let portal = format!("portal=127.0.0.1:{port}");
        let mut command = run::as_root("tgtd");
        command.args(["-f", "-C", &control, "--iscsi", &portal]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let url = format!("iscsi://127.0.0.1:{port}/{target}/1");
        let tgtd = Self { child, url };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "tgtd does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        let admin = |args: &[&str]| {
            run::run(run::as_root("tgtadm").args(["-C", &control, "--lld", "iscsi"]).args(args))
        };
        let file = image.to_str().context("a temporary folder has a plain name")?;
        admin(&["--mode", "target", "--op", "new", "--tid", "1", "--targetname", target])?;
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        admin(
            &[&unit[..], &["--op", "new", "--backing-store", file, "--bstype", "rdwr"]].concat(),
        )?;
        admin(&[&unit[..], &["--op", "update", "--params", "readonly=1"]].concat())?;
        admin(&["--mode", "target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL"])?;
        Ok(tgtd)
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64) -> Value {
    Value::from((value * 100.0).round() / 100.0)
}
