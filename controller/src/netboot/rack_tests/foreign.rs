//! haasd on wires that are not its own alone: another DHCP server, a machine with a node's address,
//! a relay in between.

use std::net::Ipv4Addr;

use super::*;
use crate::netboot::boot_target::Hindrance;

const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 253);
const FOREIGN_MAC: &str = "52:54:00:77:00:fe";
const AS_PXE: &str = "-V PXEClient:Arch:00007 -x 0x5d:0007";

/// `config` with the look at the wire that is usual.
fn probing() -> Config {
    let mut config = config(DhcpMode::Own);
    config.networks[0].probe = true;
    config
}

/// A program in a namespace until the test ends.
fn start(namespace: &str, command: &str) -> ChildGuard {
    let mut child = Command::new("ip");
    child.args(["netns", "exec", namespace]).args(command.split_whitespace());
    ChildGuard(child.stdin(Stdio::null()).spawn().expect("ip runs"))
}

/// Somebody else's dnsmasq, which gives addresses to everybody.
fn dnsmasq(rack: &Rack) -> ChildGuard {
    let server = rack.plug_in_as("dhcp", FOREIGN_MAC);
    sh(&format!("ip -n {server} addr add {FOREIGN}/24 dev eth0"));
    let leases = rack.dir.path().join("leases");
    let range = "--dhcp-range=10.77.0.100,10.77.0.110,2m";
    let line = "dnsmasq -k --conf-file=/dev/null --port=0 --user=root --pid-file= --log-facility=-";
    let guard = start(&server, &format!("{line} {range} --dhcp-leasefile={}", leases.display()));
    wait_for("dnsmasq", 20, || sh(&format!("ip netns exec {server} ss -Hlun")).contains(":67 "));
    guard
}

fn wait_for(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(seconds), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nobody_is_answered_beside_another_dhcp_server_until_it_has_gone() {
    let mut rack = Rack::wired("w-netboot-beside", "10.77.0.11/24");
    let foreign = dnsmasq(&rack);
    rack.serve(probing(), true);
    let other = || rack.targets.seen.lock().unwrap().other_servers.clone();
    wait_for("the other server to be seen", 15, || !other().is_empty());
    assert_eq!(other(), [("lab".to_owned(), FOREIGN, true)]);

    let client = rack.plug_in(NODE_MAC);
    let told = rack.udhcpc(&client, AS_PXE).expect("the other server's lease");
    assert!(told.contains("serverid=10.77.0.253\n") && !told.contains("boot_file="), "{told}");
    let hindered = rack.targets.seen.lock().unwrap().hindered.clone();
    let why = (NODE_MAC.parse().unwrap(), Hindrance::OtherServer(FOREIGN));
    assert!(hindered.contains(&why), "{hindered:?}");

    drop(foreign);
    wait_for("haasd to answer", 30, || {
        rack.udhcpc(&client, AS_PXE).is_some_and(|told| told.contains("serverid=10.77.0.1\n"))
    });
}

#[test]
fn a_node_that_boots_while_haasd_is_restarted_need_not_wait_for_the_look() {
    for was_alone in [false, true] {
        let mut rack = Rack::wired("w-netboot-again", "10.77.0.11/24");
        rack.targets.was_alone.lock().unwrap().extend(was_alone.then(|| "lab".to_owned()));
        rack.serve(probing(), true);
        let client = rack.plug_in(NODE_MAC);
        let alone = || rack.targets.seen.lock().unwrap().alone.clone();
        // It asks for 4 s, and the look takes 5; on a busy machine the look may be over first.
        let is_answered = rack.udhcpc(&client, AS_PXE).is_some();
        let is_over = !was_alone && alone() == ["lab"];
        assert!(is_answered == was_alone || is_over, "answered: {is_answered}");
        wait_for("the look", 15, || alone() == ["lab"]);
        assert!(rack.udhcpc(&client, AS_PXE).is_some());
    }
}

#[test]
fn an_address_that_another_machine_has_is_not_offered() {
    let mut rack = Rack::wired("w-netboot-taken", "10.77.0.11/24");
    rack.serve(probing(), true);
    let squatter = rack.plug_in_as("squatter", STRANGER_MAC);
    sh(&format!("ip -n {squatter} addr add 10.77.0.11/24 dev eth0"));
    let client = rack.plug_in(NODE_MAC);
    let hindered = || rack.targets.seen.lock().unwrap().hindered.clone();
    wait_for("the other machine to be seen", 30, || {
        assert_eq!(rack.udhcpc(&client, AS_PXE), None);
        !hindered().is_empty()
    });
    let taken = Hindrance::AddressTaken([10, 77, 0, 11].into(), STRANGER_MAC.parse().unwrap());
    assert_eq!(hindered()[0], (NODE_MAC.parse().unwrap(), taken));
    assert!(rack.targets.seen.lock().unwrap().other_servers.is_empty(), "it is alone");
    sh(&format!("ip -n {squatter} addr del 10.77.0.11/24 dev eth0"));
    let told = rack.udhcpc(&client, AS_PXE).expect("a lease");
    assert!(told.contains("ip=10.77.0.11\n"), "{told}");
}

#[test]
fn a_node_behind_a_real_relay_gets_its_address_and_its_script() {
    let mut rack = Rack::wired("w-netboot-relay", "10.88.0.11/24");
    let mut config = probing();
    config.networks.push(Network {
        name: "far".into(),
        cidr: "10.88.0.0/24".parse().unwrap(),
        gateway: Some([10, 88, 0, 1].into()),
        ..config.networks[0].clone()
    });
    rack.serve(config, true);
    let relay = rack.plug_in_as("relay", FOREIGN_MAC);
    let (ns, far) = (&rack.namespace, format!("{}-far", rack.namespace));
    sh(&format!(
        "ip netns add {far}; ip -n {far} link set lo up
         ip -n {relay} link add far0 type veth peer name eth0 netns {far} address {NODE_MAC}
         ip -n {relay} addr add 10.77.0.9/24 dev eth0; ip -n {relay} addr add 10.88.0.1/24 dev far0
         ip -n {relay} link set far0 up; ip -n {far} link set eth0 up
         ip netns exec {relay} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
         ip -n {ns} route add 10.88.0.0/24 via 10.77.0.9"
    ));
    let line = "dnsmasq -k --conf-file=/dev/null --port=0 --user=root --pid-file= --log-facility=-";
    let _relay = start(&relay, &format!("{line} --dhcp-relay=10.88.0.1,10.77.0.1"));
    let mut told = String::new();
    wait_for("a lease through the relay", 30, || {
        told = rack.udhcpc(&far, "-V PXEClient -x 0x4d:69505845").unwrap_or_default();
        !told.is_empty()
    });
    let url = "http://10.77.0.1/boot/TOKEN/script";
    for line in ["ip=10.88.0.11", "router=10.88.0.1", &format!("boot_file={url}")] {
        assert!(told.lines().any(|l| l == line), "{line} is missing in\n{told}");
    }
    let seen = rack.targets.seen.lock().unwrap().dhcp.clone();
    let relayed = seen.iter().find_map(|s| s.relay.clone()).expect("a relay");
    assert_eq!(relayed.giaddr, Ipv4Addr::new(10, 88, 0, 1));
    sh(&format!(
        "ip -n {far} addr add 10.88.0.11/24 dev eth0; ip -n {far} route add default via 10.88.0.1"
    ));
    let script = sh(&format!("ip netns exec {far} curl -sf --max-time 10 {url}"));
    assert!(script.starts_with("#!ipxe\n"), "{script}");
}
