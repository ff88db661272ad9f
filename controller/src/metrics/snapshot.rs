//! What stands somewhere and is read at each scrape, so that nothing of what is gone remains.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use iscsi_target::{Counts, Lun};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::gauge;
use crate::{
    clock,
    context::Context,
    model::{IdleOff, Micros},
    power,
    store::Result,
};

/// A reading of power is fresh for so many intervals in which BMCs are asked.
const FRESH: Micros = 3;

/// Sense key, code and qualifier of a disk that cannot be read.
const UNREADABLE: [u8; 3] = [0x3, 0x11, 0x00];

/// An image by its first tag, and by the beginning of its digest: tags can move.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Image {
    image: String,
    digest: String,
}

/// The same with a sense key, and additional sense code with qualifier: what the target says itself,
/// a dozen of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImageError {
    image: String,
    digest: String,
    sense: String,
}

impl ImageError {
    fn new(image: &Image, [key, code, qualifier]: [u8; 3]) -> Self {
        Self {
            image: image.image.clone(),
            digest: image.digest.clone(),
            sense: format!("{key:x}/{code:02x}{qualifier:02x}"),
        }
    }
}

/// How long reads took, by image. The target has counted them already.
#[derive(Debug)]
struct ReadTimes(Vec<(Image, Counts)>);

impl ReadTimes {
    /// Bounds of the histogram, as powers of two of a microsecond: 64 microseconds to 4 seconds.
    const BOUNDS: [usize; 9] = [6, 8, 10, 12, 14, 16, 18, 20, 22];

    /// The histogram's buckets: each bound in seconds, and how many reads are between it and the one
    /// before.
    fn buckets(counts: &Counts) -> Vec<(f64, u64)> {
        let (mut rest, mut buckets) = (&counts.took[..], Vec::new());
        let mut from = 0;
        for bound in Self::BOUNDS {
            // Entry n of the counts has what took less than 2^n.
            let (here, above) = rest.split_at(bound + 1 - from);
            buckets.push(((1_u64 << bound) as f64 / 1e6, here.iter().sum()));
            (rest, from) = (above, bound + 1);
        }
        buckets.push((f64::INFINITY, rest.iter().sum()));
        buckets
    }
}

impl Collector for ReadTimes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let help = "From a READ's arrival until its last byte was handed to the network";
        let (name, kind) = ("iscsi_read_duration", MetricType::Histogram);
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for (image, counts) in &self.0 {
            let sum = counts.took_us as f64 / 1e6;
            let mut histogram = metric.encode_family(image)?;
            histogram.encode_histogram::<NoLabelSet>(
                sum,
                // Not `reads`, which is counted at another instant.
                counts.took.iter().sum(),
                &Self::buckets(counts),
                None,
            )?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hook {
    webhook: String,
}

pub(super) async fn take(context: &Context) -> Result<Registry> {
    let mut tx = context.store.read().await?;
    let images = tx.images().await?;
    let webhooks = tx.webhooks().await?;
    let (first, last) = (tx.first_event().await?, tx.last_event().await?);
    let operations = tx.running_operations().await?.len();
    let now = clock::wall();
    let idle_off = tx.idle_off_of_all(now).await?;
    let drawn = match context.config.health.poll {
        Some(every) => tx.drawn_since(now - FRESH * micros(every)).await?,
        // What was told once may be long ago.
        None => (0, 0),
    };
    drop(tx);
    let mut registry = Registry::with_prefix("haas");

    let sessions: Family<Image, Gauge> = Family::default();
    let logins: Family<Image, Counter> = Family::default();
    let reads: Family<Image, Counter> = Family::default();
    let bytes: Family<Image, Counter> = Family::default();
    let errors: Family<ImageError, Counter> = Family::default();
    let (mut times, mut luns) = (Vec::new(), Vec::new());
    let unserved = Gauge::<i64>::default();
    for row in &images {
        let Some(served) = context.exports.served(&row.digest) else { continue };
        if served.lun.is_none() {
            unserved.inc();
        }
        let image = Image {
            image: row.tags.first().map(ToString::to_string).unwrap_or_default(),
            digest: row.digest.hex().chars().take(12).collect(),
        };
        let counts = served.all;
        let now = i64::try_from(counts.sessions).unwrap_or(i64::MAX);
        sessions.get_or_create(&image).set(now);
        logins.get_or_create(&image).inc_by(counts.logins);
        reads.get_or_create(&image).inc_by(counts.reads);
        bytes.get_or_create(&image).inc_by(counts.bytes);
        // This one is there from the beginning, so that its first increase is seen.
        errors.get_or_create(&ImageError::new(&image, UNREADABLE)).inc_by(0);
        for (sense, count) in &counts.errors {
            errors.get_or_create(&ImageError::new(&image, *sense)).inc_by(*count);
        }
        luns.extend(served.lun.map(|lun| (image.clone(), lun)));
        times.push((image, counts));
    }
    registry.register("iscsi_sessions", "iSCSI sessions that stand, by image", sessions);
    registry.register("iscsi_logins", "Logins so far", logins);
    registry.register("iscsi_reads", "READ commands that were answered", reads);
    registry.register_with_unit("iscsi_read", "What nodes have read", Unit::Bytes, bytes);
    registry.register("iscsi_errors", "Commands that ended in CHECK CONDITION", errors);
    registry.register_collector(Box::new(ReadTimes(times)));
    let help = "What is in memory of each image";
    registry.register_with_unit("iscsi_cached", help, Unit::Bytes, cached(luns).await);
    registry.register("images_unserved", "Images whose file cannot be opened", unserved);

    let dead: Family<Hook, Gauge> = Family::default();
    let behind: Family<Hook, Gauge> = Family::default();
    let failing: Family<Hook, Gauge<f64, AtomicU64>> = Family::default();
    for hook in &webhooks {
        let label = Hook { webhook: hook.name.to_string() };
        dead.get_or_create(&label).set(hook.dead);
        behind.get_or_create(&label).set((last - hook.position).max(0));
        let since = hook.failing_since.map_or(0.0, |since| super::seconds(clock::wall() - since));
        failing.get_or_create(&label).set(since);
    }
    registry.register("webhook_dead_events", "Events that were given up", dead);
    registry.register("webhook_behind_events", "Events that are not done with", behind);
    let help = "For how long deliveries fail; 0 while they succeed";
    registry.register_with_unit("webhook_failing", help, Unit::Seconds, failing);

    let events: Counter = Counter::default();
    events.inc_by(u64::try_from(last).unwrap_or(0));
    registry.register("events", "Events so far", events);
    let mut add = |name: &str, help: &str, value: i64| {
        let figure: Gauge = Gauge::default();
        figure.set(value);
        registry.register(name, help, figure);
    };
    let kept = first.map_or(0, |first| last - first + 1);
    add("events_kept", "Events that the log has", kept);
    add(
        "operations_running",
        "Switches, rollbacks and power requests under way",
        gauge(operations),
    );
    add("agents_connected", "Agents that are connected", gauge(context.agents.count()));
    if let Ok(disk) = nix::sys::statvfs::statvfs(&context.config.state_dir) {
        let free = disk.blocks_available() * disk.fragment_size();
        let free = i64::try_from(free).unwrap_or(i64::MAX);
        add("state_dir_free_bytes", "Room where the images are", free);
    }
    bmcs(&mut registry);
    power(&mut registry, drawn, idle_off);
    Ok(registry)
}

/// How much of each disk is in memory. The kernel counts pages for that, which takes milliseconds.
async fn cached(luns: Vec<(Image, Arc<Lun>)>) -> Family<Image, Gauge> {
    let look = tokio::task::spawn_blocking(move || {
        let cached: Family<Image, Gauge> = Family::default();
        for (image, lun) in luns {
            // One that cannot be looked at has no figure.
            if let Ok(bytes) = lun.resident() {
                cached.get_or_create(&image).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        cached
    });
    look.await.unwrap_or_default()
}

/// What nodes draw, and what it saves that idle ones are off.
fn power(registry: &mut Registry, (watts, nodes): (i64, i64), idle_off: IdleOff) {
    for (name, help, value) in [
        ("node_power_watts", "What all nodes draw together whose BMCs say that", watts),
        ("nodes_with_power_reading", "Nodes whose BMCs say what they draw", nodes),
    ] {
        let figure: Gauge = Gauge::default();
        figure.set(value);
        registry.register(name, help, figure);
    }
    let time: Counter<f64, AtomicU64> = Counter::default();
    time.inc_by(super::seconds(idle_off.time));
    let help = "Time that nodes were off since nobody used them, all nodes' together";
    registry.register_with_unit("idle_off", help, Unit::Seconds, time);
    let saved: Counter = Counter::default();
    saved.inc_by(u64::try_from(idle_off.joules).unwrap_or(0));
    let help =
        "What nodes would have drawn in that time, as far as it is known what they drew idle";
    registry.register_with_unit("idle_saved", help, Unit::Joules, saved);
}

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX / FRESH)
}

/// The sessions of IPMI.
fn bmcs(registry: &mut Registry) {
    let figures = power::figures();
    let breakers: Family<[(&str, &str); 1], Gauge> = Family::default();
    for (state, count) in
        [("closed", figures.working), ("open", figures.left_alone), ("half-open", figures.doubtful)]
    {
        breakers.get_or_create(&[("state", state)]).set(gauge(count));
    }
    let help =
        "BMCs that IPMI is spoken with, by the state of their circuit breaker: open is left alone";
    registry.register("bmc_breakers", help, breakers);
    let sessions: Gauge = Gauge::default();
    sessions.set(gauge(figures.sessions));
    registry.register("bmc_sessions", "IPMI sessions that stand", sessions);
    for (name, help, count) in [
        ("bmc_retries", "IPMI requests that were sent again", figures.sent_again),
        ("bmc_logins", "Logins to BMCs that were begun", figures.logins),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(count);
        registry.register(name, help, counter);
    }
}
