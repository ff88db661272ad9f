//! What ssh on a node is told to trust, and the certificates that its agent asks for.
//!
//! From the stage `overlay` on, users are root on the node and may speak in its agent's name. So
//! nothing that is asked for decides what a certificate is good for: names come from the inventory, the
//! set from what is wanted of the node, and neither reaches beyond the node's own attempt.

use haas_api::agent::{SshCertificates, SshKeys, SshPlan};
use tracing::{info, warn};

use super::network_of;
use crate::{
    clock,
    context::Context,
    model::{Attempt, Desired, Node},
    ssh_ca::{Certificate, RENEW_IN, SshCaError, public_key},
    store::{HostKeyRow, Result},
};

/// More kinds of host keys than there are.
const MOST_HOST_KEYS: usize = 16;
/// More accounts than a node has of haasd.
const MOST_USERS: usize = 256;

/// What a node's ssh trusts.
pub(super) fn plan(context: &Context, desired: &Desired) -> SshPlan {
    SshPlan {
        host_ca: context.ssh_ca.host_ca().to_owned(),
        user_ca: context.ssh_ca.user_ca().to_owned(),
        set: set_of(desired),
    }
}

/// The nodes whose users go from one to the other: those of an overlay or, in RAM, all that one
/// user's requests have brought up. None in a rescue, where nothing of the overlay is in use.
fn set_of(desired: &Desired) -> Option<String> {
    let wanted = &desired.wanted;
    match (&wanted.overlay_id, wanted.rescue) {
        (_, true) => None,
        (Some(id), false) => Some(format!("overlay-{id}")),
        (None, false) => Some(format!("ram-{}", wanted.actor_id)),
    }
}

/// Notes the host keys of an attempt's node, and makes the certificates that its agent asks for.
pub async fn certify(context: &Context, attempt: &str, keys: &SshKeys) -> Result<SshCertificates> {
    let mut made = SshCertificates { renew_in_s: RENEW_IN, ..SshCertificates::default() };
    let mut tx = context.store.read().await?;
    let Some(attempt) = tx.attempt(attempt).await? else { return Ok(made) };
    let (Some(node), Some(desired)) = (
        tx.node_by_id(&attempt.node_id).await?,
        tx.desired(&attempt.node_id, attempt.generation).await?,
    ) else {
        return Ok(made);
    };
    drop(tx);
    let names = names(context, &node);
    let id = format!("node {}, boot {}", node.name, attempt.id);
    let now = clock::wall();
    let mut rows = Vec::new();
    for asked in keys.host.iter().take(MOST_HOST_KEYS) {
        let key = public_key(&asked.key).and_then(|key| {
            let certificate =
                asked.certify.then(|| context.ssh_ca.certify_host(&key, &names, &id, now));
            Ok((key.to_openssh()?, certificate.transpose()?))
        });
        let Some((key, certificate)) = told(&attempt, key) else {
            made.host.push(None);
            continue;
        };
        rows.push(HostKeyRow {
            key: key.trim_end().to_owned(),
            names: names.clone(),
            certified_until: certificate.as_ref().map(|c| c.until),
        });
        made.host.push(certificate.map(|c: Certificate| c.text));
    }
    for asked in keys.users.iter().take(MOST_USERS) {
        let certificate = set_of(&desired).map(|set| {
            let key = public_key(&asked.key)?;
            context.ssh_ca.certify_user(
                &key,
                &set,
                &asked.login,
                &format!("{id}, {}", asked.login),
                now,
            )
        });
        let certificate = certificate.and_then(|made| told(&attempt, made));
        made.users.push(certificate.map(|c| c.text));
    }
    let mut tx = context.store.write().await?;
    tx.set_host_keys(&attempt.id, &rows).await?;
    tx.commit().await?;
    info!(node = %node.name, boot = %attempt.id, host_keys = rows.len(), "ssh certificates made");
    Ok(made)
}

/// The names that the node has in /etc/hosts of every node, and its address.
fn names(context: &Context, node: &Node) -> Vec<String> {
    let mut names = vec![node.name.to_string()];
    if let Some(domain) = network_of(context, node).and_then(|network| network.domain.as_ref()) {
        names.push(format!("{}.{domain}", node.name));
    }
    names.extend(node.address.map(|address| address.to_string()));
    names
}

/// What was made, or a line in the log why not: the node goes on without it.
fn told<T>(attempt: &Attempt, made: std::result::Result<T, SshCaError>) -> Option<T> {
    made.inspect_err(|error| {
        warn!(boot = %attempt.id, error = error as &dyn std::error::Error, "no ssh certificate");
    })
    .ok()
}
