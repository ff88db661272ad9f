//! Spare nodes that nobody uses are switched off (`[[idle]]`, off by default): nodes that are on and
//! nobody's, with nobody logged in, for longer than their node groups allow. So many spares of each group
//! stay on. It is done as everything is: another state is wanted of the node, and the loop ends what runs
//! in order. Whoever is given the node has it switched on by that.

use std::collections::BTreeMap;

use haas_api::names::NodeGroupName;
use serde_json::json;
use tracing::info;

use super::{Loaded, alone};
use crate::{
    clock,
    config::IdleRule,
    context::Context,
    lifecycle::{Action, Standing, Step},
    model::{AttemptState, Desired, Micros, NewDesired, Node},
    store::{NewEvent, Result, StoreError},
};

/// Wants those spares off that are idle for too long. Answers when the next one will be.
pub(super) async fn pass(
    context: &Context,
    nodes: &[(&Loaded, &Step)],
    now: Micros,
) -> Result<Option<Micros>> {
    let rules = &context.config.idle;
    if rules.is_empty() {
        return Ok(None);
    }
    let (due, next) = due(rules, nodes, now);
    for loaded in due {
        want_off(context, loaded).await?;
    }
    Ok(next)
}

/// The spares that are to go off now, and when the next one is due.
fn due<'a>(
    rules: &[IdleRule],
    nodes: &[(&'a Loaded, &Step)],
    now: Micros,
) -> (Vec<&'a Loaded>, Option<Micros>) {
    let is_ready = |step: &Step| *step == Step::Converged(Standing::Ready);
    let spares = nodes.iter().filter(|(loaded, step)| is_spare(loaded) && is_ready(step));
    let spares: Vec<_> = spares.map(|(loaded, _)| *loaded).collect();
    let of = |loaded: &Loaded| -> Vec<&IdleRule> {
        rules.iter().filter(|rule| loaded.node.spec.groups.contains(&rule.group)).collect()
    };
    let mut on: BTreeMap<&NodeGroupName, usize> = BTreeMap::new();
    for loaded in &spares {
        for rule in of(loaded) {
            *on.entry(&rule.group).or_default() += 1;
        }
    }
    let mut idle: Vec<_> =
        spares.iter().filter_map(|loaded| Some((idle_since(loaded)?, *loaded))).collect();
    // Who is idle for the longest goes first.
    idle.sort_by_key(|(since, loaded)| (*since, loaded.node.name.clone()));
    let (mut due, mut next) = (Vec::new(), None::<Micros>);
    for (since, loaded) in idle {
        let rules = of(loaded);
        let Some(longest) = rules.iter().map(|rule| rule.timeout).max() else { continue };
        let may = |rule: &&IdleRule| on.get(&rule.group).is_some_and(|on| *on > rule.min_on);
        if !rules.iter().all(may) {
            continue;
        }
        if now < since + longest {
            next = Some(next.map_or(since + longest, |next| next.min(since + longest)));
            continue;
        }
        for rule in rules {
            on.entry(&rule.group).and_modify(|on| *on -= 1);
        }
        due.push(loaded);
    }
    (due, next)
}

/// Whether it is to be on, and nobody's, and in service.
fn is_spare(loaded: &Loaded) -> bool {
    let is_on = loaded.desired.as_ref().is_some_and(|desired| {
        let wanted = &desired.wanted;
        wanted.power_on && wanted.boot_once.is_none() && desired.tenant().is_none()
    });
    let is_held = loaded.node.drain.as_ref().is_some_and(|d| d.state.keeps_hands_off());
    is_on && !is_held
}

/// Since when nobody uses it; none while somebody is logged in, or where nobody can say.
fn idle_since(loaded: &Loaded) -> Option<Micros> {
    let attempt = loaded.attempt.as_ref().filter(|a| a.state == AttemptState::Ready)?;
    let heartbeat = loaded.node.heartbeat.as_ref()?;
    let used = loaded.node.used_at.unwrap_or(attempt.stage_since);
    heartbeat.logins.is_empty().then_some(used.max(attempt.stage_since))
}

async fn want_off(context: &Context, loaded: &Loaded) -> Result<()> {
    let (node, Some(Desired { wanted, .. })) = (&loaded.node, &loaded.desired) else {
        return Ok(());
    };
    let action = Action::EndByAgent(haas_api::agent::ShutdownHow::Poweroff);
    if !alone::allows(context, node, &action).await? {
        return Ok(());
    }
    let wanted = NewDesired {
        power_on: false,
        forced: false,
        reboot: false,
        kexec_from: None,
        cause: "idle".to_owned(),
        actor: "haasd".to_owned(),
        actor_id: String::new(),
        operation_id: None,
        ..wanted.clone()
    };
    let mut tx = context.store.write().await?;
    let now = tx.node_by_id(&node.id).await?;
    let is_used = |now: &Node| now.heartbeat.as_ref().is_none_or(|h| !h.logins.is_empty());
    if now.as_ref().is_none_or(is_used) {
        return Ok(());
    }
    let generation = match tx.add_desired(node, &wanted, clock::wall()).await {
        // Somebody has just been given it.
        Err(StoreError::Conflict(_)) => return Ok(()),
        result => result?,
    };
    let since = idle_since(loaded).unwrap_or_else(|| context.clock.now());
    tx.note_idle_watts(&node.id, generation, context.clock.to_wall(since)).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "desired-changed",
        node: Some(node.name.as_str()),
        operation: None,
        actor: "haasd",
        data: json!({ "generation": generation, "from": "idle", "to": "off" }),
        tenant: None,
    })
    .await?;
    tx.commit().await?;
    info!(node = %node.name, generation, "nobody uses it: switched off");
    context.changed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use haas_api::agent::{BootStage, Heartbeat};

    use super::*;
    use crate::{model::SECOND, power::BmcReport, reconcile, testing::Bench};

    const HOUR: Micros = 3_600 * SECOND;

    fn rules(min_on: usize) -> Vec<IdleRule> {
        vec![IdleRule { group: "rack1".parse().unwrap(), timeout: HOUR, min_on }]
    }

    /// Spares of the node group `rack1` that run since this moment.
    async fn spares(bench: &Bench, count: u8) -> Micros {
        bench.add_nodes(1..=count).await;
        bench.add_image("a").await;
        let now = bench.context.clock.now();
        for number in 1..=count {
            let body = serde_json::json!({
                "nodeset": format!("n{number:02}"), "image": "a", "overlay": "none", "spare": true
            });
            let answer = bench.post("/v1/switch", body).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            let node = bench.node(number).await;
            let cause = crate::model::Cause::Desired;
            let attempt =
                reconcile::open_attempt(&bench.context, &node, None, cause).await.unwrap();
            for stage in BootStage::ALL.into_iter().filter(|stage| *stage > BootStage::Power) {
                bench.advance(&attempt, stage).await;
            }
            heard(bench, number, &[], now).await;
        }
        now
    }

    /// The agent calls at this moment, and these are logged in.
    async fn heard(bench: &Bench, number: u8, logins: &[&str], at: Micros) {
        let node = bench.node(number).await;
        let mut tx = bench.context.store.write().await.unwrap();
        let attempt = tx.last_attempt(&node.id).await.unwrap().unwrap();
        let logins = logins.iter().map(|login| (*login).to_owned()).collect();
        let heartbeat = Heartbeat { logins, ..Heartbeat::default() };
        tx.agent_spoke(&node.id, &attempt.id, at).await.unwrap();
        tx.set_heartbeat(&node.id, &heartbeat, false, at).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Which of the nodes are to go off at this moment, by these rules.
    async fn goes(bench: &Bench, rules: &[IdleRule], now: Micros) -> Vec<String> {
        let mut tx = bench.context.store.read().await.unwrap();
        let mut all = Vec::new();
        for node in tx.nodes().await.unwrap() {
            let loaded = Loaded::read(&bench.context, &mut tx, node).await.unwrap();
            let step = loaded.decide(&bench.context, true, now);
            all.push((loaded, step));
        }
        let pairs: Vec<_> = all.iter().map(|(loaded, step)| (loaded, step)).collect();
        due(rules, &pairs, now).0.iter().map(|loaded| loaded.node.name.to_string()).collect()
    }

    #[tokio::test]
    async fn spares_go_off_after_their_time_but_for_so_many_as_stay_on() {
        let bench = Bench::new().await;
        let begun = spares(&bench, 4).await;
        let later = begun + HOUR + 60 * SECOND;
        for number in 1..=4 {
            heard(&bench, number, &[], later).await;
        }
        assert_eq!(goes(&bench, &rules(2), begun + SECOND).await, Vec::<String>::new());
        assert_eq!(goes(&bench, &rules(2), later).await, ["n01", "n02"]);
        assert_eq!(goes(&bench, &rules(0), later).await.len(), 4);
        assert_eq!(goes(&bench, &[], later).await, Vec::<String>::new(), "off by default");
    }

    #[tokio::test]
    async fn nodes_that_somebody_has_or_uses_stay_on() {
        let bench = Bench::new().await;
        let begun = spares(&bench, 4).await;
        let later = begun + 2 * HOUR;
        for number in 1..=4 {
            heard(&bench, number, &[], later).await;
        }
        heard(&bench, 1, &["admin pts/0"], later).await;
        heard(&bench, 2, &["admin pts/0"], later - 60 * SECOND).await;
        heard(&bench, 2, &[], later).await;
        let body =
            serde_json::json!({ "nodeset": "n03", "image": "a", "overlay": "none", "force": true });
        assert_eq!(bench.post("/v1/switch", body).await.status, 202);
        assert_eq!(goes(&bench, &rules(0), later).await, ["n04"]);
    }

    #[tokio::test]
    async fn a_spare_that_went_off_is_counted_and_wakes_when_somebody_gets_it() {
        let bench = Bench::with(|config| config.idle = rules(0)).await;
        let begun = spares(&bench, 1).await;
        let later = begun + 2 * HOUR;
        heard(&bench, 1, &[], later).await;
        let node = bench.node(1).await;
        let mut tx = bench.context.store.write().await.unwrap();
        let report = BmcReport { watts: Some(200), ..BmcReport::default() };
        tx.set_bmc(&node.id, &report, clock::wall() + SECOND).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = bench.context.store.read().await.unwrap();
        let loaded = Loaded::read(&bench.context, &mut tx, node).await.unwrap();
        drop(tx);
        let step = loaded.decide(&bench.context, true, later);
        pass(&bench.context, &[(&loaded, &step)], later).await.unwrap();
        let node = bench.node(1).await;
        let mut tx = bench.context.store.read().await.unwrap();
        let off = tx.desired(&node.id, node.generation).await.unwrap().unwrap();
        assert!(!off.wanted.power_on);
        assert_eq!((off.wanted.cause.as_str(), off.wanted.actor.as_str()), ("idle", "haasd"));
        let after = tx.idle_off(&node.id, off.created_at + 5 * HOUR).await.unwrap();
        assert_eq!(after.time, 5 * HOUR, "it counts while it lasts");
        assert_eq!(after.joules, 200 * 5 * 3_600, "at what it drew while it was idle");
        drop(tx);
        let body =
            serde_json::json!({ "nodeset": "n01", "image": "a", "overlay": "none", "force": true });
        assert_eq!(bench.post("/v1/switch", body).await.status, 202);
        let node = bench.node(1).await;
        let mut tx = bench.context.store.read().await.unwrap();
        let on = tx.desired(&node.id, node.generation).await.unwrap().unwrap();
        assert!(
            on.wanted.power_on && on.tenant().is_some(),
            "it is switched on for whoever has it"
        );
        let total = tx.idle_off(&node.id, off.created_at + 50 * HOUR).await.unwrap();
        assert_eq!(total.time, on.created_at - off.created_at, "and no longer");
    }
}
