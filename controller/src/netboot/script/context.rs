//! The variables of the boot templates, and which values may stand in them.
//!
//! Tera escapes nothing in an iPXE script or on a kernel command line, so a value that would add a
//! line, a second command, or a word that belongs to haasd is refused here.

use serde::Serialize;

use super::ScriptError;
use crate::netboot::boot_target::BootTarget;

/// The variables of all templates.
#[derive(Clone, Serialize)]
pub struct BootContext {
    /// The attempt's id: `01JD…`.
    pub boot: String,
    /// The node's name: `n01`.
    pub node: String,
    /// The boot NIC's MAC with colons: `52:54:00:77:00:01`.
    pub mac: String,
    /// The same with hyphens, as `BOOTIF=01-` wants it.
    pub mac_hyphened: String,
    /// The node's IPv4 address: `10.77.0.11`.
    pub address: String,
    /// Whether another DHCP server leases that address, so that the agent must keep the lease.
    pub leased: bool,
    /// The network's mask: `255.255.255.0`.
    pub netmask: String,
    /// The way out; empty where there is none.
    pub gateway: String,
    /// Where this attempt's files are: `http://10.77.0.1/boot/TOKEN`.
    pub base_url: String,
    /// The iSCSI portal's address.
    pub portal: String,
    /// Its port: 3260.
    pub portal_port: u16,
    /// The image's target name (IQN). Its LUN is always 0.
    pub target: String,
    /// The node's initiator name (IQN).
    pub initiator: String,
    /// The image as `name:tag`, for people.
    pub image: String,
    /// The overlay as `owner/name`; empty is RAM.
    pub overlay: String,
    /// Where the agent phones home: `https://10.77.0.1:8443`.
    pub api_url: String,
    /// SHA-256 of the certificate there, hexadecimal.
    pub api_fingerprint: String,
    /// The boot token. The only secret; it is spent before any tenant's code runs.
    pub token: String,
    /// The image's kernel arguments, with spaces between them; may be empty.
    pub image_args: String,
    /// The node's kernel arguments from the inventory, likewise. `console=` stands here or there.
    pub node_args: String,
}

impl std::fmt::Debug for BootContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootContext")
            .field("boot", &self.boot)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl BootContext {
    /// The variables for `target`, each one checked.
    pub fn new(target: &BootTarget) -> Result<Self, ScriptError> {
        let token = target.token.expose();
        let words: [(&'static str, &str); 8] = [
            ("the attempt's id", &target.boot),
            ("the API's URL", &target.api_url),
            ("the API's fingerprint", &target.api_fingerprint),
            ("the target's name", &target.target),
            ("the initiator's name", &target.initiator),
            ("the image's name", &target.image),
            ("the overlay's name", target.overlay.as_deref().unwrap_or("none")),
            ("the boot token", token),
        ];
        for (what, value) in words {
            if let Some(why) = wrong_word(value) {
                // A token never stands in an error.
                let value = if what == "the boot token" { "***" } else { value };
                return Err(refuse(target, what, value, why));
            }
        }
        for (what, args) in [
            ("an image's kernel argument", &target.image_args),
            ("a kernel argument", &target.node_args),
        ] {
            for arg in args {
                if let Some(why) = wrong_arg(arg) {
                    return Err(refuse(target, what, arg, why));
                }
            }
        }
        let port = match target.http_port {
            80 => String::new(),
            other => format!(":{other}"),
        };
        Ok(Self {
            boot: target.boot.clone(),
            node: target.node.to_string(),
            mac: target.mac.to_string(),
            mac_hyphened: target.mac.hyphened(),
            address: target.address.addr().to_string(),
            leased: target.leased,
            netmask: target.address.netmask().to_string(),
            gateway: target.gateway.map(|g| g.to_string()).unwrap_or_default(),
            base_url: format!("http://{}{port}/boot/{token}", target.controller),
            portal: target.controller.to_string(),
            portal_port: target.iscsi_port,
            target: target.target.clone(),
            initiator: target.initiator.clone(),
            image: target.image.clone(),
            overlay: target.overlay.clone().unwrap_or_default(),
            api_url: target.api_url.clone(),
            api_fingerprint: target.api_fingerprint.clone(),
            token: token.clone(),
            image_args: target.image_args.join(" "),
            node_args: target.node_args.join(" "),
        })
    }
}

fn refuse(target: &BootTarget, what: &'static str, value: &str, why: &'static str) -> ScriptError {
    ScriptError::Value { node: target.node.clone(), what, value: value.to_owned(), why }
}

/// What is wrong with a value that must be one word.
fn wrong_word(value: &str) -> Option<&'static str> {
    if value.is_empty() {
        return Some("is empty");
    }
    if value.contains(|c: char| !c.is_ascii_graphic()) {
        return Some("has a character that is no letter, digit or sign");
    }
    wrong_for_ipxe(value)
}

/// What is wrong with a kernel argument. Blanks may stand in it (between quotes, for the kernel).
fn wrong_arg(arg: &str) -> Option<&'static str> {
    const OURS: [&str; 9] = [
        "haas.",
        "ip=",
        "ifname=",
        "BOOTIF=",
        "netroot=",
        "rd.iscsi.initiator=",
        "overlay=",
        "rd.neednet=",
        "initrd=",
    ];
    if arg.trim().is_empty() {
        return Some("is empty");
    }
    if arg.contains(|c: char| !c.is_ascii_graphic() && c != ' ') {
        return Some("has a line break, a control character or a letter outside ASCII");
    }
    if arg.split(' ').any(|word| OURS.iter().any(|ours| word.starts_with(ours))) {
        return Some("begins with a word that haasd itself sets");
    }
    wrong_for_ipxe(arg)
}

/// iPXE expands `${…}` anywhere, and takes these words for the end of a command or a comment.
fn wrong_for_ipxe(value: &str) -> Option<&'static str> {
    if value.contains("${") {
        return Some("has '${', which iPXE would replace");
    }
    let ends = |word: &str| matches!(word, ";" | "||" | "&&") || word.starts_with('#');
    value.split(' ').any(ends).then_some("has ';', '||', '&&' or '#', which ends an iPXE command")
}
