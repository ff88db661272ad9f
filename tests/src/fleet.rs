//! A fleet of simulated nodes on a rack: any number of them, with BMCs that speak real IPMI, on real
//! sockets, and some of them bad.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sim::bmc::{Farm, Faults, Setup};
use sim::{Fleet, FleetNode};

use crate::files;
use crate::haasd::Haasd;
use crate::netns::{self, Netns};
use crate::rack::Rack;

const PASSWORD: &str = "sesame";
/// What a slow node's firmware takes.
const SLOW: Duration = Duration::from_secs(20);

/// One of the slow nodes.
pub const A_SLOW_NODE: &str = "n20";

/// What is wrong with a node, by its number: 1 % of BMCs are dead, 1 % of nodes never boot, 2 % are slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Slow,
    DeadBmc,
    NeverBoots,
}

fn kind(number: usize) -> Kind {
    match number % 100 {
        3 => Kind::DeadBmc,
        57 => Kind::NeverBoots,
        20 | 80 => Kind::Slow,
        _ => Kind::Good,
    }
}

/// The nodes n1, n2 and so on with their BMCs, on a rack that has no others. They end when this is dropped.
#[derive(Debug)]
pub struct FleetRack<'rack> {
    rack: &'rack Rack,
    count: usize,
    farm: Arc<Farm>,
    nodes: Option<Fleet>,
}

impl<'rack> FleetRack<'rack> {
    /// All off. Of a thousand packets to and from a BMC one is lost.
    pub fn start(rack: &'rack Rack, count: usize) -> Result<FleetRack<'rack>> {
        let setup = Setup::new("admin", PASSWORD);
        let farm = Arc::new(rack.in_netns(|| Farm::start(count, &setup))??);
        for number in 1..=count {
            farm.bmc(number - 1).set_faults(Faults {
                lost: 0.001,
                hangs: kind(number) == Kind::DeadBmc,
                slow_ms: if kind(number) == Kind::Slow { 300 } else { 0 },
                ..Faults::default()
            });
        }
        let netns = netns_name(rack);
        Netns::remove(&netns)?;
        network(rack, &netns, count)?;
        let nodes = Some(Fleet::start(&netns, (1..=count).map(node).collect(), farm.clone())?);
        Ok(FleetRack { rack, count, farm, nodes })
    }

    /// haasd with all nodes in its inventory, none of them managed. A boot is given up, after its only
    /// attempt, when a stage of it took longer than `limit`.
    pub fn haasd(&self, limit: Duration) -> Result<Haasd<'rack>> {
        let network = files::haasd_toml(self.rack)?
            .replace("10.77.0.0/24", "10.77.0.0/16")
            .replace("dhcp = \"own\"", "dhcp = \"own\"\nprobe = false");
        let (limit, total) = (limit.as_secs(), 3 * limit.as_secs());
        let config = format!(
            "{network}\n[boot]\nfirmware = \"{limit}s\"\nstage = \"{limit}s\"\ntotal = \"{total}s\"\nattempts = 1\n",
        );
        Haasd::start(self.rack, &config, &self.nodes_toml()?)
    }

    /// The names of all nodes, folded.
    pub fn nodeset(&self) -> String {
        format!("n[1-{}]", self.count)
    }

    /// The names of those that cannot be brought up.
    pub fn bad(&self) -> BTreeSet<String> {
        let is_bad = |n: &usize| matches!(kind(*n), Kind::DeadBmc | Kind::NeverBoots);
        (1..=self.count).filter(is_bad).map(|number| format!("n{number}")).collect()
    }

    /// How often a node let its users in.
    pub fn admitted(&self) -> usize {
        self.nodes.as_ref().map_or(0, Fleet::admitted)
    }

    fn nodes_toml(&self) -> Result<String> {
        let secret = self.rack.dir().join("bmc-password");
        fs::write(&secret, PASSWORD)?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let mut text = String::from(
            "[defaults]\ncache = \"0\"\n[defaults.power]\ndriver = \"ipmi\"\nuser = \"admin\"\n\
             password_file = \"bmc-password\"\n",
        );
        for (number, bmc) in (1..=self.count).zip(self.farm.addresses()) {
            let mac = mac(number).map(|byte| format!("{byte:02x}")).join(":");
            let (address, port) = (address(number), bmc.port());
            write!(
                text,
                "[[node]]\nname = \"n{number}\"\nmac = \"{mac}\"\naddress = \"{address}\"\n\
                 power = {{ address = \"{}\", port = {port} }}\n",
                bmc.ip()
            )?;
        }
        Ok(text)
    }
}

impl Drop for FleetRack<'_> {
    fn drop(&mut self) {
        drop(self.nodes.take());
        // What is left is removed by the next fleet on a rack of this name.
        let _ = Netns::remove(&netns_name(self.rack));
    }
}

fn netns_name(rack: &Rack) -> String {
    format!("{}.fleet", rack.netns())
}

/// A namespace with the addresses of all nodes. The controller reaches them through one of them, so that
/// its table of neighbours has one entry.
fn network(rack: &Rack, netns: &str, count: usize) -> Result<()> {
    netns::ip(&["netns", "add", netns])?;
    let mut batch = String::from("link set eth0 up\naddress add 10.77.0.2/16 dev eth0\n");
    for number in 1..=count {
        writeln!(batch, "address add {}/16 dev eth0", address(number))?;
    }
    let file = rack.dir().join("fleet.batch");
    fs::write(&file, batch)?;
    let controller = rack.namespace();
    controller
        .ip(&["link", "add", "v1", "type", "veth", "peer", "name", "eth0", "netns", netns])?;
    controller.ip(&["link", "set", "v1", "master", "br0", "up"])?;
    run_batch(netns, &file)?;
    controller.ip(&["route", "add", "10.77.0.0/16", "via", "10.77.0.2", "dev", "br0"])
}

fn run_batch(netns: &str, file: &Path) -> Result<()> {
    netns::ip(&["-n", netns, "-batch", &file.to_string_lossy()])
}

fn address(number: usize) -> Ipv4Addr {
    let octet = |n: usize| u8::try_from(n).expect("it is below 250");
    Ipv4Addr::new(10, 77, octet(1 + number / 250), octet(1 + number % 250))
}

fn mac(number: usize) -> [u8; 6] {
    let [.., high, low] = number.to_be_bytes();
    [0x52, 0x54, 0, 0x77, high, low]
}

fn node(number: usize) -> FleetNode {
    FleetNode {
        mac: mac(number),
        address: address(number),
        firmware: match kind(number) {
            Kind::Slow => SLOW,
            // Not all at the same moment.
            _ => Duration::from_millis(500 + u64::try_from(number * 37 % 2_000).unwrap_or(0)),
        },
        never_boots: kind(number) == Kind::NeverBoots,
    }
}
