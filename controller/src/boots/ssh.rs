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

#[cfg(test)]
mod tests {
    use haas_api::agent::{SshHostKey, SshUserKey};
    use serde_json::{Value, json};
    use ssh_key::Certificate;

    use super::*;
    use crate::{model::Cause, reconcile, testing::Bench};

    const KEY: &str = "ssh-ed25519 \
                       AAAAC3NzaC1lZDI1NTE5AAAAIJmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmY";

    /// n01 boots with alice's overlay, or in RAM.
    async fn booting(overlay: &str, rescue: bool) -> (Bench, Attempt, String) {
        let bench = Bench::new().await;
        bench.add_nodes([1]).await;
        bench.add_image("a").await;
        let id = bench.add_overlay("alice", "dev").await;
        let body = json!({ "nodeset": "n01", "image": "a", "overlay": overlay });
        assert_eq!(bench.post("/v1/switch", body).await.status, 202);
        let node = bench.node(1).await;
        if rescue {
            let mut tx = bench.context.store.write().await.unwrap();
            let mut wanted = tx.desired(&node.id, 1).await.unwrap().unwrap().wanted;
            wanted.rescue = true;
            tx.add_desired(&node, &wanted, 1).await.unwrap();
            tx.commit().await.unwrap();
        }
        let node = bench.node(1).await;
        let attempt = reconcile::open_attempt(&bench.context, &node, None, Cause::Desired).await;
        (bench, attempt.unwrap(), id)
    }

    fn keys(host: &[(&str, bool)], users: &[(&str, &str)]) -> SshKeys {
        let host = host
            .iter()
            .map(|(key, certify)| SshHostKey { key: (*key).to_owned(), certify: *certify });
        let users = users.iter().map(|(login, key)| SshUserKey {
            login: login.parse().unwrap(),
            key: (*key).to_owned(),
        });
        SshKeys { host: host.collect(), users: users.collect() }
    }

    fn principals(certificate: &Option<String>) -> Vec<String> {
        let text = certificate.as_ref().expect("it was signed");
        Certificate::from_openssh(text).unwrap().valid_principals().to_vec()
    }

    #[tokio::test]
    async fn host_keys_are_signed_for_the_names_of_the_inventory_and_shown_while_the_node_runs() {
        let (bench, attempt, _) = booting("none", false).await;
        let asked = keys(&[(KEY, true), ("rubbish", true), (KEY, false)], &[]);
        let made = certify(&bench.context, &attempt.id, &asked).await.unwrap();
        assert_eq!(principals(&made.host[0]), ["n01", "127.77.0.1"]);
        assert_eq!(made.host[1..], [None, None], "what is no key, and a server that shows none");
        let show = async || {
            let node = bench.call(&bench.admin, "GET", "/v1/nodes/n01", Value::Null).await.json();
            node["observed"]["host_keys"].clone()
        };
        let shown = show().await;
        assert_eq!(
            (&shown[0]["key"], &shown[0]["names"]),
            (&json!(KEY), &json!(["n01", "127.77.0.1"]))
        );
        assert!(shown[0]["certified_until"].is_string(), "{shown}");
        assert_eq!((&shown[1]["key"], &shown[1]["certified_until"]), (&json!(KEY), &Value::Null));
        assert_eq!(shown.as_array().unwrap().len(), 2);
        let mut tx = bench.context.store.write().await.unwrap();
        tx.end_attempts(&attempt.node_id, bench.context.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(show().await, Value::Null, "what does not run any more is not to be trusted");
    }

    #[tokio::test]
    async fn users_go_from_node_to_node_of_their_overlay_and_of_no_other() {
        let (bench, attempt, overlay) = booting("alice/dev", false).await;
        let asked = keys(&[], &[("alice", KEY), ("root", KEY), ("bob", "rubbish")]);
        let made = certify(&bench.context, &attempt.id, &asked).await.unwrap();
        assert_eq!(principals(&made.users[0]), [format!("overlay-{overlay}/alice")]);
        assert_eq!(principals(&made.users[1]), [format!("overlay-{overlay}/root")]);
        assert_eq!(made.users[2], None);
        let plan = super::super::plan(&bench.context, &attempt).await.unwrap().unwrap();
        let set = plan.ssh.unwrap().set;
        assert_eq!(set, Some(format!("overlay-{overlay}")), "what the node lets in is the same");
    }

    #[tokio::test]
    async fn in_ram_a_set_is_the_nodes_of_who_asked_and_a_rescue_is_in_none() {
        let (bench, attempt, _) = booting("none", false).await;
        let asked = keys(&[], &[("admin", KEY)]);
        let made = certify(&bench.context, &attempt.id, &asked).await.unwrap();
        let mut tx = bench.context.store.read().await.unwrap();
        let admin = tx.user("admin").await.unwrap().unwrap().id;
        assert_eq!(principals(&made.users[0]), [format!("ram-{admin}/admin")]);
        drop(tx);
        let (bench, attempt, _) = booting("alice/dev", true).await;
        let made = certify(&bench.context, &attempt.id, &asked).await.unwrap();
        assert_eq!(made.users, [None]);
    }

    #[tokio::test]
    async fn whoever_speaks_for_the_node_cannot_have_many_keys_kept() {
        let (bench, attempt, _) = booting("none", false).await;
        let many = vec![(KEY, false); 1_000];
        certify(&bench.context, &attempt.id, &keys(&many, &[])).await.unwrap();
        let mut tx = bench.context.store.read().await.unwrap();
        assert_eq!(tx.host_keys(&attempt.id).await.unwrap().len(), MOST_HOST_KEYS);
    }

    #[tokio::test]
    async fn everybody_with_a_token_gets_the_authority() {
        let bench = Bench::new().await;
        let shown = bench.call(&bench.alice, "GET", "/v1/ssh-ca", Value::Null).await;
        assert_eq!(shown.json(), json!({ "host_ca": bench.context.ssh_ca.host_ca() }));
    }
}
