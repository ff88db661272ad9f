//! Networks that are not haasd's own: other DHCP servers, leases that must be kept for as long as a
//! node runs, switches with spanning tree, links that flap, several cards, long frames.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::{
    Content, DhcpServer, DiskHw, DiskModel, ForeignDhcp, NicModel, NodeHw, OldOs, Rack, RackSpec,
    SwitchHw, files,
};

use crate::support::{Lab, boots};

/// A self test of two minutes, and spanning tree, which holds each start of a link back for half a one.
const SLOW_BOOT: Duration = Duration::from_secs(600);
/// The address that the foreign server has for node1.
const NODE1: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 11));
/// Others, which node1 cannot take while it runs.
const OTHERS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 77, 0, 60), Ipv4Addr::new(10, 77, 0, 69));

/// A haasd that gives boot files only.
fn proxy(rack: &Rack) -> Result<String> {
    let own = "dhcp = \"own\"\npool = \"10.77.0.200-10.77.0.250\"";
    Ok(files::haasd_toml(rack)?.replace(own, "dhcp = \"proxy\""))
}

/// The rack's nodes, whose addresses nodes.toml leaves to the other server.
fn without_addresses(rack: &Rack) -> Result<String> {
    let nodes = files::nodes_toml(rack)?;
    Ok(nodes.lines().filter(|l| !l.starts_with("address = ")).map(|l| format!("{l}\n")).collect())
}

/// Reads the node's whole root from the target, past its page cache.
fn reads_cold_pages(lab: &Lab<'_>, node: &str) -> Result<()> {
    let read = "sync; echo 3 > /proc/sys/vm/drop_caches; \
                find /bin /usr -xdev -type f -exec cat {} + | wc -c";
    let before = lab.rack.node(1).traffic()?.received_bytes;
    let bytes: u64 = lab.ssh("root", node, read)?.trim().parse()?;
    let travelled = lab.rack.node(1).traffic()?.received_bytes - before;
    ensure!(bytes > 1 << 20 && travelled > 1 << 20, "{bytes} bytes read, {travelled} travelled");
    Ok(())
}

fn lease_trouble(lab: &Lab<'_>, node: &str) -> Result<Option<String>> {
    Ok(lab.node(node)?["observed"]["lease"]["trouble"].as_str().map(str::to_owned))
}

/// Events of a kind so far.
fn events(lab: &Lab<'_>, kind: &str) -> Result<usize> {
    let told = lab.haasd.ctl(&["events", "--kind", kind, "-o", "json"])?.ok()?;
    Ok(told.stdout.lines().count())
}

/// dnsmasq leases for 2 minutes, and the node runs for ten.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_lease_of_two_minutes_is_kept_for_ten_beside_dnsmasq() -> Result<()> {
    Rack::with(RackSpec::new("dnsmasq", vec![NodeHw::default()]), |rack| {
        let lease = Duration::from_secs(120);
        let foreign = ForeignDhcp::start(rack, DhcpServer::Dnsmasq, NODE1, lease)?;
        let lab = Lab::start_on(rack, &proxy(rack)?, &without_addresses(rack)?)?;
        lab.bring_up(&["node1"], "alice/work")?;
        let mac = &rack.node(1).mac;
        let shown = lab.node("node1")?;
        ensure!(shown["address"] == "10.77.0.11", "the leased address is not known: {shown}");
        let until = Instant::now() + Duration::from_secs(600);
        while Instant::now() < until {
            let lease = foreign.lease(mac)?.context("dnsmasq has no lease of the node")?;
            ensure!(lease.is_held() && lease.address == NODE1.0, "the lease was lost: {lease:?}");
            ensure!(lease_trouble(&lab, "node1")?.is_none(), "{}", lab.node("node1")?);
            // The time is the test's subject.
            std::thread::sleep(Duration::from_secs(5));
        }
        reads_cold_pages(&lab, "node1")?;
        let seen = lab.node("node1")?["observed"]["lease"].clone();
        let left = seen["left_s"].as_u64().context("the lease's rest")?;
        ensure!(seen["server"] == "10.77.0.2" && (1..=120).contains(&left), "{seen}");
        ensure!(boots(&lab, "node1")?.len() == 1, "the node was booted anew");
        Ok(())
    })
}

/// Kea with leases of 20 s: kept, kept again after Kea was away, told when Kea gives another address
/// or refuses ours, and the node lives through all of it.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_beside_kea_outlives_a_lost_and_a_refused_lease() -> Result<()> {
    Rack::with(RackSpec::new("kea", vec![NodeHw::default()]), |rack| {
        let lease = Duration::from_secs(20);
        let mut foreign = ForeignDhcp::start(rack, DhcpServer::Kea, NODE1, lease)?;
        let lab = Lab::start_on(rack, &proxy(rack)?, &files::nodes_toml(rack)?)?;
        lab.bring_up(&["node1"], "alice/work")?;
        let mac = rack.node(1).mac.clone();
        let until = Instant::now() + 6 * lease;
        while Instant::now() < until {
            let lease = foreign.lease(&mac)?.context("Kea has no lease of the node")?;
            ensure!(lease.is_held() && lease.address == NODE1.0, "the lease was lost: {lease:?}");
            std::thread::sleep(Duration::from_secs(1));
        }

        let troubled = |words: &str| {
            rack.wait_for(&format!("the node to say {words:?}"), Duration::from_secs(120), || {
                lease_trouble(&lab, "node1").is_ok_and(|t| t.is_some_and(|t| t.contains(words)))
            })
        };
        foreign.kill()?;
        troubled("has run out")?;
        reads_cold_pages(&lab, "node1")?;
        // It has forgotten the node and has other addresses only.
        foreign.serve(OTHERS, lease)?;
        troubled("and cannot change it")?;
        reads_cold_pages(&lab, "node1")?;
        foreign.kill()?;
        foreign.serve(NODE1, lease)?;
        rack.wait_for("the lease to be held again", Duration::from_secs(120), || {
            lease_trouble(&lab, "node1").is_ok_and(|t| t.is_none())
                && foreign.lease(&mac).is_ok_and(|l| l.is_some_and(|l| l.is_held()))
        })?;
        ensure!(events(&lab, "lease-trouble")? >= 2, "its trouble was no event");
        ensure!(events(&lab, "lease-held")? == 1, "that it ended was no event");
        reads_cold_pages(&lab, "node1")?;
        ensure!(lab.state("node1") == "ready" && boots(&lab, "node1")?.len() == 1);
        Ok(())
    })
}

/// The other server gives an address that nodes.toml does not have for the node.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_boot_is_held_with_the_reason_where_other_servers_are_in_the_way() -> Result<()> {
    Rack::with(RackSpec::new("other-dhcp", vec![NodeHw::default()]), |rack| {
        let lease = Duration::from_secs(120);
        let foreign = ForeignDhcp::start(rack, DhcpServer::Dnsmasq, OTHERS, lease)?;
        let mut lab = Lab::start(rack)?;
        rack.wait_for("haasd to refuse", Duration::from_secs(30), || {
            let log = lab.haasd.log();
            log.contains("another DHCP server, 10.77.0.2, answers on interface br0")
        })?;
        ensure!(events(&lab, "other-dhcp-server")? == 1);
        let told = lab.refused(1, &["doctor"])?;
        ensure!(told.contains("another DHCP server, 10.77.0.2, answers at br0"), "{told}");
        lab.switch("node1", "alice/work")?;
        lab.wait_reason("node1", &["10.77.0.2", "dhcp = \"proxy\""])?;

        // As it was told to, but the addresses do not agree.
        lab.haasd.stop()?;
        lab.haasd.write("haasd.toml", proxy(rack)?)?;
        lab.haasd.launch()?;
        lab.ok(&["power", "cycle", "node1", "--force"])?;
        lab.wait_reason("node1", &["gives node1 the address 10.77.0.6", "10.77.0.11", "reserve"])?;

        // And with the right address the same node boots.
        drop(foreign);
        let _right = ForeignDhcp::start(rack, DhcpServer::Dnsmasq, NODE1, lease)?;
        lab.ok(&["power", "cycle", "node1", "--force"])?;
        lab.wait_ready("node1")
    })
}

/// The second card boots, over a switch that passes frames of 9000 bytes.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_the_second_card_boots_with_jumbo_frames() -> Result<()> {
    let node = NodeHw {
        nics: vec![NicModel::E1000e, NicModel::VirtioNet],
        boot_nic: 1,
        first_nic: 1,
        ..NodeHw::default()
    };
    let mut spec = RackSpec::new("jumbo", vec![node]);
    spec.switch.mtu = Some(9000);
    Rack::with(spec, |rack| {
        let lab = Lab::start_with(rack, "mtu = 9000\n", files::nodes_toml(rack)?)?;
        lab.bring_up(&["node1"], "alice/work")?;
        let nics =
            lab.ssh("root", "node1", "grep . /sys/class/net/e*/address /sys/class/net/e*/mtu")?;
        let mac = &rack.node(1).mac;
        let nic = nics.lines().find_map(|l| l.strip_suffix(&format!("/address:{mac}")));
        let nic = nic.with_context(|| format!("no NIC {mac} in {nics}"))?;
        ensure!(nics.contains(&format!("{nic}/mtu:9000")), "{nics}");
        let before = rack.node(1).traffic()?;
        reads_cold_pages(&lab, "node1")?;
        let after = rack.node(1).traffic()?;
        let bytes = after.received_bytes - before.received_bytes;
        let packets = after.received_packets - before.received_packets;
        ensure!(bytes / packets > 3000, "{bytes} bytes came in {packets} packets");
        Ok(())
    })
}

/// All at once: minutes of self test, two cards of which the firmware tries the wrong one first, a
/// switch that holds each link back for 30 s, a driver that resets the link, addresses of somebody
/// else, an old bootable disk and a blank one in another order at each start. It boots unaided.
#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_a_node_as_real_racks_have_them_boots_unaided() -> Result<()> {
    let disk = |model, serial: &str, content| DiskHw {
        serial: Some(serial.to_owned()),
        model,
        content,
        ..DiskHw::default()
    };
    let old_os = Content::OldOs { marker: "OLD-OS-RUNS".to_owned(), then: OldOs::Hangs };
    let node = NodeHw {
        nics: vec![NicModel::E1000e, NicModel::E1000e],
        first_nic: 1,
        disks: vec![
            disk(DiskModel::Ahci, "OLD", old_os),
            disk(DiskModel::Nvme, "BLANK", Content::Blank),
        ],
        shuffled_disks: true,
        self_test: 120,
        ..NodeHw::default()
    };
    let mut spec = RackSpec::new("real", vec![node]);
    spec.switch = SwitchHw { forward_delay: Some(15), mtu: None };
    Rack::with(spec, |rack| {
        let lease = Duration::from_secs(120);
        let pool = (NODE1.0, Ipv4Addr::new(10, 77, 0, 12));
        let foreign = ForeignDhcp::start(rack, DhcpServer::Dnsmasq, pool, lease)?;
        let lab = Lab::start_on(rack, &proxy(rack)?, &without_addresses(rack)?)?;
        let node = rack.node(1);
        let old = node.disks[0].fingerprint()?;
        let boot = |round: usize| -> Result<()> {
            let before = node.console.mark();
            match round {
                1 => lab.switch("node1", "alice/work")?,
                _ => lab.ok(&["power", "cycle", "node1", "--force"])?,
            };
            node.console.wait_for("bootagent", before, SLOW_BOOT)?;
            node.flap_link(Duration::from_secs(3))?;
            lab.ready_within("node1", SLOW_BOOT)?;
            ensure!(boots(&lab, "node1")?.len() == round, "it took more than one boot");
            // iPXE says which card it configures.
            let console = node.console.since(before);
            let cards = ["52:54:00:77:01:01", "52:54:00:77:00:01"];
            let tried = cards.map(|card| console.find(&format!("{card})")));
            ensure!(tried[0].is_some() && tried[0] < tried[1], "cards were tried at {tried:?}");
            Ok(())
        };

        boot(1)?;
        let address = lab.node("node1")?["address"].clone();
        let lease = foreign.lease(&node.mac)?.context("dnsmasq has no lease of the node")?;
        ensure!(address == lease.address.to_string(), "{address} is not {lease:?}");
        ensure!(lab.disk_row("node1", "OLD")?.contains("not blank: a boot sector"));
        ensure!(lab.disk_row("node1", "BLANK")?.contains("overlay store"));
        lab.ssh("alice", "node1", "echo kept > /home/alice/file; sync")?;

        boot(2)?;
        ensure!(lab.ssh("alice", "node1", "cat /home/alice/file")?.trim() == "kept");
        ensure!(node.disks[0].fingerprint()? == old, "the old system's disk was written");
        ensure!(!node.console.text().contains("OLD-OS-RUNS"), "the old system was started");
        Ok(())
    })
}
