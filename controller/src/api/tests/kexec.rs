//! `switch --fast`: for whom and from what it is, and the way of one node through it, with its agents on
//! real WebSockets.

use haas_api::{
    agent::{BootStage, HelloAuth, Kexec, NextKernel, ShutdownHow, ToAgent},
    user::Role,
};
use serde_json::{Value, json};

use super::channel::Served;
use crate::{
    boots::Targets,
    inventory::{NodeSpec, PowerSpec},
    lifecycle::{Action, KEXEC_LOST, KEXEC_NOT_DONE, Step},
    model::{Attempt, AttemptState, Cause, Power, SECOND},
    netboot::{
        boot_target::{BootTargets, DhcpKind, DhcpSeen, DhcpVerdict},
        firmware::Client,
    },
    reconcile::{self, Loaded, step_at},
    testing::{Bench, spec},
};

fn able() -> Kexec {
    Kexec { machine: "x86_64".into(), memory_mib: 8_000, obstacle: None }
}

/// Node 1 runs this for whom it says, and its agent is heard and can.
async fn runs(bench: &Bench, token: &str, body: Value) -> Attempt {
    let answer = bench.call(token, "POST", "/v1/switch", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let context = &bench.context;
    let node = bench.node(1).await;
    let last = context.store.read().await.unwrap().last_attempt(&node.id).await.unwrap();
    let boot =
        reconcile::open_attempt(context, &node, last.as_ref(), Cause::Desired).await.unwrap();
    let boot = bench.advance(&boot, BootStage::Ready).await;
    let mut tx = context.store.write().await.unwrap();
    tx.agent_spoke(&node.id, &boot.id, context.clock.now()).await.unwrap();
    tx.set_can_kexec(&boot.id, Some(&able())).await.unwrap();
    for operation in tx.running_operations().await.unwrap() {
        let state = haas_api::operation::OperationState::Succeeded;
        tx.end_operation(&operation.id, state, 1).await.unwrap();
    }
    tx.commit().await.unwrap();
    boot
}

async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.add_nodes([1]).await;
    bench.add_image("a").await;
    bench.add_image("b").await;
    for overlay in ["dev", "other"] {
        bench.add_overlay("alice", overlay).await;
    }
    bench.add_tenants().await;
    bench.add_user("bob", Role::User).await;
    bench.add_overlay("bob", "dev").await;
    bench
}

/// What a dry run says of node 1: the action, and why it is not by kexec.
async fn planned(bench: &Bench, mut body: Value) -> (String, String) {
    body["nodeset"] = "n01".into();
    body["fast"] = true.into();
    body["dry_run"] = true.into();
    let answer = bench.post("/v1/switch", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let node = answer.json()["nodes"][0].clone();
    let notes = node["notes"].as_array().unwrap().iter().filter_map(Value::as_str);
    let why = notes.filter_map(|note| note.strip_prefix("not by kexec: ")).collect::<String>();
    (node["action"].as_str().unwrap().to_owned(), why)
}

#[tokio::test]
async fn the_plan_says_which_nodes_start_their_kernel_themselves_and_why_others_do_not() {
    let bench = bench().await;
    let hers = json!({ "image": "b", "overlay": "alice/other" });
    let (action, note) = planned(&bench, hers.clone()).await;
    assert_eq!((action.as_str(), note.as_str()), ("boot", "nothing of haas runs there"));

    let start = json!({ "nodeset": "n01", "image": "a", "overlay": "alice/dev" });
    let boot = runs(&bench, &bench.admin, start.clone()).await;
    let same = planned(&bench, json!({ "image": "a", "overlay": "alice/dev" })).await;
    assert_eq!(same.0, "nothing");
    for body in [hers.clone(), json!({ "image": "a", "reboot": true })] {
        let (action, note) = planned(&bench, body.clone()).await;
        assert_eq!((action.as_str(), note.as_str()), ("kexec", ""), "{body}");
    }
    for (body, why) in [
        (json!({ "image": "b", "overlay": "bob/dev" }), "somebody else"),
        (json!({ "image": "b", "project": "vision" }), "somebody else"),
        (json!({ "image": "a", "rescue": true }), "rescue"),
    ] {
        let (action, note) = planned(&bench, body.clone()).await;
        assert_eq!(action, "reboot", "{body}");
        assert!(note.contains(why), "{body}: {note}");
    }
    let obstacle = Some("its kernel is locked down".to_owned());
    for (said, why) in [
        (None, "earlier version"),
        (Some(Kexec { obstacle, ..able() }), "locked down"),
        (Some(Kexec { machine: "aarch64".into(), ..able() }), "it is aarch64"),
        (Some(Kexec { memory_mib: 100, ..able() }), "100 MiB"),
    ] {
        let mut tx = bench.context.store.write().await.unwrap();
        tx.set_can_kexec(&boot.id, said.as_ref()).await.unwrap();
        tx.commit().await.unwrap();
        let (action, note) = planned(&bench, hers.clone()).await;
        assert_eq!(action, "reboot");
        assert!(note.contains(why), "{note:?} does not say {why:?}");
    }
}

#[tokio::test]
async fn in_a_project_nobody_starts_a_kernel_for_another_ones_overlay() {
    let bench = bench().await;
    let hers =
        json!({ "nodeset": "n01", "image": "a", "overlay": "alice/dev", "project": "vision" });
    runs(&bench, &bench.admin, hers).await;
    let project = |overlay: &str| json!({ "image": "b", "overlay": overlay, "project": "vision" });
    assert_eq!(planned(&bench, project("alice/other")).await.0, "kexec");
    assert_eq!(planned(&bench, project("none")).await.0, "kexec");
    let (action, note) = planned(&bench, project("bob/dev")).await;
    assert_eq!(action, "reboot");
    assert!(note.contains("its overlay is somebody else's"), "{note}");
}

#[tokio::test]
async fn nodes_that_nobody_could_help_or_that_insist_on_signatures_are_booted_as_ever() {
    for (change, why) in [
        (NodeSpec { power: PowerSpec::Manual, ..spec(1) }, "no BMC"),
        (NodeSpec { secure_boot: true, ..spec(1) }, "signed programs"),
    ] {
        let bench = Bench::new().await;
        bench.add(&change).await;
        bench.add_image("a").await;
        bench.add_image("b").await;
        let start = json!({ "nodeset": "n01", "image": "a", "overlay": "none" });
        runs(&bench, &bench.admin, start).await;
        let (action, note) = planned(&bench, json!({ "image": "b" })).await;
        assert_eq!(action, "reboot");
        assert!(note.contains(why), "{note}");
    }
}

/// A node whose agent is connected, and whose switch to `b` is to be fast.
struct Fast {
    served: Served,
    runs: Attempt,
    credential: String,
}

impl Fast {
    async fn start() -> (Self, super::channel::Agent) {
        let served = Served::start().await;
        let bench = &served.bench;
        std::fs::write(&bench.context.config.agent_cpio, "an agent").unwrap();
        bench.add_image("b").await;
        bench.give_disks().await;
        let hello = served.hello_as(HelloAuth::Token(served.token.clone()), able()).await;
        let (mut agent, credential) = hello;
        let credential = credential.expect("a token is exchanged for it");
        agent.tell(1, json!({ "type": "ack" })).await;
        let runs = bench.advance(&served.attempt, BootStage::Ready).await;
        let body = json!({ "nodeset": "n01", "image": "b", "fast": true, "force": true });
        let answer = bench.post("/v1/switch", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        (Self { served, runs, credential }, agent)
    }

    fn bench(&self) -> &Bench {
        &self.served.bench
    }

    async fn step(&self) -> Step {
        let context = &self.bench().context;
        let node = self.bench().node(1).await;
        let mut tx = context.store.write().await.unwrap();
        tx.set_power(&node.id, Ok(Power::On), context.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        step_at(context, self.bench().node(1).await, context.clock.now()).await
    }

    /// What is due, which is not done.
    async fn decided(&self) -> Step {
        let context = &self.bench().context;
        let node = self.bench().node(1).await;
        let mut tx = context.store.read().await.unwrap();
        let loaded = Loaded::read(context, &mut tx, node).await.unwrap();
        loaded.decide(context, true, context.clock.now())
    }

    /// Steps until the agent has been told, and what it was told.
    async fn ordered(&self, agent: &mut super::channel::Agent) -> NextKernel {
        assert_eq!(self.step().await, Step::Do(Action::OpenBeside));
        assert_eq!(self.step().await, Step::Do(Action::Kexec));
        told(agent).await
    }

    async fn last(&self) -> Attempt {
        let mut tx = self.bench().context.store.read().await.unwrap();
        tx.last_attempt(&self.runs.node_id).await.unwrap().unwrap()
    }

    async fn attempt(&self, id: &str) -> Attempt {
        let mut tx = self.bench().context.store.read().await.unwrap();
        tx.attempt(id).await.unwrap().unwrap()
    }

    /// Whether the firmware of the node is offered a boot.
    async fn firmware_is_answered(&self) -> bool {
        let seen = DhcpSeen {
            network: "lab".into(),
            mac: self.bench().node(1).await.boot_mac,
            kind: DhcpKind::Discover,
            client: Client::Ipxe,
            vendor_class: None,
            bmc: None,
            guid: None,
            hostname: None,
            relay: None,
            requested: None,
            ciaddr: None,
            server: None,
        };
        let targets = Targets::new(self.bench().context.clone());
        matches!(targets.dhcp(seen).await, DhcpVerdict::Boot(..))
    }
}

async fn told(agent: &mut super::channel::Agent) -> NextKernel {
    loop {
        match agent.told().await.0 {
            ToAgent::Kexec(next) => return *next,
            ToAgent::Ack => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_fast_switch_takes_the_node_from_one_boot_to_the_next() {
    let (fast, mut agent) = Fast::start().await;
    let next = fast.ordered(&mut agent).await;
    let token = fast.bench().context.master_key.boot_token(&next.attempt).expose().clone();
    assert!(next.cmdline.contains(&format!("haas.token={token}")), "{}", next.cmdline);
    assert!(next.cmdline.contains("BOOTIF=01-52-54-00-00-00-01"), "{}", next.cmdline);
    assert!(next.kernel.url.ends_with(&format!("/boot/{token}/kernel")), "{}", next.kernel.url);
    assert_eq!(fast.last().await.id, fast.runs.id, "what runs is what runs");
    assert!(!fast.firmware_is_answered().await);

    agent.tell(2, json!({ "type": "goodbye", "reason": "kexec", "clean": true })).await;
    agent.acknowledged(2).await;
    assert_eq!(fast.step().await, Step::Do(Action::KexecBegun));
    let begun = fast.last().await;
    assert_eq!((begun.id.as_str(), begun.stage), (next.attempt.as_str(), BootStage::Kernel));
    assert_eq!((begun.cause, begun.by_itself), (Cause::Kexec, false));
    assert_eq!(fast.attempt(&fast.runs.id).await.state, AttemptState::Ended);
    assert_eq!(fast.bench().node(1).await.ending, None);

    let (mut new, _) = fast.served.hello_as(HelloAuth::Token(token), able()).await;
    new.tell(1, json!({ "type": "ack" })).await;
    new.acknowledged(1).await;
    let boots = fast.last().await;
    assert_eq!((boots.stage, boots.token_spent), (BootStage::Agent, true));
    assert_eq!(fast.bench().node(1).await.goodbye, None);
}

#[tokio::test]
async fn the_next_kernels_agent_may_come_before_the_last_word_of_the_one_before() {
    let (fast, mut agent) = Fast::start().await;
    let next = fast.ordered(&mut agent).await;
    let token = fast.bench().context.master_key.boot_token(&next.attempt).expose().clone();
    let (_next, _) = fast.served.hello_as(HelloAuth::Token(token), able()).await;
    assert_eq!(fast.last().await.id, next.attempt);
    assert_eq!(fast.attempt(&fast.runs.id).await.state, AttemptState::Ended);
    // Whoever still has the old channel is heard no more.
    agent.tell(2, json!({ "type": "goodbye", "reason": "poweroff", "clean": true })).await;
    agent.is_gone().await;
    assert_eq!(fast.bench().node(1).await.goodbye, None);
}

#[tokio::test]
async fn an_agent_that_calls_again_is_told_again_the_same() {
    let (fast, mut agent) = Fast::start().await;
    let next = fast.ordered(&mut agent).await;
    drop(agent);
    let credential = HelloAuth::Credential(fast.credential.clone());
    let (mut again, _) = fast.served.hello_as(credential, able()).await;
    assert_eq!(told(&mut again).await, next);
}

#[tokio::test]
async fn what_its_kernel_refuses_to_load_is_told_and_the_node_ends_as_ever() {
    let (fast, mut agent) = Fast::start().await;
    let next = fast.ordered(&mut agent).await;
    let failed =
        |attempt: &str| json!({ "type": "kexec_failed", "attempt": attempt, "reason": "EPERM" });
    agent.tell(2, failed(&fast.runs.id)).await;
    agent.acknowledged(2).await;
    assert_eq!(fast.attempt(&next.attempt).await.failure, None, "it is of no other boot's kernel");
    agent.tell(3, failed(&next.attempt)).await;
    agent.acknowledged(3).await;
    assert!(matches!(fast.step().await, Step::Do(Action::GiveKexecUp(_))));
    let given_up = fast.attempt(&next.attempt).await;
    let failure = given_up.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.cause.as_str()), (KEXEC_NOT_DONE, "EPERM"));
    assert_eq!(fast.last().await.id, fast.runs.id);
    let ends = fast.step().await;
    assert_eq!(ends, Step::Do(Action::EndByAgent(ShutdownHow::Poweroff)));
    let token = fast.bench().context.master_key.boot_token(&next.attempt).expose().clone();
    let refused = fast.served.refusal(HelloAuth::Token(token)).await;
    assert!(refused.contains("over"), "{refused}");
}

#[tokio::test]
async fn a_node_that_comes_through_its_firmware_instead_gets_nothing_until_its_bmc_has_begun_it() {
    let (fast, mut agent) = Fast::start().await;
    let next = fast.ordered(&mut agent).await;
    agent.tell(2, json!({ "type": "goodbye", "reason": "kexec", "clean": true })).await;
    agent.acknowledged(2).await;
    assert_eq!(fast.step().await, Step::Do(Action::KexecBegun));
    assert!(!fast.firmware_is_answered().await);
    let lost = fast.attempt(&next.attempt).await;
    assert_eq!(lost.state, AttemptState::Failed);
    assert_eq!(lost.failure.unwrap().code, KEXEC_LOST);
    assert!(matches!(fast.decided().await, Step::Do(Action::EndHard { .. })));
}

#[tokio::test]
async fn a_haasd_that_is_restarted_meanwhile_knows_where_it_was() {
    let (fast, mut agent) = Fast::start().await;
    assert_eq!(fast.step().await, Step::Do(Action::OpenBeside));
    // It dies before and after it has told the agent.
    assert_eq!(fast.step().await, Step::Do(Action::Kexec));
    let next = told(&mut agent).await;
    let context = &fast.bench().context;
    let later = context.clock.now() + SECOND;
    let waits = step_at(context, fast.bench().node(1).await, later).await;
    assert!(matches!(waits, Step::Wait { .. }), "it is not told twice: {waits:?}");
    let mut tx = context.store.read().await.unwrap();
    assert_eq!(tx.next_attempt(&fast.runs.node_id).await.unwrap().unwrap().id, next.attempt);
}
