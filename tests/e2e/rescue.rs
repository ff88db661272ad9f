//! A user has broken the system in the own overlay so that it does not start: in a rescue nothing of it is
//! in use, and it is mended.

use anyhow::{Result, ensure};
use tests::{NodeHw, Rack, RackSpec};

use crate::support::Lab;

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_an_overlay_that_does_not_boot_is_mended_in_a_rescue() -> Result<()> {
    Rack::with(RackSpec::new("rescue", vec![NodeHw::default(); 2]), |rack| {
        rescued(&Lab::start(rack)?)
    })
}

fn rescued(lab: &Lab<'_>) -> Result<()> {
    let rescue = |node: &str, overlay: &str| {
        lab.refused(5, &["switch", node, "--image", "minimal", "--rescue", "--overlay", overlay])
    };
    let text = rescue("node1", "none")?;
    ensure!(text.contains("no overlay to rescue"), "{text}");
    let text = rescue("node1", "bob/work")?;
    ensure!(text.contains("nothing of the overlay bob/work"), "{text}");

    lab.bring_up(&["node1", "node2"], "alice/work")?;
    lab.ssh("alice", "node2", "echo room > /home/alice/file; sync")?;
    let broken = "rm -f /sbin/init && echo broken > /etc/motd && sync && echo gone";
    ensure!(lab.ssh("root", "node2", broken)? == "gone\n");
    lab.ok(&["power", "cycle", "node2", "--force"])?;
    lab.wait_fault("node2", &["userspace", "init"])?;

    lab.ok(&["switch", "node2", "--rescue", "--force"])?;
    lab.wait_ready("node2")?;
    let status = lab.ok(&["status", "node2"])?.stdout;
    ensure!(status.contains("alice/work (rescue)"), "{status}");
    let look = "cat /run/haas/rank /overlay/home/alice/file; ls -d /home/alice/file; \
                ls -l /overlay/usr/sbin/init | cut -c1; cat /etc/motd /overlay/etc/motd";
    let seen = lab.ssh_any("root", "node2", look)?;
    let right = seen.stdout.starts_with("1\nroom\n") && seen.stdout.ends_with("c\nbroken\n");
    ensure!(right && seen.stderr.contains("/home/alice/file"), "{seen:?}");
    let saved =
        lab.ssh("root", "node2", "tar -C /overlay -cf - . | tar -tf - | grep alice/file")?;
    ensure!(saved.trim_end().ends_with("home/alice/file"), "{saved}");
    lab.ssh("root", "node2", "rm /overlay/usr/sbin/init && echo in-ram > /etc/left && sync")?;

    lab.ok(&["rollback", "node2", "--force"])?;
    lab.wait_ready("node2")?;
    let found =
        lab.ssh("alice", "node2", "cat /home/alice/file /etc/motd; ls /etc/left || true")?;
    ensure!(found == "room\nbroken\n", "{found}");
    Ok(())
}
