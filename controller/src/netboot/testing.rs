//! A [`BootTargets`] over a map, for tests: one known MAC per entry, everything served is recorded.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use haas_api::names::Mac;

use super::{
    boot_target::{
        BootOffer, BootResource, BootTarget, BootTargets, DhcpSeen, DhcpVerdict, Hindrance,
        NodeAddress, Refusal, Served,
    },
    leases::LeaseEvent,
    script,
};
use crate::config::{DhcpMode, Network};

/// A /24 at 10.77.0.0 with everything set.
pub(super) fn network(dhcp: DhcpMode) -> Network {
    Network {
        name: "lab".into(),
        interface: "lo".into(),
        cidr: "10.77.0.0/24".parse().unwrap(),
        controller: [10, 77, 0, 1].into(),
        gateway: Some([10, 77, 0, 254].into()),
        dns: vec![[10, 77, 0, 1].into(), IpAddr::from([0xfd00u16, 0, 0, 0, 0, 0, 0, 1])],
        domain: Some("lab.example".into()),
        ntp: vec![[10, 77, 0, 3].into()],
        mtu: Some(9000),
        dhcp,
        pool: None,
        lease_s: 3600,
        probe: false,
    }
}

pub(super) fn templates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates")
}

/// The example of the templates, with real files.
pub(super) fn target(kernel: &Path, initrd: &Path) -> BootTarget {
    BootTarget { kernel: kernel.into(), initrd: initrd.into(), ..script::example().1 }
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) dhcp: Vec<DhcpSeen>,
    pub(super) leases: Vec<LeaseEvent>,
    pub(super) served: Vec<Served>,
    pub(super) other_servers: Vec<(String, Ipv4Addr, bool)>,
    pub(super) hindered: Vec<(Mac, Hindrance)>,
    pub(super) alone: Vec<String>,
}

/// Nodes by MAC, with an open attempt or without; one token per attempt.
#[derive(Debug, Default)]
pub(super) struct MemoryTargets {
    pub(super) nodes: HashMap<Mac, DhcpVerdict>,
    pub(super) attempts: HashMap<String, Arc<BootTarget>>,
    /// Networks where haasd was the only server before it was started.
    pub(super) was_alone: Mutex<Vec<String>>,
    pub(super) seen: Mutex<Seen>,
}

impl MemoryTargets {
    /// One node with an open attempt.
    pub(super) fn with_attempt(target: BootTarget) -> Self {
        let verdict = boot_verdict(&target);
        Self {
            nodes: HashMap::from([(target.mac, verdict)]),
            attempts: HashMap::from([(target.token.expose().clone(), Arc::new(target))]),
            was_alone: Mutex::default(),
            seen: Mutex::default(),
        }
    }
}

pub(super) fn boot_verdict(target: &BootTarget) -> DhcpVerdict {
    DhcpVerdict::Boot(
        NodeAddress { node: target.node.clone(), address: Some(target.address.addr()) },
        BootOffer { boot: target.boot.clone(), token: target.token.clone(), program: None },
    )
}

impl BootTargets for MemoryTargets {
    async fn dhcp(&self, seen: DhcpSeen) -> DhcpVerdict {
        let verdict = self.nodes.get(&seen.mac).cloned().unwrap_or(DhcpVerdict::Unknown);
        self.seen.lock().unwrap().dhcp.push(seen);
        verdict
    }

    async fn boot_macs(&self) -> Option<HashSet<Mac>> {
        Some(self.nodes.keys().copied().collect())
    }

    async fn lease(&self, event: LeaseEvent) {
        self.seen.lock().unwrap().leases.push(event);
    }

    async fn other_server(&self, network: &Network, server: Ipv4Addr, refused: bool) {
        let name = network.name.clone();
        self.seen.lock().unwrap().other_servers.push((name, server, refused));
    }

    async fn alone(&self, network: &Network) {
        self.seen.lock().unwrap().alone.push(network.name.clone());
    }

    async fn was_alone(&self, network: &Network) -> bool {
        self.was_alone.lock().unwrap().contains(&network.name)
    }

    async fn hindered(&self, mac: Mac, why: Hindrance) -> bool {
        self.seen.lock().unwrap().hindered.push((mac, why));
        true
    }

    async fn is_booting(&self, mac: Mac) -> bool {
        matches!(self.nodes.get(&mac), Some(DhcpVerdict::Boot(..)))
    }

    async fn boot_by_token(
        &self,
        token: &str,
        peer: IpAddr,
        _resource: BootResource,
    ) -> Result<Arc<BootTarget>, Refusal> {
        let target = self.attempts.get(token).ok_or(Refusal::Unknown)?;
        let own = IpAddr::V4(target.address.addr());
        if peer == own || peer == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            Ok(target.clone())
        } else {
            Err(Refusal::WrongPeer)
        }
    }

    async fn boot_by_address(&self, peer: IpAddr) -> Result<Arc<BootTarget>, Refusal> {
        // Every node's firmware insists, where a test asks.
        let own = |target: &&Arc<BootTarget>| {
            [target.address.addr(), Ipv4Addr::LOCALHOST].map(IpAddr::V4).contains(&peer)
        };
        self.attempts.values().find(own).cloned().ok_or(Refusal::Unknown)
    }

    async fn served(&self, served: Served) {
        self.seen.lock().unwrap().served.push(served);
    }
}
