//! Images whose own software wants what the root hangs on: ifupdown, netplan and cloud-init in one,
//! NetworkManager under SELinux in the other, and an iSCSI initiator in both. The node keeps its
//! address, reads cold pages, and ends in order however it ends: reboot, kexec and power-off.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::checks::ImageFile;
use tests::{NodeHw, Output, Rack, RackSpec};

use crate::support::{Lab, boots};

/// systemd starts much, and QEMU emulates every instruction of it.
const BOOT: Duration = Duration::from_secs(420);
const NODE: &str = "node1";

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_ifupdown_netplan_and_cloud_init_leave_the_boot_nic_alone() -> Result<()> {
    on_a_node("unruly-debian", |lab| {
        is_well(lab)?;
        debians_programs_ran(lab)?;
        let restart = "systemctl restart networking systemd-networkd && netplan apply";
        lab.ssh("root", NODE, restart)?;
        is_well(lab)?;
        reboots_in_order(lab)?;
        debians_programs_ran(lab)?;
        kexec_runs_what_was_loaded(lab)?;
        powers_off_in_order(lab, 3)
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_network_manager_leaves_the_boot_nic_alone_and_files_have_their_labels() -> Result<()> {
    on_a_node("el-like", |lab| {
        is_well(lab)?;
        network_manager_ran(lab)?;
        files_are_labelled_as_the_policy_says(lab)?;
        // It is on the bus before its settings are.
        let reload =
            "for _ in $(seq 30); do nmcli connection reload && exit; sleep 1; done; exit 1";
        lab.ssh("root", NODE, &format!("systemctl restart NetworkManager && {{ {reload}; }}"))?;
        is_well(lab)?;
        reboots_in_order(lab)?;
        network_manager_ran(lab)?;
        files_are_labelled_as_the_policy_says(lab)?;
        powers_off_in_order(lab, 2)
    })
}

fn on_a_node(image: &str, test: impl FnOnce(&Lab<'_>) -> Result<()>) -> Result<()> {
    let node = NodeHw { memory_mib: 1024, ..NodeHw::default() };
    Rack::with(RackSpec::new("guards", vec![node]), |rack| {
        let lab = Lab::start(rack)?;
        let recipe = format!("{}/images/{image}", env!("CARGO_MANIFEST_DIR"));
        lab.ok(&["image", "build", &recipe])?;
        lab.ok(&["switch", NODE, "--image", image, "--overlay", "alice/work"])?;
        lab.ready_within(NODE, BOOT)?;
        test(&lab)
    })
}

/// Nothing failed, the one address for ever, and the root still there when nothing of it is in memory.
fn is_well(lab: &Lab<'_>) -> Result<()> {
    let state = lab.ssh_any("root", NODE, "systemctl is-system-running --wait")?;
    let failed = lab.ssh("root", NODE, "systemctl --failed --plain --no-legend")?;
    ensure!(state.stdout == "running\n", "the node is {}: {failed}", state.stdout);
    let shown = lab.ssh("root", NODE, "ip -4 -oneline address show eth0")?;
    let expected = format!("inet {}/24 ", lab.rack.node(1).address);
    ensure!(
        shown.lines().count() == 1
            && shown.contains(&expected)
            && shown.contains("valid_lft forever"),
        "the node has {shown}"
    );
    let cold = "echo 3 > /proc/sys/vm/drop_caches; \
                find /usr/bin /usr/sbin -type f -exec cat {} + | md5sum";
    let (first, second) = (lab.ssh("root", NODE, cold)?, lab.ssh("root", NODE, cold)?);
    ensure!(first == second, "the node reads {first} and then {second}");
    for unit in ["iscsid.socket", "iscsid.service", "open-iscsi.service"] {
        let state = lab.ssh_any("root", NODE, &format!("systemctl is-enabled {unit}"))?;
        ensure!(state.stdout == "masked-runtime\n", "{unit} is {}", state.stdout);
    }
    Ok(())
}

fn say(lab: &Lab<'_>, answers: &[(&str, &str)]) -> Result<()> {
    for (command, expected) in answers {
        let found = lab.ssh("root", NODE, command)?;
        ensure!(found == *expected, "{command}: {found:?}");
    }
    Ok(())
}

/// A guard is worth something only if the program was there and wanted the NIC.
fn debians_programs_ran(lab: &Lab<'_>) -> Result<()> {
    say(
        lab,
        &[
            ("systemctl is-active networking", "active\n"),
            ("ifquery --list", "lo\neth0\n"),
            ("ifquery --state", "lo=lo\n"),
            ("pgrep dhclient || echo none", "none\n"),
            ("cat /run/cloud-init-ran", "yes\n"),
            ("ls /etc/network/interfaces.d", ""),
            (
                "grep -q 'network config is disabled by system_cfg' /var/log/cloud-init.log && echo yes",
                "yes\n",
            ),
            ("ls /run/systemd/network | grep netplan", "10-netplan-eth0.network\n"),
            (
                "networkctl status eth0 | grep -o '/run/.*network$'",
                "/run/systemd/network/00-haas-boot.network\n",
            ),
        ],
    )
}

fn network_manager_ran(lab: &Lab<'_>) -> Result<()> {
    say(
        lab,
        &[
            ("systemctl is-active NetworkManager", "active\n"),
            ("nmcli -t -f NAME connection | grep -vx lo", "eth0\n"),
            ("nmcli -t -f DEVICE,STATE device | grep eth0", "eth0:unmanaged\n"),
        ],
    )
}

/// Also the files that the agent wrote before there was a policy, and the folders that it touched.
fn files_are_labelled_as_the_policy_says(lab: &Lab<'_>) -> Result<()> {
    let of = |path: &str| -> Result<String> {
        let label = lab.ssh("root", NODE, &format!("stat -c %C {path}"))?;
        Ok(label.split(':').nth(2).unwrap_or_default().trim().to_owned())
    };
    ensure!(lab.ssh("root", NODE, "getenforce")? == "Permissive\n", "SELinux is not on");
    lab.ssh("root", NODE, "touch /etc/made-here")?;
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
    ] {
        let label = of(path)?;
        ensure!(label == expected, "{path} is {label}, not {expected}");
    }
    let bare = "find / -xdev -context '*:unlabeled_t:*' -o -xdev -context '*:file_t:*' | head";
    let bare = lab.ssh("root", NODE, bare)?;
    ensure!(bare.is_empty(), "without a label: {bare}");
    let relabel = lab.ssh("root", NODE, "ls /.autorelabel 2>/dev/null || echo none")?;
    ensure!(relabel == "none\n", "the image asks for a new labelling");
    Ok(())
}

fn reboots_in_order(lab: &Lab<'_>) -> Result<()> {
    let before = boots(lab, NODE)?.len();
    // The connection may end before the command does.
    lab.ssh_any("root", NODE, "systemctl reboot")?;
    boots_anew(lab, before)?;
    ended_cleanly(lab, 1)
}

fn boots_anew(lab: &Lab<'_>, before: usize) -> Result<()> {
    lab.rack.wait_for("the node to boot anew", BOOT, || {
        boots(lab, NODE).is_ok_and(|boots| boots.len() > before)
    })?;
    lab.ready_within(NODE, BOOT)?;
    is_well(lab)
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

/// The kernel that is loaded has no root: it panics, and the firmware asks the network as ever. Only then
/// is the node haasd's again, which begins the boot.
fn kexec_runs_what_was_loaded(lab: &Lab<'_>) -> Result<()> {
    let node = lab.rack.node(1);
    let image = ImageFile::of(&lab.haasd, lab.rack, "unruly-debian")?;
    let mut copy = lab.ssh_command("root", NODE, "cat > /root/vmlinuz")?;
    Output::of(copy.stdin(File::open(image.kernel(lab.rack)?)?))?.ok().context("the kernel")?;
    let (before, mark) = (boots(lab, NODE)?.len(), node.console.mark());
    let off = node.bmc.power_commands().off;
    let load = "kexec --load /root/vmlinuz \
                --command-line='console=ttyS0,115200 panic=20 started-by=kexec'";
    lab.ssh("root", NODE, load)?;
    lab.ssh_any("root", NODE, "systemctl kexec")?;
    node.console.wait_for("started-by=kexec", mark, BOOT)?;
    ended_cleanly(lab, 2)?;
    lab.wait_reason(NODE, &["another kernel", "kexec", "power cycle"])?;
    ensure!(lab.state(NODE) == "unreachable", "the node is {}", lab.state(NODE));
    // Nobody knows what runs there, so nobody ends it by mistake.
    lab.refused(5, &["power", "cycle", NODE])?;
    ensure!(node.bmc.power_commands().off == off, "the node was switched off");
    boots_anew(lab, before)?;
    let told = node.bmc.power_commands();
    ensure!(told.off == off + 1, "haasd has not begun the boot: {told:?}");
    Ok(())
}

/// From inside. `times`: how often it has ended then.
fn powers_off_in_order(lab: &Lab<'_>, times: usize) -> Result<()> {
    let node = lab.rack.node(1);
    let before = node.bmc.power_commands().off;
    lab.ssh_any("root", NODE, "systemctl poweroff")?;
    lab.rack.wait_for("the node to be off", BOOT, || lab.state(NODE) == "off")?;
    ensure!(node.bmc.power_commands().off == before, "the node was cut off");
    ended_cleanly(lab, times)
}
