//! What is recorded, when it is compared, and what comes of a difference.

use std::time::Instant;

use haas_api::{agent::BootPlan, baseline::listed};
use serde_json::Value;
use sim::bmc::{Farm, Faults, PowerState, Setup, User};

use super::*;
use crate::{
    boots,
    lifecycle::{Standing, Step},
    model::Cause,
    reconcile::{self, open_attempt},
    testing::{Answered, Bench},
};

/// A node behind a BMC of ours, and alice and bob who want it.
struct Rig {
    bench: Bench,
    farm: Farm,
}

impl Rig {
    async fn new() -> Self {
        Self::on(Bench::new().await).await
    }

    async fn on(bench: Bench) -> Self {
        let farm = Farm::start(1, &Setup::new("admin", "s3cret")).unwrap();
        bench.add_node_with_bmc(1, farm.addresses()[0]).await;
        bench.add_image("a").await;
        bench.add_user("bob", haas_api::user::Role::User).await;
        for owner in ["alice", "bob", "admin"] {
            bench.add_overlay(owner, "dev").await;
        }
        Self { bench, farm }
    }

    /// Opens a boot for the owner of this overlay; the node is off.
    async fn wanted_by(&self, owner: &str) -> Attempt {
        let overlay = format!("{owner}/dev");
        let body = json!({ "nodeset": "n01", "image": "a", "overlay": overlay, "force": true });
        let answer = self.bench.post("/v1/switch", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        self.farm.bmc(0).set_power(PowerState::Off, Instant::now());
        let (context, node) = (&self.bench.context, self.bench.node(1).await);
        let last = context.store.read().await.unwrap().last_attempt(&node.id).await.unwrap();
        open_attempt(context, &node, last.as_ref(), Cause::Desired).await.unwrap()
    }

    async fn step(&self) -> Step {
        let context = &self.bench.context;
        reconcile::step_at(context, self.bench.node(1).await, context.clock.now()).await
    }

    fn is_on(&self) -> bool {
        self.farm.bmc(0).power(Instant::now()) == PowerState::On
    }

    async fn attempt(&self, attempt: &Attempt) -> Attempt {
        let mut tx = self.bench.context.store.read().await.unwrap();
        tx.attempt(&attempt.id).await.unwrap().unwrap()
    }

    async fn plan(&self, attempt: &Attempt) -> BootPlan {
        let attempt = self.attempt(attempt).await;
        boots::plan(&self.bench.context, &attempt).await.unwrap().unwrap()
    }

    async fn tell(&self, attempt: &Attempt, order: &str) -> bool {
        let named = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let facts = Facts::from([
            (api::Part::Firmware, named("mode", "UEFI")),
            (api::Part::EfiBoot, named("BootOrder", order)),
        ]);
        told(&self.bench.context, &attempt.id, listed(&facts)).await.unwrap()
    }

    /// A boot for this owner that comes through.
    async fn boots_for(&self, owner: &str) -> Attempt {
        let attempt = self.wanted_by(owner).await;
        self.step().await;
        assert!(self.is_on(), "{:?}", self.attempt(&attempt).await);
        assert!(self.tell(&attempt, "0000").await);
        attempt
    }

    fn add_mallory(&self) {
        let name = "mallory".to_owned();
        self.farm.bmc(0).add_user(User { name, password: "another".to_owned(), limit: 4 });
    }

    async fn post(&self, what: &str) -> Answered {
        let path = format!("/v1/nodes/baseline/{what}");
        self.bench.post(&path, json!({ "nodeset": "n01" })).await
    }

    async fn shown(&self) -> Value {
        let admin = &self.bench.admin;
        self.bench.call(admin, "GET", "/v1/nodes/n01/baseline", Value::Null).await.json()
    }
}

const MALLORY: &str = "BMC user 2: was not there, is mallory, administrator, enabled";

#[tokio::test]
async fn a_bmc_that_was_changed_between_tenants_keeps_its_node_off_and_in_quarantine() {
    let rig = Rig::new().await;
    rig.boots_for("alice").await;
    let shown = rig.shown().await;
    assert_eq!(shown["recorded_by"], "haasd");
    assert_eq!(shown["recorded"]["bmc-users"]["1"], "admin, administrator, enabled");
    assert_eq!(shown["differences"], json!([]));

    rig.add_mallory();
    // Whoever had it last has it again: what he did to it is his own.
    rig.boots_for("alice").await;
    let held = rig.wanted_by("bob").await;
    rig.step().await;
    assert!(!rig.is_on(), "it was switched on");
    let node = rig.bench.node(1).await;
    let drain = node.drain.expect("it is out of service");
    assert_eq!(drain.state, DrainState::Quarantine);
    assert_eq!(drain.reason, format!("not as its baseline: {MALLORY}"));
    let failure = rig.attempt(&held).await.failure.unwrap();
    assert_eq!(failure.code, DIFFERS);
    assert!(failure.cause.contains("haasctl node baseline accept n01"), "{failure:?}");
    assert_eq!(rig.step().await, Step::Converged(Standing::Held));
    assert!(!rig.is_on());
    let kinds = rig.bench.event_kinds().await;
    assert!(kinds.contains(&"baseline-differs".to_owned()), "{kinds:?}");

    let answer = rig.post("accept").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["items"][0]["recorded_by"], "admin");
    assert_eq!(rig.bench.node(1).await.drain, None);
    rig.step().await;
    assert!(rig.is_on(), "the switch goes on");
    assert_eq!(rig.attempt(&held).await.failure, None);
}

#[tokio::test]
async fn a_node_that_was_mended_is_looked_at_again_when_it_is_resumed() {
    let rig = Rig::new().await;
    rig.boots_for("alice").await;
    rig.add_mallory();
    rig.wanted_by("bob").await;
    rig.step().await;
    assert!(!rig.is_on());
    // Not mended: it is back in quarantine at once.
    for mended in [false, true] {
        if mended {
            rig.farm.bmc(0).remove_last_user();
        }
        let answer = rig.bench.post("/v1/nodes/resume", json!({ "nodeset": "n01" })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        rig.step().await;
        assert_eq!((rig.is_on(), rig.bench.node(1).await.drain.is_none()), (mended, mended));
    }
}

#[tokio::test]
async fn the_next_tenants_secrets_wait_until_the_agent_has_told_what_the_machine_starts() {
    let rig = Rig::new().await;
    let first = rig.wanted_by("alice").await;
    let plan = rig.plan(&first).await;
    assert!(plan.baseline && plan.root.chap.is_some(), "there is nothing to compare yet");
    rig.step().await;
    assert!(rig.tell(&first, "0000").await);
    assert!(!rig.plan(&first).await.baseline);

    let next = rig.wanted_by("bob").await;
    rig.step().await;
    let plan = rig.plan(&next).await;
    assert!(plan.baseline && plan.root.chap.is_none() && plan.root.target_chap.is_none());
    // An agent that goes on without a word gets nobody in.
    boots::reached(&rig.bench.context, &next.id, BootStage::Overlay).await.unwrap();
    let now = rig.attempt(&next).await;
    assert!(now.stage < BootStage::Overlay);
    assert_eq!(now.failure.unwrap().code, "baseline-not-told");

    assert!(!rig.tell(&next, "0003, 0000").await);
    let drain = rig.bench.node(1).await.drain.unwrap();
    assert_eq!(drain.reason, "not as its baseline: EFI BootOrder: was 0000, is 0003, 0000");
    assert!(!rig.tell(&next, "0003, 0000").await, "who repeats himself gets nothing either");
    let plan = rig.plan(&next).await;
    assert!(plan.root.chap.is_none() && plan.root.target_chap.is_none());
    assert_eq!(rig.post("accept").await.status, 200);
    assert!(rig.plan(&next).await.baseline, "it is looked at once more");
    assert!(rig.tell(&next, "0003, 0000").await);
    let plan = rig.plan(&next).await;
    assert!(!plan.baseline && plan.root.chap.is_some());
    boots::reached(&rig.bench.context, &next.id, BootStage::Overlay).await.unwrap();
    assert_eq!(rig.attempt(&next).await.stage, BootStage::Overlay);
    // What is said once users may be there is not believed.
    assert!(rig.tell(&next, "0666").await);
    assert_eq!(rig.shown().await["seen"]["efi-boot"]["BootOrder"], "0003, 0000");
}

#[tokio::test]
async fn a_bmc_that_cannot_be_asked_holds_up_only_where_there_is_something_to_compare() {
    let rig = Rig::new().await;
    rig.farm.set_faults(&Faults { tells_no_accounts: true, ..Faults::default() });
    rig.boots_for("alice").await;
    let recorded = rig.shown().await["recorded"].clone();
    assert_eq!(recorded["bmc-firmware"]["of the BMC"], "1.00");
    assert_eq!(recorded.get("bmc-users"), None);
    // It tells them now: what is not recorded is not compared.
    rig.farm.set_faults(&Faults::default());
    rig.boots_for("bob").await;
    assert_eq!(rig.post("accept").await.status, 200);
    // And now it does not any more.
    rig.farm.set_faults(&Faults { tells_no_accounts: true, ..Faults::default() });
    rig.wanted_by("alice").await;
    rig.step().await;
    let reason = rig.bench.node(1).await.drain.expect("it is in quarantine").reason;
    assert!(reason.contains("BMC user as a whole: was told by the BMC, is not told any more"));
}

#[tokio::test]
async fn admins_look_take_and_forget_and_nobody_else_sees_who_has_accounts() {
    let rig = Rig::new().await;
    let nothing = rig.post("accept").await;
    assert_eq!((nothing.status, nothing.code().as_str()), (409, "nothing-seen"));
    rig.boots_for("alice").await;
    rig.add_mallory();
    look(&rig.bench.context, &rig.bench.node(1).await).await.unwrap();
    let shown = rig.shown().await;
    assert_eq!(shown["differences"].as_array().unwrap().len(), 1, "{shown}");
    assert!(rig.bench.node(1).await.drain.is_none(), "looking changes nothing");
    assert_eq!(rig.post("forget").await.status, 200);
    assert_eq!(rig.shown().await["recorded"], json!({}));
    rig.boots_for("bob").await;
    assert_eq!(rig.shown().await["recorded"]["bmc-users"].as_object().unwrap().len(), 2);

    let alice = &rig.bench.alice;
    let read = rig.bench.call(alice, "GET", "/v1/nodes/n01/baseline", Value::Null).await;
    assert_eq!(read.status, 403);
    for what in ["check", "accept", "forget"] {
        let path = format!("/v1/nodes/baseline/{what}");
        let body = json!({ "nodeset": "n01" });
        assert_eq!(rig.bench.call(alice, "POST", &path, body).await.status, 403, "{what}");
    }
}

#[tokio::test]
async fn where_it_is_switched_off_nothing_is_asked_and_an_admin_may_boot_what_is_in_quarantine() {
    let never = Bench::with(|config| config.baseline.check = false).await;
    let rig = Rig::on(never).await;
    let attempt = rig.wanted_by("alice").await;
    assert!(!rig.plan(&attempt).await.baseline);
    rig.step().await;
    assert!(rig.is_on());
    assert_eq!(rig.shown().await["recorded"], json!({}));

    let rig = Rig::new().await;
    rig.boots_for("alice").await;
    rig.add_mallory();
    rig.wanted_by("bob").await;
    rig.step().await;
    assert!(!rig.is_on());
    let mends = rig.wanted_by("admin").await;
    rig.step().await;
    assert!(rig.is_on() && !rig.plan(&mends).await.baseline);
}
