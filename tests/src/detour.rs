//! Somebody else's iSCSI target in haasd's place: what a node meets when an address is misconfigured
//! or the network is not to be trusted.
//!
//! Only connections to port 3260 that come in over the rack's bridge take the detour, by policy
//! routing; all else still reaches haasd. The other target has the controller's address in a
//! namespace of its own, so the node cannot tell.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::hardware::SwitchHw;
use crate::netns::Netns;
use crate::rack::{CONTROLLER, Rack};
use crate::target::Target;

/// The detour's own addresses, between the two namespaces.
const NEAR: &str = "10.99.0.1";
const FAR: &str = "10.99.0.2";
const TABLE: &str = "100";

/// As long as this lives, nodes that log in to haasd's target reach another one.
#[derive(Debug)]
pub struct Detour<'rack> {
    rack: &'rack Rack,
    far: Netns,
    target: Option<Target>,
}

impl<'rack> Detour<'rack> {
    /// Leads the way to nobody, until [`Detour::serve`].
    pub fn start(rack: &'rack Rack) -> Result<Detour<'rack>> {
        let far = Netns::create(
            &netns_name(rack.name()),
            &[format!("{CONTROLLER}/32")],
            SwitchHw::default(),
        )?;
        let near = rack.namespace();
        let peer = netns_name(rack.name());
        near.ip(&[
            "link", "add", "detour", "type", "veth", "peer", "name", "eth0", "netns", &peer,
        ])?;
        near.ip(&["address", "add", &format!("{NEAR}/30"), "dev", "detour"])?;
        near.ip(&["link", "set", "detour", "up"])?;
        far.ip(&["address", "add", &format!("{FAR}/30"), "dev", "eth0"])?;
        far.ip(&["link", "set", "eth0", "up"])?;
        let back = ["route", "add", "10.77.0.0/24", "via", NEAR, "src", &CONTROLLER.to_string()];
        far.ip(&back)?;
        near.ip(&["route", "add", "default", "via", FAR, "dev", "detour", "table", TABLE])?;
        // The rule about our own addresses is asked first of all, so it makes room.
        near.ip(&["rule", "add", "pref", "10", "from", "all", "lookup", "local"])?;
        near.ip(&["rule", "del", "pref", "0"])?;
        let iscsi = ["iif", "br0", "ipproto", "tcp", "dport", "3260", "lookup", TABLE];
        near.ip(&[&["rule", "add", "pref", "5"], &iscsi[..]].concat())?;
        near.run(|| allow_forwarding(&["all", "br0", "detour"]))??;

        Ok(Detour { rack, far, target: None })
    }

    /// Serves `file` under the name `target` in place of what was served before, with these options of
    /// haas-iscsi; without any to whoever asks.
    pub fn serve(&mut self, target: &str, file: &Path, options: &[&str]) -> Result<()> {
        // Its port is free once it is gone.
        self.target = None;
        let listen = format!("{CONTROLLER}:3260");
        self.target = Some(Target::start_in(&self.far, &listen, target, file, options)?);
        Ok(())
    }
}

impl Drop for Detour<'_> {
    fn drop(&mut self) {
        // Best effort: the rack's end removes what is left.
        let _ = self.rack.namespace().ip(&["rule", "del", "pref", "5"]);
        let _ = Netns::remove(&netns_name(self.rack.name()));
    }
}

/// The namespace of a rack's detour.
pub(crate) fn netns_name(rack: &str) -> String {
    format!("haas-{rack}-detour")
}

/// Packets from the other target have our own address as their source, which the kernel would drop.
fn allow_forwarding(interfaces: &[&str]) -> Result<()> {
    let ipv4 = Path::new("/proc/sys/net/ipv4");
    fs::write(ipv4.join("ip_forward"), "1")?;
    for interface in interfaces {
        fs::write(ipv4.join("conf").join(interface).join("rp_filter"), "0")?;
        fs::write(ipv4.join("conf").join(interface).join("accept_local"), "1")?;
    }
    Ok(())
}
