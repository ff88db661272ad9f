//! `[[queue]]` and `[reservations]`: where reservations wait, and what the site says of them.

use haas_api::{
    names::{NodeGroupName, QueueName},
    queue::{QueuePolicy, QueueSpec},
};

use super::{
    read::DURATION,
    reader::{Table, Value},
    units,
};
use crate::model::{Micros, SECOND};

/// What the site says of reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservations {
    /// So many seconds before its end a reservation's user is told.
    pub warn_s: u64,
    /// So many seconds a node is taken to need to boot, as long as nothing is learned.
    pub boot_time_s: u64,
}

impl Default for Reservations {
    fn default() -> Self {
        Self { warn_s: 600, boot_time_s: 300 }
    }
}

impl Reservations {
    /// How long before its end a reservation's user is told.
    pub fn warn(&self) -> Micros {
        micros(self.warn_s)
    }

    /// How long a node is taken to need to boot, as long as nothing is learned.
    pub fn boot_time(&self) -> Micros {
        micros(self.boot_time_s)
    }
}

fn micros(seconds: u64) -> Micros {
    Micros::try_from(seconds).unwrap_or(Micros::MAX / SECOND).saturating_mul(SECOND)
}

pub(super) fn reservations(table: Table<'_>) -> Reservations {
    let default = Reservations::default();
    let limit = |key, default| {
        let right = format!("{DURATION}, from 1s to 1d");
        let read = |text: &str| units::seconds(text).filter(|s| (1..=86_400).contains(s));
        table.get(key).and_then(|value| value.with(&right, read)).unwrap_or(default)
    };
    let read = Reservations {
        warn_s: limit("warn", default.warn_s),
        boot_time_s: limit("boot_time", default.boot_time_s),
    };
    table.refuse_unknown();
    read
}

/// All queues, each behind the one above it.
pub(super) fn queues(root: &Table<'_>) -> Vec<QueueSpec> {
    let mut queues: Vec<QueueSpec> = Vec::new();
    for table in root.tables("queue") {
        let queue = queue(&table, &queues);
        table.refuse_unknown();
        let Some(queue) = queue else { continue };
        if queues.iter().any(|known| known.name == queue.name) {
            let wrong = format!("{} stands here twice", queue.name);
            table.refuse(&table.path_of("name"), wrong, "a name of its own");
            continue;
        }
        queues.push(queue);
    }
    if let Err(problem) = check(&queues) {
        root.refuse("queue", problem, "shares that fit into each other");
    }
    queues
}

fn queue(table: &Table<'_>, above: &[QueueSpec]) -> Option<QueueSpec> {
    let name = table.need("name", "the queue's name").and_then(|v| v.name::<QueueName>());
    let policies = [
        ("fifo", QueuePolicy::Fifo),
        ("fair", QueuePolicy::Fair),
        ("capacity", QueuePolicy::Capacity),
    ];
    let percent = |key| {
        let number = table.get(key).and_then(|value| value.number(0..=100));
        number.and_then(|n| u32::try_from(n).ok())
    };
    let right = format!("{DURATION}, from 1s to 3650d");
    let read = |text: &str| units::seconds(text).filter(|s| (1..=3650 * 86_400).contains(s));
    let time = |key| table.get(key).and_then(|value: Value<'_>| value.with(&right, read));
    let parent = table.get("parent").and_then(|value| {
        let parent = value.name::<QueueName>()?;
        if above.iter().any(|queue| queue.name == parent) {
            return Some(parent);
        }
        value.refuse(format!("no queue {parent} stands before this one"), "a queue that does")
    });
    let groups = table.get("node_groups").map(|value| {
        let items = value.items("a list of node groups").into_iter();
        items.filter_map(|item| item.name::<NodeGroupName>()).collect()
    });
    let policy = table.get("policy").and_then(|value| value.word(&policies));
    let open = table.get("open").and_then(|value| value.flag());
    let (guaranteed, max, user_max) = (percent("guaranteed"), percent("max"), percent("user_max"));
    let max_reserved = percent("max_reserved");
    let weight = table.get("weight").and_then(|value| value.number(1..=1_000_000));
    let priority = table.get("priority").and_then(|value| value.number(-1_000_000..=1_000_000));
    let (walltime, max_walltime) = (time("walltime"), time("max_walltime"));
    let (max_ahead, no_show) = (time("max_ahead"), time("no_show"));
    let default = QueueSpec::named(name?);
    let max_walltime_s = max_walltime.unwrap_or(default.max_walltime_s);
    let queue = QueueSpec {
        parent,
        policy: policy.unwrap_or_default(),
        node_groups: groups.unwrap_or_default(),
        open: open.unwrap_or_default(),
        guaranteed: guaranteed.unwrap_or(default.guaranteed),
        max: max.unwrap_or(default.max),
        user_max,
        weight: weight.and_then(|n| n.try_into().ok()).unwrap_or(default.weight),
        priority: priority.and_then(|n| n.try_into().ok()).unwrap_or(default.priority),
        walltime_s: walltime.unwrap_or(default.walltime_s.min(max_walltime_s)),
        max_walltime_s,
        max_ahead_s: max_ahead.unwrap_or(default.max_ahead_s),
        max_reserved: max_reserved.unwrap_or(default.max_reserved),
        no_show_s: no_show,
        ..default
    };
    if queue.walltime_s > queue.max_walltime_s {
        table.refuse(&table.path_of("walltime"), "is more than max_walltime", "at most that");
    }
    Some(queue)
}

/// No time of a queue is longer, seconds: ten years, with which no sum of times overflows.
const LONGEST: u64 = 10 * 366 * 86_400;

/// Whether the shares of queues fit into each other, each queue behind the one above it. A plan could
/// not be made with others.
pub(crate) fn check(queues: &[QueueSpec]) -> Result<(), String> {
    let all = |name: Option<&QueueName>| {
        let below = queues.iter().filter(move |queue| queue.parent.as_ref() == name);
        below.map(|queue| queue.guaranteed).sum::<u32>()
    };
    if all(None) > 100 {
        return Err(format!("the queues at the top are guaranteed {}% together", all(None)));
    }
    for queue in queues {
        let times = [queue.max_walltime_s, queue.max_ahead_s, queue.no_show_s.unwrap_or_default()];
        if times.iter().any(|time| *time > LONGEST) {
            return Err(format!(
                "no time of {} can be more than ten years ({LONGEST} s)",
                queue.name
            ));
        }
        if queue.guaranteed > queue.max {
            let (name, guaranteed, max) = (&queue.name, queue.guaranteed, queue.max);
            return Err(format!("{name} is guaranteed {guaranteed}% and may hold {max}%"));
        }
        let below = all(Some(&queue.name));
        if below > queue.guaranteed {
            let (name, has) = (&queue.name, queue.guaranteed);
            return Err(format!(
                "the queues below {name} are guaranteed {below}% together, and it is {has}%"
            ));
        }
    }
    Ok(())
}
