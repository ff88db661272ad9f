//! Somebody else's DHCP server on the rack's network: a machine of its own (a namespace) with dnsmasq
//! or Kea, which gives addresses and knows nothing of haasd.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::hardware::SwitchHw;
use crate::netns::Netns;
use crate::rack::Rack;
use crate::sys;

/// Where it is.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpServer {
    /// Its shortest lease is 2 minutes.
    Dnsmasq,
    Kea,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct ForeignDhcp<'rack> {
    rack: &'rack Rack,
    netns: Netns,
    server: DhcpServer,
    child: Option<Child>,
}

/// A lease as the server has it on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub ends: SystemTime,
}

impl Lease {
    pub fn is_held(&self) -> bool {
        self.ends > SystemTime::now()
    }
}

impl<'rack> ForeignDhcp<'rack> {
    /// Plugs the machine in and starts the server, which leases the addresses `first` to `last`.
    pub fn start(
        rack: &'rack Rack,
        server: DhcpServer,
        (first, last): (Ipv4Addr, Ipv4Addr),
        lease: Duration,
    ) -> Result<ForeignDhcp<'rack>> {
        let name = netns_name(rack.name());
        let netns = Netns::create(&name, &[], SwitchHw::default())?;
        let near = rack.namespace();
        near.ip(&[
            "link", "add", "foreign", "type", "veth", "peer", "name", "eth0", "netns", &name,
        ])?;
        near.ip(&["link", "set", "foreign", "master", "br0", "up"])?;
        netns.ip(&["address", "add", &format!("{ADDRESS}/24"), "dev", "eth0"])?;
        netns.ip(&["link", "set", "eth0", "up"])?;
        let mut foreign = ForeignDhcp { rack, netns, server, child: None };
        foreign.serve((first, last), lease)?;
        Ok(foreign)
    }

    /// Its address, by which clients know it.
    pub fn address(&self) -> Ipv4Addr {
        ADDRESS
    }

    /// Starts the server, which must not run, with other addresses; it has forgotten its leases.
    pub fn serve(&mut self, (first, last): (Ipv4Addr, Ipv4Addr), lease: Duration) -> Result<()> {
        ensure!(self.child.is_none(), "the foreign DHCP server runs already");
        fs::write(self.leases_file(), "")?;
        let range = (first, last);
        let mut command = match self.server {
            DhcpServer::Dnsmasq => self.dnsmasq(range, lease),
            DhcpServer::Kea => self.kea(range, lease)?,
        };
        let log = File::options().create(true).append(true).open(self.file("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(sys::spawn(command).context("cannot start the foreign DHCP server")?);
        Ok(())
    }

    /// The server dies.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The lease that a MAC has, as the server wrote it down last.
    pub fn lease(&self, mac: &str) -> Result<Option<Lease>> {
        let text = fs::read_to_string(self.leases_file())?;
        let last = match self.server {
            // ENDS MAC ADDRESS NAME CLIENT-ID
            DhcpServer::Dnsmasq => text.lines().rev().find_map(|line| {
                let fields: Vec<_> = line.split(' ').collect();
                (fields.get(1) == Some(&mac)).then(|| (fields.get(2).copied(), fields[0]))
            }),
            // address,hwaddr,client_id,valid_lifetime,expire,...
            DhcpServer::Kea => text.lines().rev().find_map(|line| {
                let fields: Vec<_> = line.split(',').collect();
                (fields.get(1) == Some(&mac) && fields.len() > 4)
                    .then(|| (Some(fields[0]), fields[4]))
            }),
        };
        let Some((address, ends)) = last else { return Ok(None) };
        let ends = UNIX_EPOCH + Duration::from_secs(ends.parse()?);
        Ok(Some(Lease { address: address.context("a lease has an address")?.parse()?, ends }))
    }

    fn dnsmasq(&self, (first, last): (Ipv4Addr, Ipv4Addr), lease: Duration) -> Command {
        let mut command = self.netns.command("dnsmasq");
        command.args(["-k", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file="]);
        command.args(["--log-facility=-", "--log-dhcp", "--dhcp-authoritative"]);
        command.arg(format!("--dhcp-range={first},{last},{}", lease.as_secs()));
        command.arg(format!("--dhcp-leasefile={}", self.leases_file().display()));
        command
    }

    fn kea(&self, (first, last): (Ipv4Addr, Ipv4Addr), lease: Duration) -> Result<Command> {
        let config = serde_json::json!({ "Dhcp4": {
            "interfaces-config": { "interfaces": ["eth0"] },
            "authoritative": true,
            "lease-database": {
                "type": "memfile", "name": self.leases_file(), "lfc-interval": 0,
            },
            "valid-lifetime": lease.as_secs(),
            "subnet4": [{
                "subnet": "10.77.0.0/24",
                "pools": [{ "pool": format!("{first} - {last}") }],
            }],
            "loggers": [{
                "name": "kea-dhcp4", "severity": "INFO", "output_options": [{ "output": "stdout" }],
            }],
        }});
        fs::write(self.file("json"), config.to_string())?;
        let mut command = self.netns.command("kea-dhcp4");
        command.arg("-c").arg(self.file("json"));
        command.env("KEA_PIDFILE_DIR", self.rack.dir()).env("KEA_LOCKFILE_DIR", self.rack.dir());
        Ok(command)
    }

    fn leases_file(&self) -> PathBuf {
        self.file("leases")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.rack.dir().join(format!("foreign-dhcp.{ending}"))
    }
}

impl Drop for ForeignDhcp<'_> {
    fn drop(&mut self) {
        // Best effort: the rack's end removes what is left.
        let _ = self.kill();
        // With its namespace the cable would go too, but later.
        let _ = self.rack.namespace().ip(&["link", "delete", "foreign"]);
        let _ = Netns::remove(&netns_name(self.rack.name()));
    }
}

/// The namespace of a rack's foreign DHCP server.
pub(crate) fn netns_name(rack: &str) -> String {
    format!("haas-{rack}-dhcp")
}
