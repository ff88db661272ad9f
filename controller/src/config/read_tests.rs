use std::{net::Ipv4Addr, path::Path};

use super::super::{Config, DhcpMode};

fn addresses_of(interface: &str) -> Option<Vec<Ipv4Addr>> {
    match interface {
        "br0" => Some(vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 77, 0, 1)]),
        "eth1" => Some(Vec::new()),
        "eth2" => Some(vec![Ipv4Addr::new(192, 0, 2, 9)]),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/haas/haasd.toml"), &addresses_of).map_err(|e| e.to_string())
}

const NET: &str = "[[network]]\nname='a'\ninterface='br0'\ncidr='10.77.0.0/24'\ndhcp='own'\n";

#[test]
fn the_example_is_right_and_says_the_defaults() {
    let text = include_str!("../../../docs/examples/haasd.toml");
    let config = parse(text).unwrap();
    let bare = parse(NET).unwrap();
    assert_eq!(config.state_dir, bare.state_dir);
    assert_eq!(config.database_url, "sqlite:///var/lib/haas/haas.db");
    assert_eq!(config.database_url, bare.database_url);
    assert_eq!(config.nodes_file, Path::new("/etc/haas/nodes.toml"));
    assert_eq!(config.nodes_file, bare.nodes_file);
    assert_eq!(config.agent_cpio, bare.agent_cpio);
    assert_eq!(config.ipxe_dir, bare.ipxe_dir);
    assert_eq!((&config.shim, &config.grub), (&bare.shim, &bare.grub));
    assert_eq!(config.templates_dir, bare.templates_dir);
    assert_eq!((&config.iscsi, &config.auth), (&bare.iscsi, &bare.auth));
    assert_eq!((&config.metrics, &config.webhooks), (&bare.metrics, &bare.webhooks));
    assert_eq!(config.events, bare.events);
    assert_eq!(config.ports, bare.ports);
    assert_eq!(config.boot, bare.boot);
    assert_eq!(config.api_interfaces, ["br0"]);
    let network = &config.networks[0];
    assert_eq!(network.controller, Ipv4Addr::new(10, 77, 0, 1));
    assert_eq!(network.dhcp, DhcpMode::Own);
    assert_eq!((network.lease_s, network.probe), (3600, true));
    assert!(network.pool.is_some());
}

#[test]
fn a_password_in_the_database_url_is_never_printed() {
    for url in [
        "postgres://haas:hunter2@db.example/haas",
        "postgres://haas:hun@hunter2@db.example/haas?sslmode=require",
        "postgres://haas:a?hunter2@db.example/haas",
        "postgres://db.example/haas?user=haas&password=hunter2",
    ] {
        let config = parse(&format!("database_url='{url}'\n{NET}")).unwrap();
        assert_eq!(config.database_url, url);
        let shown = format!("{config:?} {}", config.database_url_redacted());
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    }
    let refused = parse(&format!("database_url='mysql://a:hunter2@b/c'\n{NET}")).unwrap_err();
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn each_mistake_is_told_with_place_key_fault_and_remedy() {
    // What is wrong, and the one line that must be said about it.
    let table: &[(&str, &str)] = &[
        ("", "1:1: network: is missing; expected at least one [[network]]"),
        (
            "[[network]]\nname='a'\ncidr='10.0.0.0/24'\ndhcp='off'\n",
            "1:1: network.interface: is missing; expected the controller's interface in it",
        ),
        (
            "[[network]]\nname='a'\ninterface='br0'\ncidr='10.77.0.5/24'\ndhcp='off'\n",
            "4:6: network.cidr: 10.77.0.5/24 is an address in a network; expected 10.77.0.0/24",
        ),
        (
            "[[network]]\nname='a'\ninterface='eth9'\ncidr='10.77.0.0/24'\ndhcp='off'\n",
            "3:11: network.interface: the controller has no interface \"eth9\"; expected an \
             interface with an address inside 10.77.0.0/24, or controller = \"ADDRESS\"",
        ),
        (
            "[[network]]\nname='a'\ninterface='eth2'\ncidr='10.77.0.0/24'\ndhcp='off'\n",
            "3:11: network.interface: \"eth2\" has only 192.0.2.9; expected an interface with an \
             address inside 10.77.0.0/24, or controller = \"ADDRESS\"",
        ),
        (
            "[[network]]\nname='a'\ninterface='eth1'\ncidr='10.77.0.0/24'\ndhcp='off'\n",
            "3:11: network.interface: \"eth1\" has no IPv4 address; expected an interface with an \
             address inside 10.77.0.0/24, or controller = \"ADDRESS\"",
        ),
        (
            "[[network]]\nname='a'\ninterface='br0'\ncidr='10.77.0.0/24'\ndhcp='yes'\n",
            "5:6: network.dhcp: \"yes\" is not understood; expected \"own\" or \"proxy\" or \"off\"",
        ),
        (
            "NETgateway='10.78.0.1'\n",
            "6:9: network.gateway: 10.78.0.1 is outside 10.77.0.0/24; expected an address inside it",
        ),
        (
            "NETpool='10.77.0.200-10.78.0.3'\n",
            "6:6: network.pool: is not inside 10.77.0.0/24; expected addresses from 10.77.0.1 to \
             10.77.0.254",
        ),
        (
            "NETpool='10.77.0.1-10.77.0.9'\n",
            "6:6: network.pool: holds 10.77.0.1, the controller; expected a pool without it",
        ),
        (
            "NETgateway='10.77.0.9'\npool='10.77.0.2-10.77.0.9'\n",
            "7:6: network.pool: holds 10.77.0.9, the gateway; expected a pool without it",
        ),
        (
            "NETpool='10.77.0.9-10.77.0.2'\n",
            "6:6: network.pool: 10.77.0.2 is before 10.77.0.9; expected the lower address first",
        ),
        (
            "NETmtu=100\n",
            "6:5: network.mtu: 100 is out of range; expected a whole number from 576 to 9216",
        ),
        ("NETprobe='no'\n", "6:7: network.probe: is text; expected true or false"),
        (
            "NETlease='soon'\n",
            "6:7: network.lease: \"soon\" is not understood; expected a duration such as \"300s\", \
             \"15m\" or \"1h\"",
        ),
        (
            "NETcolour=1\n",
            "6:1: network.colour: unknown key; expected one of cidr, controller, dhcp, dns, \
             domain, gateway, interface, lease, mtu, name, ntp, pool, probe",
        ),
        (
            "NET[[network]]\nname='b'\ninterface='x'\ncontroller='10.9.9.9'\ncidr='10.77.0.128/25'\ndhcp='off'\n",
            "6:1: network.cidr: 10.77.0.128/25 overlaps 10.77.0.0/24 in line 1; expected networks \
             that share no address",
        ),
        (
            "NET[[network]]\nname='b'\ninterface='br0'\ncidr='192.0.2.0/24'\ndhcp='off'\n",
            "6:1: network.interface: \"br0\" also carries the network in line 1; expected one \
             network on an interface, the others behind a relay (controller outside their cidr)",
        ),
        (
            "NET[api]\ninterfaces=['br0','br0']\n",
            "7:19: api.interfaces: \"br0\" is named twice; expected it once",
        ),
        (
            "NET[api]\ninterfaces='br0'\n",
            "7:12: api.interfaces: is text; expected a list of interface names",
        ),
        (
            "NET[ports]\nhttp=8443\n",
            "6:1: ports.http: 8443 is also the port of api; expected a port of its own",
        ),
        (
            "NET[boot]\nstage='0s'\n",
            "7:7: boot.stage: \"0s\" is not understood; expected a duration such as \"300s\", \
             \"15m\" or \"1h\", from 1s to 1d",
        ),
        (
            "NET[boot]\ntotal='5m'\n",
            "6:1: boot.total: 300s is less than firmware's 600s; expected a whole boot to take longer than its part",
        ),
        ("state_dir=5\nNET", "1:11: state_dir: is a whole number; expected text in quotes"),
    ];
    for (text, expected) in table {
        let text = text.replace("NET", NET);
        let told = parse(&text).expect_err(&text);
        assert_eq!(told, format!("/etc/haas/haasd.toml:{expected}"), "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "colour=1\n[[network]]\nname=''\ninterface='br0'\ncidr='x'\ndhcp='own'\nmtu=1\n";
    let told = parse(text).unwrap_err();
    assert_eq!(told.lines().count(), 4, "{told}");
}

#[test]
fn networks_behind_a_relay_share_an_interface() {
    let relayed = "[[network]]\nname='far'\ninterface='br0'\ncidr='10.78.0.0/24'\ncontroller='10.77.0.1'\ndhcp='own'\n";
    let config = parse(&format!("{NET}{relayed}")).unwrap();
    assert_eq!(config.networks.len(), 2);
    assert_eq!(config.api_interfaces, ["br0"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let told = Config::load(Path::new("/nowhere/haasd.toml")).unwrap_err().to_string();
    assert_eq!(told, "cannot read the configuration /nowhere/haasd.toml");
}

#[test]
fn metrics_are_not_open_to_everybody_by_mistake() {
    let read = |text: &str| parse(&format!("{NET}{text}"));
    let config = read("[metrics]\nlisten = ['127.0.0.1:9090', '[::1]:9090']\n").unwrap();
    assert_eq!(config.metrics.listen.len(), 2);
    let refused = read("[metrics]\nlisten = ['10.0.0.1:9090']\n").unwrap_err();
    assert!(refused.contains("`allow` beside it"), "{refused}");
    let text = "[metrics]\nlisten = ['10.0.0.1:9090']\nallow = ['10.0.0.9', '10.1.0.0/24']\n";
    let config = read(text).unwrap();
    for (peer, may) in [
        ("10.0.0.9", true),
        ("10.1.0.7", true),
        ("127.0.0.1", true),
        ("10.0.0.8", false),
        ("192.0.2.1", false),
    ] {
        assert_eq!(config.metrics.may_read(peer.parse().unwrap()), may, "{peer}");
    }
    for wrong in
        ["[metrics]\nlisten = ['9090']", "[webhooks]\nallow = ['x']", "[events]\nkeep = '1d'"]
    {
        assert!(read(&format!("{wrong}\n")).is_err(), "{wrong}");
    }
}

#[test]
fn a_power_ramp_is_of_a_node_group_and_never_zero() {
    let config = parse(&format!("{NET}[power_ramp]\nrack1 = 30\nrack2 = 5\n")).unwrap();
    let read: Vec<_> = config.power_ramp.iter().map(|(g, n)| (g.as_str(), *n)).collect();
    assert_eq!(read, [("rack1", 30), ("rack2", 5)]);
    for wrong in ["rack1 = 0", "\"@rack1\" = 3", "rack1 = \"fast\""] {
        assert!(parse(&format!("{NET}[power_ramp]\n{wrong}\n")).is_err(), "{wrong}");
    }
}

#[test]
fn queues_are_read_each_behind_the_one_above_it_and_their_shares_fit() {
    let config = parse(&format!(
        "{NET}[reservations]\nwarn='5m'\n[[queue]]\nname='lab'\nguaranteed=60\n\
         [[queue]]\nname='gpu'\nparent='lab'\nnode_groups=['rack1']\nguaranteed=20\npolicy='fifo'\n\
         max_walltime='30m'\nno_show='10m'\nopen=true\n"
    ))
    .unwrap();
    assert_eq!((config.reservations.warn_s, config.reservations.boot_time_s), (300, 300));
    let [lab, gpu] = config.queues.as_slice() else { panic!("{:?}", config.queues) };
    assert_eq!((lab.guaranteed, lab.open, lab.max, lab.walltime_s), (60, false, 100, 3_600));
    assert_eq!(gpu.parent.as_ref(), Some(&lab.name));
    assert_eq!((gpu.walltime_s, gpu.max_walltime_s, gpu.no_show_s), (1_800, 1_800, Some(600)));
    for (queues, wrong) in [
        ("[[queue]]\nguaranteed=1\n", "name"),
        ("[[queue]]\nname='root'\n", "queue name"),
        ("[[queue]]\nname='a'\nparent='b'\n", "no queue b stands before this one"),
        ("[[queue]]\nname='a'\n[[queue]]\nname='a'\n", "a stands here twice"),
        ("[[queue]]\nname='a'\nmax=101\n", "max"),
        ("[[queue]]\nname='a'\nguaranteed=30\nmax=20\n", "a is guaranteed 30% and may hold 20%"),
        ("[[queue]]\nname='a'\nwalltime='2h'\nmax_walltime='1h'\n", "is more than max_walltime"),
        ("[[queue]]\nname='a'\nwieght=2\n", "wieght"),
        (
            "[[queue]]\nname='a'\nguaranteed=10\n[[queue]]\nname='b'\nparent='a'\nguaranteed=20\n",
            "the queues below a are guaranteed 20% together, and it is 10%",
        ),
        (
            "[[queue]]\nname='a'\nguaranteed=60\n[[queue]]\nname='b'\nguaranteed=60\n",
            "the queues at the top are guaranteed 120% together",
        ),
    ] {
        let refused = parse(&format!("{NET}{queues}")).unwrap_err();
        assert!(refused.contains(wrong), "{queues}: {refused}");
    }
}

#[test]
fn what_goes_on_between_tenants_is_strict_unless_it_is_said_otherwise() {
    use super::super::Reach;
    let read = |text: &str| parse(&format!("{NET}{text}"));
    let bare = read("").unwrap();
    assert!(bare.baseline.check);
    assert!(!bare.tenants.undeclared_disks && !bare.tenants.root_beside_others);
    assert_eq!(bare.reachability.check, Reach::Warn);
    let text = "[baseline]\ncheck = 'never'\n[tenants]\nundeclared_disks = 'allow'\n\
                [reachability]\ncheck = 'refuse'\ncontroller_ports = [22]\n";
    let config = read(text).unwrap();
    assert!(!config.baseline.check && config.tenants.undeclared_disks);
    assert!(!config.tenants.root_beside_others);
    assert_eq!(config.reachability.check, Reach::Refuse);
    assert_eq!(config.reachability.controller_ports, [22]);
    for wrong in [
        "[baseline]\ncheck = true",
        "[tenants]\nundeclared_disks = 'maybe'",
        "[reachability]\ncontroller_ports = [0]",
    ] {
        assert!(read(&format!("{wrong}\n")).is_err(), "{wrong}");
    }
}
