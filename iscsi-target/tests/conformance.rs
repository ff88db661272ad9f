//! libiscsi's conformance suite, `iscsi-test-cu`: the whole of it, each test's verdict against the list
//! in `conformance/expected.txt`; and, as a slow test, the same suite against tgtd on the same disk, for
//! the table in `docs/iscsi.md`.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, TARGET, tool};

const BLOCKS: u64 = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Pass,
    Skip,
    Fail,
}

/// How one test ended, and what the tool printed about it.
#[derive(Debug)]
struct Ended {
    verdict: Verdict,
    text: String,
}

/// What is expected of a test that is not to pass.
struct Expected<'a> {
    verdict: Verdict,
    /// Words that the tool prints then.
    words: &'a str,
}

#[test]
fn the_whole_suite_ends_as_listed() {
    let daemon = Daemon::start(BLOCKS, &[]);
    let results = run_suite("ALL", &daemon.url());
    assert!(results.len() >= 230, "only {} tests ran", results.len());
    let expected = expected();
    let mut wrong = String::new();
    for (name, ended) in &results {
        let (verdict, words) = match expected.get(name.as_str()) {
            Some(expected) => (expected.verdict, expected.words),
            None => (Verdict::Pass, ""),
        };
        let text = ended.text.chars().take(500).collect::<String>();
        if ended.verdict != verdict {
            writeln!(wrong, "{name}: {:?}, not {verdict:?}: {text}", ended.verdict).unwrap();
        } else if !ended.text.contains(words) {
            writeln!(wrong, "{name}: not because of {words:?}: {text}").unwrap();
        } else if let Some(line) = ended.text.lines().find(|line| refused_otherwise(line)) {
            writeln!(wrong, "{name}: refused, but not by DATA PROTECT: {line}").unwrap();
        }
    }
    for name in expected.keys().filter(|name| !results.contains_key(**name)) {
        writeln!(wrong, "{name}: listed, but there is no such test").unwrap();
    }
    assert!(wrong.is_empty(), "other than tests/conformance/expected.txt has it:\n{wrong}");
    assert!(std::fs::read(daemon.dir.path().join("disk.img")).unwrap() == daemon.disk);
}

/// What the suite skips on a full disk for being "fully provisioned", on one with holes.
#[test]
fn a_disk_with_holes_conforms_too() {
    let daemon = Daemon::sparse(BLOCKS, 8192..16_384);
    for suite in ["Inquiry", "ReadCapacity16", "GetLBAStatus", "Read16"] {
        let results = run_suite(&format!("ALL.{suite}"), &daemon.url());
        assert!(!results.is_empty(), "{suite} did not run");
        for (name, ended) in results {
            let verdict = match name.as_str() {
                // Nothing can be unmapped.
                "GetLBAStatus.UnmapSingle" => Verdict::Skip,
                _ => Verdict::Pass,
            };
            assert_eq!(ended.verdict, verdict, "{name}: {}", ended.text);
        }
    }
}

#[test]
#[ignore = "takes minutes; run: cargo xtask e2e --slow"]
fn slow_more_tests_pass_than_on_tgtd_with_the_same_disk() {
    let daemon = Daemon::start(BLOCKS, &[]);
    let ours = per_suite(&run_suite("ALL", &daemon.url()));
    let tgtd = Tgtd::start(&daemon.dir.path().join("disk.img"));
    let theirs = per_suite(&run_suite("ALL", &tgtd.url));
    drop(tgtd);

    let mut table = String::from("| Suite | haas | tgtd |\n|---|---|---|\n");
    for (suite, counts) in &ours {
        let others = theirs.get(suite).copied().unwrap_or_default();
        writeln!(table, "| {suite} | {} | {} |", shown(*counts), shown(others)).unwrap();
    }
    let (ours, theirs) = (total(&ours), total(&theirs));
    writeln!(table, "| **all** | **{}** | **{}** |", shown(ours), shown(theirs)).unwrap();
    assert!(ours[0] > theirs[0], "we must pass more than tgtd:\n{table}");
    assert!(ours[2] < theirs[2], "we must fail less than tgtd:\n{table}");
    check_page(&table);
}

/// Runs the suite, destructive tests too, and returns the end of each `Suite.Test`.
fn run_suite(which: &str, url: &str) -> BTreeMap<String, Ended> {
    let output = tool("iscsi-test-cu", "libiscsi-bin", &["--dataloss", "-v", "-t", which, url]);
    let log = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let mut texts = BTreeMap::<String, String>::new();
    let (mut suite, mut test) = (String::new(), None);
    for line in log.lines() {
        if let Some(name) = line.strip_prefix("Suite: ") {
            (suite, test) = (name.trim().to_owned(), None);
        } else if let Some(rest) = line.strip_prefix("  Test: ") {
            let (name, rest) = rest.split_once(" ...").unwrap_or((rest, ""));
            let name = format!("{suite}.{name}");
            texts.insert(name.clone(), rest.to_owned());
            test = Some(name);
        } else if line.starts_with("Run Summary") {
            test = None;
        } else if let Some(text) = test.as_ref().and_then(|name| texts.get_mut(name)) {
            text.push('\n');
            text.push_str(line);
        }
    }
    texts
        .into_iter()
        .map(|(name, text)| (name, Ended { verdict: verdict_of(&text), text }))
        .collect()
}

/// The tool says `passed` also of what it skipped, and closes a suite with messages of its own behind
/// the last verdict.
fn verdict_of(text: &str) -> Verdict {
    let mut before = text.lines().take_while(|line| !says_verdict(line));
    let skipped = before.any(|line| line.contains("[SKIPPED]"));
    match text.lines().find(|line| says_verdict(line)) {
        Some(line) if !line.starts_with("passed") => Verdict::Fail,
        Some(_) if skipped => Verdict::Skip,
        Some(_) => Verdict::Pass,
        None => panic!("no verdict in {text}"),
    }
}

fn says_verdict(line: &str) -> bool {
    line.starts_with("passed") || line.ends_with("FAILED")
}

/// A command that failed with another sense than DATA PROTECT, write protected.
fn refused_otherwise(line: &str) -> bool {
    let sense = line.contains("[FAILED]") && line.to_lowercase().contains("sense");
    sense && !line.contains("0x2700")
}

fn expected() -> BTreeMap<&'static str, Expected<'static>> {
    let mut expected = BTreeMap::new();
    let mut group = None;
    for line in include_str!("conformance/expected.txt").lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix("  ") {
            let (verdict, words) = group.expect("a group comes before its tests");
            expected.insert(name, Expected { verdict, words });
            continue;
        }
        let parts: Vec<_> = line.split(" | ").collect();
        let [verdict, words, _reason] = parts[..] else { panic!("no group: {line}") };
        let verdict = match verdict {
            "skip" => Verdict::Skip,
            "fail" => Verdict::Fail,
            other => panic!("{other:?} is no verdict"),
        };
        group = Some((verdict, words));
    }
    expected
}

/// Passed, skipped and failed, by suite.
fn per_suite(results: &BTreeMap<String, Ended>) -> BTreeMap<String, [usize; 3]> {
    let mut suites = BTreeMap::<String, [usize; 3]>::new();
    for (name, ended) in results {
        let (suite, _) = name.split_once('.').unwrap();
        suites.entry(suite.to_owned()).or_default()[ended.verdict as usize] += 1;
    }
    suites
}

fn total(suites: &BTreeMap<String, [usize; 3]>) -> [usize; 3] {
    suites.values().fold([0; 3], |sum, counts| [0, 1, 2].map(|at| sum[at] + counts[at]))
}

fn shown([passed, skipped, failed]: [usize; 3]) -> String {
    format!("{passed} / {skipped} / {failed}")
}

/// The table stands in the page between these two.
const BEGIN: &str = "<!-- conformance -->\n";
const END: &str = "<!-- end -->";

/// Compares the page's table with `table`, or writes it if `HAAS_BLESS` is set.
fn check_page(table: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/iscsi.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("docs/iscsi.md has a conformance table");
    let (there, after) = rest.split_once(END).expect("the table of docs/iscsi.md ends");
    if std::env::var_os("HAAS_BLESS").is_some() {
        std::fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(there == table, "docs/iscsi.md differs; with HAAS_BLESS=1 it is written:\n{table}");
    }
}

/// tgtd with the disk as LUN 1, read-only.
struct Tgtd {
    child: Child,
    url: String,
}

impl Tgtd {
    fn start(disk: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Its control socket has a number in the file system; ours should meet nobody else's.
        let control = (port % 10_000 + 10_000).to_string();
        let child = Command::new("tgtd")
            .args(["-f", "-C", &control, "--iscsi", &format!("portal=127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run tgtd ({error}): install the package tgt"));
        let tgtd = Self { child, url: format!("iscsi://127.0.0.1:{port}/{TARGET}/1") };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "tgtd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        let admin = |arguments: &[&str]| {
            let all = [&["-C", &control, "--lld", "iscsi"], arguments].concat();
            let output = tool("tgtadm", "tgt", &all);
            assert!(output.status.success(), "tgtadm {arguments:?}: {output:?}");
        };
        let file = disk.to_str().unwrap();
        admin(&["--mode", "target", "--op", "new", "--tid", "1", "--targetname", TARGET]);
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        let backing = ["--op", "new", "--backing-store", file, "--bstype", "rdwr"];
        admin(&[&unit[..], &backing].concat());
        admin(&[&unit[..], &["--op", "update", "--params", "readonly=1"]].concat());
        let all = ["--op", "bind", "--tid", "1", "--initiator-address", "ALL"];
        admin(&[&["--mode", "target"][..], &all].concat());
        tgtd
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
