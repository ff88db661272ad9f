//! Images whose own software wants what the root hangs on: ifupdown, netplan and cloud-init in one,
//! NetworkManager under SELinux in the other, and an iSCSI initiator in both. The nodes keep their
//! address, read cold pages, and end in order however they end: reboot, kexec and power-off.

#[path = "faults_support.rs"]
mod support;

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::{Lab, boots};
use tests::checks::ImageFile;
use tests::{NodeHw, Output, Rack, RackSpec};

/// systemd starts much, and QEMU emulates every instruction of it, twice.
const BOOT: Duration = Duration::from_secs(420);
/// Each node with its image.
const NODES: [(&str, &str); 2] = [("node1", "unruly-debian"), ("node2", "el-like")];

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_the_boot_nic_and_the_session_are_kept_from_the_images_own_software() -> Result<()> {
    let node = || NodeHw { memory_mib: 1024, ..NodeHw::default() };
    Rack::with(RackSpec::new("guards", vec![node(), node()]), |rack| {
        let lab = Lab::start(rack)?;
        for (node, image) in NODES {
            let recipe = format!("{}/images/{image}", env!("CARGO_MANIFEST_DIR"));
            lab.ok(&["image", "build", &recipe])?;
            lab.ok(&["switch", node, "--image", image, "--overlay", "alice/work"])?;
        }
        both_are_well(&lab)?;
        the_programs_ran_and_left_the_nic_alone(&lab)?;
        files_are_labelled_as_the_policy_says(&lab)?;
        survive_restarts_of_their_network_software(&lab)?;
        reboot_in_order(&lab)?;
        kexec_runs_what_was_loaded(&lab)?;
        power_off_in_order(&lab)
    })
}

/// Ready, nothing failed, the one address for ever, and the root still there when nothing of it is
/// in memory.
fn both_are_well(lab: &Lab<'_>) -> Result<()> {
    for (name, _) in NODES {
        lab.ready_within(name, BOOT)?;
    }
    NODES.iter().try_for_each(|(name, _)| is_well(lab, name))
}

fn is_well(lab: &Lab<'_>, name: &str) -> Result<()> {
    let state = lab.ssh_any("root", name, "systemctl is-system-running --wait")?;
    let failed = lab.ssh("root", name, "systemctl --failed --plain --no-legend")?;
    ensure!(state.stdout == "running\n", "{name} is {}: {failed}", state.stdout);
    let address = lab.rack.nodes().iter().find(|node| node.name == name).map(|n| n.address);
    let shown = lab.ssh("root", name, "ip -4 -oneline address show eth0")?;
    let expected = format!("inet {}/24 ", address.context("the rack has the node")?);
    ensure!(
        shown.lines().count() == 1
            && shown.contains(&expected)
            && shown.contains("valid_lft forever"),
        "{name} has {shown}"
    );
    let cold = "echo 3 > /proc/sys/vm/drop_caches; \
                find /usr/bin /usr/sbin -type f -exec cat {} + | md5sum";
    let (first, second) = (lab.ssh("root", name, cold)?, lab.ssh("root", name, cold)?);
    ensure!(first == second, "{name} reads {first} and then {second}");
    Ok(())
}

/// A guard is worth something only if the program was there and wanted the NIC.
fn the_programs_ran_and_left_the_nic_alone(lab: &Lab<'_>) -> Result<()> {
    for (node, command, expected) in [
        ("node1", "systemctl is-active networking", "active\n"),
        ("node1", "ifquery --list", "lo\neth0\n"),
        ("node1", "ifquery --state", "lo=lo\n"),
        ("node1", "pgrep dhclient || echo none", "none\n"),
        ("node1", "cat /run/cloud-init-ran", "yes\n"),
        ("node1", "ls /etc/network/interfaces.d", ""),
        ("node1", "grep -c 'network config is disabled by' /var/log/cloud-init.log", "1\n"),
        ("node1", "ls /run/systemd/network | grep netplan", "10-netplan-eth0.network\n"),
        (
            "node1",
            "networkctl status eth0 | grep -o '/run/.*network$'",
            "/run/systemd/network/00-haas-boot.network\n",
        ),
        ("node2", "systemctl is-active NetworkManager", "active\n"),
        ("node2", "nmcli -t -f NAME connection", "eth0\n"),
        ("node2", "nmcli -t -f DEVICE,STATE device | grep eth0", "eth0:unmanaged\n"),
        ("node1", "systemctl is-enabled iscsid.socket || true", "masked-runtime\n"),
        ("node2", "systemctl is-enabled open-iscsi || true", "masked-runtime\n"),
    ] {
        let found = lab.ssh("root", node, command)?;
        ensure!(found == expected, "{node}: {command}: {found:?}");
    }
    Ok(())
}

/// Also the files that the agent wrote before there was a policy, and the folders that it touched.
fn files_are_labelled_as_the_policy_says(lab: &Lab<'_>) -> Result<()> {
    let of = |path: &str| -> Result<String> {
        let label = lab.ssh("root", "node2", &format!("stat -c %C {path}"))?;
        Ok(label.split(':').nth(2).unwrap_or_default().trim().to_owned())
    };
    ensure!(lab.ssh("root", "node2", "getenforce")? == "Permissive\n", "SELinux is not on");
    lab.ssh("root", "node2", "touch /etc/made-here")?;
    for (path, expected) in [
        ("/", "root_t"),
        ("/etc", "etc_t"),
        ("/etc/passwd", "etc_t"),
        ("/etc/shadow", "shadow_t"),
        ("/etc/hosts", "net_conf_t"),
        ("/etc/ssh/ssh_host_ed25519_key", "sshd_key_t"),
        ("/etc/made-here", "etc_t"),
        ("/home/alice", "user_home_dir_t"),
        ("/home/alice/.ssh/authorized_keys", "ssh_home_t"),
        ("/root/.ssh/authorized_keys", "ssh_home_t"),
        ("/usr/sbin/sshd", "sshd_exec_t"),
        ("/run/haas/ready", "var_run_t"),
    ] {
        let label = of(path)?;
        ensure!(label == expected, "{path} is {label}, not {expected}");
    }
    let bare = "find / -xdev -context '*:unlabeled_t:*' -o -xdev -context '*:file_t:*' | head";
    let bare = lab.ssh("root", "node2", bare)?;
    ensure!(bare.is_empty(), "without a label: {bare}");
    let relabel = lab.ssh("root", "node2", "ls /.autorelabel 2>/dev/null || echo none")?;
    ensure!(relabel == "none\n", "the image asks for a new labelling");
    // A user comes in also where the policy is enforced.
    lab.ssh("root", "node2", "setenforce 1")?;
    let who = lab.ssh("alice", "node2", "id -un");
    lab.ssh("root", "node2", "setenforce 0")?;
    ensure!(who? == "alice\n", "alice is somebody else");
    Ok(())
}

fn survive_restarts_of_their_network_software(lab: &Lab<'_>) -> Result<()> {
    let restart = "systemctl restart networking systemd-networkd && netplan apply";
    lab.ssh("root", "node1", restart)?;
    lab.ssh("root", "node2", "systemctl restart NetworkManager && nmcli connection reload")?;
    NODES.iter().try_for_each(|(name, _)| is_well(lab, name))
}

fn reboot_in_order(lab: &Lab<'_>) -> Result<()> {
    let before = [boots(lab, "node1")?.len(), boots(lab, "node2")?.len()];
    for (name, _) in NODES {
        // The connection may end before the command does.
        lab.ssh_any("root", name, "systemctl reboot")?;
    }
    lab.rack.wait_for("both nodes to boot anew", BOOT, || {
        NODES
            .iter()
            .zip(before)
            .all(|((name, _), before)| boots(lab, name).is_ok_and(|boots| boots.len() > before))
    })?;
    both_are_well(lab)?;
    the_programs_ran_and_left_the_nic_alone(lab)?;
    ended_cleanly(lab, 2)
}

/// Every goodbye so far was clean.
fn ended_cleanly(lab: &Lab<'_>, times: usize) -> Result<()> {
    let log = lab.haasd.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("said goodbye")).collect();
    ensure!(
        said.len() == times && said.iter().all(|line| line.contains("clean=true")),
        "not {times} clean ends: {said:?}"
    );
    Ok(())
}

/// The kernel that is loaded has no root: it panics, and the node's firmware boots it anew, as if it
/// had been asked to.
fn kexec_runs_what_was_loaded(lab: &Lab<'_>) -> Result<()> {
    let node = lab.rack.node(1);
    let image = ImageFile::of(&lab.haasd, lab.rack, "unruly-debian")?;
    let mut copy = lab.ssh_command("root", "node1", "cat > /root/vmlinuz")?;
    Output::of(copy.stdin(File::open(image.kernel(lab.rack)?)?))?.ok().context("the kernel")?;
    let (count, mark) = (boots(lab, "node1")?.len(), node.console.mark());
    let commands = node.bmc.power_commands();
    let load = "kexec --load /root/vmlinuz \
                --command-line='console=ttyS0,115200 panic=60 started-by=kexec'";
    lab.ssh("root", "node1", load)?;
    lab.ssh_any("root", "node1", "systemctl kexec")?;
    node.console.wait_for(
        "Command line: console=ttyS0,115200 panic=60 started-by=kexec",
        mark,
        BOOT,
    )?;
    ended_cleanly(lab, 3)?;
    lab.wait_reason("node1", &["another kernel", "kexec", "power cycle"])?;
    ensure!(lab.state("node1") == "unreachable", "node1 is {}", lab.state("node1"));
    // Nobody knows what runs there, so nobody ends it by mistake.
    lab.refused(5, &["power", "cycle", "node1"])?;
    lab.rack.wait_for("node1 to boot anew", BOOT, || {
        boots(lab, "node1").is_ok_and(|boots| boots.len() > count)
    })?;
    lab.ready_within("node1", BOOT)?;
    ensure!(node.bmc.power_commands().off == commands.off, "node1 was switched off");
    is_well(lab, "node1")
}

fn power_off_in_order(lab: &Lab<'_>) -> Result<()> {
    for (number, (name, _)) in (1..).zip(NODES) {
        let before = lab.rack.node(number).bmc.power_commands();
        lab.ssh_any("root", name, "systemctl poweroff")?;
        lab.rack.wait_for(&format!("{name} to be off"), BOOT, || lab.state(name) == "off")?;
        let off = lab.rack.node(number).bmc.power_commands().off - before.off;
        ensure!(off == 0, "{name} was cut off");
    }
    ended_cleanly(lab, 5)
}
