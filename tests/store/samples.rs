//! Small rows that the promises are shown with.

use controller::{
    inventory::{Arch, Firmware, Nic, NicRole, NodeSpec, PowerSpec},
    model::{Attempt, AttemptState, Cause, ImageWanted, NewDesired, Node},
    store::Store,
};
use haas_api::{
    agent::{BootStage, DiskSelector},
    names::Digest,
    user::{Role, UserKind},
};

pub(crate) fn spec(number: u8) -> NodeSpec {
    NodeSpec {
        name: format!("n{number:02}").parse().unwrap(),
        nics: vec![Nic {
            mac: format!("52:54:00:00:00:{number:02x}").parse().unwrap(),
            role: NicRole::Boot,
        }],
        address: Some([10, 0, 0, number].into()),
        groups: Default::default(),
        power: PowerSpec::Manual,
        firmware: Firmware::Bios,
        arch: Arch::X86_64,
        overlay_disk: DiskSelector::Auto,
        scratch_disks: Vec::new(),
        detached_disks: Vec::new(),
        cache_mib: 0,
        labels: Default::default(),
        kernel_args: Vec::new(),
        ipxe: None,
        secure_boot: false,
        ready_checks: Vec::new(),
    }
}

/// Adds the node `nNN`.
pub(crate) async fn node(store: &Store, number: u8) -> Node {
    let mut tx = store.write().await.unwrap();
    tx.add_node(&spec(number), 1).await.unwrap();
    tx.commit().await.unwrap();
    reread(store, number).await
}

pub(crate) async fn reread(store: &Store, number: u8) -> Node {
    let name = format!("n{number:02}");
    store.read().await.unwrap().node(&name).await.unwrap().expect("it was added")
}

/// Adds a user and answers its id.
pub(crate) async fn user(store: &Store, name: &str) -> String {
    let mut tx = store.write().await.unwrap();
    let user =
        tx.add_user(&name.parse().unwrap(), UserKind::Person, Role::User, &[], 1).await.unwrap();
    tx.commit().await.unwrap();
    user.id
}

pub(crate) fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

pub(crate) fn wanted(image: &str, overlay: Option<&str>) -> NewDesired {
    NewDesired {
        power_on: true,
        image: Some(ImageWanted { digest: digest(image), name: image.into() }),
        overlay_id: overlay.map(str::to_owned),
        rank: 3,
        rescue: false,
        forced: true,
        reboot: false,
        boot_once: None,
        kexec_from: None,
        cause: "switch".into(),
        actor: "admin".into(),
        actor_id: "admin-id".into(),
        tenant: "tenant-id".into(),
        operation_id: Some("op".into()),
    }
}

/// Gives the node its next desired state.
pub(crate) async fn want(store: &Store, number: u8, wanted: &NewDesired) -> i64 {
    let node = reread(store, number).await;
    let mut tx = store.write().await.unwrap();
    let generation = tx.add_desired(&node, wanted, 1).await.unwrap();
    tx.commit().await.unwrap();
    generation
}

pub(crate) fn attempt(node: &Node, id: &str, opened_at: i64) -> Attempt {
    Attempt {
        id: id.into(),
        node_id: node.id.clone(),
        generation: node.generation,
        cause: Cause::Desired,
        state: AttemptState::Open,
        stage: BootStage::Power,
        stage_since: opened_at,
        stages: vec![(BootStage::Power, opened_at)],
        token_spent: false,
        agent_address: None,
        agent_seq: 0,
        initiator: format!("iqn.x:{id}"),
        chap: true,
        by_itself: false,
        kexec_of: None,
        can_kexec: None,
        opened_at,
        counted_from: opened_at,
        ended_at: None,
        boot_bytes: 0,
        root_bytes: 0,
        held_since: None,
        failure: None,
        epoch: 7,
        checks: Vec::new(),
    }
}

/// Opens an attempt whose token's hash is `token of ID`.
pub(crate) async fn open(store: &Store, node: &Node, id: &str, at: i64) -> Attempt {
    let attempt = attempt(node, id, at);
    let mut tx = store.write().await.unwrap();
    tx.open_attempt(&attempt, &format!("token of {id}")).await.unwrap();
    tx.commit().await.unwrap();
    attempt
}
