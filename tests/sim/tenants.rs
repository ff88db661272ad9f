//! Two tenants on one rack, at once on two nodes and one after the other on one: each sees its own overlays,
//! images, consoles, events, operations and boots, by haasctl and by the API, and nothing of the other's.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use controller::store::Store;
use haas_api::client::Wanted;
use haas_api::node::NodeState;
use tests::{CONTROLLER, Output, wait_for};

use crate::console::Bmc;
use crate::rack::{Controller, LONG, PATIENT, SimRack};

/// People make their own accounts, and consoles are logged.
const CONFIG: &str = "\n[auth]\nregister = true\n[console]\nlog = true\n";
/// Where the BMC of n3 is, which has a console and no node behind it.
const PORT: u16 = 6_231;

/// Somebody with a project, an image, an overlay, and a haasctl of his own.
struct Tenant<'c, 'rack> {
    haas: &'c Controller<'rack>,
    name: &'static str,
    project: &'static str,
    image: &'static str,
    contexts: PathBuf,
    token: String,
}

impl<'c, 'rack> Tenant<'c, 'rack> {
    fn new(
        haas: &'c Controller<'rack>,
        [name, project, image]: [&'static str; 3],
    ) -> Result<Tenant<'c, 'rack>> {
        let dir = haas.sim.rack.dir();
        let contexts = dir.join(format!("{name}.toml"));
        let mut tenant = Tenant { haas, name, project, image, contexts, token: String::new() };
        let (word, file) = (dir.join(format!("{name}.word")), dir.join(format!("{name}.token")));
        fs::write(&word, format!("correct horse of {project}\n"))?;
        let (word, file) = (word.to_string_lossy(), file.to_string_lossy());
        let pin = fs::read_to_string(dir.join("state/fingerprint"))?;
        let url = format!("https://{CONTROLLER}:8443");
        let there = ["--url", &url, "--fingerprint", pin.trim(), "--password-file", &word];
        tenant.ok(&[&["register", name][..], &there].concat())?;
        let by_admin = |args: &[&str]| haas.haasd.ctl(args)?.ok().map(drop);
        by_admin(&["project", "create", project, "--owner", name])?;
        by_admin(&["grant", "add", project, "node-group:rack1", "use"])?;
        set_image_owner(haas, image, project)?;
        by_admin(&["image", "tag", "minimal", &format!("{image}:latest")])?;
        tenant.ok(&["overlay", "create", "dev"])?;
        tenant.ok(&["user", "token", name, "--file", &file])?;
        tenant.token = fs::read_to_string(&*file)?.trim().to_owned();
        Ok(tenant)
    }

    fn ctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.haas.haasd.ctl_command()?;
        Output::of(command.env("HAASCTL_CONFIG", &self.contexts).args(args))
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let what = || format!("haasctl {} by {}", args.join(" "), self.name);
        Ok(self.ctl(args)?.ok().with_context(what)?.stdout)
    }

    /// That it is told to be not there, or not his.
    fn is_refused(&self, args: &[&str]) -> Result<()> {
        let output = self.ctl(args)?;
        let is_refused = output.code == Some(4) || output.code == Some(6);
        ensure!(is_refused, "haasctl {} by {}: {output:?}", args.join(" "), self.name);
        Ok(())
    }

    fn takes(&self, node: &str) -> Result<String> {
        let (image, overlay) = (self.image, format!("{}/dev", self.name));
        let switch = ["switch", node, "--image", image, "--overlay", &overlay, "--force"];
        let made = self.ok(&[&switch[..], &["-o", "json"]].concat())?;
        let made: haas_api::operation::Operation = serde_json::from_str(&made)?;
        Ok(made.id)
    }

    fn has(&self, node: &str) -> Result<()> {
        self.haas.until(&format!("{node} to be {}'s", self.name), LONG, || {
            let now = self.haas.node(node)?;
            ensure!(now.state != NodeState::Fault, "{}", now.reason);
            let is_his = now.tenant.as_ref().is_some_and(|t| t.as_str() == self.project);
            Ok((is_his && now.state == NodeState::Ready).then_some(()))
        })
    }

    /// All that lists show of what is anybody's, by haasctl.
    fn lists(&self) -> Result<String> {
        let mut told = String::new();
        for list in [
            &["image", "list"][..],
            &["overlay", "list"],
            &["overlay", "du"],
            &["operation", "list"],
            &["project", "list"],
            &["grant", "list"],
            &["node", "list"],
            &["node", "boots", "n1"],
            &["node", "boots", "n2"],
            &["node", "boots", "n3"],
            &["events", "--from", "0"],
            &["console", "n3", "--log", "--lines", "1000"],
        ] {
            told += &self.ok(&[list, &["-o", "json"]].concat())?;
        }
        Ok(told)
    }

    /// The same by the API.
    fn answers(&self) -> Result<String> {
        let node = "n3".parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        let told = self.haas.api_as(&self.token, async |client| {
            let mut told = serde_json::to_string(&client.images().await?).expect("plain data");
            told += &serde_json::to_string(&client.overlays().await?).expect("plain data");
            told += &serde_json::to_string(&client.operations().await?).expect("plain data");
            told += &serde_json::to_string(&client.projects().await?).expect("plain data");
            told += &serde_json::to_string(&client.grants().await?).expect("plain data");
            told += &serde_json::to_string(&client.nodes(None).await?).expect("plain data");
            told += &serde_json::to_string(&client.boots(&node).await?).expect("plain data");
            let wanted = Wanted { from: Some(0), so_far: true, ..Wanted::default() };
            let mut events = client.events_of(wanted);
            loop {
                match events.next().await {
                    Ok(event) => told += &serde_json::to_string(&event).expect("plain data"),
                    Err(_) if events.is_over() => return Ok(told),
                    Err(error) => return Err(error),
                }
            }
        });
        Ok(told??)
    }

    /// That he sees what is his, and of the other neither a name nor an id.
    fn sees_his_own_alone(&self, other: &Tenant<'_, '_>, ids: &[&str]) -> Result<()> {
        for told in [self.lists()?, self.answers()?] {
            for own in [self.name, self.project, self.image] {
                ensure!(told.contains(own), "{} does not see {own}: {told}", self.name);
            }
            let others = [other.name, other.project, other.image];
            for others in others.iter().chain(ids) {
                ensure!(!told.contains(others), "{} sees {others}: {told}", self.name);
            }
        }
        self.is_refused(&["image", "show", other.image])?;
        self.is_refused(&["project", "show", other.project])?;
        self.is_refused(&["user", "tokens", other.name])?;
        self.is_refused(&["overlay", "rm", &format!("{}/dev", other.name), "--yes"])?;
        self.is_refused(&["audit"])?;
        for id in ids {
            self.is_refused(&["operation", "show", id])?;
        }
        Ok(())
    }
}

/// Gives a name of images to a project, as the import of an image with `--project` does.
fn set_image_owner(haas: &Controller<'_>, image: &str, project: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let url = format!("sqlite://{}/state/haas.db", haas.sim.rack.dir().display());
    runtime.block_on(async {
        let store = Store::open(&url).await?;
        let mut tx = store.write().await?;
        let project = tx.project(project).await?.context("it was made")?;
        let image = image.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        tx.set_image_owner(&image, &project.id).await?;
        Ok(tx.commit().await?)
    })
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn two_tenants_at_once_and_one_after_the_other_see_only_what_is_theirs() -> Result<()> {
    let sim = SimRack::start("tenants", 2)?;
    let mut bmc = Bmc::start(&sim.rack, PORT)?;
    let nodes =
        sim.nodes_toml_of(&[1, 2])?.replace("\naddress = ", "\ngroups = [\"rack1\"]\naddress = ");
    fs::write(sim.rack.dir().join("bmc-password"), "s3cret")?;
    let third = format!(
        "\n[[node]]\nname = \"n3\"\nmac = \"52:54:00:77:01:03\"\naddress = \"10.77.0.13\"\n\
         groups = [\"rack1\"]\npower = {{ driver = \"ipmi\", address = \"{CONTROLLER}\", port = {PORT}, \
         user = \"admin\", password_file = \"bmc-password\" }}\n\n[[group]]\nname = \"rack1\"\n"
    );
    let haas = sim.haasd_with_inventory(&format!("{PATIENT}{CONFIG}"), &(nodes + &third))?;
    haas.manage("n[1-3]", true)?;
    let alice = Tenant::new(&haas, ["alice", "vision", "cuda"])?;
    let bob = Tenant::new(&haas, ["robert", "speech", "kaldi"])?;

    // At once.
    let hers = alice.takes("n1")?;
    let his = bob.takes("n2")?;
    alice.has("n1")?;
    bob.has("n2")?;
    alice.sees_his_own_alone(&bob, &[&his])?;
    bob.sees_his_own_alone(&alice, &[&hers])?;
    for (own, theirs) in [(&alice, "n2"), (&bob, "n1")] {
        own.is_refused(&["switch", theirs, "--image", "minimal", "--overlay", "none"])?;
        own.is_refused(&["power", "off", theirs, "--force"])?;
        own.is_refused(&["rollback", theirs, "--force"])?;
    }

    // One after the other, on a node with a console that never comes up.
    let mut ids = [vec![hers], vec![his]];
    for (turn, tenant) in [&alice, &bob, &alice].into_iter().enumerate() {
        let other = if tenant.name == bob.name { &alice } else { &bob };
        let boots = opened(&haas)?;
        ids[usize::from(tenant.name == bob.name)].push(tenant.takes("n3")?);
        haas.until("a boot of n3", LONG, || Ok((opened(&haas)? > boots).then_some(())))?;
        let said = format!("turn {turn} is {}'s", tenant.project);
        bmc.say(&said)?;
        let log = ["console", "n3", "--log", "--lines", "1000"];
        wait_for("the console's log", LONG, || {
            tenant.ok(&log).is_ok_and(|log| log.contains(&said))
        })?;
        other.is_refused(&["console", "n3", "--watch"])?;
        ensure!(!other.ok(&log)?.contains(&said), "{} reads what is {}'s", other.name, tenant.name);
        tenant.ok(&["power", "off", "n3", "--force", "--wait"])?;
    }
    // And on one that does: what each has left there is its own.
    alice.ok(&["power", "off", "n1", "--force", "--wait"])?;
    alice.ok(&["overlay", "share-disk", "dev", "--yes"])?;
    ids[1].push(bob.takes("n1")?);
    bob.has("n1")?;
    let [hers, his] = ids.each_ref().map(|ids| ids.iter().map(String::as_str).collect::<Vec<_>>());
    alice.sees_his_own_alone(&bob, &his)?;
    bob.sees_his_own_alone(&alice, &hers)?;
    let shown = alice.ok(&["node", "show", "n1", "-o", "json"])?;
    ensure!(shown.contains("\"desired\": null"), "{shown}");
    alice.is_refused(&["power", "off", "n1", "--force"])
}

/// How many boots of n3 there were.
fn opened(haas: &Controller<'_>) -> Result<usize> {
    let events = haas.events()?.into_iter();
    let of_n3 = events.filter(|event| event.node.as_deref() == Some("n3"));
    Ok(of_n3.filter(|event| event.kind == "boot-opened").count())
}
