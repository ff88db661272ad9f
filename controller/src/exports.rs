//! What the iSCSI target serves, and to whom: every image, each as its own target, to the initiators
//! of live boot attempts only.
//!
//! The table is in memory, since the target asks at each login and must not wait; it is made anew
//! from the store whenever attempts or images change. The port opens only once it is complete, so
//! that a node which comes back after a restart of haasd is never told "no such target".

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use haas_api::names::{Digest, NodeName};
use iscsi_target::{
    Admission, Grant, Limits, LoginRequest, Lun, LunIdentity, Refusal, SessionObserver,
};
use tracing::{error, warn};

use crate::{
    images::{
        Images,
        manifest::{Manifest, target_name},
    },
    store::{Result, Store},
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

/// The table of exports.
#[derive(Debug)]
pub struct Exports {
    images: Images,
    table: RwLock<Table>,
    /// Held from reading the store to writing the table, so that no reload that began earlier
    /// overwrites a later one.
    reloading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    /// Every image's disk, by target name; none where its file cannot be opened now.
    targets: HashMap<String, Option<Arc<Lun>>>,
    /// Every live attempt, by initiator name.
    initiators: HashMap<String, Attempt>,
}

#[derive(Debug, Clone)]
struct Attempt {
    target: String,
    address: Option<IpAddr>,
    reads: Arc<Reads>,
}

/// Bytes that an attempt has read from its image, over all its sessions.
#[derive(Debug, Default)]
struct Reads(AtomicU64);

impl SessionObserver for Reads {
    fn read(&self, _lba: u64, blocks: u32) {
        self.0.fetch_add(u64::from(blocks) * 512, Ordering::Relaxed);
    }
}

impl Exports {
    /// An empty table; [`Exports::reload`] fills it.
    pub fn new(images: Images) -> Self {
        Self { images, table: RwLock::default(), reloading: tokio::sync::Mutex::default() }
    }

    /// Makes the table anew from the store. Disks that are open stay open, and a session that runs
    /// is not touched.
    pub async fn reload(&self, store: &Store) -> Result<()> {
        let _turn = self.reloading.lock().await;
        let mut tx = store.read().await?;
        let images = tx.images().await?;
        let attempts = tx.live_attempts().await?;
        let mut initiators = HashMap::new();
        for attempt in attempts {
            let (Some(node), Some(desired)) = (
                tx.node_by_id(&attempt.node_id).await?,
                tx.desired(&attempt.node_id, attempt.generation).await?,
            ) else {
                continue;
            };
            let Some(image) = desired.wanted.image else { continue };
            let target = target_name(&image.digest);
            let address = node.address.map(IpAddr::V4);
            initiators.insert(attempt.initiator, (target, address));
        }
        drop(tx);

        let known = self.read(|table| table.targets.clone());
        let mut targets = HashMap::new();
        for image in images {
            let name = target_name(&image.digest);
            let lun = match known.get(&name) {
                Some(Some(lun)) => Some(lun.clone()),
                Some(None) | None => match self.open(&image.digest, &image.manifest) {
                    Ok(lun) => Some(Arc::new(lun)),
                    Err(error) => {
                        error!(image = %image.digest, error, "an image cannot be served");
                        None
                    }
                },
            };
            targets.insert(name, lun);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.initiators = initiators
            .into_iter()
            .map(|(name, (target, address))| {
                let reads =
                    table.initiators.get(&name).map(|a| a.reads.clone()).unwrap_or_default();
                (name, Attempt { target, address, reads })
            })
            .collect();
        table.targets = targets;
        Ok(())
    }

    /// Bytes that an attempt's initiator has read so far.
    pub fn bytes_read(&self, initiator: &str) -> u64 {
        self.read(|table| {
            table.initiators.get(initiator).map_or(0, |a| a.reads.0.load(Ordering::Relaxed))
        })
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

impl iscsi_target::Exports for Exports {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        self.read(|table| {
            let Some(lun) = table.targets.get(request.target) else {
                warn!(target = request.target, peer = %request.peer, "login to an unknown target");
                return Admission::Refused(Refusal::NotFound);
            };
            let Some(lun) = lun else {
                // A node that runs it must go on trying until a person has mended the file.
                return Admission::Refused(Refusal::Unavailable);
            };
            let attempt = table.initiators.get(request.initiator).filter(|attempt| {
                attempt.target == request.target
                    && attempt.address.is_none_or(|address| address == request.peer.ip())
            });
            match attempt {
                Some(attempt) => Admission::Granted(Grant {
                    lun: lun.clone(),
                    chap: None,
                    class: 0,
                    limits: Limits::default(),
                    observer: Some(attempt.reads.clone()),
                }),
                None => {
                    warn!(
                        initiator = request.initiator,
                        target = request.target,
                        peer = %request.peer,
                        "login by an initiator of no live attempt"
                    );
                    Admission::Refused(Refusal::NotAuthorized)
                }
            }
        })
    }

    fn discover(&self, initiator: &str, peer: SocketAddr) -> Vec<String> {
        self.read(|table| {
            table
                .initiators
                .get(initiator)
                .filter(|attempt| attempt.address.is_none_or(|address| address == peer.ip()))
                .map(|attempt| vec![attempt.target.clone()])
                .unwrap_or_default()
        })
    }
}
