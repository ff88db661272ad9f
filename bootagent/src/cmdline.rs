//! The kernel command line: the words of haasd, those of dracut that it also writes so that an
//! image boots with a stock initramfs, and those of the first concept (`ip=cluster`,
//! `iscsi_target_name=`, an empty `overlay=`).
//!
//! Only the network, the controller and the token are acted upon. What the node shall run comes
//! from the controller over TLS, never from here, since anybody on the boot network could have
//! written this line; the rest is kept to be shown on the console.

use std::net::{IpAddr, Ipv4Addr};

use haas_api::names::Mac;

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CommandLine {
    /// Where haasd is, and how to prove who we are.
    pub controller: Option<Controller>,
    /// The NIC to boot over.
    pub nic: Option<Mac>,
    /// How that NIC gets its address.
    pub addressing: Addressing,
    /// Whether that address is leased from a DHCP server, so that its lease must be kept.
    pub is_leased: bool,
    /// The target named by `netroot=` or `iscsi_target_name=`.
    pub target: Option<String>,
    /// The initiator's name.
    pub initiator: Option<String>,
    /// The overlay; empty means one in RAM.
    pub overlay: Option<String>,
}

/// haasd, as the command line names it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Controller {
    /// `https://ADDRESS:PORT`.
    pub url: String,
    /// SHA-256 of its certificate, 64 hexadecimal digits.
    pub fingerprint: String,
    /// The boot token.
    pub token: String,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("url", &self.url).finish_non_exhaustive()
    }
}

/// How the boot NIC gets its address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Addressing {
    /// Nothing was said.
    #[default]
    Unsaid,
    /// Ask by DHCP: `ip=dhcp`, and the concept's `ip=cluster`.
    Dhcp,
    /// As given.
    Static {
        /// The NIC's address.
        address: Ipv4Addr,
        /// The length of the network's prefix.
        prefix: u8,
        /// The way out.
        gateway: Option<Ipv4Addr>,
    },
}

impl CommandLine {
    /// Reads a command line. Unknown and malformed words are passed over: they may be meant for
    /// the kernel or for the image's own init.
    pub(crate) fn parse(line: &str) -> Self {
        let mut found = Self::default();
        let (mut url, mut fingerprint, mut token, mut bootif) = (None, None, None, None);
        for word in line.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else { continue };
            match key {
                "haas.url" => url = Some(value.trim_end_matches('/').to_owned()),
                "haas.fp" => fingerprint = Some(value.to_owned()),
                "haas.token" => token = Some(value.to_owned()),
                "haas.address" => found.is_leased = value == "leased",
                // PXE puts the hardware type in front: `01-` for Ethernet.
                "BOOTIF" => bootif = value.strip_prefix("01-").and_then(|mac| mac.parse().ok()),
                "ifname" => {
                    found.nic = value.split_once(':').and_then(|(_, mac)| mac.parse().ok());
                }
                "ip" => found.addressing = addressing(value),
                "netroot" => found.target = netroot_target(value),
                "iscsi_target_name" => found.target = Some(value.to_owned()),
                "rd.iscsi.initiator" => found.initiator = Some(value.to_owned()),
                "overlay" => found.overlay = Some(value.to_owned()),
                _ => {}
            }
        }
        found.nic = bootif.or(found.nic);
        if let (Some(url), Some(fingerprint), Some(token)) = (url, fingerprint, token) {
            found.controller = Some(Controller { url, fingerprint, token });
        }
        found
    }
}

/// `ADDRESS:PEER:GATEWAY:MASK:NAME:NIC:HOW…`, `NIC:dhcp`, `dhcp` or `cluster`.
fn addressing(value: &str) -> Addressing {
    let fields: Vec<_> = value.split(':').collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or_default();
    if let Ok(address) = field(0).parse::<Ipv4Addr>() {
        let mask = field(3);
        let prefix = mask.parse().ok().or_else(|| {
            let mask = u32::from(mask.parse::<Ipv4Addr>().ok()?);
            let ones = mask.leading_ones();
            (mask.count_ones() == ones).then_some(ones as u8)
        });
        return match prefix {
            Some(prefix) if prefix <= 32 => {
                Addressing::Static { address, prefix, gateway: field(2).parse().ok() }
            }
            _ => Addressing::Unsaid,
        };
    }
    match fields.iter().any(|f| matches!(*f, "dhcp" | "on" | "any" | "cluster")) {
        true => Addressing::Dhcp,
        false => Addressing::Unsaid,
    }
}

/// `iscsi:[USER:PASSWORD@]SERVER:PROTOCOL:PORT:LUN:TARGET`; the target's own colons are kept.
fn netroot_target(value: &str) -> Option<String> {
    let rest = value.strip_prefix("iscsi:")?;
    let at = [":iqn.", ":eui.", ":naa."].iter().filter_map(|start| rest.find(start)).min()?;
    Some(rest[at + 1..].to_owned())
}

/// The address and port in a URL such as `https://10.77.0.1:8443`. Names are not resolved: a
/// static binary has no resolver, and the boot network may have none either.
pub(crate) fn host_and_port(url: &str) -> Option<(IpAddr, u16)> {
    let rest = url.strip_prefix("https://")?.split('/').next()?;
    if let Ok(address) = rest.parse::<std::net::SocketAddr>() {
        return Some((address.ip(), address.port()));
    }
    Some((rest.trim_matches(['[', ']']).parse().ok()?, 443))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "BOOT_IMAGE=kernel initrd=initrd console=ttyS0,115200 \
        ip=10.77.0.11::10.77.0.1:255.255.255.0:n01:bootnet:none ifname=bootnet:52:54:00:77:00:01 \
        BOOTIF=01-52-54-00-77-00-01 rd.neednet=1 \
        netroot=iscsi:10.77.0.1::3260:0:iqn.2012-08.com.bell-labs.mupuc:image-0123 \
        rd.iscsi.initiator=iqn.2012-08.com.bell-labs.mupuc:n01 ro overlay=alice/dev \
        haas.url=https://10.77.0.1:8443 haas.fp=ab12 haas.token=T0K3N";

    #[test]
    fn our_own_line() {
        let line = CommandLine::parse(OURS);
        let controller = line.controller.expect("controller");
        assert_eq!(controller.url, "https://10.77.0.1:8443");
        assert_eq!(controller.fingerprint, "ab12");
        assert_eq!(controller.token, "T0K3N");
        assert_eq!(line.nic, Some(Mac([0x52, 0x54, 0, 0x77, 0, 1])));
        assert_eq!(
            line.addressing,
            Addressing::Static {
                address: [10, 77, 0, 11].into(),
                prefix: 24,
                gateway: Some([10, 77, 0, 1].into())
            }
        );
        assert_eq!(line.target.as_deref(), Some("iqn.2012-08.com.bell-labs.mupuc:image-0123"));
        assert_eq!(line.initiator.as_deref(), Some("iqn.2012-08.com.bell-labs.mupuc:n01"));
        assert_eq!(line.overlay.as_deref(), Some("alice/dev"));
        assert!(!line.is_leased);
        assert!(CommandLine::parse(&format!("{OURS} haas.address=leased")).is_leased);
    }

    #[test]
    fn the_line_of_the_first_concept() {
        let line = CommandLine::parse(
            "BOOT_IMAGE=/vmlinuz root=/dev/sdb1 ro text nomodeset ip=cluster \
             iscsi_target_name=iqn.2012-08.com.bell-labs.mupuc:node-default overlay=",
        );
        assert_eq!(line.addressing, Addressing::Dhcp);
        assert_eq!(line.target.as_deref(), Some("iqn.2012-08.com.bell-labs.mupuc:node-default"));
        assert_eq!(line.overlay.as_deref(), Some(""), "empty means an overlay in RAM");
        assert_eq!(line.controller, None);
    }

    #[test]
    fn malformed_words_are_passed_over() {
        let line = CommandLine::parse(
            "ip=10.0.0.300::: ip=10.0.0.3:::255.0.255.0 BOOTIF=01-zz ifname=x overlay haas.url= =",
        );
        assert_eq!(line.addressing, Addressing::Unsaid);
        assert_eq!((line.nic, line.overlay, line.controller), (None, None, None));
    }

    #[test]
    fn the_token_is_never_shown() {
        assert!(!format!("{:?}", CommandLine::parse(OURS)).contains("T0K3N"));
    }

    #[test]
    fn the_controllers_address() {
        assert_eq!(host_and_port("https://10.77.0.1:8443/x"), Some(([10, 77, 0, 1].into(), 8443)));
        assert_eq!(host_and_port("https://10.77.0.1"), Some(([10, 77, 0, 1].into(), 443)));
        assert_eq!(host_and_port("https://haas.example:8443"), None);
        assert_eq!(host_and_port("http://10.77.0.1"), None);
    }
}
