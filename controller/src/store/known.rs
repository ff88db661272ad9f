//! Nodes and reservations that were read before: passes over all of them read only what has changed since. A node
//! has another stamp when it changes, or how it stands, or what it is known to have. A reservation with its nodes is
//! what it is as long as it has its version, and one that is over changes no more.
//!
//! Only what was committed is kept, and what is kept is held against what the transaction sees that asks: so it is
//! right for every transaction, also one that began earlier.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use haas_api::hardware::Summary;
use sqlx::{query_as, query_scalar};

use super::{Line, Result, StandingRow, Tx, TxInner, on};
use crate::model::{Micros, Node, Reservation};

/// So many are read one by one; where more are missing, all are read at once.
const FEW: usize = 32;

/// After so many readings of what has changed all nodes are read anew: an older haasd that has not ended yet, or a hand, may have changed some
/// without a stamp.
const READS: u32 = 64;

/// What was read before, for all transactions of this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    nodes: Stamped<Node>,
    standings: Stamped<StandingRow>,
    summaries: Stamped<Summary>,
    live: HashMap<i64, Arc<Reservation>>,
    past: Past,
}

/// Something of each node that has it, by the node's id.
pub type ByNode<T> = Arc<HashMap<String, Arc<T>>>;

/// The same as some transaction saw it.
#[derive(Debug)]
struct Stamped<T> {
    /// The last stamp that a node had.
    stamp: i64,
    /// How often that was read on from what was known before.
    reads: u32,
    by_node: ByNode<T>,
}

/// What reservations have used that are over, as some transaction saw it.
#[derive(Debug, Clone, Default)]
struct Past {
    /// Until when it reaches back.
    after: Micros,
    /// The last number that there was.
    last: i64,
    /// Those that were not over.
    live: BTreeSet<i64>,
    /// What the others have used, by number.
    over: BTreeMap<i64, Arc<Used>>,
}

/// What a reservation has used that is over, or ends.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Used {
    /// Its number.
    pub id: i64,
    /// Who had it.
    pub owner_id: String,
    /// Through which queue.
    pub queue: String,
    /// How many nodes.
    pub nodes: i64,
    /// From when, steady clock.
    pub start_at: Micros,
    /// Until when, steady clock.
    pub end_at: Micros,
}

/// What is read of nodes by their stamps.
trait OfNode: PartialEq + Send + Sync + Sized {
    /// Where it is kept.
    fn kept(kept: &mut Kept) -> &mut Stamped<Self>;

    /// Of nodes that have a later stamp, by their ids; none of those that have it no more.
    fn changed(
        tx: &mut Tx,
        stamp: i64,
    ) -> impl Future<Output = Result<Vec<(String, Option<Self>)>>> + Send;
}

impl OfNode for Node {
    fn kept(kept: &mut Kept) -> &mut Stamped<Self> {
        &mut kept.nodes
    }

    async fn changed(tx: &mut Tx, stamp: i64) -> Result<Vec<(String, Option<Self>)>> {
        let changed = tx.changed_nodes(stamp).await?.into_iter();
        Ok(changed.map(|node| (node.id.clone(), Some(node))).collect())
    }
}

impl OfNode for StandingRow {
    fn kept(kept: &mut Kept) -> &mut Stamped<Self> {
        &mut kept.standings
    }

    async fn changed(tx: &mut Tx, stamp: i64) -> Result<Vec<(String, Option<Self>)>> {
        tx.changed_standings(stamp).await
    }
}

impl OfNode for Summary {
    fn kept(kept: &mut Kept) -> &mut Stamped<Self> {
        &mut kept.summaries
    }

    async fn changed(tx: &mut Tx, stamp: i64) -> Result<Vec<(String, Option<Self>)>> {
        tx.changed_summaries(stamp).await
    }
}

impl<T> Default for Stamped<T> {
    fn default() -> Self {
        Self { stamp: 0, reads: 0, by_node: Arc::default() }
    }
}

impl<T> Stamped<T> {
    /// What somebody may read on from who sees nodes up to this stamp: nothing where what is kept is newer, or was
    /// read on often enough.
    fn before(&self, stamp: i64) -> Self {
        if self.stamp == stamp || (self.stamp < stamp && self.reads < READS) {
            Self { by_node: self.by_node.clone(), ..*self }
        } else {
            Self::default()
        }
    }

    /// With what has changed until this stamp; nodes with none have it no more. A node has another stamp also when
    /// something else of it has changed.
    fn read_on(self, stamp: i64, mut changed: Vec<(String, Option<T>)>) -> Self
    where
        T: PartialEq,
    {
        let mut by_node = self.by_node;
        changed.retain(|(id, now)| by_node.get(id).map(|then| &**then) != now.as_ref());
        if changed.is_empty() {
            return Self { stamp, reads: self.reads + 1, by_node };
        }
        let map = Arc::make_mut(&mut by_node);
        for (id, now) in changed {
            match now {
                Some(now) => drop(map.insert(id, Arc::new(now))),
                None => drop(map.remove(&id)),
            }
        }
        Self { stamp, reads: self.reads + 1, by_node }
    }

    /// Keeps this if it is newer.
    fn keep(&mut self, read: &Self) {
        if self.stamp < read.stamp {
            *self = Self { by_node: read.by_node.clone(), ..*read };
        }
    }
}

impl Known {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of this number if its version is this one.
    fn live(&self, id: i64, version: i64) -> Option<Arc<Reservation>> {
        self.kept().live.get(&id).filter(|one| one.version == version).cloned()
    }
}

impl Tx {
    /// All nodes.
    pub(super) async fn known_nodes(&mut self) -> Result<ByNode<Node>> {
        self.known_by_stamp().await
    }

    /// Of each node of which something is wanted, what that is and what it runs.
    pub async fn standings(&mut self) -> Result<ByNode<StandingRow>> {
        self.known_by_stamp().await
    }

    /// The hardware of each node whose agent has told of it, in a few numbers.
    pub async fn summaries(&mut self) -> Result<ByNode<Summary>> {
        self.known_by_stamp().await
    }

    async fn known_by_stamp<T: OfNode>(&mut self) -> Result<ByNode<T>> {
        let stamp = self.last_stamp().await?;
        let known = T::kept(&mut self.known.kept()).before(stamp);
        if known.stamp == stamp {
            return Ok(known.by_node);
        }
        let changed = T::changed(self, known.stamp).await?;
        let now = known.read_on(stamp, changed);
        if self.only_reads() {
            T::kept(&mut self.known.kept()).keep(&now);
        }
        Ok(now.by_node)
    }

    /// Whether there are reservations that are not over.
    pub async fn has_reservations(&mut self) -> Result<bool> {
        let count: i64 = on!(
            self,
            c => query_scalar(
                "select count(*) from reservations
                 where state in ('pending', 'planned', 'starting', 'active', 'ending')",
            )
            .fetch_one(c)
        )?;
        Ok(count > 0)
    }

    /// The reservations that are not over, in the order of their numbers.
    pub async fn live_reservations(&mut self) -> Result<Vec<Reservation>> {
        let versions: Vec<(i64, i64)> = on!(
            self,
            c => query_as(
                "select id, version from reservations
                 where state in ('pending', 'planned', 'starting', 'active', 'ending') order by id",
            )
            .fetch_all(c)
        )?;
        let mut live: Vec<_> =
            versions.iter().map(|(id, version)| self.known.live(*id, *version)).collect();
        let missing = live.iter().filter(|one| one.is_none()).count();
        if missing > FEW {
            live = self.read_live().await?.into_iter().map(|one| Some(Arc::new(one))).collect();
        } else {
            for ((id, _), place) in versions.iter().zip(&mut live) {
                if place.is_none() {
                    *place = self.reservation(*id).await?.map(Arc::new);
                }
            }
        }
        let live: Vec<_> = live.into_iter().flatten().collect();
        if missing > 0 && self.only_reads() {
            self.known.kept().live = live.iter().map(|one| (one.id, one.clone())).collect();
        }
        Ok(live.into_iter().map(Arc::unwrap_or_clone).collect())
    }

    /// What was held through queues by those that end, and by those that are over since `after`; in the order of
    /// their numbers.
    pub async fn held_before(&mut self, after: Micros) -> Result<Vec<Arc<Used>>> {
        let before = self.known.kept().past.clone();
        let before = if before.after <= after { before } else { Past::default() };
        let live: Vec<i64> = on!(
            self,
            c => query_scalar(
                "select id from reservations
                 where state in ('pending', 'planned', 'starting', 'active', 'ending')",
            )
            .fetch_all(c)
        )?;
        let live: BTreeSet<i64> = live.into_iter().collect();
        let last: Option<i64> =
            on!(self, c => query_scalar("select max(id) from reservations").fetch_one(c))?;
        let last = last.unwrap_or(0);
        // What is kept may be newer than what is seen here.
        let is_over = |id: &i64| *id <= last && !live.contains(id);
        let mut over = before.over;
        over.retain(|id, used| is_over(id) && used.end_at > after);
        let ended: Vec<i64> = before.live.iter().copied().filter(is_over).collect();
        let mut first_new = before.last.min(last) + 1;
        if ended.len() > FEW {
            first_new = first_new.min(ended.iter().copied().min().unwrap_or(first_new));
        } else {
            for id in ended {
                over.extend(self.used_by_over(id, id, after).await?);
            }
        }
        over.extend(self.used_by_over(first_new, last, after).await?);
        let past = Past { after, last, live, over };
        let mut used = past.over.clone();
        if self.only_reads() {
            self.known.kept().past = past;
        }
        used.extend(self.used_by_ending().await?);
        Ok(used.into_values().collect())
    }

    /// What those of these numbers have used that are over.
    async fn used_by_over(
        &mut self,
        first: i64,
        last: i64,
        after: Micros,
    ) -> Result<Vec<(i64, Arc<Used>)>> {
        let used: Vec<Used> = on!(
            self,
            c => query_as(
                "select id, owner_id, queue, nodes, start_at, end_at from reservations
                 where id >= $1 and id <= $2 and state in ('ended', 'failed') and end_at > $3
                   and start_at is not null",
            )
            .bind(first)
            .bind(last)
            .bind(after)
            .fetch_all(c)
        )?;
        Ok(used.into_iter().map(|used| (used.id, Arc::new(used))).collect())
    }

    async fn used_by_ending(&mut self) -> Result<Vec<(i64, Arc<Used>)>> {
        let used: Vec<Used> = on!(
            self,
            c => query_as(
                "select id, owner_id, queue, nodes, start_at, end_at from reservations
                 where state = 'ending' and end_at is not null and start_at is not null",
            )
            .fetch_all(c)
        )?;
        Ok(used.into_iter().map(|used| (used.id, Arc::new(used))).collect())
    }

    /// What a writer reads may never last.
    fn only_reads(&self) -> bool {
        match &self.inner {
            TxInner::Lite(Line::Reads(_)) | TxInner::Pg(Line::Reads(_)) => true,
            TxInner::Lite(Line::Writes(_)) | TxInner::Pg(Line::Writes(_)) => false,
        }
    }
}
