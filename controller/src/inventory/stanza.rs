//! The stanza to paste into nodes.toml for a machine that was seen and is not known.

use std::{fmt::Write, net::Ipv4Addr};

use haas_api::names::Mac;

use super::{Arch, Firmware};

/// What was seen of an unknown machine. All of it is what the machine itself said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// From its DHCP option 93.
    pub firmware: Option<Firmware>,
    /// From its DHCP option 93.
    pub arch: Option<Arch>,
    /// An address that is free for it.
    pub free_address: Option<Ipv4Addr>,
    /// Anything that helps a person to recognise it: vendor class, host name, relay.
    pub hints: Vec<String>,
}

/// A stanza that is valid as it stands; a person changes the name and adds the BMC.
pub fn stanza_for(mac: Mac, seen: &Seen) -> String {
    let [.., a, b, c] = mac.0;
    let mut text = String::from("[[node]]\n");
    for hint in &seen.hints {
        // A machine's own words, which must not end the comment.
        let hint: String = hint.chars().filter(|c| !c.is_control()).take(100).collect();
        let _ = writeln!(text, "# {hint}");
    }
    let _ = writeln!(text, "name = \"node-{a:02x}{b:02x}{c:02x}\"  # choose its name");
    let _ = writeln!(text, "mac = \"{mac}\"");
    match seen.free_address {
        Some(address) => {
            let _ = writeln!(text, "address = \"{address}\"");
        }
        None => text.push_str("#address = \"…\"  # without it, one from the pool\n"),
    }
    match seen.firmware {
        Some(Firmware::Bios) => text.push_str("firmware = \"bios\"\n"),
        Some(Firmware::Uefi) => text.push_str("firmware = \"uefi\"\n"),
        None => {}
    }
    if seen.arch == Some(Arch::Aarch64) {
        text.push_str("arch = \"aarch64\"\n");
    }
    text.push_str("#[node.power]\n#driver = \"ipmi\"\n#address = \"…\"  # its BMC\n");
    text
}
