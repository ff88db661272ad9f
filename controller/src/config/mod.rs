//! haasd.toml: what this controller serves, where, and with which files.
//!
//! A [`Config`] that exists is checked: networks do not overlap, pools lie inside them, paths are
//! absolute where the file's own was. `read` walks the file and fills it; `reader` tells mistakes
//! with their place and is shared with the inventory. Nothing here opens a socket or writes.

mod network;
mod problem;
mod queues;
mod read;
pub(crate) mod reader;
pub(crate) mod units;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use haas_api::{names::NodeGroupName, queue::QueueSpec};
use ipnet::{IpNet, Ipv4Net};

pub use problem::{Problem, Problems};
pub use queues::Reservations;
pub(crate) use queues::check as check_queues;

use crate::model::Micros;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file was read and something in it is wrong.
    #[error("{0}")]
    Invalid(Problems),
}

/// The checked configuration.
#[derive(Clone)]
pub struct Config {
    /// Images, the embedded database, the certificate and everything else that must be backed up.
    pub state_dir: PathBuf,
    /// `sqlite:///path/haas.db` or `postgres://…`.
    pub database_url: String,
    /// The inventory file, imported at start when its hash is new.
    pub nodes_file: PathBuf,
    /// The agent's half of the initramfs, `agent.cpio.zst`.
    pub agent_cpio: PathBuf,
    /// Where iPXE's binaries are, `/usr/lib/ipxe`.
    pub ipxe_dir: PathBuf,
    /// The signed shim for nodes with Secure Boot.
    pub shim: PathBuf,
    /// That GRUB; it must be one that was built for the network.
    pub grub: PathBuf,
    /// Where the templates of script and kernel command line are.
    pub templates_dir: PathBuf,
    /// Interfaces on which the API listens, by name. Agents come in here too.
    pub api_interfaces: Vec<String>,
    /// The networks that nodes boot from.
    pub networks: Vec<Network>,
    /// TCP and UDP ports; only tests change them.
    pub ports: Ports,
    /// How images are served.
    pub iscsi: Iscsi,
    /// How long each stage of a boot may take, and how often it is tried.
    pub boot: BootLimits,
    /// How nodes' hardware is looked after.
    pub health: HealthChecks,
    /// How many nodes of these node groups may be switched on in a minute.
    pub power_ramp: BTreeMap<NodeGroupName, u32>,
    /// Who may come in.
    pub auth: Auth,
    /// Who may read what haasd counts.
    pub metrics: Metrics,
    /// The event log.
    pub events: Events,
    /// Where events may be sent to.
    pub webhooks: Webhooks,
    /// What sets the network of a node for whoever has it next.
    pub network_hook: Option<NetworkHook>,
    /// What may put off, or forbid, the end of what a node runs for somebody.
    pub drain_hook: Option<DrainHook>,
    /// The nodes' serial consoles.
    pub console: Console,
    /// Whether machines are as they were before their last tenants.
    pub baseline: Baseline,
    /// What must be so before somebody is root on a node.
    pub tenants: Tenants,
    /// What nodes must not reach.
    pub reachability: Reachability,
    /// What haasd may do with the power of nodes by itself.
    pub power: PowerLimits,
    /// Which spare nodes are switched off when nobody uses them; none by default.
    pub idle: Vec<IdleRule>,
    /// What the site says of reservations.
    pub reservations: Reservations,
    /// Where reservations wait, each queue behind the one above it.
    pub queues: Vec<QueueSpec>,
}

/// How nodes' hardware is looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthChecks {
    /// How often each BMC is asked for sensors and log; none: never.
    pub poll: Option<Duration>,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self { poll: Some(Duration::from_secs(300)) }
    }
}

/// A program that is called before a node is switched on for another tenant than before, to put it into
/// that tenant's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkHook {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Seconds that it may take.
    pub timeout_s: u64,
}

/// A program that is called before what a node runs for somebody is ended because that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainHook {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Seconds that one call may take.
    pub timeout_s: u64,
    /// Seconds after which it is called again that has said "not yet".
    pub again_s: u64,
    /// Seconds for which it may say so.
    pub limit_s: u64,
}

/// What is done with consoles though nobody watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Console {
    /// Whether they are open all the time, and logged.
    pub log: bool,
    /// MiB of one node's log, 8 by default.
    pub size_mib: u64,
    /// Seconds after which what was logged is removed, 30 days by default.
    pub age_s: u64,
}

impl Default for Console {
    fn default() -> Self {
        Self { log: false, size_mib: 8, age_s: 30 * 86_400 }
    }
}

/// Whether machines are compared with what they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// When they go from one tenant to another; else never.
    pub check: bool,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { check: true }
    }
}

/// What is allowed though somebody who is no admin is root on the node then. Nothing of it, by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Disks of which nodes.toml says nothing.
    pub undeclared_disks: bool,
    /// Disks with the only copy of what another tenant has there.
    pub root_beside_others: bool,
}

/// What nodes must not reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachability {
    /// What is done about it.
    pub check: Reach,
    /// Ports of the controller that are none of nodes' business.
    pub controller_ports: Vec<u16>,
}

/// What is done about a node that reaches what it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nobody looks.
    Off,
    /// It is told.
    Warn,
    /// Nobody is let in.
    Refuse,
}

impl Default for Reachability {
    fn default() -> Self {
        // PostgreSQL, and metrics.
        Self { check: Reach::Warn, controller_ports: vec![5432, 9090] }
    }
}

/// When the spare nodes of a node group are switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleRule {
    /// The node group.
    pub group: NodeGroupName,
    /// When nobody has used one for so long.
    pub timeout: Micros,
    /// So many stay on.
    pub min_on: usize,
}

/// What haasd may do with the power of nodes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerLimits {
    /// Power actions that nobody asked for, over all nodes in an hour.
    pub auto_limit: u32,
}

impl Default for PowerLimits {
    fn default() -> Self {
        Self { auto_limit: 100 }
    }
}

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether callers have to say who they are.
    pub mode: AuthMode,
    /// Whether anybody who reaches the API may make an account for himself.
    pub register: bool,
    /// Seconds for which a user that was removed can be restored, and its overlays are kept.
    pub keep_removed_s: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self { mode: AuthMode::default(), register: false, keep_removed_s: 30 * 86_400 }
    }
}

/// Who may read what haasd counts, beside admins at the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where it is served without TLS and tokens.
    pub listen: Vec<SocketAddr>,
    /// Who may read it there, beside the controller itself.
    pub allow: Vec<IpNet>,
}

impl Metrics {
    /// Whether whoever calls from this address may read without a token.
    pub fn may_read(&self, peer: IpAddr) -> bool {
        peer.is_loopback() || self.allow.iter().any(|network| network.contains(&peer))
    }
}

/// The event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// Seconds after which an event is forgotten.
    pub keep_s: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { keep_s: 90 * 86_400 }
    }
}

/// Where events may be sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhooks {
    /// Networks that receivers may be in. Empty: all that `webhooks::address` lets through.
    pub allow: Vec<IpNet>,
}

/// Whether callers have to say who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// By a token, from wherever they call.
    #[default]
    Token,
    /// Who calls from the controller itself, over a loopback address, and brings no token is the first
    /// admin. From elsewhere it is as ever.
    Off,
}

impl Config {
    /// Reads and checks haasd.toml. Addresses of interfaces are asked of the system.
    ///
    /// # Errors
    /// When the file cannot be read, or with everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match Self::load_all(path)? {
            (config, None) => Ok(config),
            (_, Some(problems)) => Err(ConfigError::Invalid(problems)),
        }
    }

    /// The same for whoever only wants to say what is wrong: with mistakes comes what could be read
    /// in spite of them, which names the other files and is good for nothing else.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load_all(path: &Path) -> Result<(Self, Option<Problems>), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(read::config(&text, path, &network::addresses_of))
    }

    /// Checks the text of a haasd.toml. `path` names it in errors, and relative paths start at its
    /// folder; `addresses_of` gives an interface's IPv4 addresses, none when there is no such one.
    ///
    /// # Errors
    /// With everything that is wrong in it.
    pub fn parse(
        text: &str,
        path: &Path,
        addresses_of: &dyn Fn(&str) -> Option<Vec<Ipv4Addr>>,
    ) -> Result<Self, Problems> {
        match read::config(text, path, addresses_of) {
            (config, None) => Ok(config),
            (_, Some(problems)) => Err(problems),
        }
    }

    /// The database's URL with its password, if it has one, replaced by `***`.
    pub fn database_url_redacted(&self) -> String {
        redact(&self.database_url)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("state_dir", &self.state_dir)
            .field("database_url", &self.database_url_redacted())
            .field("nodes_file", &self.nodes_file)
            .field("agent_cpio", &self.agent_cpio)
            .field("ipxe_dir", &self.ipxe_dir)
            .field("shim", &self.shim)
            .field("grub", &self.grub)
            .field("templates_dir", &self.templates_dir)
            .field("api_interfaces", &self.api_interfaces)
            .field("networks", &self.networks)
            .field("ports", &self.ports)
            .field("iscsi", &self.iscsi)
            .field("boot", &self.boot)
            .field("health", &self.health)
            .field("power_ramp", &self.power_ramp)
            .field("auth", &self.auth)
            .field("metrics", &self.metrics)
            .field("events", &self.events)
            .field("webhooks", &self.webhooks)
            .field("network_hook", &self.network_hook)
            .field("drain_hook", &self.drain_hook)
            .field("console", &self.console)
            .field("baseline", &self.baseline)
            .field("tenants", &self.tenants)
            .field("reachability", &self.reachability)
            .field("power", &self.power)
            .field("idle", &self.idle)
            .field("reservations", &self.reservations)
            .field("queues", &self.queues)
            .finish()
    }
}

// A password may stand before the host (`user:password@`) or among the parameters
// (`?password=`), and may itself hold an '@' that somebody forgot to escape.
fn redact(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(b, q)| (b, Some(q)));
    let mut shown = base.to_owned();
    if let (Some(scheme), Some(at)) = (base.find("://"), base.rfind('@')) {
        let account = base.get(scheme + 3..at).unwrap_or_default();
        if let Some((user, _)) = account.split_once(':') {
            shown = format!("{}{user}:***{}", &base[..scheme + 3], &base[at..]);
        }
    }
    match query {
        None => shown,
        Some(query) if query.contains("password") => format!("{shown}?***"),
        Some(query) if query.contains('@') => {
            format!("{}://***", base.split(':').next().unwrap_or_default())
        }
        Some(query) => format!("{shown}?{query}"),
    }
}

/// The ports that haasd listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// TLS: API and agents.
    pub api: u16,
    /// Node-facing HTTP.
    pub http: u16,
    /// iSCSI.
    pub iscsi: u16,
    /// TFTP.
    pub tftp: u16,
    /// DHCP server.
    pub dhcp: u16,
    /// ProxyDHCP (PXE) server.
    pub pxe: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { api: 8443, http: 80, iscsi: 3260, tftp: 69, dhcp: 67, pxe: 4011 }
    }
}

/// How images are served; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Iscsi {
    /// Threads that serve; `None` is one less than processors, one to four.
    pub io_threads: Option<usize>,
    /// Bytes per second to one node.
    pub node_rate: Option<u64>,
    /// Bytes per second to all nodes of one user.
    pub user_rate: Option<u64>,
    /// Sessions of all nodes of one user.
    pub user_sessions: Option<u32>,
}

/// A network that nodes boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name, for logs and messages.
    pub name: String,
    /// The controller's interface in it (or, behind a relay, the one towards the relay).
    pub interface: String,
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// The controller's own address as nodes reach it.
    pub controller: Ipv4Addr,
    /// The way out, where there is one.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// The search domain.
    pub domain: Option<String>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Who answers DHCP.
    pub dhcp: DhcpMode,
    /// First and last address for nodes without one of their own.
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Seconds that a lease holds.
    pub lease_s: u32,
    /// Whether haasd, before it gives addresses, looks for other DHCP servers and for other machines
    /// that have the address.
    pub probe: bool,
}

impl Network {
    /// Whether the controller is in it itself, rather than behind a relay.
    pub fn is_direct(&self) -> bool {
        self.cidr.contains(&self.controller)
    }
}

/// Who answers DHCP in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpMode {
    /// haasd gives addresses and boot files.
    Own,
    /// Somebody else gives addresses, haasd only boot files (ProxyDHCP).
    Proxy,
    /// haasd does not listen.
    Off,
}

/// How long boots may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootLimits {
    /// Seconds from power-on to the first request from the network: firmware may take minutes.
    pub firmware_s: u64,
    /// Seconds for each later stage.
    pub stage_s: u64,
    /// Seconds for a whole boot, 900 by default.
    pub total_s: u64,
    /// Boots of one generation before it is a fault.
    pub attempts: u32,
    /// Seconds for the agent's orderly shutdown, then for ACPI's, before hard off.
    pub shutdown_s: u64,
}

impl Default for BootLimits {
    fn default() -> Self {
        Self { firmware_s: 600, stage_s: 300, total_s: 900, attempts: 2, shutdown_s: 120 }
    }
}
