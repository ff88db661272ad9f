//! Boots as they are shown: where their seconds and bytes went.

use haas_api::{
    agent::BootStage,
    operation::{BootReport, StageTime},
};

use super::{Answer, known::Known};
use crate::{
    clock,
    context::Context,
    model::{Attempt, AttemptState, Desired, Micros, SECOND},
    store::Tx,
};

/// Where an attempt's seconds and bytes went. `desired` is what it serves.
pub(super) async fn boot_report(
    context: &Context,
    tx: &mut Tx,
    known: &mut Known,
    node: &str,
    attempt: Attempt,
    desired: Option<&Desired>,
) -> Answer<BootReport> {
    let what = match desired.map(|desired| &desired.wanted) {
        Some(wanted) => {
            let image = wanted.image.as_ref().map_or("no image", |image| &image.name);
            let rescue = if wanted.rescue { " (rescue)" } else { "" };
            let overlay = known.overlay(tx, wanted.overlay_id.as_deref()).await?;
            format!("{image} + {}{rescue}", overlay.unwrap_or_else(|| "RAM".to_owned()))
        }
        None => "nothing".to_owned(),
    };
    let end = attempt.ended_at.unwrap_or_else(|| context.clock.now());
    let stages = stage_times(&attempt.stages, end);
    let root_bytes = match attempt.state {
        AttemptState::Open => {
            i64::try_from(context.exports.bytes_read(&attempt.initiator)).unwrap_or(i64::MAX)
        }
        AttemptState::Ready | AttemptState::Ended | AttemptState::Failed => attempt.root_bytes,
    };
    Ok(BootReport {
        node: node.to_owned(),
        generation: attempt.generation,
        cause: attempt.cause.as_str().to_owned(),
        state: attempt.state.as_str().to_owned(),
        what,
        started_at: clock::rfc3339(context.clock.to_wall(attempt.opened_at)),
        stages,
        boot_bytes: attempt.boot_bytes,
        root_bytes,
        checks: attempt.checks,
        failure: attempt.failure.as_ref().map(|f| format!("{}: {}", f.stage, f.cause)),
        kernel_log: attempt.failure.map(|f| f.kernel_log).unwrap_or_default(),
        attempt: attempt.id,
    })
}

/// How long each stage took; the last one lasts until `end`.
pub(super) fn stage_times(stages: &[(BootStage, Micros)], end: Micros) -> Vec<StageTime> {
    let mut times = Vec::with_capacity(stages.len());
    for (position, (stage, since)) in stages.iter().enumerate() {
        let until = match stages.get(position + 1) {
            Some((_, next)) => *next,
            // Being ready takes no time.
            None if *stage == BootStage::Ready => *since,
            None => end,
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds with a fraction, for people")]
        let seconds = (until - since) as f64 / SECOND as f64;
        times.push(StageTime { stage: *stage, seconds });
    }
    times
}
