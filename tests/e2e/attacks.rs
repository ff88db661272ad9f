//! Who may not, on real nodes: root on a node that was lent, and a machine on the same wire, with secrets
//! that they have stolen. Each attack has its name, and beside them stands what does work, so that a
//! refusal means something.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use controller::tokens::MasterKey;
use haas_api::agent::HelloAuth;
use tests::impostor::{self, Impostor};
use tests::story::Story;
use tests::{CONTROLLER, Content, DiskHw, NodeHw, OldOs, Output, Rack, RackSpec, files};

use crate::support::{BOOT, Lab, boots, soon, with_lines};

/// An address that haasd knows nothing of.
const STRANGER: &str = "10.77.0.200";
/// So long does the second node test its memory: meanwhile its boot is open, and its token unspent.
const SELF_TEST: u32 = 60;
/// What the system on the third node's own disk says.
const PLANTED: &str = "PLANTED-SYSTEM";

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_root_on_a_node_and_a_stranger_on_its_wire_get_nothing() -> Result<()> {
    let slow = NodeHw { self_test: SELF_TEST, ..NodeHw::default() };
    let own = Content::OldOs { marker: PLANTED.into(), then: OldOs::Hangs };
    let planted = NodeHw {
        disks: vec![
            DiskHw { content: own, serial: Some("OWN1".into()), ..DiskHw::default() },
            DiskHw { serial: Some("OVERLAY1".into()), ..DiskHw::default() },
        ],
        ..NodeHw::default()
    };
    Rack::with(RackSpec::new("attacks", vec![NodeHw::default(), slow, planted]), |rack| {
        let nodes = files::nodes_toml(rack)?;
        let nodes = with_lines(&nodes, "node3", "overlay_disk = { serial = \"OVERLAY1\" }");
        let lab = Lab::start_with(rack, "", nodes)?;
        lab.bring_up(&["node1"], "alice/work")?;
        let attack = Attack {
            key: MasterKey::open(&rack.dir().join("state/master.key"))?,
            old: newest_boot(&lab, "node1")?,
            lab: &lab,
        };
        lab.ok(&[
            "switch",
            "node1",
            "--image",
            "minimal",
            "--overlay",
            "alice/work",
            "--reboot",
            "--force",
        ])?;
        lab.rack.wait_for("another boot", Duration::from_secs(60), || {
            newest_boot(&lab, "node1").is_ok_and(|boot| boot != attack.old)
        })?;
        lab.wait_ready("node1")?;
        rack_ip(rack, &["address", "add", &format!("{STRANGER}/24"), "dev", "br0"])?;

        let mut story = Story::new("Attacks", 4);
        story.step("on a boot that is open", |story| attack.open_boot(story))?;
        story.step("on the image", |story| attack.image(story))?;
        story.step("with what is over", |story| attack.what_is_over(story))?;
        story.step("by a system of the node's own", |story| attack.planted(story))?;
        story.verdict()
    })
}

struct Attack<'l> {
    lab: &'l Lab<'l>,
    /// What is stolen is taken from here, so that nothing depends on how it was stolen.
    key: MasterKey,
    /// The first boot of node1, which is over.
    old: String,
}

impl Attack<'_> {
    /// The second node has been switched on, and its firmware is not at the network yet.
    fn open_boot(&self, story: &mut Story) -> Result<()> {
        let lab = self.lab;
        lab.switch("node2", "bob/work")?;
        soon("a boot of node2", || newest_boot(lab, "node2").is_ok())?;
        let token = self.token(&newest_boot(lab, "node2")?);
        let script = format!("http://{CONTROLLER}/boot/{token}/script");
        let address = lab.rack.node(2).address;

        story.check("its token from another address", self.is_refused(&[&script]));
        for header in ["X-Forwarded-For", "X-Real-IP", "Forwarded"] {
            let says = match header {
                "Forwarded" => format!("{header}: for={address}"),
                _ => format!("{header}: {address}"),
            };
            let what = format!("its token and its address in {header}");
            story.check(what, self.is_refused(&["--header", &says, &script]));
        }
        story.check("its token by root on another node", {
            let said =
                lab.ssh("root", "node1", &format!("wget -O- {script} 2>&1 || echo refused"))?;
            nothing_of_a_script(&said)
        });
        story.check("its token as the agent's call from another address", {
            let pin = fs::read_to_string(lab.rack.dir().join("state/fingerprint"))?;
            let url = format!("https://{CONTROLLER}:8443");
            let auth = HelloAuth::Token(token.clone());
            match lab.rack.in_netns(|| sim::call(&url, pin.trim(), auth))?? {
                sim::Called::Refused(reason) if reason.contains("another address") => Ok(()),
                other => Err(anyhow::anyhow!("{other:?}")),
            }
        });
        story.check("tokens that are guessed", {
            let other = |n: u8| token.replace(&token[..1], &n.to_string());
            (0..9).try_for_each(|n| {
                let guess = format!("http://{CONTROLLER}/boot/{}/script", other(n));
                if guess == script { Ok(()) } else { self.is_refused(&[&guess]) }
            })
        });
        story.check("who names himself by a header", {
            let url = format!("https://{CONTROLLER}:8443/v1/users");
            let names = ["X-Remote-User: admin", "X-Forwarded-User: admin", "Remote-User: admin"];
            names
                .iter()
                .try_for_each(|name| self.is_refused(&["--insecure", "--header", name, &url]))
        });
        // None of this has spent it: the node itself boots.
        lab.wait_ready("node2")
    }

    /// By root on the first node, with another initiator than the kernel's.
    fn image(&self, story: &mut Story) -> Result<()> {
        let lab = self.lab;
        bring_initiator(lab, "node1")?;
        let image = lab.json(&["image", "show", "minimal"])?;
        let target = image["target"].as_str().context("an image has a target")?.to_owned();
        let (own, other) = (newest_boot(lab, "node1")?, newest_boot(lab, "node2")?);
        let name = |node: &str, boot: &str| {
            format!("iqn.2026-11.org.haas:boot.{node}.{}", boot.to_lowercase())
        };
        let (first, second) = (name("node1", &own), name("node2", &other));
        let secret = |boot: &str| self.key.node_chap(boot).expose().to_owned();

        // With all that is right: root reads by it what root reads anyway.
        let read = self.reads(&target, &first, Some(&secret(&own)))?;
        ensure!(read, "the right initiator with the right secret is refused");
        for (what, initiator, password) in [
            ("an initiator of no boot", "iqn.2026-11.org.example:mallory", Some(secret(&own))),
            ("the right initiator without a secret", &first, None),
            ("the right initiator with a wrong secret", &first, Some("0".repeat(64))),
            (
                "the right initiator with the secret of an older boot",
                &first,
                Some(secret(&self.old)),
            ),
            (
                "an older boot's initiator with its secret",
                &name("node1", &self.old),
                Some(secret(&self.old)),
            ),
            ("another node's initiator with its secret", &second, Some(secret(&other))),
        ] {
            let read = self.reads(&target, initiator, password.as_deref())?;
            story.check(what, if read { Err(anyhow::anyhow!("it is let in")) } else { Ok(()) });
        }
        story.check("a list of all targets", {
            let list = format!("iscsi-ls -i iqn.2026-11.org.example:mallory iscsi://{CONTROLLER}");
            let said = lab.ssh_any("root", "node1", &list)?;
            let told = format!("{}{}", said.stdout, said.stderr);
            if told.contains(&target) { Err(anyhow::anyhow!(told)) } else { Ok(()) }
        });
        // The node's own session was not touched by any of it.
        lab.ssh("root", "node1", "echo 3 > /proc/sys/vm/drop_caches; md5sum /bin/busybox")?;
        Ok(())
    }

    /// The address of a node that is off is free to take.
    fn what_is_over(&self, story: &mut Story) -> Result<()> {
        let (lab, rack) = (self.lab, self.lab.rack);
        let cmdline = lab.ssh("root", "node1", "cat /proc/cmdline")?;
        let spent = cmdline.split_whitespace().find_map(|word| word.strip_prefix("haas.token="));
        let spent = spent.context("the node has its token in its command line")?.to_owned();
        ensure!(spent == self.token(&newest_boot(lab, "node1")?), "it is another one's token");
        lab.power_off("node1")?;
        let address = rack.node(1).address.to_string();
        rack_ip(rack, &["address", "add", &format!("{address}/32"), "dev", "br0"])?;
        for (what, token) in [("spent", spent), ("of an older boot", self.token(&self.old))] {
            for file in ["script", "kernel", "initrd"] {
                let url = format!("http://{CONTROLLER}/boot/{token}/{file}");
                let asked = self.ask(&address, &[&url]).and_then(|said| nothing_of_a_script(&said));
                story.check(format!("a token that is {what}, from its address: {file}"), asked);
            }
        }
        rack_ip(rack, &["address", "del", &format!("{address}/32"), "dev", "br0"])?;
        let log = lab.haasd.log();
        ensure!(log.contains("boot request refused"), "haasd has seen nothing of it");
        Ok(())
    }

    /// Root has another system started in place of ours, which knows the token of the boot that was and
    /// speaks as firmware and agent do. Its BMC is silent, so that nothing ends it.
    fn planted(&self, story: &mut Story) -> Result<()> {
        let (lab, rack, node) = (self.lab, self.lab.rack, self.lab.rack.node(3));
        lab.ok(&["overlay", "create", "alice/own"])?;
        lab.bring_up(&["node3"], "alice/own")?;
        let old = self.token(&newest_boot(lab, "node3")?);
        let mark = node.console.mark();
        lab.ssh(
            "root",
            "node3",
            "(sleep 3; echo b > /proc/sysrq-trigger) < /dev/null > /dev/null 2>&1 &",
        )?;
        node.bmc.unplug();
        node.cut_link()?;
        node.console.wait_for(PLANTED, mark, BOOT)?;

        let poser = Impostor::of(rack, node)?;
        story.check(
            "the script of the boot that was",
            poser.gets_no_script(&impostor::script(&old)),
        );
        story.check(
            "its agent's call",
            poser.is_refused(HelloAuth::Token(old.clone()), "used before"),
        );
        let mut offer = None;
        soon("an answer to its firmware", || {
            offer = poser.offered(&node.mac).ok().flatten();
            offer.is_some()
        })?;
        let url = offer.context("it was answered")?.1;
        let new = impostor::token(&url).with_context(|| url.clone())?.to_owned();
        ensure!(new != old, "a boot that nobody has begun has a token of its own");
        story.check(
            "the call of an agent whose boot haasd has not begun",
            poser.is_refused(HelloAuth::Token(new.clone()), "started by itself"),
        );
        drop(poser);

        // haasd has the BMC start the node, and what that starts is ours.
        node.mend_link()?;
        node.bmc.plug_in()?;
        lab.rack.wait_for("the node to be started anew", BOOT, || {
            newest_boot(lab, "node3").is_ok_and(|boot| self.token(&boot) != new)
        })?;
        lab.wait_ready("node3")
    }

    fn token(&self, boot: &str) -> String {
        self.key.boot_token(boot).expose().to_owned()
    }

    /// That a stranger on the wire gets nothing for these arguments of curl.
    fn is_refused(&self, request: &[&str]) -> Result<()> {
        nothing_of_a_script(&self.ask(STRANGER, request)?)
    }

    /// The status and what was answered.
    fn ask(&self, from: &str, request: &[&str]) -> Result<String> {
        let mut curl = self.lab.rack.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--include",
            "--interface",
            from,
        ]);
        let output = Output::of(curl.args(request))?;
        ensure!(output.stdout.starts_with("HTTP/"), "nobody answers: {}", output.stderr);
        Ok(output.stdout)
    }

    /// Whether node1 can read the image by libiscsi so.
    fn reads(&self, target: &str, initiator: &str, password: Option<&str>) -> Result<bool> {
        let who = password.map(|password| format!("{initiator}%{password}@")).unwrap_or_default();
        let inquiry = format!("iscsi-inq -i {initiator} 'iscsi://{who}{CONTROLLER}/{target}/0'");
        let output = self.lab.ssh_any("root", "node1", &inquiry)?;
        let (read, told) = (output.code == Some(0), format!("{}{}", output.stdout, output.stderr));
        // A client that does not run would be refused nothing.
        ensure!(
            read || told.to_lowercase().contains("login"),
            "iscsi-inq as {initiator} ended with {:?}: {told}",
            output.code
        );
        Ok(read)
    }
}

/// Refused, and not only because he asked too often.
fn nothing_of_a_script(said: &str) -> Result<()> {
    let status = said.strip_prefix("HTTP/1.1 ").or_else(|| said.strip_prefix("HTTP/2 "));
    let is_refused = match status {
        Some(status) => status.starts_with('4') && !status.starts_with("429"),
        // What busybox's wget prints has its own form.
        None => said.contains("refused"),
    };
    ensure!(is_refused && !said.contains("#!ipxe"), "{said}");
    Ok(())
}

/// The newest boot of a node, by its id, which grows with time.
fn newest_boot(lab: &Lab<'_>, node: &str) -> Result<String> {
    let ids = boots(lab, node)?;
    let ids = ids.iter().filter_map(|boot| boot["attempt"].as_str());
    Ok(ids.max().with_context(|| format!("{node} has not booted"))?.to_owned())
}

fn rack_ip(rack: &Rack, args: &[&str]) -> Result<()> {
    Output::of(rack.command("ip").args(args))?
        .ok()
        .with_context(|| format!("ip {}", args.join(" ")))?;
    Ok(())
}

/// libiscsi's tools and what they link to, from this machine onto the node.
fn bring_initiator(lab: &Lab<'_>, node: &str) -> Result<()> {
    let tools = ["/usr/bin/iscsi-inq", "/usr/bin/iscsi-ls"];
    let linked = Output::of(Command::new("ldd").args(tools))?.ok().context("ldd (libc-bin)")?;
    let libraries = linked.stdout.lines().filter_map(|line| line.split("=> ").nth(1));
    let libraries = libraries.filter_map(|rest| rest.split_whitespace().next());
    let mut files: Vec<&str> = libraries.filter(|path| !path.contains("libc.so")).collect();
    files.extend(tools);
    files.sort_unstable();
    files.dedup();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--absolute-names"]).args(files);
    let archive = tar.output().context("tar")?;
    ensure!(archive.status.success(), "tar: {}", String::from_utf8_lossy(&archive.stderr));
    // No name of a folder that the image has as a link is made anew: only files are in it.
    let mut unpack = lab.ssh_command("root", node, "cd / && tar -x -f -")?;
    let mut child =
        unpack.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("it has an input")?.write_all(&archive.stdout)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "tar on {node}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
