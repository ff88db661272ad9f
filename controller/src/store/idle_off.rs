//! Spares that were switched off since nobody used them: for how long, and what that has saved. It is
//! counted from the desired states, which are never changed: each lasts until the next one.

use std::collections::HashMap;

use sqlx::{query, query_as};

use super::{Result, Tx, changed, on};
use crate::model::{IdleOff, Micros, SECOND};

/// Each time that a node was off: from when, until when, and what it drew before.
macro_rules! times {
    ($more:literal) => {
        concat!(
            "select off.node_id, off.created_at,
               (select later.created_at from desired as later
                where later.node_id = off.node_id and later.generation = off.generation + 1),
               idle_watts.watts
             from desired as off left join idle_watts
               on idle_watts.node_id = off.node_id and idle_watts.generation = off.generation
             where off.cause = 'idle'",
            $more
        )
    };
}

type Time = (String, i64, Option<i64>, Option<i64>);

impl Tx {
    /// Keeps with the desired state that switches a spare off what it draws now, if its BMC has told
    /// that since the node is idle (wall clock).
    pub async fn note_idle_watts(
        &mut self,
        node_id: &str,
        generation: i64,
        idle_since: Micros,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into idle_watts (node_id, generation, watts)
                 select node_id, cast($2 as bigint), watts from hardware
                 where node_id = $1 and watts is not null and bmc_at >= $3",
            )
            .bind(node_id)
            .bind(generation)
            .bind(idle_since)
        )?;
        Ok(())
    }

    /// For how long a node was off, until `now` of the wall clock, since nobody used it.
    pub async fn idle_off(&mut self, node_id: &str, now: Micros) -> Result<IdleOff> {
        let times: Vec<Time> = on!(
            self,
            c => query_as(times!(" and off.node_id = $1")).bind(node_id).fetch_all(c)
        )?;
        Ok(sum(&times, now))
    }

    /// The same of all nodes together.
    pub async fn idle_off_of_all(&mut self, now: Micros) -> Result<IdleOff> {
        let times: Vec<Time> = on!(self, c => query_as(times!("")).fetch_all(c))?;
        Ok(sum(&times, now))
    }

    /// The same of each node that ever was, by its id.
    pub async fn idle_off_of_each(&mut self, now: Micros) -> Result<HashMap<String, IdleOff>> {
        let times: Vec<Time> = on!(
            self,
            c => query_as(times!(" order by off.node_id")).fetch_all(c)
        )?;
        let of_node = times.chunk_by(|(a, ..), (b, ..)| a == b);
        Ok(of_node.map(|times| (times[0].0.clone(), sum(times, now))).collect())
    }
}

fn sum(times: &[Time], now: Micros) -> IdleOff {
    let mut sum = IdleOff::default();
    for (_, from, until, watts) in times {
        let time = (until.unwrap_or(now) - from).max(0);
        sum.time += time;
        sum.joules += watts.unwrap_or(0).saturating_mul(time / SECOND);
    }
    sum
}
