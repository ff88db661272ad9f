//! Being watched, with a haasd that is killed meanwhile: followers of the event log miss nothing and
//! see nothing twice, webhooks come in order though their receiver fails, and every query of the
//! dashboard has something to show.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use haas_api::event::Event;
use serde_json::Value;

use crate::rack::{Controller, LONG, PATIENT, SimRack};

const METRICS: &str = "10.77.0.1:9090";
const RECEIVER: &str = "10.77.0.1:9999";

/// The sessions of the nodes' roots, as a series begins.
const SESSIONS: &str = "haas_iscsi_sessions{image=\"minimal:latest\"";

/// The controller's own addresses are in the boot network, where nothing is sent by default.
const WATCHED: &str = "\n[metrics]\nlisten = [\"10.77.0.1:9090\"]\nallow = [\"10.77.0.0/24\"]\n\
                       [webhooks]\nallow = [\"10.77.0.0/24\"]\n";

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_followers_and_webhooks_miss_nothing_though_haasd_is_killed() -> Result<()> {
    let sim = SimRack::start("watch", 2)?;
    let mut haas = sim.haasd(&format!("{PATIENT}{WATCHED}"))?;
    let receiver = Receiver::start(&sim)?;
    let url = format!("http://{RECEIVER}/in");
    haas.haasd.ctl(&["webhook", "add", "chat", &url, "--from", "0"])?.ok()?;
    let follower = Follower::start(&haas)?;

    // The receiver fails at first, then is gone while haasd is killed in the middle of a switch.
    let operation = haas.switch("n[1-2]", "a")??;
    haas.until("the receiver to be asked", LONG, || Ok((receiver.asked() > 2).then_some(())))?;
    receiver.answer(200);
    haas.until("some events", LONG, || Ok((receiver.took().len() > 3).then_some(())))?;
    receiver.hang_up();
    haas.haasd.kill()?;
    haas.haasd.launch()?;
    haas.done(operation)?;
    haas.haasd.kill()?;
    haas.haasd.launch()?;
    receiver.answer(200);

    let last = haas.events()?.last().context("there are events")?.seq;
    // More may happen meanwhile.
    haas.until("all events to be followed", LONG, || {
        Ok(follower.seen().contains(&last).then_some(()))
    })?;
    let seen = follower.seen();
    ensure!(seen.iter().zip(1..).all(|(seq, n)| *seq == n), "followed: {seen:?}");
    haas.until("all events to be delivered", LONG, || {
        Ok(receiver.took().contains(&last).then_some(()))
    })?;
    let took = receiver.took();
    let distinct: BTreeSet<i64> = took.iter().copied().filter(|seq| *seq <= last).collect();
    ensure!(distinct.into_iter().eq(1..=last), "delivered: {took:?}");
    // What was sent just before a crash comes again, from there on, and in order again.
    let back = took.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    ensure!(back <= 2 && took.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{took:?}");

    // Nodes notice with their next read that their target has gone, and log in again.
    haas.until("both roots to be attached again", LONG, || {
        let text = get(&sim, "/metrics")?;
        let line = text.lines().find(|line| line.starts_with(SESSIONS));
        Ok(line.is_some_and(|line| line.ends_with(" 2")).then_some(()))
    })?;
    let ready = get(&sim, "/readyz")?;
    ensure!(ready.contains("\"ready\":true"), "{ready}");
    the_dashboard_has_something_to_show(&haas)
}

fn the_dashboard_has_something_to_show(haas: &Controller<'_>) -> Result<()> {
    let text = get(haas.sim, "/metrics")?;
    let known: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dashboard = fs::read_to_string(root.join("docs/examples/grafana-haas.json"))?;
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let mut expressions = Vec::new();
    collect(&dashboard, "expr", &mut expressions);
    ensure!(expressions.len() > 40, "only {} queries were found", expressions.len());
    let rules = fs::read_to_string(root.join("docs/examples/prometheus-rules.yml"))?;
    let rules = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.extend(rules.map(str::to_owned));
    let mut named = BTreeSet::new();
    for expression in &expressions {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        named.extend(words.filter(|w| w.starts_with("haas_") || w.starts_with("process_")));
    }
    let absent: Vec<_> = named.iter().filter(|name| !known.contains(*name)).collect();
    ensure!(absent.is_empty(), "queries name what there is not: {absent:?}\n{text}");
    let shown = |name: &&&str| {
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|e| name.strip_suffix(e));
        name.is_some_and(|name| named.iter().any(|n| n.strip_suffix("_bucket") == Some(name)))
    };
    let unseen: Vec<_> =
        known.iter().filter(|n| !named.contains(*n)).filter(|n| !shown(n)).collect();
    ensure!(unseen.is_empty(), "the dashboard does not show {unseen:?}");
    let value = |series: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(series));
        let value = line.and_then(|line| line.rsplit(' ').next());
        Ok(value.with_context(|| format!("no {series}\n{text}"))?.parse()?)
    };
    ensure!(value("haas_nodes{state=\"ready\"}")? == 2.0, "{text}");
    ensure!(value(SESSIONS)? == 2.0, "{text}");
    ensure!(value("haas_agents_connected")? == 2.0, "{text}");
    ensure!(value("haas_webhook_behind_events{webhook=\"chat\"}")? == 0.0, "{text}");
    Ok(())
}

/// Every text under this key.
fn collect(value: &Value, key: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            into.extend(map.get(key).and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect(value, key, into));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, key, into)),
        _ => {}
    }
}

/// The body of an answer of the port for metrics.
fn get(sim: &SimRack, path: &str) -> Result<String> {
    sim.rack.in_netns(|| -> Result<String> {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.set_read_timeout(Some(LONG))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: haasd\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(body.to_owned())
    })?
}

/// `haasctl events --follow`, which goes on while haasd is away.
struct Follower {
    child: Child,
    seen: Arc<Mutex<Vec<i64>>>,
}

impl Follower {
    fn start(haas: &Controller<'_>) -> Result<Follower> {
        let mut command = haas.haasd.ctl_command()?;
        command.args(["events", "--follow", "--from", "0", "-o", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = tests::spawn(command)?;
        let out = BufReader::new(child.stdout.take().context("a piped output")?);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let event = serde_json::from_str::<Event>(&line);
                into.lock().expect("no panic while it is held").push(event.map_or(-1, |e| e.seq));
            }
        });
        Ok(Follower { child, seen })
    }

    fn seen(&self) -> Vec<i64> {
        self.seen.lock().expect("no panic while it is held").clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A receiver of webhooks.
pub(crate) struct Receiver {
    /// The status of its answers; 0 hangs up without one.
    status: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    took: Arc<Mutex<Vec<i64>>>,
}

impl Receiver {
    pub(crate) fn start(sim: &SimRack) -> Result<Receiver> {
        let listener = sim.rack.in_netns(|| TcpListener::bind(RECEIVER))??;
        let status = Arc::new(AtomicUsize::new(500));
        let (asked, took) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<i64>>>::default());
        let (answer, count, into) = (status.clone(), asked.clone(), took.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, count, into) = (answer.clone(), count.clone(), into.clone());
                // A sender that goes away in the middle is no receiver's concern.
                std::thread::spawn(move || serve(stream, &answer, &count, &into).ok());
            }
        });
        Ok(Receiver { status, asked, took })
    }

    pub(crate) fn answer(&self, status: usize) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn hang_up(&self) {
        self.answer(0);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn took(&self) -> Vec<i64> {
        self.took.lock().expect("no panic while it is held").clone()
    }
}

/// Answers one connection's requests, one after the other.
fn serve(
    stream: TcpStream,
    status: &AtomicUsize,
    asked: &AtomicUsize,
    took: &Mutex<Vec<i64>>,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut length, mut signed) = (0, false);
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "the sender went away");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse()?;
            }
            signed |= line.starts_with("webhook-signature: v1,");
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        asked.fetch_add(1, Ordering::SeqCst);
        let event: Event = serde_json::from_slice(&body)?;
        let status = status.load(Ordering::SeqCst);
        ensure!(signed && status > 0, "nothing is answered");
        if status == 200 {
            took.lock().expect("no panic while it is held").push(event.seq);
        }
        write!(writer, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n")?;
    }
}
