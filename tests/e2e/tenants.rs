//! Two projects on one rack: two at once on two nodes, and one after the other on one node. Each sees and
//! touches only what is its own, by haasctl, by ssh, and as root on its nodes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use haas_api::List;
use haas_api::node::{Node, NodeState};
use serde_json::Value;
use tests::checks;
use tests::ssh::Person;
use tests::story::Story;
use tests::{DiskHw, Haasd, NodeHw, Output, Rack, RackSpec, files};

const SCRATCH: &str = "SCRATCH1";
/// What the first tenant leaves on the scratch disk: at its start, in its middle, at its end.
const LEFT: &str = "left by alice";
const PLACES: [u64; 3] = [0, 150 << 20, (300 << 20) - 4096];

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_two_tenants_at_once_and_one_after_the_other_see_only_their_own() -> Result<()> {
    let scratch =
        DiskHw { bytes: 300 << 20, serial: Some(SCRATCH.to_owned()), ..DiskHw::default() };
    let first = NodeHw { disks: vec![DiskHw::default(), scratch], ..NodeHw::default() };
    Rack::with(RackSpec::new("tenants", vec![first, NodeHw::default()]), |rack| {
        let scratch = format!("scratch_disks = [{{ serial = \"{SCRATCH}\" }}]");
        let nodes = files::nodes_toml(rack)?
            .replace("name = \"node1\"", &format!("name = \"node1\"\n{scratch}"))
            .replace("[[node]]", "[[node]]\ngroups = [\"rack1\"]");
        let nodes = nodes + "\n[[group]]\nname = \"rack1\"\n";
        let haasd = Haasd::start(rack, &files::haasd_toml(rack)?, &nodes)?;
        checks::build(&haasd, &Story::untold(), "minimal")?;
        haasd.ctl(&["node", "manage", "node[1-2]"])?.ok()?;
        let alice = Tenant::new(rack, &haasd, "alice", "vision")?;
        let bob = Tenant::new(rack, &haasd, "bob", "speech")?;
        at_once(rack, &haasd, &alice, &bob)?;
        one_after_the_other(rack, &alice, &bob)
    })
}

/// Somebody with a project, an overlay, a key, and a haasctl of his own.
struct Tenant<'rack> {
    haasd: &'rack Haasd<'rack>,
    person: Person<'rack>,
    project: &'static str,
    contexts: PathBuf,
}

impl<'rack> Tenant<'rack> {
    fn new(
        rack: &'rack Rack,
        haasd: &'rack Haasd<'rack>,
        name: &str,
        project: &'static str,
    ) -> Result<Self> {
        let person = Person::new(rack, name)?;
        checks::add_user(rack, haasd, &Story::untold(), &person)?;
        let token = rack.dir().join(format!("{name}.token"));
        let (file, overlay) = (token.to_string_lossy(), format!("{name}/dev"));
        for command in [
            &["project", "create", project, "--owner", name][..],
            &["grant", "add", project, "node-group:rack1", "use"],
            &["overlay", "create", &overlay],
            &["user", "token", name, "--file", &file],
        ] {
            haasd.ctl(command)?.ok()?;
        }
        let contexts = rack.dir().join(format!("{name}.toml"));
        let pin = fs::read_to_string(rack.dir().join("state/fingerprint"))?;
        let tenant = Self { haasd, person, project, contexts };
        let url = "https://10.77.0.1:8443";
        tenant.ok(&[
            "context",
            "add",
            "rack",
            "--url",
            url,
            "--use",
            "--fingerprint",
            pin.trim(),
            "--token-file",
            &file,
        ])?;
        Ok(tenant)
    }

    fn ctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.haasd.ctl_command()?;
        Output::of(command.env("HAASCTL_CONFIG", &self.contexts).args(args))
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let what = || format!("haasctl {} by {}", args.join(" "), self.person.name);
        Ok(self.ctl(args)?.ok().with_context(what)?.stdout)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        Ok(serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())?)?)
    }

    fn takes(&self, node: &str) -> Result<()> {
        let overlay = format!("{}/dev", self.person.name);
        let switch = ["switch", node, "--image", "minimal", "--overlay", &overlay];
        self.ok(&[&switch[..], &["--project", self.project, "--force", "--wait"]].concat())?;
        let node: Node = self.json(&["node", "show", node])?;
        ensure!(node.state == NodeState::Ready, "{:?}: {}", node.state, node.reason);
        Ok(())
    }

    fn is_refused(&self, args: &[&str]) -> Result<()> {
        let output = self.ctl(args)?;
        let told = output.stderr.to_lowercase();
        ensure!(
            output.code != Some(0) && (told.contains("may not") || told.contains("there is no")),
            "haasctl {} by {} ended with {:?}: {told}",
            args.join(" "),
            self.person.name,
            output.code
        );
        Ok(())
    }
}

fn at_once(rack: &Rack, haasd: &Haasd<'_>, alice: &Tenant<'_>, bob: &Tenant<'_>) -> Result<()> {
    alice.takes("node1")?;
    bob.takes("node2")?;
    for (own, other, theirs) in [(alice, bob, "node2"), (bob, alice, "node1")] {
        let name = &other.person.name;
        own.is_refused(&["switch", theirs, "--image", "minimal", "--overlay", "none"])?;
        own.is_refused(&["power", "off", theirs, "--force"])?;
        own.is_refused(&["rollback", theirs, "--force"])?;
        own.is_refused(&["overlay", "rm", &format!("{name}/dev"), "--yes"])?;
        let node: Node = own.json(&["node", "show", theirs])?;
        ensure!(node.desired.is_none() && node.observed.logins.is_empty(), "{node:?}");
        let lists = [
            own.ok(&["overlay", "list", "-o", "json"])?,
            own.ok(&["operation", "list", "-o", "json"])?,
            own.ok(&["project", "list", "-o", "json"])?,
            own.ok(&["grant", "list", "-o", "json"])?,
        ]
        .concat();
        for others in [name.as_str(), other.project] {
            ensure!(!lists.contains(&format!("\"{others}\"")), "{others} is in {lists}");
        }
        let boots: List<Value> = own.json(&["node", "boots", theirs])?;
        ensure!(boots.items.is_empty(), "{:?}", boots.items);
        let node = &rack.nodes()[if theirs == "node1" { 0 } else { 1 }];
        for login in ["root", name, &own.person.name] {
            let output = own.person.ssh(node, login, "id")?;
            ensure!(output.code == Some(255), "{} is {login} on {theirs}", own.person.name);
        }
    }
    // What root finds on its node opens nothing: the token of its boot is spent, here and elsewhere.
    let said = alice.person.root(rack.node(1), "cat /proc/cmdline")?;
    let token = said.split_whitespace().find_map(|word| word.strip_prefix("haas.token="));
    let token = token.context("a boot token is on the kernel command line")?;
    let url = format!("http://10.77.0.1/boot/{token}/script");
    for (tenant, number) in [(alice, 1), (bob, 2)] {
        let ask = format!("wget -q -O- {url} 2>&1 || echo refused");
        let said = tenant.person.root(rack.node(number), &ask)?;
        ensure!(said.contains("refused") && !said.contains("#!ipxe"), "{said}");
    }
    let log = haasd.log();
    ensure!(log.contains("boot request refused"), "haasd has not seen the tries");
    ensure!(!log.contains(token), "the token is in haasd's log");
    Ok(())
}

fn one_after_the_other(rack: &Rack, alice: &Tenant<'_>, bob: &Tenant<'_>) -> Result<()> {
    let node = rack.node(1);
    let find = format!(
        "set -e; for d in /sys/block/vd*; do grep -q {SCRATCH} $d/serial && \
         echo /dev/${{d##*/}}; done; true"
    );
    let disk = alice.person.root(node, &find)?;
    let disk = disk.trim();
    let write: String = PLACES
        .iter()
        .map(|place| {
            format!("printf '{LEFT}' | dd of={disk} bs=4096 seek={} conv=notrunc; ", place / 4096)
        })
        .collect();
    alice.person.root(node, &format!("{write} sync; echo {LEFT} > /root/diary; sync"))?;
    let holds = |tenant: &Tenant<'_>| -> Result<Vec<bool>> {
        let read = |place: &u64| -> Result<bool> {
            let read = format!("dd if={disk} bs=4096 count=1 skip={} 2>/dev/null", place / 4096);
            Ok(tenant.person.root(node, &read)?.contains(LEFT))
        };
        PLACES.iter().map(read).collect()
    };
    // It is hers as long as she has the node.
    alice.takes("node1")?;
    ensure!(holds(alice)? == [true; 3], "her own scratch disk was changed");
    alice.ok(&["power", "off", "node1", "--force", "--wait"])?;

    let switch = ["switch", "node1", "--image", "minimal", "--overlay", "bob/dev"];
    let refused = bob.ctl(&[&switch[..], &["--project", bob.project, "--force"]].concat())?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("the only copy"),
        "bob would be root beside what alice has there: {refused:?}"
    );
    alice.ok(&["overlay", "share-disk", "alice/dev", "--yes"])?;
    bob.takes("node1")?;
    ensure!(holds(bob)? == [false; 3], "bob reads what alice has left");
    let diary = bob.person.ssh(node, "root", "cat /root/diary")?;
    ensure!(diary.code != Some(0), "bob reads {}", diary.stdout);
    let refused = alice.person.ssh(node, "root", "id")?;
    ensure!(refused.code == Some(255), "alice is still root on node1");
    alice.is_refused(&["power", "off", "node1", "--force"])?;
    rack.wait_for("haasd to see that nobody is logged in", Duration::from_secs(60), || {
        let node = bob.json::<Node>(&["node", "show", "node1"]);
        node.is_ok_and(|node| node.observed.logins.is_empty())
    })?;
    bob.ok(&["power", "off", "node1", "--force", "--wait"])?;
    bob.ok(&["overlay", "share-disk", "bob/dev", "--yes"])?;

    alice.takes("node1")?;
    let diary = alice.person.root(node, "cat /root/diary")?;
    ensure!(diary.trim() == LEFT, "{diary}");
    ensure!(holds(alice)? == [false; 3], "it was bob's meanwhile");
    Ok(())
}
