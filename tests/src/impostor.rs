//! Somebody on the boot network with a node's MAC and address, who speaks as its firmware and its agent do.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use haas_api::agent::{HelloAuth, Welcome};
use sim::Called;

use crate::haasd::Output;
use crate::netns::Netns;
use crate::node::Node;
use crate::rack::{CONTROLLER, Rack};

/// A place on the wire, and what haasd says to whoever asks from there.
#[derive(Debug)]
pub struct Impostor {
    netns: Netns,
    /// It knows the controller's certificate, as every node does.
    fingerprint: PathBuf,
    /// Only here for it.
    is_own: bool,
}

impl Impostor {
    /// In the place of a node whose link is cut.
    pub fn of(rack: &Rack, node: &Node) -> Result<Impostor> {
        let name = netns_name(rack.name());
        let netns = Netns::create_empty(&name)?;
        let impostor = Impostor::in_netns(rack, netns, true);
        let (near, own) = (rack.namespace(), &impostor.netns);
        let peer = ["peer", "name", "eth0", "address", &node.mac, "netns", &name];
        near.ip(&[&["link", "add", "impostor", "type", "veth"][..], &peer].concat())?;
        near.ip(&["link", "set", "impostor", "master", "br0", "up"])?;
        own.ip(&["address", "add", &format!("{}/24", node.address), "dev", "eth0"])?;
        own.ip(&["link", "set", "eth0", "up"])?;
        Ok(impostor)
    }

    /// In a network namespace that is there.
    pub fn at(rack: &Rack, netns: &str) -> Result<Impostor> {
        Ok(Impostor::in_netns(rack, Netns::open(netns)?, false))
    }

    fn in_netns(rack: &Rack, netns: Netns, is_own: bool) -> Impostor {
        Impostor { netns, fingerprint: rack.dir().join("state/fingerprint"), is_own }
    }

    /// Runs `ip ARGS` there.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        self.netns.ip(args)
    }

    /// The address and the script that DHCP offers to this MAC there, from `eth0`.
    pub fn offered(&self, mac: &str) -> Result<Option<(Ipv4Addr, String)>> {
        self.netns.run(|| sim::offered(mac))?
    }

    /// Calls as an agent.
    pub fn call(&self, auth: HelloAuth) -> Result<Called> {
        let pin = fs::read_to_string(&self.fingerprint)?;
        let url = format!("https://{CONTROLLER}:8443");
        self.netns.run(|| sim::call(&url, pin.trim(), auth))?
    }

    pub fn is_welcome(&self, auth: HelloAuth) -> Result<Box<Welcome>> {
        match self.call(auth)? {
            Called::Welcome(welcome) => Ok(welcome),
            other => bail!("it is not let in: {other:?}"),
        }
    }

    /// That its call is refused, and why.
    pub fn is_refused(&self, auth: HelloAuth, why: &str) -> Result<()> {
        match self.call(auth)? {
            Called::Refused(reason) if reason.contains(why) => Ok(()),
            other => bail!("not refused for {why:?}: {other:?}"),
        }
    }

    /// The status of a request, and the body.
    pub fn get(&self, url: &str) -> Result<(String, String)> {
        let mut curl = self.netns.command("curl");
        curl.args(["--silent", "--max-time", "20", "--write-out", "\n%{http_code}", url]);
        let said = Output::of(&mut curl)?.stdout;
        let (body, status) = said.rsplit_once('\n').context("curl says the status last")?;
        Ok((status.to_owned(), body.to_owned()))
    }

    /// That it is refused, and not only because it asked too often.
    pub fn gets_no_script(&self, url: &str) -> Result<()> {
        let (status, body) = self.get(url)?;
        let is_refused = status.starts_with('4') && status != "429";
        ensure!(is_refused && !body.contains("#!ipxe"), "{status} {body}");
        Ok(())
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        if self.is_own {
            // Best effort: the rack's end removes what is left.
            let _ = Netns::remove(self.netns.name());
        }
    }
}

/// The namespace of a rack's impostor.
pub(crate) fn netns_name(rack: &str) -> String {
    format!("haas-{rack}-impostor")
}

/// Where a boot's script is, by its token.
pub fn script(token: &str) -> String {
    format!("http://{CONTROLLER}/boot/{token}/script")
}

/// The token of such a URL.
pub fn token(url: &str) -> Option<&str> {
    url.strip_suffix("/script")?.rsplit('/').next()
}
