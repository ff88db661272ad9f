//! Nodes as the calendar sees them: they boot what is wanted of them, end in order, and of a hundred that
//! are lent one fails to boot or dies in use.

use std::collections::{BTreeMap, HashMap, HashSet};

use haas_api::agent::BootStage;

use super::Dice;
use crate::{
    context::Context,
    exports,
    model::{Attempt, Cause, Fault, Micros, Node, Power, SECOND, Silence},
    store::Tx,
};

const MINUTE: Micros = 60 * SECOND;

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// What it ran has ended, and what is wanted of it begins to boot, if anything is.
    Ends,
    /// It is ready.
    Ready,
    /// It did not boot.
    Fails,
    /// Neither its agent nor its BMC answers.
    Dies,
    /// It is off and answers again.
    IsMended,
}

/// The nodes' hardware.
#[derive(Debug, Default)]
pub(super) struct Metal {
    /// What happens when to which node, for the generation that it then serves.
    events: BTreeMap<Micros, Vec<(String, i64, Event)>>,
    /// The generation that each node has heard of.
    heard: HashMap<String, i64>,
    /// Nodes that are dead.
    dead: HashSet<String>,
    pub(super) boots: usize,
    pub(super) failed: usize,
    pub(super) died: usize,
}

impl Metal {
    /// When something will happen.
    pub(super) fn next(&self) -> Option<Micros> {
        self.events.keys().next().copied()
    }

    fn then(&mut self, at: Micros, id: &str, generation: i64, event: Event) {
        self.events.entry(at).or_default().push((id.to_owned(), generation, event));
    }

    /// Nodes hear what is wanted of them.
    pub(super) async fn hear(&mut self, tx: &mut Tx, now: Micros, dice: &mut Dice) {
        for node in tx.nodes().await.unwrap() {
            let heard = self.heard.entry(node.id.clone()).or_default();
            if node.generation > *heard {
                *heard = node.generation;
                // What runs ends in less than the half minute that is set aside for it.
                let ends = if node.power == Power::On { 5 + dice.roll(20) as i64 } else { 1 };
                self.then(now + ends * SECOND, &node.id, node.generation, Event::Ends);
            }
        }
    }

    /// What was to happen until now happens.
    pub(super) async fn live(&mut self, context: &Context, now: Micros, dice: &mut Dice) {
        let later = self.events.split_off(&(now + 1));
        let due = std::mem::replace(&mut self.events, later);
        if due.is_empty() {
            return;
        }
        let mut tx = context.store.write().await.unwrap();
        for (id, generation, event) in due.into_values().flatten() {
            let node = tx.node_by_id(&id).await.unwrap().expect("nodes stay");
            if event == Event::IsMended {
                self.dead.remove(&id);
                tx.end_attempts(&id, now).await.unwrap();
                tx.set_silence(&id, None).await.unwrap();
                tx.set_power(&id, Ok(Power::Off), now).await.unwrap();
                self.then(now + SECOND, &id, node.generation, Event::Ends);
            } else if node.generation == generation && !self.dead.contains(&id) {
                self.happens(context, &mut tx, &node, event, now, dice).await;
            }
        }
        tx.commit().await.unwrap();
    }

    async fn happens(
        &mut self,
        context: &Context,
        tx: &mut Tx,
        node: &Node,
        event: Event,
        now: Micros,
        dice: &mut Dice,
    ) {
        let (id, generation) = (&node.id, node.generation);
        match event {
            Event::Ends => {
                tx.end_attempts(id, now).await.unwrap();
                let desired = tx.desired(id, generation).await.unwrap();
                let wanted = desired.map(|desired| desired.wanted).filter(|one| one.power_on);
                let Some(wanted) = wanted else {
                    return tx.set_power(id, Ok(Power::Off), now).await.unwrap();
                };
                self.boots += 1;
                let boot = ulid::Ulid::new().to_string();
                let initiator = exports::initiator_name(&node.name, &boot);
                let attempt = (boot.clone(), initiator);
                let attempt = Attempt::new(node, attempt, Cause::Desired, context.epoch, now);
                tx.open_attempt(&attempt, &boot).await.unwrap();
                tx.set_power(id, Ok(Power::On), now).await.unwrap();
                // Mostly within the time that a boot is taken to need.
                let takes = (120 + dice.roll(150) as i64) / 10 * 10 * SECOND;
                let is_lent = !wanted.tenant.is_empty();
                match (is_lent, dice.roll(200)) {
                    (true, 0) => self.then(now + 2 * takes, id, generation, Event::Fails),
                    (true, 1) => {
                        self.then(now + takes, id, generation, Event::Ready);
                        let lives = takes + (1 + dice.roll(120) as i64) * MINUTE;
                        self.then(now + lives, id, generation, Event::Dies);
                    }
                    _ => self.then(now + takes, id, generation, Event::Ready),
                }
            }
            Event::Ready => {
                let attempt = tx.last_attempt(id).await.unwrap().expect("it boots");
                assert!(tx.advance(&attempt, BootStage::Ready, now).await.unwrap(), "{attempt:?}");
            }
            Event::Fails => {
                self.failed += 1;
                tx.end_attempts(id, now).await.unwrap();
                let fault = Fault::new(generation, "boot-failed", "it does not boot");
                tx.set_fault(id, &fault).await.unwrap();
            }
            Event::Dies => {
                self.died += 1;
                tx.set_silence(id, Some(Silence::Unreachable)).await.unwrap();
                self.dead.insert(id.clone());
                let mended = now + (60 + dice.roll(600) as i64) * MINUTE;
                self.then(mended, id, generation, Event::IsMended);
            }
            Event::IsMended => unreachable!("it is looked at before"),
        }
    }
}
