//! The site's program that is asked before what a node runs for somebody is ended, since a scheduler of
//! the site's may have jobs there.
//!
//! It is called as `COMMAND... NODE TENANT WHY`. Exit code 0 lets haasd go on, 75 says "not yet", and
//! any other that the node is to run on. When, and how often, is decided in `lifecycle/drain_hook.rs`.

use serde_json::json;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{
    Loaded,
    act::event,
    hook::{self, HookFault},
};
use crate::{
    context::Context,
    model::NewDesired,
    program::ProgramFault,
    requests,
    store::{Result, StoreError},
};

/// "Not yet": `EX_TEMPFAIL` of sysexits.h.
const NOT_YET: i32 = 75;

/// Calls at a time. They are not those of the network hook: nodes that wait for jobs to end hold up no
/// node that is to start.
static TURNS: Semaphore = Semaphore::const_new(16);

/// Asks the hook, and notes what it says. That it is asked is noted first, so that its time is counted
/// from the first call whatever becomes of haasd.
pub(super) async fn ask(context: &Context, loaded: &Loaded) -> Result<()> {
    let (Some(drain_hook), Some(desired), Some(serves)) =
        (&context.config.drain_hook, &loaded.desired, &loaded.serves)
    else {
        return Ok(());
    };
    let (node, generation) = (&loaded.node, desired.generation);
    let turn = TURNS.acquire().await.expect("it is never closed");
    let mut tx = context.store.write().await?;
    // Its turn may have been long in coming.
    if tx.node_by_id(&node.id).await?.is_none_or(|now| now.generation != generation) {
        return Ok(());
    }
    let before = tx.hook_call(&node.id).await?.filter(|call| call.generation == generation);
    tx.hook_asked(&node.id, generation, context.clock.now()).await?;
    let tenant = hook::name_of(&mut tx, &serves.wanted.tenant).await?;
    let why = why(&desired.wanted);
    if before.is_none() {
        let data = json!({ "state": "asked", "for": tenant, "why": why });
        event(&mut tx, node, "drain-hook", data).await?;
    }
    tx.commit().await?;
    context.told();

    let arguments = [node.name.as_str(), &tenant, why];
    let called =
        hook::call("drain_hook", &drain_hook.command, drain_hook.timeout_s, &arguments).await;
    drop(turn);
    let (goes_on, said) = match called {
        Ok(()) => (true, String::new()),
        Err(fault) => match not_yet(&fault) {
            Some(said) => (false, said),
            None => return keep_running(context, loaded, &fault.to_string()).await,
        },
    };
    let is_news = goes_on || before.is_none_or(|before| before.said != said);
    let mut tx = context.store.write().await?;
    tx.hook_answered(&node.id, generation, goes_on, &said).await?;
    if is_news {
        let state = if goes_on { "goes-on" } else { "not-yet" };
        event(&mut tx, node, "drain-hook", json!({ "state": state, "said": said })).await?;
        info!(node = %node.name, tenant, why, goes_on, said, "the drain hook has answered");
    }
    tx.commit().await?;
    context.told();
    Ok(())
}

/// What the program said with its "not yet", if that is what it meant.
fn not_yet(fault: &HookFault) -> Option<String> {
    match fault {
        HookFault::Program { fault: ProgramFault::Failed { status, stderr }, .. }
            if status.code() == Some(NOT_YET) =>
        {
            let said = if stderr.is_empty() { "it said nothing more" } else { stderr };
            Some(said.to_owned())
        }
        HookFault::Program { .. } | HookFault::TimedOut { .. } => None,
    }
}

/// Gives up what is wanted of a node: what runs there was not touched, and is wanted again.
pub(super) async fn keep_running(context: &Context, loaded: &Loaded, reason: &str) -> Result<()> {
    let (node, Some(attempt), Some(serves)) = (&loaded.node, &loaded.attempt, &loaded.serves)
    else {
        return Ok(());
    };
    let mut tx = context.store.write().await?;
    event(&mut tx, node, "drain-hook", json!({ "state": "failed", "said": reason })).await?;
    match requests::keep_running(&mut tx, node, (&attempt.id, serves), reason).await {
        Ok(true) => {}
        // Somebody wants something else by now.
        Ok(false) | Err(StoreError::Conflict(_)) => return Ok(()),
        Err(error) => return Err(error),
    }
    tx.commit().await?;
    warn!(node = %node.name, reason, "the node runs on: its drain hook did not let it be ended");
    context.changed();
    Ok(())
}

/// What is about to be done, in a word for the program.
fn why(wanted: &NewDesired) -> &str {
    match wanted.cause.as_str() {
        "power" if !wanted.power_on => "power-off",
        "power" => "power-cycle",
        cause => cause,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use haas_api::{
        agent::{BootStage, ShutdownHow},
        operation::{NodeProgress, OperationState},
        user::Role,
    };
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use crate::{
        config::DrainHook,
        lifecycle::{Action, Step},
        model::{Cause, Micros, Operation, Power, SECOND},
        reconcile::{self, open_attempt, step_at},
        testing::Bench,
    };

    /// A node that runs something for alice, and a hook that keeps a log.
    struct Site {
        bench: Bench,
        folder: TempDir,
        operation: String,
    }

    impl Site {
        async fn new(limits: impl FnOnce(&mut DrainHook)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("drain").display().to_string();
            let command = vec![program, "--site=a".to_owned()];
            let mut hook = DrainHook { command, timeout_s: 60, again_s: 30, limit_s: 3_600 };
            limits(&mut hook);
            let bench = Bench::with(|config| config.drain_hook = Some(hook)).await;
            bench.add_nodes([1]).await;
            bench.add_image("a").await;
            bench.add_image("b").await;
            bench.add_user("bob", Role::User).await;
            bench.add_overlay("alice", "dev").await;
            let site = Self { bench, folder, operation: String::new() };
            site.says("exit 1");
            site.asks("/v1/switch", json!({ "image": "a", "overlay": "alice/dev" })).await;
            let context = &site.bench.context;
            let node = site.bench.node(1).await;
            let boot = open_attempt(context, &node, None, Cause::Desired).await.unwrap();
            site.bench.advance(&boot, BootStage::Ready).await;
            let mut tx = context.store.write().await.unwrap();
            tx.agent_spoke(&node.id, &boot.id, context.clock.now()).await.unwrap();
            for operation in tx.running_operations().await.unwrap() {
                tx.end_operation(&operation.id, OperationState::Succeeded, 1).await.unwrap();
            }
            tx.commit().await.unwrap();
            site
        }

        fn log(&self) -> PathBuf {
            self.folder.path().join("log")
        }

        /// From now on the hook does this, after a line in its log.
        fn says(&self, text: &str) {
            let path = self.folder.path().join("drain");
            let log = self.log();
            let script = format!("#!/bin/sh\necho \"$*\" >> {}\n{text}\n", log.display());
            let new = path.with_extension("new");
            fs::write(&new, script).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o700)).unwrap();
            fs::rename(&new, &path).unwrap();
        }

        fn called(&self) -> String {
            fs::read_to_string(self.log()).unwrap_or_default()
        }

        async fn asks(&self, path: &str, mut body: Value) -> String {
            body["nodeset"] = "n01".into();
            let answer = self.bench.post(path, body).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            answer.json()["id"].as_str().unwrap().to_owned()
        }

        async fn wants_b(&mut self) {
            let body = json!({ "image": "b", "overlay": "alice/dev" });
            self.operation = self.asks("/v1/switch", body).await;
        }

        /// Its BMC says so at this time.
        async fn is_on(&self, at: Micros) {
            let node = self.bench.node(1).await;
            let mut tx = self.bench.context.store.write().await.unwrap();
            tx.set_power(&node.id, Ok(Power::On), at).await.unwrap();
            tx.commit().await.unwrap();
        }

        /// Decides and does one step, so many seconds from now.
        async fn step(&self, later_s: i64) -> Step {
            let context = &self.bench.context;
            let at = context.clock.now() + later_s * SECOND;
            self.is_on(at).await;
            step_at(context, self.bench.node(1).await, at).await
        }

        /// What the operation and the node came to, once the loop has looked.
        async fn outcome(&self) -> Operation {
            let context = &self.bench.context;
            self.is_on(context.clock.now()).await;
            for _ in 0..2 {
                reconcile::update_operations(context).await;
            }
            let mut tx = context.store.read().await.unwrap();
            tx.operation(&self.operation).await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn what_it_lets_go_is_ended_and_it_is_asked_once() {
        let mut site = Site::new(|_| ()).await;
        site.says("exit 0");
        site.wants_b().await;
        assert_eq!(site.step(0).await, Step::Do(Action::AskHook));
        let end = Step::Do(Action::EndByAgent(ShutdownHow::Poweroff));
        assert_eq!(site.step(0).await, end);
        assert_eq!(site.called(), "--site=a n01 alice switch\n");
    }

    #[tokio::test]
    async fn it_is_told_for_whom_and_why() {
        for (path, body, why) in [
            ("/v1/power", json!({ "action": "off" }), "power-off"),
            ("/v1/power", json!({ "action": "cycle" }), "power-cycle"),
            ("/v1/switch", json!({ "reboot": true }), "switch"),
        ] {
            let site = Site::new(|_| ()).await;
            site.says("exit 0");
            site.asks(path, body).await;
            assert_eq!(site.step(0).await, Step::Do(Action::AskHook), "{why}");
            assert_eq!(site.called(), format!("--site=a n01 alice {why}\n"));
        }
    }

    #[tokio::test]
    async fn one_that_fails_keeps_the_node_as_it_was_also_where_force_was_said() {
        let mut site = Site::new(|_| ()).await;
        site.says("echo 'job 17 is sacred' >&2; exit 3");
        let body = json!({ "image": "b", "overlay": "alice/dev", "force": true });
        site.operation = site.asks("/v1/switch", body).await;
        assert_eq!(site.step(0).await, Step::Do(Action::AskHook));
        let node = site.bench.node(1).await;
        assert_eq!((node.generation, node.ending, node.fault), (3, None, None));
        let operation = site.outcome().await;
        assert_eq!(operation.state, OperationState::Failed, "{operation:?}");
        assert_eq!(operation.nodes[0].state, NodeProgress::RolledBack);
        let failure = operation.nodes[0].failure.as_deref().unwrap();
        assert!(
            failure.contains("drain_hook") && failure.contains("job 17 is sacred"),
            "{failure}"
        );
        let mut tx = site.bench.context.store.read().await.unwrap();
        let wanted = tx.desired(&node.id, 3).await.unwrap().unwrap().wanted;
        assert_eq!(wanted.image.unwrap().name, "a:latest");
    }

    #[tokio::test]
    async fn one_that_says_not_yet_is_asked_again_and_not_for_ever() {
        let mut site = Site::new(|_| ()).await;
        site.says("echo '2 jobs' >&2; exit 75");
        site.wants_b().await;
        assert_eq!(site.step(0).await, Step::Do(Action::AskHook));
        match site.step(10).await {
            Step::Wait { reason, .. } => {
                assert!(reason.ends_with("\"not yet\": 2 jobs"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(site.step(31).await, Step::Do(Action::AskHook));
        assert_eq!(site.called().lines().count(), 2);
        let reason = "drain_hook said \"not yet\" for 3600 s: 2 jobs".to_owned();
        let kept = site.step(3_601).await;
        assert_eq!(kept, Step::Do(Action::KeepRunning { reason: reason.clone() }));
        let operation = site.outcome().await;
        assert_eq!(operation.state, OperationState::Failed, "{operation:?}");
        assert_eq!(operation.nodes[0].failure.as_ref(), Some(&reason));
        assert_eq!(site.bench.node(1).await.ending, None, "nothing was powered");
    }

    #[tokio::test]
    async fn an_operation_that_is_aborted_while_the_hook_puts_it_off_leaves_the_node_as_it_was() {
        let mut site = Site::new(|_| ()).await;
        site.says("exit 75");
        site.wants_b().await;
        assert_eq!(site.step(0).await, Step::Do(Action::AskHook));
        reconcile::update_operations(&site.bench.context).await;
        let path = format!("/v1/operations/{}/abort", site.operation);
        let answer = site.bench.post(&path, Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(site.step(0).await, Step::Do(Action::Adopt));
        assert_eq!(site.outcome().await.nodes[0].state, NodeProgress::RolledBack);
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed_and_the_node_runs_on() {
        let mut site = Site::new(|hook| hook.timeout_s = 1).await;
        site.says("sleep 1000");
        site.wants_b().await;
        assert_eq!(site.step(0).await, Step::Do(Action::AskHook));
        let operation = site.outcome().await;
        let failure = operation.nodes[0].failure.as_deref().unwrap();
        assert!(failure.contains("was killed after 1 s"), "{failure}");
    }

    #[tokio::test]
    async fn the_plan_says_where_it_is_asked() {
        let site = Site::new(|_| ()).await;
        let body = json!({ "nodeset": "n01", "image": "b", "dry_run": true });
        let plan = site.bench.post("/v1/switch", body).await;
        assert_eq!(plan.json()["nodes"][0]["notes"], json!(["asks the drain hook first"]));
    }
}
