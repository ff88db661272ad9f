//! UEFI nodes: the firmware's own PXE and its HTTP boot load the iPXE that haasd serves, a card with
//! iPXE in its boot code needs none; and what the firmware remembers of its boot order stays.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Firmware, NodeHw, Rack, RackSpec, files};

use crate::support::Lab;

/// Signatures are checked in system management mode, which QEMU emulates slowly.
const SECURE: Duration = Duration::from_secs(400);

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_uefi_nodes_boot_by_pxe_by_http_and_by_their_cards_own_ipxe() -> Result<()> {
    let node = |firmware| NodeHw { firmware, ..NodeHw::default() };
    let nodes = [Firmware::UefiPxe, Firmware::UefiHttp, Firmware::UefiCard].map(node).to_vec();
    Rack::with(RackSpec::new("uefi", nodes), |rack| boots(&Lab::start(rack)?))
}

fn boots(lab: &Lab<'_>) -> Result<()> {
    let order = |number: usize| -> Result<Vec<u8>> {
        let node = lab.rack.node(number);
        ensure!(node.uefi_variable("BootNext")?.is_none(), "{}: BootNext is set", node.name);
        node.uefi_variable("BootOrder")?.with_context(|| format!("{} has no order", node.name))
    };
    lab.bring_up(&["node1", "node2", "node3"], "alice/work")?;
    let mut orders = Vec::new();
    for number in 1..=3 {
        let name = &lab.rack.node(number).name;
        let found = lab.ssh("alice", name, "ls -d /sys/firmware/efi; cat /run/haas/rank")?;
        let rank = number - 1;
        ensure!(found == format!("/sys/firmware/efi\n{rank}\n"), "{name} says {found:?}");
        lab.ssh("alice", name, &format!("echo of-{name} > /home/alice/file; sync"))?;
        orders.push(order(number)?);
    }

    // Which program asked each node's way into the network, and what it was told to load.
    let log = lab.haasd.log();
    let told = |name: &str, client: &str, file: &str| {
        log.lines().any(|line| [name, client, file].iter().all(|word| line.contains(word)))
    };
    ensure!(told("node1", "Pxe(7)", "snponly.efi"), "node1 loaded no iPXE by PXE");
    ensure!(told("node2", "Http(16)", "/ipxe/snponly.efi"), "node2 loaded no iPXE by HTTP");
    ensure!(!told("node3", "Pxe(", "snponly.efi"), "node3's card has iPXE and loaded another");

    lab.ok(&["power", "cycle", "node[1-3]", "--force", "--wait"])?;
    for number in 1..=3 {
        let name = &lab.rack.node(number).name;
        let found = lab.ssh("alice", name, "cat /home/alice/file")?;
        ensure!(found == format!("of-{name}\n"), "{name} holds {found:?}");
        lab.power_off(name)?;
        ensure!(order(number)? == orders[number - 1], "the boot order of {name} changed");
    }
    Ok(())
}

/// A firmware that runs only what Microsoft's key has signed: shim, its GRUB and Debian's kernel.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_with_secure_boot_runs_signed_programs_only() -> Result<()> {
    let node = NodeHw { firmware: Firmware::UefiSecure, ..NodeHw::default() };
    Rack::with(RackSpec::new("secure", vec![node]), |rack| {
        let nodes = files::nodes_toml(rack)?;
        let lab = Lab::start_with(rack, "", nodes.clone())?;
        // iPXE is not signed: the firmware says so, and haasd passes it on with what to do.
        lab.switch("node1", "alice/work")?;
        let console = &rack.node(1).console;
        console.wait_for("Access Denied", Default::default(), SECURE)?;
        lab.power_off("node1")?;

        let signed =
            nodes.replace("firmware = \"uefi\"", "firmware = \"uefi\"\nsecure_boot = true");
        ensure!(signed != nodes, "nodes.toml names no firmware: {nodes}");
        let signed = lab.haasd.write("signed.toml", signed)?;
        let signed = signed.to_str().context("a plain path")?;
        lab.ok(&["node", "apply", signed, "--yes"])?;
        let script = lab.ok(&["node", "render", "node1"])?.stdout;
        ensure!(script.contains("linux /boot/"), "no script for GRUB: {script}");
        lab.switch("node1", "alice/work")?;
        lab.ready_within("node1", SECURE)?;
        let log = lab.ssh("root", "node1", "dmesg")?;
        for words in ["Secure boot enabled", "Kernel is locked down from EFI Secure Boot"] {
            ensure!(log.contains(words), "the kernel does not say {words:?}: {log}");
        }
        lab.ssh("alice", "node1", "echo kept > /home/alice/file; sync")?;
        lab.ok(&["power", "cycle", "node1", "--force", "--wait"])?;
        let kept = lab.ssh("alice", "node1", "cat /home/alice/file")?;
        ensure!(kept == "kept\n", "node1 holds {kept:?}");
        lab.power_off("node1")
    })
}
