//! Names, addresses and words as the files of other systems spell them.

use std::net::{IpAddr, Ipv4Addr};

use haas_api::names::{Mac, NodeGroupName, NodeName};

/// A node's name from a host name: its first label in lower case. Also the rest, its domain.
pub(super) fn node_name(text: &str) -> Result<(NodeName, Option<String>), String> {
    let lower = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let (label, domain) = match lower.split_once('.') {
        Some((label, domain)) => (label, Some(domain.to_owned())),
        None => (&*lower, None),
    };
    let name = label.parse::<NodeName>().map_err(|error| error.to_string())?;
    Ok((name, domain))
}

pub(super) fn group_name(text: &str) -> Result<NodeGroupName, String> {
    text.parse::<NodeGroupName>().map_err(|error| error.to_string())
}

/// A MAC with colons, hyphens or dots, or as 12 digits, in either case.
pub(super) fn mac(text: &str) -> Result<Mac, String> {
    let text = text.trim();
    let parts: Vec<_> = text.split([':', '-', '.']).collect();
    let even = parts.iter().all(|part| part.len() == parts[0].len());
    let spelled = match parts[..] {
        // 52:54:0:77:0:a, as some programs print it.
        [_, _, _, _, _, _] if parts.iter().all(|part| !part.is_empty()) => {
            parts.iter().map(|part| format!("{part:0>2}")).collect::<Vec<_>>().join(":")
        }
        // 525400770001, 525400-770001, 5254.0077.0001
        [_] | [_, _] | [_, _, _] if even && text.is_ascii() && parts.concat().len() == 12 => {
            let digits = parts.concat();
            (0..6).map(|at| &digits[2 * at..2 * at + 2]).collect::<Vec<_>>().join(":")
        }
        _ => text.to_owned(),
    };
    spelled.parse::<Mac>().map_err(|mut error| {
        error.value = text.to_owned();
        error.to_string()
    })
}

/// Whether a text has the form of InfiniBand's 20-byte hardware address.
pub(super) fn is_infiniband(text: &str) -> bool {
    let parts: Vec<_> = text.split([':', '-']).collect();
    parts.len() == 20
        && parts.iter().all(|p| p.len() <= 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// An IPv4 address; a prefix length behind it is left away.
pub(super) fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    let address = text.split('/').next().unwrap_or(text).trim();
    address.parse().map_err(|_| format!("{text:?} is no IPv4 address such as 10.77.0.11"))
}

/// The address of a BMC.
pub(super) fn bmc_address(text: &str) -> Result<IpAddr, String> {
    let address = text.split('/').next().unwrap_or(text).trim();
    address.parse().map_err(|_| format!("{text:?} is no IP address such as 10.77.0.101"))
}

/// Arguments that haasd sets itself, or that say where another system's root is.
const NOT_OURS: [&str; 16] = [
    "BOOTIF=",
    "BOOT_IMAGE=",
    "boot=",
    "haas.",
    "ifname=",
    "init=",
    "initrd=",
    "ip=",
    "iscsi_target_name=",
    "netroot=",
    "nfsroot=",
    "overlay=",
    "rd.iscsi.",
    "root=",
    "rootfstype=",
    "wwinit.",
];

/// Splits kernel arguments: those to keep, and those that cannot be.
pub(super) fn kernel_args(text: &str) -> (Vec<String>, Vec<String>) {
    let words = text.split_whitespace().map(str::to_owned);
    words.partition(|word| !NOT_OURS.iter().any(|start| word.starts_with(start)))
}

/// Whether a key's name says that its value is a secret.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["pass", "secret", "token", "credential", "community"].iter().any(|word| key.contains(word))
}

/// Whether nodes.toml takes this as a label.
pub(super) fn is_label(key: &str, value: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    !key.is_empty() && key.bytes().all(good) && !value.chars().any(char::is_control)
}

/// Text of a stranger's file in a comment: on one line, and not endless.
pub(super) fn comment(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect();
    if text.chars().count() > 120 {
        line.push('…');
    }
    line
}

/// Orders n2 before n10.
pub(crate) fn natural(name: &str) -> (String, u64, String) {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (stem, number) = name.split_at(name.len() - digits);
    (stem.to_owned(), number.parse().unwrap_or(u64::MAX), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_in_every_spelling() {
        let right = Ok("52:54:00:77:00:0a".parse().unwrap());
        for text in [
            "52:54:00:77:00:0A",
            "525400-77000a",
            "52-54-00-77-00-0a",
            "5254.0077.000a",
            "52540077000A",
            "52:54:0:77:0:a",
        ] {
            assert_eq!(mac(text), right, "{text}");
        }
        for text in [
            "52:54:00:77:00",
            "",
            "01:00:5e:00:00:01",
            "52:54:00:77:00:0g",
            "52:54::77:00:0a:0b",
            "52:54::77:00:0a",
        ] {
            assert!(mac(text).unwrap_err().contains(&format!("{text:?}")), "{text}");
        }
    }

    #[test]
    fn a_host_name_gives_a_node_name_and_a_domain() {
        let (name, domain) = node_name("N01.Cluster.Example.").unwrap();
        assert_eq!((name.as_str(), domain.as_deref()), ("n01", Some("cluster.example")));
        assert!(node_name("my_node").is_err());
    }

    #[test]
    fn arguments_of_another_root_are_told_apart() {
        let (kept, not) = kernel_args("quiet root=/dev/nfs  console=ttyS1,115200 ip=dhcp");
        assert_eq!(kept, ["quiet", "console=ttyS1,115200"]);
        assert_eq!(not, ["root=/dev/nfs", "ip=dhcp"]);
    }
}
