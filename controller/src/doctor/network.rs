//! The controller's interfaces.

use std::{fs, path::Path};

use haas_api::doctor::Finding;

use crate::config::{Config, Network};

const TOPIC: &str = "interfaces";
/// IFF_UP of netdevice(7).
const UP: u32 = 1;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    config.networks.iter().map(|network| finding(Path::new("/sys/class/net"), network)).collect()
}

fn finding(sysfs: &Path, network: &Network) -> Finding {
    let Network { name, interface, mtu, .. } = network;
    let folder = sysfs.join(interface);
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let why = format!("no node of the network {name} reaches haasd");
    let Some(flags) = read("flags") else {
        let what = format!("{interface} (network {name}) does not exist");
        return Finding::wrong(
            TOPIC,
            what,
            &why,
            "ip link; then interface in haasd.toml".to_owned(),
        );
    };
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or_default();
    if flags & UP == 0 {
        let what = format!("{interface} (network {name}) is down");
        return Finding::wrong(TOPIC, what, &why, format!("ip link set {interface} up"));
    }
    // Of an interface that is down this cannot be read.
    if read("carrier").is_some_and(|text| text.trim() == "0") {
        let what = format!("{interface} (network {name}) has no link");
        let remedy = format!("the cable or the switch's port; ethtool {interface}");
        return Finding::wrong(TOPIC, what, &why, remedy);
    }
    let own = read("mtu").and_then(|text| text.trim().parse::<u32>().ok());
    if let (Some(wanted), Some(own)) = (*mtu, own)
        && own < wanted
    {
        return Finding::wrong(
            TOPIC,
            format!("{interface} has an MTU of {own}, and the network {name} one of {wanted}"),
            "nodes lose the large packets that they send to haasd, and hang as they boot",
            format!("ip link set {interface} mtu {wanted}"),
        );
    }
    Finding::good(TOPIC, format!("{interface} (network {name}) is up, with {}", network.controller))
}

#[cfg(test)]
mod tests {
    use haas_api::doctor::FindingState;

    use super::*;
    use crate::config::DhcpMode;

    #[test]
    fn each_fault_of_an_interface_has_its_remedy() {
        let network = Network {
            name: "rack".into(),
            interface: "eth9".into(),
            cidr: "10.77.0.0/24".parse().unwrap(),
            controller: [10, 77, 0, 1].into(),
            gateway: None,
            dns: Vec::new(),
            domain: None,
            ntp: Vec::new(),
            mtu: Some(9000),
            dhcp: DhcpMode::Own,
            pool: None,
            lease_s: 3600,
            probe: true,
        };
        let sysfs = tempfile::tempdir().unwrap();
        let look = || finding(sysfs.path(), &network);
        assert!(look().what.contains("does not exist"));
        let folder = sysfs.path().join("eth9");
        fs::create_dir(&folder).unwrap();
        for (flags, carrier, mtu, state, remedy) in [
            ("0x1002", "", "9000", FindingState::Wrong, "ip link set eth9 up"),
            ("0x1003", "0", "9000", FindingState::Wrong, "ethtool eth9"),
            ("0x1003", "1", "1500", FindingState::Wrong, "ip link set eth9 mtu 9000"),
            ("0x1003", "1", "9000", FindingState::Good, ""),
        ] {
            for (file, text) in [("flags", flags), ("carrier", carrier), ("mtu", mtu)] {
                fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
            let found = look();
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.remedy.unwrap_or_default().contains(remedy));
        }
    }
}
