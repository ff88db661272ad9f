//! Netboot's questions, answered from the store.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use haas_api::{
    agent::{BootStage, Failure, ShutdownHow},
    names::Mac,
};
use tracing::{debug, error, warn};

use super::foreign;
use crate::{
    clock,
    config::{DhcpMode, Network},
    context::Context,
    inventory::{MacUse, PowerSpec},
    lifecycle,
    metrics::METRICS,
    model::{Attempt, AttemptState, Cause, Micros, Node, SECOND},
    netboot::{
        boot_target::{
            BootOffer, BootResource, BootTarget, BootTargets, DhcpSeen, DhcpVerdict, Hindrance,
            NodeAddress, Refusal, Served,
        },
        firmware::Client,
        leases::{LeaseEvent, Leases},
    },
    reconcile,
    store::{DiscoveredRow, Result},
    tokens,
};

/// A node that asks for a boot while its agent was heard within this time is not believed: it runs.
/// Heartbeats come every 5 s, and firmware goes on asking for longer than this.
const AGENT_RUNS: Micros = 8 * SECOND;

/// A haasd that has just started hears of a node that runs within this time: its kernel logs in to its
/// root again every 3 s.
pub(super) const SESSIONS_CALL: Micros = 5 * SECOND;

/// And its agent calls within this time.
pub(super) const AGENTS_CALL: Micros = 20 * SECOND;

/// A haasd that was away for less than this long is taken to be as alone as it was: other servers do
/// not come up in a restart, and firmware gives up after some ten seconds without an answer.
const ALONE_FOR: Micros = 300 * SECOND;

/// The implementation of netboot's seam.
#[derive(Debug)]
pub struct Targets {
    context: Arc<Context>,
    /// Since when it answers, on the steady clock.
    since: Micros,
    /// What was offered or declined lately; what a node took is in its row.
    leases: Mutex<Leases>,
    strangers: Mutex<Strangers>,
    told: foreign::Told,
}

/// Who of the unknown was noted when: a machine that asks without end must not keep the store busy.
#[derive(Debug, Default)]
struct Strangers {
    noted: HashMap<Mac, Micros>,
    /// The second that is counted, and how many were noted in it.
    second: (Micros, u32),
}

impl Strangers {
    /// Whether this one is to be noted: each now and then, all together a few times a second.
    fn due(&mut self, mac: Mac, now: Micros) -> bool {
        const AGAIN: Micros = 10 * SECOND;
        const PER_SECOND: u32 = 5;
        self.noted.retain(|_, at| now - *at < AGAIN);
        if self.second.0 != now / SECOND {
            self.second = (now / SECOND, 0);
        }
        if self.noted.contains_key(&mac) || self.second.1 >= PER_SECOND {
            return false;
        }
        self.second.1 += 1;
        self.noted.insert(mac, now);
        true
    }
}

impl Targets {
    /// Over this store.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            since: context.clock.now(),
            context,
            leases: Mutex::default(),
            strangers: Mutex::default(),
            told: foreign::Told::default(),
        }
    }

    /// As if haasd had been up for so long.
    #[cfg(test)]
    pub(super) fn up_for(mut self, time: Micros) -> Self {
        self.since = self.context.clock.now() - time;
        self
    }

    /// The result, or none with a line in the log.
    async fn or_log<V>(&self, what: &str, work: impl Future<Output = Result<V>>) -> Option<V> {
        work.await
            .inspect_err(|e| error!(error = e as &dyn std::error::Error, "cannot {what}"))
            .ok()
    }

    async fn answer_dhcp(&self, seen: &DhcpSeen) -> Result<DhcpVerdict> {
        let context = &self.context;
        let mut tx = context.store.read().await?;
        let Some(node) = tx.node_by_mac(seen.mac).await? else {
            let used = tx.nodes().await?.iter().find_map(|node| node.spec.owns(seen.mac));
            drop(tx);
            match used {
                Some(MacUse::Bmc) => return Ok(DhcpVerdict::Silent("the BMC of a node")),
                Some(MacUse::Nic(_)) => return Ok(DhcpVerdict::Silent("not the NIC that boots")),
                None => {}
            }
            self.discovered(seen).await?;
            return Ok(DhcpVerdict::Unknown);
        };
        drop(tx);
        if !node.managed {
            return Ok(DhcpVerdict::Silent("unmanaged"));
        }
        let Some(network) = context.config.networks.iter().find(|n| *n.name == *seen.network)
        else {
            return Ok(DhcpVerdict::Silent("of no network"));
        };
        let address = match network.dhcp {
            DhcpMode::Proxy => node.address.filter(|a| network.cidr.contains(a)),
            DhcpMode::Own | DhcpMode::Off => self.address_of(&node, network).await?,
        };
        let may_lack = network.dhcp == DhcpMode::Proxy && node.spec.address.is_none();
        if address.is_none() && !may_lack {
            return Ok(DhcpVerdict::Silent(
                "its address is not of this network, or the pool is full",
            ));
        }
        let here = NodeAddress { node: node.name.clone(), address };
        if !seen.client.boots() {
            self.other_system(&node).await?;
            return Ok(DhcpVerdict::Address(here));
        }
        let Some(attempt) = self.attempt_of(&node).await? else {
            return Ok(DhcpVerdict::Silent("nothing is to boot on it now"));
        };
        // A client that asks again is answered without a word to the store.
        if attempt.stage < BootStage::Dhcp {
            super::reached(context, &attempt.id, BootStage::Dhcp).await?;
        }
        if network.dhcp == DhcpMode::Proxy {
            foreign::leased(context, &node, &attempt, network, seen).await?;
        }
        let offer = BootOffer {
            token: context.master_key.boot_token(&attempt.id),
            boot: attempt.id,
            program: node.spec.boot_program(),
        };
        Ok(DhcpVerdict::Boot(here, offer))
    }

    /// The attempt that a booting node belongs to: the open one, or a new one where the node boots
    /// by itself. None where it should not boot now.
    async fn attempt_of(&self, node: &Node) -> Result<Option<Attempt>> {
        let context = &self.context;
        let now = context.clock.now();
        let mut tx = context.store.read().await?;
        let desired = tx.desired(&node.id, node.generation).await?;
        let attempt = tx.last_attempt(&node.id).await?;
        let failed = tx.failures(&node.id, node.generation).await?.len();
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        drop(tx);
        if !desired.is_some_and(|d| d.wanted.power_on && d.wanted.image.is_some())
            || node.fault.is_some()
        {
            return Ok(None);
        }
        // Of a node out of service only the boots that an admin has asked for are answered.
        let is_held = node.drain.as_ref().is_some_and(|drain| drain.state.keeps_hands_off());
        match attempt {
            Some(other) if crate::baseline::is_held_for_it(node, other.generation) => Ok(None),
            Some(other) if is_held && (other.state != AttemptState::Open || other.token_spent) => {
                Ok(None)
            }
            // It is being started from something else.
            Some(open) if open.state == AttemptState::Open && open.cause == Cause::HandedOver => {
                Ok(None)
            }
            // It was, and now it is ours again.
            Some(ended)
                if ended.state == AttemptState::Ended
                    && ended.cause == Cause::HandedOver
                    && ended.generation == node.generation =>
            {
                reconcile::open_started(context, node, Some(&ended), Cause::Unplanned)
                    .await
                    .map(Some)
            }
            // What ran before was to start its kernel: haasd has not begun a boot by the firmware.
            Some(open)
                if open.state == AttemptState::Open
                    && !open.token_spent
                    && open.kexec_of.is_some() =>
            {
                self.lose(&open).await?;
                Ok(None)
            }
            Some(open) if open.state == AttemptState::Open && !open.token_spent => Ok(Some(open)),
            Some(open) if open.state == AttemptState::Open => {
                // Its agent ran already, so the node went down on the way: that attempt is lost.
                if self.may_run(node, &open, now) {
                    return Ok(None);
                }
                self.lose(&open).await?;
                // With a BMC the reconciler tries again, from off.
                if has_bmc(node) || failed.saturating_add(1) >= context.config.boot.attempts {
                    return Ok(None);
                }
                reconcile::open_started(context, node, Some(&open), Cause::Retry).await.map(Some)
            }
            Some(running) if running.state == AttemptState::Ready => {
                if self.may_run(node, &running, now) || is_cut_soon(node, now) {
                    return Ok(None);
                }
                reconcile::open_started(context, node, Some(&running), Cause::Unplanned)
                    .await
                    .map(Some)
            }
            // The reconciler opens attempts for nodes that it has switched off.
            Some(_) | None => Ok(None),
        }
    }

    /// Whether what was booted may run still, so that it was not the node who asked.
    fn may_run(&self, node: &Node, running: &Attempt, now: Micros) -> bool {
        if agent_spoke_lately(node, now) {
            return true;
        }
        // Nobody has said anything to a haasd that was not there.
        let up = now - self.since;
        let is_attached = || self.context.exports.is_attached(&running.initiator);
        node.goodbye.is_none() && (up < SESSIONS_CALL || (up < AGENTS_CALL && is_attached()))
    }

    async fn lose(&self, attempt: &Attempt) -> Result<()> {
        let failure = attempt.failure.clone().unwrap_or_else(|| {
            Failure::new(
                attempt.stage,
                if attempt.kexec_of.is_some() && !attempt.token_spent {
                    lifecycle::KEXEC_LOST
                } else {
                    "rebooted"
                },
                format!("the node started anew in stage '{}'; look at its console", attempt.stage),
            )
        });
        let mut tx = self.context.store.write().await?;
        tx.fail_attempt(&attempt.id, &failure, self.context.clock.now()).await?;
        super::event(
            &mut tx,
            attempt,
            "boot-failed",
            serde_json::json!({ "boot": attempt.id, "code": failure.code, "cause": failure.cause }),
        )
        .await?;
        tx.commit().await?;
        METRICS.boot_failed(attempt.stage);
        self.context.exports.reload(&self.context.store).await?;
        self.context.changed();
        Ok(())
    }

    /// An operating system asks for its address on a node's boot NIC. Where the node should be
    /// booting from the network, it has booted something else.
    async fn other_system(&self, node: &Node) -> Result<()> {
        let attempt = self.context.store.read().await?.last_attempt(&node.id).await?;
        let Some(attempt) = attempt.filter(|a| {
            a.state == AttemptState::Open
                && a.stage < BootStage::Script
                && a.stage > BootStage::Power
        }) else {
            return Ok(());
        };
        if attempt.failure.is_some() {
            return Ok(());
        }
        let failure = Failure::new(
            attempt.stage,
            "booted-elsewhere",
            format!(
                "{} asked for an address as an installed system does, not as firmware: it has booted its own \
                 disk. Put network boot first in its firmware",
                node.name
            ),
        );
        super::held(&self.context, &attempt.id, &failure).await
    }

    /// The node's address in this network: the inventory's, the one that it was given before, or a
    /// new one from the pool, which it keeps.
    async fn address_of(&self, node: &Node, network: &Network) -> Result<Option<Ipv4Addr>> {
        if let Some(address) = node.address.filter(|a| network.cidr.contains(a)) {
            return Ok(Some(address));
        }
        // A pool address of a network that has another range by now is given up; the inventory's own
        // is not.
        let Some(pool) = network.pool.filter(|_| node.spec.address.is_none()) else {
            return Ok(None);
        };
        let mut tx = self.context.store.write().await?;
        if tx.last_attempt(&node.id).await?.is_some_and(|a| a.state == AttemptState::Ready) {
            // It runs with the address that it has.
            return Ok(None);
        }
        let mut reserved: BTreeSet<_> =
            tx.all_nodes().await?.into_iter().filter_map(|n| n.address).collect();
        reserved.insert(network.controller);
        reserved.extend(network.gateway);
        let chosen = self.leases.lock().unwrap_or_else(PoisonError::into_inner).choose(
            &network.name,
            pool,
            node.boot_mac,
            &reserved,
            self.context.clock.now(),
        );
        match chosen {
            Ok(address) => {
                tx.set_address(&node.id, Some(address)).await?;
                tx.commit().await?;
                // Its initiator logs in from there.
                self.context.exports.reload(&self.context.store).await?;
                Ok(Some(address))
            }
            Err(full) => {
                warn!(node = %node.name, error = %full, "no address");
                Ok(None)
            }
        }
    }

    async fn discovered(&self, seen: &DhcpSeen) -> Result<()> {
        let is_due = {
            let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            strangers.due(seen.mac, self.context.clock.now())
        };
        if !is_due {
            return Ok(());
        }
        let now = clock::wall();
        let mut words = Vec::new();
        words.extend(seen.bmc.map(|maker| format!("BMC ({maker})")));
        words.push(match seen.client {
            Client::Pxe(arch) => format!("PXE, architecture {arch}"),
            Client::Http(arch) => format!("UEFI HTTP boot, architecture {arch}"),
            Client::Ipxe => "iPXE".to_owned(),
            Client::Other => "an operating system".to_owned(),
        });
        words.extend(seen.vendor_class.as_ref().map(|class| format!("vendor class {class:?}")));
        words.extend(seen.hostname.as_ref().map(|name| format!("calls itself {name:?}")));
        words.extend(seen.guid.as_ref().map(|guid| format!("UUID {guid}")));
        let mut tx = self.context.store.write().await?;
        tx.seen(&DiscoveredRow {
            mac: seen.mac,
            kind: if seen.bmc.is_some() { "bmc" } else { "node" }.to_owned(),
            description: words.join(", "),
            network: seen.network.to_string(),
            first_seen: now,
            last_seen: now,
        })
        .await?;
        tx.commit().await
    }

    async fn open_token(
        &self,
        token: &str,
        peer: IpAddr,
    ) -> Result<std::result::Result<(Node, Attempt), Refusal>> {
        let mut tx = self.context.store.read().await?;
        let Some(attempt) = tx.attempt_by_token(&tokens::hash(token)).await? else {
            return Ok(Err(Refusal::Unknown));
        };
        let Some(node) = tx.node_by_id(&attempt.node_id).await? else {
            return Ok(Err(Refusal::Unknown));
        };
        if node.address.map(IpAddr::V4) != Some(peer) {
            return Ok(Err(Refusal::WrongPeer));
        }
        Ok(unspent(node, attempt))
    }

    /// The node at this address, if its firmware insists on signed programs.
    async fn open_address(
        &self,
        peer: IpAddr,
    ) -> Result<std::result::Result<(Node, Attempt), Refusal>> {
        let mut tx = self.context.store.read().await?;
        let nodes = tx.nodes().await?;
        let is_meant = |node: &Node| {
            node.managed && node.spec.secure_boot && node.address.map(IpAddr::V4) == Some(peer)
        };
        let Some(node) = nodes.into_iter().find(is_meant) else { return Ok(Err(Refusal::Unknown)) };
        let Some(attempt) = tx.last_attempt(&node.id).await? else {
            return Ok(Err(Refusal::Unknown));
        };
        // Its firmware must have asked by DHCP, and nothing else may run at this address.
        let elsewhere = ["booted-elsewhere", "other-address"];
        let is_elsewhere =
            attempt.failure.as_ref().is_some_and(|f| elsewhere.contains(&f.code.as_str()));
        if node.fault.is_some()
            || is_elsewhere
            || attempt.cause == Cause::HandedOver
            || attempt.kexec_of.is_some()
            || attempt.stage < BootStage::Dhcp
        {
            return Ok(Err(Refusal::Over));
        }
        Ok(unspent(node, attempt))
    }

    /// What the found attempt boots; where that cannot be said, the node is held with the reason.
    async fn boots(
        &self,
        peer: IpAddr,
        found: impl Future<Output = Result<std::result::Result<(Node, Attempt), Refusal>>>,
    ) -> std::result::Result<Arc<BootTarget>, Refusal> {
        let look = async {
            let (node, attempt) = match found.await? {
                Ok(found) => found,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let token = self.context.master_key.boot_token(&attempt.id);
            let target = super::plan::target(&self.context, &node, &attempt, token).await?;
            let loader = super::plan::loader(&node);
            let target = target.and_then(|target| {
                let rendered = self.context.templates.render(&target, loader);
                rendered.map(|_| target).map_err(|error| error.to_string())
            });
            match target {
                Ok(target) => Ok(Ok(Arc::new(target))),
                Err(reason) => {
                    warn!(node = %node.name, boot = %attempt.id, reason, "cannot serve a boot");
                    let failure = Failure {
                        retryable: true,
                        ..Failure::new(attempt.stage, "cannot-serve", reason)
                    };
                    super::held(&self.context, &attempt.id, &failure).await?;
                    Ok(Err(Refusal::NotNow))
                }
            }
        };
        look.await.unwrap_or_else(|e: crate::store::StoreError| {
            error!(%peer, error = &e as &dyn std::error::Error, "cannot look up a boot");
            Err(Refusal::NotNow)
        })
    }

    async fn note_served(&self, served: Served) -> Result<()> {
        let context = &self.context;
        match served {
            Served::Firmware { peer, file, bytes } => {
                debug!(%peer, file, bytes, "served a boot program");
                Ok(())
            }
            Served::Boot { boot, resource: BootResource::Script, complete: true, .. } => {
                super::reached(context, &boot, BootStage::Script).await?;
                super::drift::note(context, &boot).await
            }
            Served::Boot { resource: BootResource::Script, complete: false, .. } => Ok(()),
            Served::Boot { boot, resource, bytes, complete } => {
                let mut tx = context.store.write().await?;
                tx.add_boot_bytes(&boot, i64::try_from(bytes).unwrap_or(i64::MAX)).await?;
                tx.commit().await?;
                if complete && resource == BootResource::Initrd {
                    super::reached(context, &boot, BootStage::Kernel).await?;
                }
                Ok(())
            }
        }
    }
}

/// A network and the wire that it is on: by another one nothing is known.
fn wire_of(network: &Network) -> String {
    format!("{} {} {}", network.name, network.interface, network.cidr)
}

/// What is spent opens nothing: from the agent on, everything comes over its channel.
fn unspent(node: Node, attempt: Attempt) -> std::result::Result<(Node, Attempt), Refusal> {
    if attempt.state != AttemptState::Open || attempt.token_spent {
        return Err(Refusal::Over);
    }
    Ok((node, attempt))
}

fn has_bmc(node: &Node) -> bool {
    node.spec.power != PowerSpec::Manual
}

/// Whether its own root reboots the node, and the reconciler is about to switch it off on the way.
fn is_cut_soon(node: &Node, now: Micros) -> bool {
    has_bmc(node)
        && node.goodbye == Some(ShutdownHow::Reboot)
        && node.agent_at.is_some_and(|at| now - at < AGENT_RUNS)
}

fn agent_spoke_lately(node: &Node, now: Micros) -> bool {
    node.goodbye.is_none() && node.agent_at.is_some_and(|at| now - at < AGENT_RUNS)
}

impl BootTargets for Targets {
    async fn dhcp(&self, seen: DhcpSeen) -> DhcpVerdict {
        self.answer_dhcp(&seen).await.unwrap_or_else(|e| {
            error!(mac = %seen.mac, error = &e as &dyn std::error::Error, "cannot answer DHCP");
            DhcpVerdict::Silent("the store failed")
        })
    }

    async fn boot_macs(&self) -> Option<HashSet<Mac>> {
        let look = async { self.context.store.read().await?.boot_macs().await };
        self.or_log("look which MACs are nodes'", look).await
    }

    async fn lease(&self, event: LeaseEvent) {
        if let LeaseEvent::Declined { mac, address, .. } = &event {
            self.or_log(
                "note a declined address",
                foreign::declined(&self.context, *mac, *address),
            )
            .await;
        }
        self.leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(&event, self.context.clock.now());
    }

    async fn other_server(&self, network: &Network, server: Ipv4Addr, refused: bool) {
        if self.told.is_due(&network.name, server, refused, self.context.clock.now()) {
            let noted = foreign::other_server(&self.context, network, server, refused);
            self.or_log("note another DHCP server", noted).await;
        }
        let forget = async {
            let mut tx = self.context.store.write().await?;
            tx.set_not_alone(&wire_of(network)).await?;
            tx.commit().await
        };
        self.or_log("forget that no other DHCP server answered", forget).await;
    }

    async fn alone(&self, network: &Network) {
        let note = async {
            let mut tx = self.context.store.write().await?;
            tx.set_alone(&wire_of(network), self.context.clock.now()).await?;
            tx.commit().await
        };
        self.or_log("note that no other DHCP server answers", note).await;
    }

    async fn was_alone(&self, network: &Network) -> bool {
        let look = async { self.context.store.read().await?.alone_at(&wire_of(network)).await };
        let at = self.or_log("look when no other DHCP server answered", look).await.flatten();
        at.is_some_and(|at| (0..ALONE_FOR).contains(&(self.context.clock.now() - at)))
    }

    async fn hindered(&self, mac: Mac, why: Hindrance) -> bool {
        // Where the store fails nobody is answered anyway.
        self.or_log("note why a node is not answered", foreign::hindered(&self.context, mac, why))
            .await
            .unwrap_or(true)
    }

    async fn is_booting(&self, mac: Mac) -> bool {
        let look = async {
            let mut tx = self.context.store.read().await?;
            let Some(node) = tx.node_by_mac(mac).await? else { return Ok(false) };
            let attempt = tx.last_attempt(&node.id).await?;
            Ok(node.managed && attempt.is_some_and(|a| a.state == AttemptState::Open))
        };
        let looked: Result<bool> = look.await;
        looked.unwrap_or(false)
    }

    async fn boot_by_token(
        &self,
        token: &str,
        peer: IpAddr,
        _resource: BootResource,
    ) -> std::result::Result<Arc<BootTarget>, Refusal> {
        self.boots(peer, self.open_token(token, peer)).await
    }

    async fn boot_by_address(&self, peer: IpAddr) -> std::result::Result<Arc<BootTarget>, Refusal> {
        self.boots(peer, self.open_address(peer)).await
    }

    async fn served(&self, served: Served) {
        if let Err(e) = self.note_served(served).await {
            error!(error = &e as &dyn std::error::Error, "cannot note what was served");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_strangers_is_noted_a_few_times_a_second() {
        let mac = |n: u8| -> Mac { format!("52:54:00:00:00:{n:02x}").parse().unwrap() };
        let mut strangers = Strangers::default();
        let noted = (0..200).filter(|n| strangers.due(mac(*n), SECOND)).count();
        assert_eq!(noted, 5);
        assert!(!strangers.due(mac(0), 2 * SECOND), "noted a second ago");
        assert!(strangers.due(mac(99), 2 * SECOND));
        assert!(strangers.due(mac(0), 12 * SECOND));
    }
}
