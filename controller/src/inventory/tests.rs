use std::net::Ipv4Addr;

use super::*;
use crate::config::{Config, DhcpMode};

fn rack() -> Vec<Network> {
    let text = include_str!("../../../docs/examples/haasd.toml");
    let own = |_: &str| Some(vec![Ipv4Addr::new(10, 77, 0, 1)]);
    let mut networks = Config::parse(text, Path::new("haasd.toml"), &own).unwrap().networks;
    networks[0].gateway = Some(Ipv4Addr::new(10, 77, 0, 254));
    assert_eq!(networks[0].dhcp, DhcpMode::Own);
    networks
}

fn parse(text: &str) -> Result<Vec<NodeSpec>, String> {
    let parsed = Inventory::parse(text, "/etc/haas/nodes.toml", &rack());
    parsed.map(|inventory| inventory.nodes).map_err(|error| error.to_string())
}

#[test]
fn the_example_at_the_root_is_right() {
    let text = include_str!("../../../nodes.toml");
    let inventory = Inventory::parse(text, "nodes.toml", &rack()).unwrap();
    assert_eq!(inventory.hash, Digest::of(text.as_bytes()));
    let nodes = inventory.nodes;
    assert_eq!(nodes.len(), 5);
    let n01 = &nodes[0];
    assert_eq!(n01.boot_mac().to_string(), "52:54:00:77:00:01");
    assert_eq!(n01.owns("52:54:00:77:01:01".parse().unwrap()), Some(MacUse::Bmc));
    let password = SecretRef::File("secrets/bmc".into());
    assert!(matches!(&n01.power, PowerSpec::Ipmi { port: 623, password: p, .. } if *p == password));
    assert!(nodes.iter().any(|node| matches!(node.power, PowerSpec::Exec { .. })));
    assert!(nodes.iter().any(|node| node.power == PowerSpec::Manual));
    assert!(nodes.iter().any(|node| matches!(node.power, PowerSpec::Redfish(_))));
    assert!(nodes.iter().any(|node| node.nics.len() > 1));
}

#[test]
fn a_bmc_may_have_the_systems_of_several_nodes_if_each_names_its_own() {
    let node = |number: u8, system: &str| {
        format!(
            "[[node]]\nname='n0{number}'\nmac='52:54:00:00:00:0{number}'\npower={{address='10.9.0.1',fingerprint='{}'{system}}}\n",
            "AB:".repeat(32).trim_end_matches(':')
        )
    };
    let defaults =
        "[defaults.power]\ndriver='redfish'\nuser='haas'\npassword_env='BMC'\nca_file='ca.pem'\n";
    let of = |first: &str, second: &str| {
        parse(&format!("{defaults}{}{}", node(1, first), node(2, second)))
    };
    let nodes = of(",system='a'", ",system='b',network_boot='http'").unwrap();
    let PowerSpec::Redfish(spec) = &nodes[1].power else { panic!("{:?}", nodes[1].power) };
    assert_eq!((spec.port, spec.system.as_deref()), (443, Some("b")));
    assert_eq!(
        spec.tls,
        TlsTrust::Fingerprint("ab".repeat(32)),
        "it goes before the group's authority"
    );
    assert_eq!(spec.network_boot, NetworkBoot::Http);
    let stored = serde_json::to_string(&nodes[1].power).unwrap();
    assert_eq!(serde_json::from_str::<PowerSpec>(&stored).unwrap(), nodes[1].power);
    for (first, second) in [("", ""), (",system='a'", ""), (",system='a'", ",system='a'")] {
        let told = of(first, second).unwrap_err();
        assert!(told.contains("10.9.0.1 port 443 is already n01's BMC"), "{told}");
    }
    // Both would watch one console.
    let told = of(",system='a',console='ipmi'", ",system='b'").unwrap_err();
    assert!(told.contains("10.9.0.1 port 443 is already n01's BMC"), "{told}");
    let told = of(",system='a'", ",system='b',console='ipmi'").unwrap_err();
    assert!(told.contains("10.9.0.1 port 443 is already n01's BMC"), "{told}");
}

#[test]
fn a_node_switched_by_redfish_may_have_its_console_by_ipmi() {
    let text = "[[node]]\nname='n01'\nmac='52:54:00:00:00:01'\npower={driver='redfish',\
                address='10.9.0.1',user='USER',password_env='BMC',fingerprint='PRINT',console='ipmi'}\n";
    let text = text.replace("PRINT", &"ab".repeat(32));
    let nodes = parse(&text.replace("USER", "haas")).unwrap();
    let PowerSpec::Redfish(spec) = &nodes[0].power else { panic!("{:?}", nodes[0].power) };
    assert_eq!(spec.console, ConsoleBy::Ipmi);
    assert!(crate::power::has_console(&nodes[0].power));
    let without = RedfishSpec { console: ConsoleBy::Nothing, ..spec.clone() };
    assert!(!crate::power::has_console(&PowerSpec::Redfish(without)));
    let told = parse(&text.replace("USER", "a-user-of-17-char")).unwrap_err();
    assert!(told.contains("node.power.console: is \"ipmi\", and IPMI takes no user"), "{told}");
    let told = parse(&text.replace("USER", "haas").replace("'ipmi'", "'ssh'")).unwrap_err();
    assert!(told.contains("node.power.console: \"ssh\" is not understood"), "{told}");
}

#[test]
fn a_node_inherits_from_defaults_then_groups_then_itself() {
    let text = r#"
        [defaults]
        firmware = "uefi"
        cache = "1 GiB"
        kernel_args = ["quiet"]
        ready_checks = [["mountpoint", "-q", "/scratch"]]
        labels = { site = "a", rack = "?" }
        [defaults.power]
        driver = "ipmi"
        user = "admin"
        password_file = "secrets/bmc"
        kg_file = "secrets/kg"
        cipher_suite = 17
        [[group]]
        name = "rack1"
        cache = "2 GiB"
        scratch_disks = [{ serial = "A" }, { path = "/dev/disk/by-path/pci-0000:01:00.0-nvme-1" }]
        labels = { rack = "1" }
        [[group]]
        name = "gpu"
        cache = "3 GiB"
        kernel_args = ["iommu=pt"]
        ready_checks = [{ command = ["nvidia-smi", "-L"], within = "2m" }]
        power = { user = "operator", privilege = "operator" }
        [[node]]
        name = "n01"
        mac = "52:54:00:77:00:01"
        groups = ["gpu", "rack1"]
        power = { address = "10.77.0.101", port = 6230 }
        [[node]]
        name = "n02"
        mac = "52:54:00:77:00:02"
        firmware = "bios"
        power = { driver = "manual" }
    "#;
    let nodes = parse(text).unwrap();
    let n01 = &nodes[0];
    assert_eq!(n01.firmware, Firmware::Uefi);
    assert_eq!(n01.cache_mib, 3 * 1024, "the group that is listed last wins");
    assert_eq!(n01.kernel_args, ["quiet", "iommu=pt"]);
    let checks = n01.ready_checks.iter().map(|c| (c.command[0].as_str(), c.within_s));
    assert_eq!(checks.collect::<Vec<_>>(), [("mountpoint", 60), ("nvidia-smi", 120)]);
    let scratch: Vec<_> = n01.scratch_disks.iter().map(ToString::to_string).collect();
    assert_eq!(scratch, ["serial A", "/dev/disk/by-path/pci-0000:01:00.0-nvme-1"]);
    assert_eq!(n01.labels["site"], "a");
    assert_eq!(n01.labels["rack"], "1");
    let power = PowerSpec::Ipmi {
        address: "10.77.0.101".parse().unwrap(),
        port: 6230,
        mac: None,
        user: "operator".to_owned(),
        password: SecretRef::File("/etc/haas/secrets/bmc".into()),
        kg: Some(SecretRef::File("/etc/haas/secrets/kg".into())),
        privilege: BmcPrivilege::Operator,
        cipher_suite: Some(CipherSuite::Seventeen),
    };
    assert_eq!(n01.power, power);
    assert_eq!((nodes[1].firmware, &nodes[1].power), (Firmware::Bios, &PowerSpec::Manual));
}

// What `haasctl node import` makes of its samples; haasctl's tests see to it that these files are
// what it prints.
#[test]
fn what_an_import_prints_is_accepted() {
    let made = |text: &str| {
        let nodes = parse(text).unwrap_or_else(|told| panic!("{told}\n{text}"));
        nodes.into_iter().map(|node| (node.name.to_string(), node)).collect::<BTreeMap<_, _>>()
    };
    let ipmi = |node: &NodeSpec| match &node.power {
        PowerSpec::Ipmi { address, user, password: SecretRef::File(file), .. } => {
            format!("{user}@{address} {}", file.display())
        }
        other => format!("{other:?}"),
    };

    let csv = made(include_str!("../../../haasctl/tests/import/hosts.csv.toml"));
    assert_eq!(csv.len(), 5);
    let n04 = &csv["n04"];
    assert_eq!(ipmi(n04), "gpuadmin@10.77.0.104 /etc/haas/secrets/bmc-2");
    assert_eq!(n04.kernel_args, ["console=ttyS1,115200", "iommu=pt"]);
    assert_eq!((n04.firmware, n04.labels["rack"].as_str()), (Firmware::Uefi, "1"));
    assert_eq!(n04.groups.len(), 2);
    assert_eq!(ipmi(&csv["n01"]), "admin@10.77.0.101 /etc/haas/secrets/bmc");
    assert_eq!((&csv["n05"].power, csv["n05"].firmware), (&PowerSpec::Manual, Firmware::Bios));
    assert_eq!(csv["n05"].labels["rack"], "2");

    let dnsmasq = made(include_str!("../../../haasctl/tests/import/dnsmasq.conf.toml"));
    assert_eq!(dnsmasq.keys().collect::<Vec<_>>(), ["n01", "n02", "n03", "n04"]);
    let bmc = "52:54:00:77:01:03".parse().unwrap();
    assert_eq!(dnsmasq["n03"].owns(bmc), Some(MacUse::Bmc));
    assert_eq!(dnsmasq["n04"].nics.len(), 2);
    assert_eq!(dnsmasq["n04"].address, Some(Ipv4Addr::new(10, 77, 0, 14)));
    assert_eq!(made(include_str!("../../../haasctl/tests/import/dnsmasq.hosts.toml")).len(), 3);

    let dhcpd = made(include_str!("../../../haasctl/tests/import/dhcpd.conf.toml"));
    assert_eq!(dhcpd.keys().collect::<Vec<_>>(), ["n01", "n02", "n03", "n04"]);
    assert_eq!(dhcpd["n03"].firmware, Firmware::Uefi);
    assert_eq!(ipmi(&dhcpd["n02"]), "haas@10.77.0.102 /etc/haas/secrets/bmc");

    let warewulf = made(include_str!("../../../haasctl/tests/import/nodes.conf.toml"));
    assert_eq!(warewulf.keys().collect::<Vec<_>>(), ["gpu1", "gpu2", "n01", "n02"]);
    let gpu1 = &warewulf["gpu1"];
    assert_eq!(ipmi(gpu1), "gpuoob@10.77.0.111 /etc/haas/secrets/bmc-2");
    let args = ["quiet", "crashkernel=no", "console=ttyS1,115200", "iommu=pt"];
    assert_eq!(gpu1.kernel_args, args);
    assert_eq!(gpu1.labels["site"], "basement");
    assert_eq!(ipmi(&warewulf["n01"]), "hpcadmin@10.77.0.101 /etc/haas/secrets/bmc");
    assert_eq!(warewulf["n01"].kernel_args, args[..3]);
}

// A correct first node, so that a table's row needs to show only what is wrong.
const N01: &str = "[[node]]\nname='n01'\nmac='52:54:00:77:00:01'\naddress='10.77.0.11'\n";
const BMC: &str = "power={driver='ipmi',address='10.77.0.101',mac='52:54:00:77:01:01',user='admin',password_env='PW'}\n";
const N02: &str = "[[node]]\nname='n02'\nmac='52:54:00:77:00:02'\n";

#[test]
fn each_mistake_is_told_with_place_key_fault_and_remedy() {
    let table: &[(&str, &str)] = &[
        (
            "[[node]]\nname='N 1'\nmac='52:54:00:77:00:01'\n",
            "2:6: node.name: \"N 1\" is not a valid node name; expected 1 to 63 letters, digits \
             and hyphens, in lower case, beginning and ending with a letter or digit",
        ),
        (
            "[[node]]\nmac='52:54:00:77:00:01'\n",
            "1:1: node.name: is missing; expected the node's name",
        ),
        (
            "[[node]]\nname='n01'\n",
            "1:1: node: n01 has no NIC to boot from; expected mac = \"…\", or nics with exactly \
             one role = \"boot\"",
        ),
        (
            "[[node]]\nname='n01'\nnics=[{mac='52:54:00:77:00:01',role='data'}]\n",
            "1:1: node: n01 has no NIC to boot from; expected mac = \"…\", or nics with exactly \
             one role = \"boot\"",
        ),
        (
            "[[node]]\nname='n01'\nnics=[{mac='52:54:00:77:00:01',role='boot'},{mac='52:54:00:77:00:02',role='boot'}]\n",
            "1:1: node: n01 has 2 NICs with the role boot; expected mac = \"…\", or nics with \
             exactly one role = \"boot\"",
        ),
        (
            "[[node]]\nname='n01'\nmac='52:54:00:77:00'\n",
            "3:5: node.mac: \"52:54:00:77:00\" is not a valid MAC address; expected six pairs of \
             hexadecimal digits such as 52:54:00:77:00:01, not a multicast address",
        ),
        (
            "N01[[node]]\nname='n01'\nmac='52:54:00:77:00:02'\n",
            "6:6: node.name: \"n01\" is already the node in line 2; expected a name of its own",
        ),
        (
            "N01[[node]]\nname='n02'\nmac='52-54-00-77-00-01'\n",
            "7:5: node.mac: 52:54:00:77:00:01 is already n01's in line 3; expected the MAC that \
             stands on this one's label",
        ),
        (
            "N01BMC[[node]]\nname='n02'\nmac='52:54:00:77:01:01'\n",
            "8:5: node.mac: 52:54:00:77:01:01 is already n01's BMC's in line 5; expected the MAC \
             that stands on this one's label",
        ),
        (
            "N01N02address='10.77.0.11'\n",
            "8:9: node.address: 10.77.0.11 is already n01's in line 4; expected an address of its \
             own",
        ),
        (
            "N01BMCN02address='10.77.0.101'\n",
            "9:9: node.address: 10.77.0.101 is the address of n01's BMC in line 5; expected an \
             address of its own",
        ),
        (
            "N01BMCN02power={driver='ipmi',address='10.77.0.101',user='admin',password_env='PW'}\n",
            "9:30: node.power.address: 10.77.0.101 port 623 is already n01's BMC in line 5; \
             expected a BMC of its own, or two nodes would be powered as one",
        ),
        (
            "N02address='10.9.9.9'\n",
            "4:9: node.address: 10.9.9.9 is in no [[network]]; expected an address in \
             10.77.0.0/24 (rack1)",
        ),
        (
            "N02address='10.77.0.0'\n",
            "4:9: node.address: 10.77.0.0 is the network 10.77.0.0/24 itself; expected an address \
             that is free, or none to take one from the pool",
        ),
        (
            "N02address='10.77.0.255'\n",
            "4:9: node.address: 10.77.0.255 is the broadcast address of 10.77.0.0/24; expected an \
             address that is free, or none to take one from the pool",
        ),
        (
            "N02address='10.77.0.1'\n",
            "4:9: node.address: 10.77.0.1 is the controller; expected an address that is free, or \
             none to take one from the pool",
        ),
        (
            "N02address='10.77.0.254'\n",
            "4:9: node.address: 10.77.0.254 is the gateway; expected an address that is free, or \
             none to take one from the pool",
        ),
        (
            "N02address='10.77.0.210'\n",
            "4:9: node.address: 10.77.0.210 is in the pool 10.77.0.200-10.77.0.250 of rack1; \
             expected an address that is free, or none to take one from the pool",
        ),
        (
            "N02groups=['gpu']\n",
            "4:9: node.groups: no [[group]] is named \"gpu\"; expected a [[group]] with name = \
             \"gpu\"",
        ),
        (
            "[[group]]\nname='a'\n[[group]]\nname='a'\n",
            "4:6: group.name: \"a\" is already the group in line 1; expected a name of its own",
        ),
        (
            "N02colour='red'\n",
            "4:1: node.colour: unknown key; expected one of address, arch, cache, \
             detached_disks, firmware, groups, ipxe, kernel_args, labels, mac, name, nics, \
             overlay_disk, power, ready_checks, scratch_disks, secure_boot",
        ),
        ("nodes=[]\n", "1:1: nodes: unknown key; expected one of defaults, group, node"),
        (
            "[defaults]\naddress='10.77.0.3'\n",
            "2:1: defaults.address: unknown key; expected one of arch, cache, \
             detached_disks, firmware, ipxe, \
             kernel_args, labels, overlay_disk, power, ready_checks, scratch_disks, secure_boot",
        ),
        (
            "N02power={driver='ipmi',address='10.77.0.9',user='a',password='hunter2'}\n",
            "4:60: node.power.password: is a secret in plain text; expected password_file = \
             \"FILE\" or password_env = \"VARIABLE\"",
        ),
        (
            "N02power={driver='ipmi',address='10.77.0.9',user='a',password_env='PW',cipher_suite=8}\n",
            "4:82: node.power.cipher_suite: is 8; expected 3 or 17: the others are not safe",
        ),
        (
            "N02power={driver='ipmi',address='10.77.0.9',user='a',password_env='PW',cipher_suite=0}\n",
            "4:82: node.power.cipher_suite: 0 is out of range; expected a whole number from 3 to 17",
        ),
        (
            "N02power={driver='ipmi',address='10.77.0.9',user='a',password_env='PW',kg='hunter2'}\n",
            "4:72: node.power.kg: is a secret in plain text; expected kg_file = \"FILE\" or kg_env = \"VARIABLE\"",
        ),
        (
            "N02power={driver='ipmi',address='10.77.0.9',user='a',password_env='PW',kg_file='a',kg_env='B'}\n",
            "4:88: node.power.kg_env: stands beside kg_file; expected one of the two",
        ),
        (
            "N02power={driver='ipmi',address='10.77.0.9',user='a',password_env='PW',privilege='user'}\n",
            "4:79: node.power.privilege: \"user\" is not understood; expected \"operator\" or \"administrator\"",
        ),
        (
            "N02power={driver='ipmi',user='a',password_env='PW'}\n",
            "1:1: node.power.address: is missing, and the driver \"ipmi\" needs it; expected the \
             BMC's IP address",
        ),
        (
            "N02power={driver='manual',user='a'}\n",
            "4:29: node.power.user: is not read by the driver \"manual\"; expected no other key",
        ),
        (
            "N02power={user='a'}\n",
            "4:13: node.power.driver: is missing; expected \"ipmi\", \"redfish\", \
             \"exec\" or \"manual\"",
        ),
        (
            "N02power={driver='exec',command=['pdu']}\n",
            "4:30: node.power.command: \"pdu\" is no absolute path; expected a list such as \
             [\"/usr/local/sbin/pdu\", \"outlet7\"]",
        ),
        (
            "N02power={driver='snmp'}\n",
            "4:15: node.power.driver: \"snmp\" is not understood; expected \"ipmi\" or \
             \"redfish\" or \"exec\" or \"manual\"",
        ),
        (
            "N02power={driver='redfish',address='10.9.0.2',user='a',password_env='A'}\n",
            "1:1: node.power.fingerprint: is missing, and the driver \"redfish\" needs it; expected the \
             SHA-256 of the BMC's certificate, which `haasctl node probe ADDRESS` shows, or ca_file = \
             \"FILE\"",
        ),
        (
            "N02power={driver='redfish',address='10.9.0.2',user='a',password_env='A',fingerprint='ab'}\n",
            "4:82: node.power.fingerprint: \"ab\" is not understood; expected a SHA-256, 64 hexadecimal digits",
        ),
        (
            "N02overlay_disk='sda'\n",
            "4:14: node.overlay_disk: \"sda\" is not understood; expected \"auto\", { serial = \
             \"…\" } or { path = \"/dev/…\" }",
        ),
        ("N02scratch_disks=['sda']\n", "4:16: node.scratch_disks: is text; expected a table"),
        (
            "N02scratch_disks=[{serial='A',path='/dev/sda'}]\n",
            "4:16: node.scratch_disks: names a disk twice; expected { serial = \"…\" } or { path = \
             \"/dev/…\" }",
        ),
        (
            "N02overlay_disk={serial='A'}\nscratch_disks=[{serial='A'}]\n",
            "1:1: node.scratch_disks: serial A is the overlay_disk too; expected another disk, or another \
             overlay_disk",
        ),
        (
            "N02overlay_disk={serial='A'}\ndetached_disks=[{serial='A'}]\n",
            "1:1: node.detached_disks: serial A is the overlay_disk too; expected another disk, or another \
             overlay_disk",
        ),
        (
            "N02scratch_disks=[{serial='A'}]\ndetached_disks=[{serial='A'}]\n",
            "1:1: node.detached_disks: serial A is among scratch_disks too; expected it in one of the two",
        ),
        (
            "N02cache='20 GB'\n",
            "4:7: node.cache: \"20 GB\" is not understood; expected a size such as \"20 GiB\" or \
             \"0\"",
        ),
        (
            "N02kernel_args=['overlay=x']\n",
            "4:14: node.kernel_args: \"overlay=x\" begins with \"overlay=\", which haasd itself \
             sets; expected another argument",
        ),
        (
            "N02kernel_args=['a b']\n",
            "4:14: node.kernel_args: \"a b\" holds a space; expected one argument in each item",
        ),
        (
            "N02ipxe='../x'\n",
            "4:6: node.ipxe: \"../x\" is not understood; expected a file name in the iPXE \
             directory such as \"snponly.efi\"",
        ),
        (
            "N02secure_boot=true\n",
            "1:1: node.secure_boot: cannot be; expected firmware = \"uefi\": a BIOS checks no \
             signature",
        ),
        (
            "N02firmware='uefi'\nipxe='ipxe.efi'\nsecure_boot=true\n",
            "1:1: node.secure_boot: cannot be; expected no ipxe: iPXE is not signed, shim and GRUB \
             are loaded in its place",
        ),
        (
            "N02labels={a=\"x\\ny\"}\n",
            "4:11: node.labels.a: holds a control character; expected plain text on one line",
        ),
        (
            "N02ready_checks=[['bin/x']]\n",
            "4:15: node.ready_checks: needs a program by its name, or by its whole path; expected \
             [\"nvidia-smi\", \"-L\"] or { command = [\"nvidia-smi\", \"-L\"], within = \"60s\" }",
        ),
        (
            "N02ready_checks=[{command=['x'],within='2h'}]\n",
            "4:37: node.ready_checks.within: \"2h\" is not understood; expected a duration from \
             \"1s\" to \"1h\"",
        ),
        ("node = 5\n", "1:8: node: is a whole number; expected one or more tables"),
    ];
    for (text, expected) in table {
        let text = text.replace("N01", N01).replace("N02", N02).replace("BMC", BMC);
        let told = parse(&text).expect_err(&text);
        assert_eq!(told, format!("/etc/haas/nodes.toml:{expected}"), "{text}");
        assert!(!told.contains("hunter2"));
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_in_order() {
    let text = format!("{N02}colour=1\ncache='x'\n{N02}groups=['a']\n[defaults]\narch='mips'\n");
    let told = parse(&text).unwrap_err();
    let lines: Vec<_> = told.lines().map(|l| l.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["4", "5", "7", "8", "9", "11"], "{told}");
}

#[test]
fn a_diff_says_what_changes_and_nothing_else() {
    let old = parse(&format!("{N01}{BMC}{N02}")).unwrap();
    let new = "[[group]]\nname='gpu'\n[[node]]\nname='n01'\nmac='52:54:00:77:00:01'\naddress='10.77.0.21'\ngroups=['gpu']\nBMC[[node]]\nname='n10'\nmac='52:54:00:77:00:0a'\n";
    let new = parse(&new.replace("BMC", BMC)).unwrap();
    let expected = "\
+ n10
- n02
~ n01  address: 10.77.0.11 -> 10.77.0.21
       groups: - -> gpu
1 added, 1 removed, 1 changed";
    assert_eq!(Inventory::diff(&old, &new).to_string(), expected);
    assert!(Inventory::diff(&old, &old).is_empty());
    assert_eq!(Inventory::diff(&old, &old).to_string(), "no changes");
}

#[test]
fn a_stanza_can_be_pasted_as_it_is() {
    let mac = "52:54:00:77:00:0a".parse().unwrap();
    let seen = Seen {
        firmware: Some(Firmware::Uefi),
        arch: Some(Arch::X86_64),
        free_address: Some(Ipv4Addr::new(10, 77, 0, 12)),
        hints: vec!["PXEClient\n[[node]]\nname='evil'".to_owned()],
    };
    let nodes = parse(&format!("{N01}\n{}", stanza_for(mac, &seen))).unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[1].boot_mac(), mac);
    assert_eq!(nodes[1].name.as_str(), "node-77000a");
    assert_eq!(nodes[1].firmware, Firmware::Uefi);
    assert!(parse(&stanza_for(mac, &Seen::default())).is_ok());
}

#[test]
fn what_is_stored_is_read_back() {
    let nodes = parse(&format!("{N01}{BMC}{N02}")).unwrap();
    let json = serde_json::to_string(&nodes).unwrap();
    assert_eq!(serde_json::from_str::<Vec<NodeSpec>>(&json).unwrap(), nodes);
    // As it was stored before there were suites, keys and privileges.
    let before = json.replace(",\"privilege\":\"administrator\"", "");
    assert_ne!(before, json);
    assert_eq!(serde_json::from_str::<Vec<NodeSpec>>(&before).unwrap(), nodes);
}
