//! Reservations on real kernels: three tenants with haasctl on three nodes, and the tenants' tutorial, each
//! command as it stands there.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use haas_api::reservation::{ReasonCode, Reservation, ReservationState};
use tests::ssh::Person;
use tests::story::Story;
use tests::{Haasd, NodeHw, Output, Rack, RackSpec, built, checks, files, wait_some};

use crate::support::BOOT;

/// A boot is taken to need this long until some were seen; nodes that nobody has go off soon.
const CONFIG: &str = "\n[reservations]\nboot_time = \"120s\"\n\
                      [[idle]]\nnode_group = \"rack1\"\nidle_timeout = \"1m\"\n";

/// Somebody with a token, a key and an overlay `study`.
struct Tenant<'r> {
    haasd: &'r Haasd<'r>,
    rack: &'r Rack,
    person: Person<'r>,
    config: PathBuf,
}

impl<'r> Tenant<'r> {
    /// Known to haasd, with the token beside; what the tutorial's reader is given.
    fn known(rack: &'r Rack, haasd: &'r Haasd<'r>, name: &str) -> Result<Self> {
        let person = Person::new(rack, name)?;
        checks::add_user(rack, haasd, &Story::untold(), &person)?;
        let token = rack.dir().join(format!("{name}.token"));
        haasd.ctl(&["user", "token", name, "--file", &token.to_string_lossy()])?.ok()?;
        Ok(Self { haasd, rack, person, config: rack.dir().join(format!("{name}.toml")) })
    }

    /// The same with a context and an overlay.
    fn new(rack: &'r Rack, haasd: &'r Haasd<'r>, name: &str) -> Result<Self> {
        let tenant = Self::known(rack, haasd, name)?;
        let pin = fs::read_to_string(rack.dir().join("state/fingerprint"))?;
        let token = rack.dir().join(format!("{name}.token"));
        let (url, token) = ("https://10.77.0.1:8443", token.to_string_lossy());
        let context = ["context", "add", "rack", "--url", url, "--fingerprint", pin.trim()];
        tenant.ok(&[&context[..], &["--token-file", &token, "--use"]].concat())?;
        tenant.ok(&["overlay", "create", "study"])?;
        Ok(tenant)
    }

    fn ctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.haasd.ctl_command()?;
        Output::of(command.env("HAASCTL_CONFIG", &self.config).args(args))
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let what = || format!("haasctl {} by {}", args.join(" "), self.person.name);
        Ok(self.ctl(args)?.ok().with_context(what)?.stdout)
    }

    /// haasctl, which must fail; what it says.
    fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.ctl(args)?;
        ensure!(output.code != Some(0), "haasctl {} was not refused", args.join(" "));
        Ok(output.stderr)
    }

    fn reserve(&self, args: &[&str]) -> Result<Reservation> {
        let start = ["reserve", "--image", "minimal", "-o", "json"];
        Ok(serde_json::from_str(&self.ok(&[&start[..], args].concat())?)?)
    }

    fn look(&self, id: i64) -> Result<Reservation> {
        let id = id.to_string();
        Ok(serde_json::from_str(&self.ok(&["reservation", "show", &id, "-o", "json"])?)?)
    }

    fn until(&self, id: i64, what: &str, is: impl Fn(&Reservation) -> bool) -> Result<Reservation> {
        let mut last = None;
        let found = wait_some(&format!("reservation {id} to be {what}"), 3 * BOOT, || {
            let now = self.look(id).ok()?;
            let found = is(&now).then(|| now.clone());
            last = Some(now);
            found
        });
        found.with_context(|| format!("{last:#?}"))
    }

    fn until_state(&self, id: i64, state: ReservationState) -> Result<Reservation> {
        self.until(id, state.as_str(), |now| now.state == state)
    }
}

fn held(one: &Reservation) -> Vec<&str> {
    let held = one.assigned.iter().filter(|node| node.state != "lost");
    held.map(|node| node.node.as_str()).collect()
}

/// haasd with all nodes managed in one node group, and the image `minimal`.
fn start<'r>(rack: &'r Rack) -> Result<Haasd<'r>> {
    let nodes = files::nodes_toml(rack)?.replace("[[node]]", "[[node]]\ngroups = [\"rack1\"]");
    let nodes = nodes + "\n[[group]]\nname = \"rack1\"\n";
    let haasd = Haasd::start(rack, &(files::haasd_toml(rack)? + CONFIG), &nodes)?;
    checks::build(&haasd, &Story::untold(), "minimal")?;
    haasd.ctl(&["node", "manage", &checks::node_set(rack)])?.ok()?;
    Ok(haasd)
}

fn all_off(rack: &Rack) -> Result<()> {
    rack.nodes().iter().try_for_each(|node| node.wait_off(2 * BOOT))
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_three_tenants_share_a_rack_by_the_calendar() -> Result<()> {
    Rack::with(RackSpec::new("reserve", vec![NodeHw::default(); 3]), |rack| {
        let haasd = start(rack)?;
        let alice = Tenant::new(rack, &haasd, "alice")?;
        let bob = Tenant::new(rack, &haasd, "bob")?;
        let carol = Tenant::new(rack, &haasd, "carol")?;
        the_queue_and_the_hour(rack, &alice, &bob, &carol)?;
        a_node_dies(rack, &alice)?;
        ranks_go_home(rack, &alice)
    })
}

/// Who waits in a queue, who names an hour, and who wants more than can be had.
fn the_queue_and_the_hour(
    rack: &Rack,
    alice: &Tenant<'_>,
    bob: &Tenant<'_>,
    carol: &Tenant<'_>,
) -> Result<()> {
    // Others are root beside what she leaves on disks here.
    alice.ok(&["overlay", "share-disk", "alice/study", "--yes"])?;
    let two = ["-N", "2", "-w", "node[1-2]"];
    let first = alice.reserve(&[&two[..], &["-t", "30", "--overlay", "study"]].concat())?.id;
    let waits = carol.reserve(&["-N", "3", "-t", "20"])?.id;
    alice.until_state(first, ReservationState::Active)?;
    ensure!(!rack.node(3).is_on()?, "nobody has node3");
    let told = carol.ok(&["explain", &waits.to_string()])?;
    ensure!(told.contains("in use"), "{told}");
    carol.ok(&["release", &waits.to_string()])?;

    // Ready at the hour, by as much earlier as boots were seen to need.
    let hour = bob.reserve(&["-N", "1", "-t", "5", "--begin", "now+4min"])?;
    ensure!(hour.state == ReservationState::Planned, "{hour:#?}");
    ensure!(held(&hour) == ["node3"], "{hour:#?}");
    let later = carol.reserve(&["-N", "3", "-t", "30", "--begin", "now+90min"])?;
    let refused = alice.refused(&["extend", &first.to_string(), "3h"])?;
    ensure!(
        refused.contains("is promised to another reservation from")
            && refused.contains("it could be extended by"),
        "{refused}"
    );
    let hour = bob.until_state(hour.id, ReservationState::Active)?;
    ensure!(hour.late_s.unwrap_or_default() <= 10, "{hour:#?}");
    carol.ok(&["release", &later.id.to_string()])?;
    bob.until_state(hour.id, ReservationState::Ended)?;
    alice.ok(&["release", &first.to_string()])?;
    alice.until_state(first, ReservationState::Ended)?;
    all_off(rack)
}

/// Its power goes and its BMC with it: another node takes its place, and on it there is no data yet.
fn a_node_dies(rack: &Rack, alice: &Tenant<'_>) -> Result<()> {
    let id = alice.reserve(&["-N", "1", "-t", "60", "--nodelist", "node3"])?.id;
    let other = alice.reserve(&["-N", "1", "-t", "60"])?.id;
    let active = alice.until_state(other, ReservationState::Active)?;
    alice.until_state(id, ReservationState::Active)?;
    let name = held(&active)[0].to_owned();
    let dead = rack.nodes().iter().find(|node| node.name == name).context("it is in the rack")?;
    dead.bmc.unplug();
    dead.power_cut()?;
    let healed = alice.until(other, "whole again", |now| {
        now.code == ReasonCode::Replaced
            && now.assigned.iter().any(|node| node.state == "ready" && node.node != name)
    })?;
    let told = healed.steps.iter().find(|step| step.code == ReasonCode::Replaced);
    let told = told.context("it is told")?;
    ensure!(told.detail.starts_with(&format!("rank 0 was on {name}, which is lost")), "{told:?}");
    for id in [id, other] {
        alice.ok(&["release", &id.to_string()])?;
        alice.until_state(id, ReservationState::Ended)?;
    }
    dead.bmc.plug_in()?;
    all_off(rack)
}

/// Nodes were off since nobody had them, and are on again for the next claim: where its data is.
fn ranks_go_home(rack: &Rack, alice: &Tenant<'_>) -> Result<()> {
    let id = alice.reserve(&["-N", "2", "-t", "30", "--overlay", "study"])?.id;
    let active = alice.until_state(id, ReservationState::Active)?;
    ensure!(held(&active) == ["node1", "node2"], "{active:#?}");
    let write = "cat /run/haas/rank > /root/mine; sync";
    for number in [1, 2] {
        alice.person.root(rack.node(number), write)?;
    }
    alice.ok(&["release", &id.to_string()])?;
    alice.until_state(id, ReservationState::Ended)?;
    all_off(rack)?;
    let id = alice.reserve(&["-N", "2", "-t", "30", "--overlay", "study"])?.id;
    alice.until_state(id, ReservationState::Active)?;
    for (number, rank) in [(1, "0"), (2, "1")] {
        let kept = alice.person.root(rack.node(number), "cat /root/mine")?;
        ensure!(kept.trim() == rank, "node{number} has {kept:?}");
    }
    Ok(())
}

/// The commands of the tenants' tutorial, in its order.
fn tutorial() -> Result<Vec<String>> {
    let pages = tests::pages::pages()?;
    let page = pages.iter().find(|page| page.name == "docs/tutorial-tenants.md");
    let lines = page.context("there is no such page")?.lines();
    Ok(lines.into_iter().map(|line| line.command).collect())
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_the_tenants_tutorial_does_what_it_says() -> Result<()> {
    Rack::with(RackSpec::new("tutorial", vec![NodeHw::default(); 2]), |rack| {
        let haasd = start(rack)?;
        let alice = Tenant::known(rack, &haasd, "alice")?;
        fs::copy(rack.dir().join("state/fingerprint"), rack.dir().join("fingerprint"))?;
        let programs = built("haasctl")?;
        let programs = programs.parent().context("haasctl is in a folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let key = alice.person.private_key().display().to_string();
        let mut ran = 0;
        for command in tutorial()? {
            // The rack's nodes have other names, and its people keep their keys elsewhere.
            let here = command
                .replace("n[01-02]", "node[1-2]")
                .replace(" -l root", &format!(" -l root -i {key}"));
            let mut shell = alice.rack.command("sh");
            shell.args(["-c", &here]).current_dir(rack.dir());
            shell.env("PATH", format!("{}:{path}", programs.display()));
            shell.env("HAASCTL_CONFIG", &alice.config);
            shell.env("XDG_CACHE_HOME", rack.dir().join("cache"));
            Output::of(&mut shell)?.ok().with_context(|| here.clone())?;
            ran += 1;
        }
        ensure!(ran > 12, "only {ran} commands were found: is the reading of the page broken?");
        let read = |name: &str| fs::read_to_string(rack.dir().join(name));
        let results = read("results.txt")?;
        ensure!(results.contains("node1\n0\n") && results.contains("node2\n1\n"), "{results}");
        ensure!(read("again.txt")? == results, "the second time finds something else");
        let usage = read("usage.csv")?;
        ensure!(usage.contains("\nalice,alice,default,2,"), "{usage}");
        Ok(())
    })
}
