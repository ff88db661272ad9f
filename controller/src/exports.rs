//! What the iSCSI target serves, and to whom: every image, each as its own target, to the initiators
//! of live boot attempts only, each from its node's address and with its attempt's secret (CHAP).
//!
//! Two kinds of login need no secret: to an image that is marked open, for initiators that know none;
//! and of attempts that an older haasd has opened, whose nodes must not lose their root.
//!
//! The table is in memory, since the target asks at each login and must not wait; it is made anew
//! from the store whenever attempts or images change. The port opens only once it is complete, so
//! that a node which comes back after a restart of haasd is never told "no such target".

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use haas_api::names::{Digest, NodeName};
use ipnet::Ipv4Net;
use iscsi_target::{
    Admission, Authentication, Chap, ClassLimits, Counts, Grant, Limits, LoginRequest, Lun,
    LunIdentity, Meter, Recorded, Recorder, Refusal, Secret, SessionObserver, Sparse,
};
use tracing::{error, warn};

use crate::{
    config::{Config, Iscsi},
    images::{
        Images,
        manifest::{Manifest, target_name},
    },
    store::{LiveBoot, Result, Store},
    tokens::MasterKey,
};

/// The initiator name of one boot attempt. Names are lower case (RFC 3722).
pub fn initiator_name(node: &NodeName, attempt: &str) -> String {
    format!("iqn.2026-11.org.haas:boot.{node}.{}", attempt.to_ascii_lowercase())
}

/// What a node's kernel shows as the identity of an image's disk.
pub fn wwid(image: &Digest) -> String {
    identity(image).wwid()
}

fn identity(image: &Digest) -> LunIdentity {
    let mut raw = [0; 32];
    hex::decode_to_slice(image.hex(), &mut raw).expect("a digest is 64 hexadecimal digits");
    LunIdentity::from_sha256(&raw)
}

/// Reads of a boot that are recorded, and for how long.
const RECORDED_READS: usize = 50_000;
const RECORDED_FOR: Duration = Duration::from_secs(300);

/// The table of exports.
#[derive(Debug)]
pub struct Exports {
    images: Images,
    limits: Iscsi,
    master_key: MasterKey,
    /// The controller's address in each network, to be told to initiators that ask for targets.
    portals: Vec<(Ipv4Net, SocketAddr)>,
    table: RwLock<Table>,
    /// Held from reading the store to writing the table, so that no reload that began earlier
    /// overwrites a later one. It is the last call that a reload has served.
    reloading: tokio::sync::Mutex<u64>,
    /// Counts the calls for a reload.
    calls: AtomicU64,
    /// Log lines about those who may not log in, which may be anyone.
    refusals: Mutex<Sparse>,
}

#[derive(Debug, Default)]
struct Table {
    /// Every image, by target name.
    targets: HashMap<String, Target>,
    /// Every live attempt, by initiator name.
    initiators: HashMap<String, Attempt>,
}

#[derive(Debug, Clone)]
struct Target {
    /// None where its file cannot be opened now.
    lun: Option<Arc<Lun>>,
    /// Whether it is read without a secret too.
    is_open: bool,
    meter: Arc<Meter>,
    /// Those who have booted it, by id.
    tenants: HashMap<String, Tenant>,
    recording: Arc<Recording>,
}

/// A tenant's sessions with one image, also of boots that are over.
#[derive(Debug, Clone, Default)]
struct Tenant {
    name: String,
    meter: Arc<Meter>,
}

/// What the first boot of an image has read that began since haasd started.
#[derive(Debug)]
struct Recording {
    /// The attempt that it belongs to, however often it logs in: the first that did.
    of: OnceLock<String>,
    reads: Recorder,
}

#[derive(Debug, Clone)]
struct Attempt {
    id: String,
    node: NodeName,
    target: String,
    address: Option<IpAddr>,
    /// None for one that an older haasd has opened.
    chap: Option<Secrets>,
    /// Who has the node, a user or a project, by id and name.
    tenant: (String, String),
    meter: Arc<Meter>,
    /// Whether what it reads is a boot from its beginning: the attempt is open, and was not when
    /// haasd started.
    boots: bool,
}

/// By what the two sides of an attempt's session prove themselves.
#[derive(Debug, Clone)]
struct Secrets {
    node: Chap,
    target: Chap,
}

impl Secrets {
    /// The names are no secrets: each side goes by what it is called anyway.
    fn of(key: &MasterKey, boot: &LiveBoot, target: &str) -> Self {
        let chap = |user: &str, secret: crate::secret::Secret<String>| Chap {
            user: user.to_owned(),
            secret: Secret::new(secret.expose()),
        };
        Self {
            node: chap(&boot.initiator, key.node_chap(&boot.id)),
            target: chap(target, key.target_chap(&boot.id)),
        }
    }
}

impl Attempt {
    /// Whether this is a login that it may have, once it has proved itself.
    fn is_meant(&self, target: &str, peer: SocketAddr) -> bool {
        self.target == target && self.is_at(peer)
    }

    fn is_at(&self, peer: SocketAddr) -> bool {
        self.address == Some(peer.ip())
    }
}

/// Tells all who count what a session does.
#[derive(Debug)]
struct Observers {
    meters: [Arc<Meter>; 3],
    /// What may become the recording of this attempt.
    recording: Option<(Arc<Recording>, String)>,
}

impl SessionObserver for Observers {
    fn opened(&self) {
        self.meters.iter().for_each(|meter| meter.opened());
        if let Some((recording, attempt)) = &self.recording {
            // It may be another's already.
            let _ = recording.of.set(attempt.clone());
        }
    }

    fn read(&self, lba: u64, blocks: u32) {
        if let Some((recording, attempt)) = &self.recording
            && recording.of.get() == Some(attempt)
        {
            recording.reads.read(lba, blocks);
        }
    }

    fn answered(&self, bytes: u64, took: Duration) {
        self.meters.iter().for_each(|meter| meter.answered(bytes, took));
    }

    fn failed(&self, sense: [u8; 3]) {
        self.meters.iter().for_each(|meter| meter.failed(sense));
    }

    fn closed(&self) {
        self.meters.iter().for_each(|meter| meter.closed());
    }
}

/// What is known of an image's sessions.
#[derive(Debug)]
pub struct Served {
    /// Its disk; none where its file cannot be opened.
    pub lun: Option<Arc<Lun>>,
    /// All of them, since haasd started.
    pub all: Counts,
    /// Those of each tenant, also of attempts that are over.
    pub tenants: Vec<ServedTenant>,
    /// Those of the attempts that live, each with all of its sessions.
    pub attempts: Vec<ServedAttempt>,
}

/// What is known of one tenant's sessions.
#[derive(Debug)]
pub struct ServedTenant {
    /// Who it is, by name.
    pub tenant: String,
    /// The same by id.
    pub tenant_id: String,
    /// What the sessions did.
    pub counts: Counts,
}

/// What is known of one attempt's sessions.
#[derive(Debug)]
pub struct ServedAttempt {
    /// The boot attempt.
    pub boot: String,
    /// Its node.
    pub node: NodeName,
    /// The node's address, where it has one.
    pub address: Option<IpAddr>,
    /// Who has the node, by name.
    pub tenant: String,
    /// The same by id.
    pub tenant_id: String,
    /// What its sessions did.
    pub counts: Counts,
}

/// The class in which a tenant's sessions share: sixty-four random bits of the id.
fn class_of(tenant: &str) -> u64 {
    let bits = tenant.parse::<ulid::Ulid>().map_or(0, |id| id.random());
    u64::try_from(bits & u128::from(u64::MAX >> 1)).unwrap_or(0)
}

impl Exports {
    /// An empty table; [`Exports::reload`] fills it.
    pub fn new(images: Images, config: &Config, master_key: MasterKey) -> Self {
        let portal = |address| SocketAddr::new(IpAddr::V4(address), config.ports.iscsi);
        Self {
            images,
            limits: config.iscsi,
            master_key,
            portals: config.networks.iter().map(|n| (n.cidr, portal(n.controller))).collect(),
            table: RwLock::default(),
            reloading: tokio::sync::Mutex::default(),
            calls: AtomicU64::new(0),
            refusals: Mutex::default(),
        }
    }

    /// Whether to write a line about a refusal, and how many were left out since the last one.
    fn refused(&self) -> Option<u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now())
    }

    /// Makes the table anew from the store. Disks that are open stay open, and a session that runs
    /// is not touched. Whoever waits for a reload that has not begun yet shares it: many nodes that boot
    /// at once need few.
    pub async fn reload(&self, store: &Store) -> Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.reloading.lock().await;
        if *served >= call {
            return Ok(());
        }
        let serves = self.calls.load(Ordering::SeqCst);
        let mut tx = store.read().await?;
        let images = tx.images().await?;
        let boots = tx.live_boots().await?;
        drop(tx);
        // The first table has those that were there before haasd.
        let is_first = *served == 0;
        let initiators = self.read(|table| {
            let attempt = |boot: LiveBoot| {
                let known = table.initiators.get(&boot.initiator);
                (boot.initiator.clone(), self.attempt(boot, known, is_first))
            };
            boots.into_iter().map(attempt).collect::<HashMap<_, _>>()
        });

        let known = self.read(|table| table.targets.clone());
        let mut targets = HashMap::new();
        for image in images {
            let name = target_name(&image.digest);
            let mut target = known.get(&name).cloned().unwrap_or_else(|| Target {
                lun: None,
                is_open: false,
                meter: Arc::default(),
                tenants: HashMap::new(),
                recording: Arc::new(Recording {
                    of: OnceLock::new(),
                    reads: Recorder::new(RECORDED_READS, RECORDED_FOR),
                }),
            });
            target.is_open = image.is_open;
            if target.lun.is_none() {
                match self.open(&image.digest, &image.manifest) {
                    Ok(lun) => target.lun = Some(Arc::new(lun)),
                    Err(error) => error!(image = %image.digest, error, "an image cannot be served"),
                }
            }
            targets.insert(name, target);
        }
        for attempt in initiators.values() {
            let (id, name) = &attempt.tenant;
            if let Some(target) = targets.get_mut(&attempt.target) {
                target.tenants.entry(id.clone()).or_default().name.clone_from(name);
            }
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.initiators = initiators;
        table.targets = targets;
        *served = serves;
        Ok(())
    }

    /// Whether an initiator has a session at this moment.
    pub fn is_attached(&self, initiator: &str) -> bool {
        self.read(|table| {
            table.initiators.get(initiator).is_some_and(|a| a.meter.counts().sessions > 0)
        })
    }

    /// Bytes that an attempt's initiator has read so far.
    pub fn bytes_read(&self, initiator: &str) -> u64 {
        self.read(|table| {
            table.initiators.get(initiator).map_or(0, |attempt| attempt.meter.counts().bytes)
        })
    }

    /// How many images cannot be served, and how many there are.
    pub fn unserved(&self) -> (usize, usize) {
        self.read(|table| {
            let without = table.targets.values().filter(|target| target.lun.is_none());
            (without.count(), table.targets.len())
        })
    }

    /// What an image's sessions did; none for an image that is not exported.
    pub fn served(&self, image: &Digest) -> Option<Served> {
        let name = target_name(image);
        self.read(|table| {
            let target = table.targets.get(&name)?;
            let of_image = table.initiators.values().filter(|attempt| attempt.target == name);
            let attempts = of_image.map(|attempt| ServedAttempt {
                boot: attempt.id.clone(),
                node: attempt.node.clone(),
                address: attempt.address,
                tenant: attempt.tenant.1.clone(),
                tenant_id: attempt.tenant.0.clone(),
                counts: attempt.meter.counts(),
            });
            let tenants = target.tenants.iter().map(|(id, tenant)| ServedTenant {
                tenant: tenant.name.clone(),
                tenant_id: id.clone(),
                counts: tenant.meter.counts(),
            });
            let (lun, all) = (target.lun.clone(), target.meter.counts());
            Some(Served { lun, all, tenants: tenants.collect(), attempts: attempts.collect() })
        })
    }

    /// What the first boot of an image has read that began since haasd started.
    pub fn recorded(&self, image: &Digest) -> Vec<Recorded> {
        let name = target_name(image);
        self.read(|table| table.targets.get(&name).map(|target| target.recording.reads.reads()))
            .unwrap_or_default()
    }

    /// A row of the table. `known` is the one that it takes the place of.
    fn attempt(&self, boot: LiveBoot, known: Option<&Attempt>, is_first: bool) -> Attempt {
        let target = target_name(&boot.image);
        let chap = boot.chap.then(|| {
            // It depends on nothing else.
            let known = known.filter(|known| known.target == target);
            let chap = known.and_then(|known| known.chap.clone());
            chap.unwrap_or_else(|| Secrets::of(&self.master_key, &boot, &target))
        });
        Attempt {
            id: boot.id,
            node: boot.node,
            target,
            address: boot.address.map(IpAddr::V4),
            chap,
            tenant: (boot.tenant, boot.tenant_name.unwrap_or_default()),
            meter: known.map(|known| known.meter.clone()).unwrap_or_default(),
            boots: boot.is_open && known.map_or(!is_first, |known| known.boots),
        }
    }

    fn open(&self, digest: &Digest, manifest: &str) -> Result<Lun, String> {
        let manifest = Manifest::parse(manifest.as_bytes()).map_err(|e| e.to_string())?;
        let path = self.images.blob_path(&manifest.root.digest);
        Lun::open(&path, identity(digest)).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Target {
    /// Who counts what a session of this attempt does, and records what its boot reads.
    fn observers(&self, attempt: &Attempt) -> Observers {
        let tenant = self.tenants.get(&attempt.tenant.0).cloned().unwrap_or_default();
        Observers {
            meters: [attempt.meter.clone(), self.meter.clone(), tenant.meter],
            recording: attempt.boots.then(|| (self.recording.clone(), attempt.id.clone())),
        }
    }
}

impl iscsi_target::Exports for Exports {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        self.read(|table| {
            let Some(target) = table.targets.get(request.target) else {
                if let Some(others) = self.refused() {
                    let (target, peer) = (request.target, request.peer);
                    warn!(target, %peer, others, "login to an unknown target");
                }
                return Admission::Refused(Refusal::NotFound);
            };
            let Some(lun) = &target.lun else {
                // A node that runs it must go on trying until a person has mended the file.
                return Admission::Refused(Refusal::Unavailable);
            };
            let attempt = table.initiators.get(request.initiator);
            match attempt.filter(|attempt| attempt.is_meant(request.target, request.peer)) {
                Some(attempt) => Admission::Granted(Grant {
                    lun: lun.clone(),
                    authentication: match &attempt.chap {
                        None => Authentication::None,
                        Some(chap) if target.is_open => Authentication::Optional(chap.node.clone()),
                        Some(chap) => Authentication::Required(chap.node.clone()),
                    },
                    class: class_of(&attempt.tenant.0),
                    class_limits: ClassLimits {
                        sessions: self.limits.user_sessions,
                        commands: None,
                        bytes_per_second: self.limits.user_rate,
                    },
                    limits: Limits { bytes_per_second: self.limits.node_rate, ..Limits::default() },
                    observer: Some(Arc::new(target.observers(attempt))),
                }),
                None => {
                    if let Some(others) = self.refused() {
                        warn!(
                            initiator = request.initiator,
                            target = request.target,
                            peer = %request.peer,
                            others,
                            "login by an initiator of no live attempt, or not from its node's address"
                        );
                    }
                    Admission::Refused(Refusal::NotAuthorized)
                }
            }
        })
    }

    fn portals(&self, peer: SocketAddr, here: SocketAddr) -> Vec<SocketAddr> {
        let IpAddr::V4(peer) = peer.ip() else { return vec![here] };
        let near = self.portals.iter().filter(|(network, _)| network.contains(&peer));
        let others = near.map(|(_, portal)| *portal).filter(|portal| *portal != here);
        std::iter::once(here).chain(others).collect()
    }

    fn discover(&self, initiator: &str, peer: SocketAddr) -> Vec<String> {
        self.read(|table| {
            table
                .initiators
                .get(initiator)
                .filter(|attempt| attempt.is_at(peer))
                .map(|attempt| vec![attempt.target.clone()])
                .unwrap_or_default()
        })
    }

    fn prove(&self, request: &LoginRequest<'_>) -> Option<Chap> {
        self.read(|table| {
            let attempt = table.initiators.get(request.initiator)?;
            let secrets = attempt.chap.as_ref()?;
            attempt.is_meant(request.target, request.peer).then(|| secrets.target.clone())
        })
    }
}
