//! The site's program that puts a node into its next tenant's network, before it is switched on.
//!
//! It is called as `COMMAND... NODE TENANT`, with the names of the node and of the project or user. Exit
//! code 0 means that the node may start.

use std::time::Duration;

use tokio::{sync::Semaphore, time::timeout};
use tracing::info;

use super::{Loaded, act::event};
use crate::{
    context::Context,
    program::{self, ProgramFault},
    store::{Result as Stored, Tx},
};

/// Calls at a time: a switch of a whole rack must not start a program for each node at once.
static TURNS: Semaphore = Semaphore::const_new(16);

/// Why a hook has not done what it is for.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookFault {
    #[error("{hook} {program}: {fault}")]
    Program { hook: &'static str, program: String, fault: ProgramFault },
    #[error("{hook} {program} was killed after {limit_s} s without an end")]
    TimedOut { hook: &'static str, program: String, limit_s: u64 },
}

/// Sets the network of a node that is off and shall run for somebody, unless it is set for him.
pub(super) async fn set_network(
    context: &Context,
    loaded: &Loaded,
) -> Stored<Result<(), HookFault>> {
    let (Some(hook), Some(serves)) = (&context.config.network_hook, &loaded.serves) else {
        return Ok(Ok(()));
    };
    let (node, tenant) = (&loaded.node, &serves.wanted.tenant);
    let mut tx = context.store.read().await?;
    if tx.tenancy(&node.id).await?.network_of.as_ref() == Some(tenant) {
        return Ok(Ok(()));
    }
    let name = name_of(&mut tx, tenant).await?;
    drop(tx);
    let turn = TURNS.acquire().await.expect("it is never closed");
    let arguments = [node.name.as_str(), &name];
    if let Err(fault) = call("network_hook", &hook.command, hook.timeout_s, &arguments).await {
        return Ok(Err(fault));
    }
    drop(turn);
    let mut tx = context.store.write().await?;
    tx.set_network_of(&node.id, tenant).await?;
    event(&mut tx, node, "network-set", serde_json::json!({ "for": name })).await?;
    tx.commit().await?;
    info!(node = %node.name, tenant = name, "the network hook has set the node's network");
    context.told();
    Ok(Ok(()))
}

/// How a hook is told of a user or project.
pub(super) async fn name_of(tx: &mut Tx, tenant: &str) -> Stored<String> {
    let account = tx.user_by_id(tenant).await?;
    Ok(account.map_or_else(|| tenant.to_owned(), |account| account.name.to_string()))
}

/// Calls the program of a hook to its end, or until its time is over.
pub(super) async fn call(
    hook: &'static str,
    command: &[String],
    limit_s: u64,
    arguments: &[&str],
) -> Result<(), HookFault> {
    let (program, first) = command.split_first().expect("the configuration is checked");
    let arguments = first.iter().map(String::as_str).chain(arguments.iter().copied());
    let program = program.clone();
    match timeout(Duration::from_secs(limit_s), program::output(&program, arguments)).await {
        Err(_) => Err(HookFault::TimedOut { hook, program, limit_s }),
        Ok(Err(fault)) => Err(HookFault::Program { hook, program, fault }),
        Ok(Ok(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use serde_json::json;

    use super::*;
    use crate::{config::NetworkHook, model::Cause, reconcile::open_attempt, testing::Bench};

    fn script(folder: &Path, text: &str) -> String {
        let path = folder.join("vlan");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path.display().to_string()
    }

    /// The node wants to start for the owner of this overlay.
    async fn for_owner(bench: &Bench, overlay: &str) -> Loaded {
        let body = json!({ "nodeset": "n01", "image": "a", "overlay": overlay, "force": true });
        let answer = bench.post("/v1/switch", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let node = bench.node(1).await;
        let context = &bench.context;
        let last = context.store.read().await.unwrap().last_attempt(&node.id).await.unwrap();
        open_attempt(context, &node, last.as_ref(), Cause::Desired).await.unwrap();
        let mut tx = context.store.read().await.unwrap();
        Loaded::read(context, &mut tx, node).await.unwrap()
    }

    #[tokio::test]
    async fn it_is_called_once_for_each_tenant_and_its_exit_code_decides() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let good = format!("echo \"$*\" >> {}", log.display());
        let command = vec![script(folder.path(), &good), "--site=a".to_owned()];
        let bench = Bench::with_hook(NetworkHook { command, timeout_s: 60 }).await;
        bench.add_nodes([1]).await;
        bench.add_image("a").await;
        bench.add_user("bob", haas_api::user::Role::User).await;
        for owner in ["alice", "bob"] {
            bench.add_overlay(owner, "dev").await;
        }
        let called = || fs::read_to_string(&log).unwrap_or_default();
        let loaded = for_owner(&bench, "alice/dev").await;
        for _ in 0..2 {
            set_network(&bench.context, &loaded).await.unwrap().unwrap();
        }
        assert_eq!(called(), "--site=a n01 alice\n");
        script(folder.path(), "echo no such VLAN >&2; exit 3");
        let loaded = for_owner(&bench, "bob/dev").await;
        let fault = set_network(&bench.context, &loaded).await.unwrap().unwrap_err().to_string();
        assert!(fault.contains("exit status: 3") && fault.contains("no such VLAN"), "{fault}");
        script(folder.path(), &good);
        set_network(&bench.context, &loaded).await.unwrap().unwrap();
        let loaded = for_owner(&bench, "alice/dev").await;
        set_network(&bench.context, &loaded).await.unwrap().unwrap();
        assert_eq!(called(), "--site=a n01 alice\n--site=a n01 bob\n--site=a n01 alice\n");
        assert!(bench.event_kinds().await.contains(&"network-set".to_owned()));
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let command = vec![script(folder.path(), "sleep 1000")];
        let bench = Bench::with_hook(NetworkHook { command, timeout_s: 1 }).await;
        bench.add_nodes([1]).await;
        bench.add_image("a").await;
        bench.add_overlay("alice", "dev").await;
        let loaded = for_owner(&bench, "alice/dev").await;
        let fault = set_network(&bench.context, &loaded).await.unwrap().unwrap_err().to_string();
        assert!(fault.contains("was killed after 1 s"), "{fault}");
    }
}
