//! The commands of the documentation that need nodes, as its readers type them, in the order in which
//! they read: the tutorial whole, of other pages what the tests of the pages cannot run.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use haas_api::node::NodeState;
use haas_api::operation::Operation;
use serde_json::Value;
use sim::bmc::{Farm, Setup};
use tests::built;
use tests::pages::{Line, pages, root};

use crate::bmcs::{Bmcs, PASSWORD};
use crate::rack::{Controller, LONG, PATIENT, SimRack, behave, ip, mac};
use crate::watch::Receiver;

/// The names of the nodes in the pages.
const NAMES: [&str; 4] = ["n01", "n02", "n03", "n09"];

/// What the pages take for the serial number of n01's disk, and for the address of a new BMC.
const SERIAL: &str = "S3Z8NB0K";
const NEW_BMC: &str = "10.77.0.104";

/// Commands that a simulated node cannot answer, since nothing runs on it; and the suite that runs them,
/// with the words by which it does.
const EMULATED: [(&str, &str, &[&str]); 6] = [
    ("haasctl ssh n01", "e2e/debian.rs", &["\"ssh\""]),
    ("haasctl exec n[01-02]", "e2e/debian.rs", &["\"exec\""]),
    ("haasctl cp ", "e2e/debian.rs", &["\"cp\""]),
    ("ssh root@n01", "e2e/rescue.rs", &["--rescue", "ssh(\"root\"", "tar -C /overlay -cf - ."]),
    ("haasctl disk repair n01", "e2e/disks.rs", &["\"disk\", \"repair\""]),
    ("haasctl image build images/debian-12", "e2e/debian.rs", &["images/debian-12"]),
];

/// The rack of a reader.
struct Reader<'rack> {
    sim: &'rack SimRack,
    haas: Controller<'rack>,
    /// The numbers that haasd has given where the pages have an example.
    reservation: String,
    operation: String,
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_what_the_pages_say_works_on_a_rack() -> Result<()> {
    let sim = SimRack::start("pages", NAMES.len())?;
    let bmcs = Bmcs::start(&sim)?;
    ip(&["-n", &sim.rack.netns(), "address", "add", NEW_BMC, "dev", "br0"])?;
    let address = format!("{NEW_BMC}:623").parse()?;
    let _new_bmc =
        sim.rack.in_netns(|| Farm::start_at(&[address], &Setup::new("haas", PASSWORD)))??;
    let mut inventory = String::from("[defaults]\ncache = \"0\"\n[[group]]\nname = \"rack1\"\n");
    for (number, name) in (1..).zip(NAMES) {
        let group = if number < 3 { "groups = [\"rack1\"]\n" } else { "" };
        inventory += &format!(
            "\n[[node]]\nname = \"{name}\"\nmac = \"{}\"\naddress = \"10.77.0.{}\"\n{group}power = {}\n",
            mac(number),
            number + 10,
            bmcs.power_of(number)?,
        );
    }
    // The pages have sixteen; of the others there is only the name.
    for number in [4, 5, 6, 7, 8].into_iter().chain(10..=16) {
        inventory += &format!(
            "\n[[node]]\nname = \"n{number:02}\"\nmac = \"{}\"\npower = {{ driver = \"manual\" }}\n",
            mac(100 + number)
        );
    }
    let mut first = sim.node(1).inventory()?;
    first.disks[0].serial = Some(SERIAL.to_owned());
    behave(sim.node(1), |node| node.inventory = Some(first))?;
    fs::write(sim.rack.dir().join("bmc-password"), PASSWORD)?;
    fs::write(sim.rack.dir().join("bmc.password"), PASSWORD)?;
    let limits =
        format!("{PATIENT}\n[console]\nlog = true\n[webhooks]\nallow = [\"10.77.0.0/24\"]\n");
    let receiver = Receiver::start(&sim)?;
    receiver.answer(204);
    let haas = sim.haasd_with_inventory(&limits, &inventory)?;
    let mut reader =
        Reader { sim: &sim, haas, reservation: String::new(), operation: String::new() };
    reader.prepare()?;

    // One broken line says little of the next: all of them are told.
    let (mut ran, mut broken) = (0, Vec::new());
    for page in pages()? {
        // e2e/reservations.rs follows it on emulated nodes, as a tenant.
        if page.name == "docs/tutorial-tenants.md" {
            continue;
        }
        let is_tutorial = page.name == "docs/tutorial.md";
        for line in page.lines() {
            let is_ours = line.command.starts_with("haasctl ");
            if line.on_the_rack || (is_tutorial && is_ours) {
                if let Err(error) = reader.follow(&line) {
                    broken.push(format!("{}: {}\n{error:#}", line.place, line.command));
                }
                ran += 1;
            }
        }
    }
    ensure!(broken.is_empty(), "{}\n{}", broken.join("\n\n"), sim.diaries());
    ensure!(ran > 90, "only {ran} commands were run: is the reading of pages broken?");
    Ok(())
}

/// Whether a command goes on until its reader ends it.
fn is_endless(command: &str) -> bool {
    command.contains("--follow") || command.contains("--watch")
}

impl Reader<'_> {
    /// What readers have who begin with the tutorial.
    fn prepare(&self) -> Result<()> {
        let dir = self.sim.rack.dir();
        fs::create_dir_all(dir.join(".ssh"))?;
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmY a@b\n";
        fs::write(dir.join(".ssh/id_ed25519.pub"), key)?;
        std::os::unix::fs::symlink(root().join("images"), dir.join("images"))?;
        // What dnf would have installed: a kernel with its modules, and a system's name.
        let debs = fs::read_dir(dir.join("state/cache/debs"))?;
        let mut files = debs.filter_map(Result::ok).map(|entry| entry.path());
        let kernel = files.find(|deb| {
            deb.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-image-6"))
        });
        let kernel = kernel.context("no package of a kernel: cargo xtask e2e fetches it")?;
        let system = dir.join("rocky9");
        let mut unpack = Command::new("dpkg-deb");
        tests::Output::of(unpack.arg("-x").arg(kernel).arg(&system))?.ok()?;
        fs::create_dir_all(system.join("etc"))?;
        fs::write(system.join("etc/os-release"), "ID=rocky\n")?;
        fs::create_dir_all(system.join("sbin"))?;
        fs::copy("/bin/busybox", system.join("sbin/init"))?;
        Ok(())
    }

    /// Runs a line, or sees that a suite does.
    fn follow(&mut self, line: &Line) -> Result<()> {
        let command = line.command.as_str();
        // It asks a person, and keeps the answer in a file, which is there already.
        if command.starts_with("systemd-ask-password") {
            return Ok(());
        }
        let longest = EMULATED
            .iter()
            .filter(|(start, ..)| command.starts_with(start))
            .max_by_key(|(start, ..)| start.len());
        if let Some((_, suite, words)) = longest {
            let source = root().join("tests").join(suite);
            let text = fs::read_to_string(&source)?;
            let missing = words.iter().find(|word| !text.contains(**word));
            ensure!(missing.is_none(), "{} has no {missing:?}", source.display());
            return Ok(());
        }
        self.before(command)?;
        let (code, said) = self.run(command)?;
        // A doctor may find something in a machine that runs tests; what follows ends by our hand.
        let expected: &[i32] = match command {
            _ if command.contains("doctor") => &[0, 1],
            _ if is_endless(command) => &[124],
            _ => &[0],
        };
        ensure!(expected.contains(&code), "ended with {code}, expected {expected:?}\n{said}");
        // Of events there may be none in that time.
        let may_be_silent = code != 124 || command.contains("events");
        ensure!(may_be_silent || !said.trim().is_empty(), "it said nothing");
        self.after(command)
    }

    /// The line, by a shell in the reader's home.
    fn run(&self, command: &str) -> Result<(i32, String)> {
        let mut line = command.replace("/var/lib/haas", "state");
        for (example, ours) in [
            (" 17", format!(" {}", self.reservation)),
            ("01JD3F7Q8Z", self.operation.clone()),
            ("3f1c...", "3f".repeat(32)),
        ] {
            line = line.replace(example, &ours);
        }
        if line.starts_with("haasctl console n01") && !is_endless(&line) {
            // In a terminal, by script(1), and left again as ssh is.
            line = format!("(sleep 3; printf '\\r~.') | script -q -e -c '{line}' /dev/null");
        }
        let limit = if is_endless(&line) { "3" } else { "900" };
        let programs = built("haasctl")?.parent().context("it lies in a folder")?.to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let dir = self.sim.rack.dir();
        let mut shell: Command = self.sim.rack.command("timeout");
        shell.args([limit, "sh", "-c", &line]).current_dir(dir).env("HOME", dir);
        shell.env("PATH", format!("{}:{path}", programs.display()));
        shell.env("HAASCTL_CONFIG", self.haas.haasd.ctl_config());
        shell.env("HAASD_CONFIG", dir.join("haasd.toml"));
        let output = tests::Output::of(&mut shell)?;
        let code = output.code.context("a signal ended it")?;
        Ok((code, output.stdout + &output.stderr))
    }

    /// Puts the rack where the page supposes it to be.
    fn before(&mut self, command: &str) -> Result<()> {
        match command {
            "haasctl webhook test chat" => {
                let secret = self.sim.rack.dir().join("chat.secret");
                fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
                self.ok("webhook add chat http://10.77.0.1:9999/ --secret-file chat.secret")
            }
            "haasctl node list n03" => {
                self.ok("node manage n03,n09")?;
                self.ok("switch n03 --image minimal --overlay none --wait")
            }
            "haasctl user rm alice --yes" => {
                // The tutorial made her the only one who owns it.
                self.ok("project add vision admin --role owner")?;
                self.ok("switch n01 --image minimal --overlay alice/dev --wait")?;
                self.ok("switch n01 --image minimal --overlay dev --wait")
            }
            _ if command.starts_with("haasctl switch n01 --image tools --overlay alice/dev") => {
                self.ok("user restore alice")
            }
            "haasctl switch n09 --image minimal --overlay alice/dev" => self.exchange_disks(1, 4),
            "haasctl disk accept n09" => self.held("n09", "another cluster's or node's"),
            "haasctl disk accept n01" => {
                self.ok("switch n01 --image minimal --overlay dev --wait")?;
                let old = fs::read(self.disk(1))?;
                self.ok("power cycle n01 --force --wait")?;
                self.ok("power off n01 --force --wait")?;
                fs::write(self.disk(1), old)?;
                self.ok("power on n01")?;
                self.held("n01", "an older generation")
            }
            "haasctl disk accept n02" => {
                self.ok("overlay create swapped")?;
                self.ok("switch n[02-03] --image minimal --overlay swapped --force --wait")?;
                self.ok("power off n[02-03] --force --wait")?;
                self.exchange_disks(2, 3)?;
                self.ok("power on n02")?;
                self.held("n02", "another cluster's or node's")
            }
            "haasctl image rm minimal:old --yes" => self.ok("image tag minimal minimal:old"),
            _ if command.starts_with("haasctl switch n01 --rescue") => self.ready("n01"),
            _ if command.starts_with("haasctl switch @rack1 --image rocky:9.5 --min-success") => {
                self.ok("image tag tools rocky:9.5")?;
                self.ready("n02")
            }
            "haasctl operation pause 01JD3F7Q8Z" => {
                let args = ["switch", "@rack1", "--image", "minimal", "--at-most", "1"];
                let begun: Operation = self.haas.haasd.ctl_json(&args)?;
                self.operation = begun.id;
                Ok(())
            }
            _ if command
                .starts_with("haasctl switch @rack1 --image rocky:9.5 --fast --dry-run") =>
            {
                self.haas.over(&self.operation).map(drop)
            }
            _ if command.starts_with("haasctl reserve -N 2 -t 4:00:00 --image minimal")
                && command.ends_with("--dry-run") =>
            {
                self.ok("overlay create study")?;
                self.ok("power off n[01-03],n09 --force --wait")
            }
            "haasctl overlay hostfile dev > hosts" => {
                self.ok("switch n[01-02] --image minimal --overlay dev --force --wait")
            }
            _ => Ok(()),
        }
    }

    /// Takes from what was printed what later lines have an example of.
    fn after(&mut self, command: &str) -> Result<()> {
        if command.starts_with("haasctl reserve ") && command.ends_with("--wait") {
            let mine: Value = self.haas.haasd.ctl_json(&["mine"])?;
            let id = mine["items"][0]["id"]
                .as_i64()
                .with_context(|| format!("no reservation: {mine}"))?;
            self.reservation = id.to_string();
        }
        if command.starts_with("haasctl release ") {
            // What comes next is asked of nodes that nobody has.
            let show = ["reservation", "show", &self.reservation];
            self.haas.until("the reservation to be over", LONG, || {
                let now: Value = self.haas.haasd.ctl_json(&show)?;
                Ok((now["state"] == "ended").then_some(()))
            })?;
        }
        Ok(())
    }

    /// haasctl, which must succeed, with words that have no blanks in them.
    fn ok(&self, words: &str) -> Result<()> {
        let words: Vec<&str> = words.split(' ').collect();
        self.haas.haasd.ctl(&words)?.ok().map(drop).with_context(|| words.join(" "))
    }

    /// Waits until a node is held, with this word in the reason.
    fn held(&self, name: &str, word: &str) -> Result<()> {
        let reason = self.haas.fault(name, LONG)?;
        ensure!(reason.contains(word), "{name} is held for something else: {reason}");
        Ok(())
    }

    fn ready(&self, name: &str) -> Result<()> {
        self.haas.until(&format!("{name} to be ready"), LONG, || {
            Ok((self.haas.node(name)?.state == NodeState::Ready).then_some(()))
        })
    }

    /// What is on the disk of node `number`, counted from 1.
    fn disk(&self, number: usize) -> PathBuf {
        self.sim.node(number).path().join("disk.json")
    }

    /// Puts the disk of each of two nodes into the other one.
    fn exchange_disks(&self, one: usize, other: usize) -> Result<()> {
        let [one, other] = [self.disk(one), self.disk(other)];
        let aside = one.with_extension("aside");
        fs::rename(&one, &aside)?;
        if other.exists() {
            fs::rename(&other, &one)?;
        }
        fs::rename(&aside, &other)?;
        Ok(())
    }
}
