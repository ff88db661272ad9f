//! What the parts of haasd share: one value, made once in `daemon`, handed to each.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::{
    agents::Agents,
    auth::{attempts::Attempts, principals::Principals},
    clock::Clock,
    config::Config,
    console::Consoles,
    exports::Exports,
    health::Health,
    heartbeats::Heartbeats,
    images::Images,
    looks::{PowerLooks, Probes},
    netboot::script::Templates,
    rates::Doors,
    ssh_ca::SshCa,
    store::Store,
    tokens::MasterKey,
};

/// What the parts of haasd share.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The cluster's id.
    pub cluster_id: String,
    /// This start of haasd among all on the same database; of two that run, the later one acts.
    pub epoch: i64,
    /// The database.
    pub store: Store,
    /// The steady clock.
    pub clock: Clock,
    /// Manifests and blobs.
    pub images: Images,
    /// What the iSCSI target serves, and to whom.
    pub exports: Arc<Exports>,
    /// The agents that are connected now.
    pub agents: Agents,
    /// The serial consoles that are open now, and their logs.
    pub consoles: Consoles,
    /// What they say of themselves every few seconds.
    pub heartbeats: Heartbeats,
    /// iPXE script and kernel command line.
    pub templates: Arc<Templates>,
    /// Derives boot tokens and the secrets of boots.
    pub master_key: MasterKey,
    /// Signs host keys, and the keys with which users go from node to node.
    pub ssh_ca: SshCa,
    /// Who is behind the tokens that were used.
    pub principals: Principals,
    /// Logins that failed lately.
    pub attempts: Attempts,
    /// Looks at BMCs that are under way.
    pub probes: Probes,
    /// Questions to BMCs that are under way, whether their nodes are on.
    pub power_looks: PowerLooks,
    /// How often those who have shown no token yet may knock.
    pub doors: Doors,
    /// SHA-256 of the API's certificate, hexadecimal.
    pub fingerprint: String,
    /// What shows whether haasd works.
    pub health: Health,
    /// Wakes the reconciler.
    pub wake: Notify,
    /// Wakes the calendar.
    pub calendar_wake: Notify,
    /// Wakes who asks BMCs how their nodes are.
    pub bmc_wake: Notify,
    /// Counts up when there are new events; streams of events wait on it.
    pub events: watch::Sender<u64>,
}

impl Context {
    /// Something was written that the reconciler and event streams should see.
    pub fn told(&self) {
        self.events.send_modify(|n| *n += 1);
    }

    /// [`Context::told`], and the reconciler has something to do.
    pub fn changed(&self) {
        self.told();
        self.wake.notify_one();
    }
}
