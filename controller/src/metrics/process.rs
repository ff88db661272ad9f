//! haasd's own figures, under the names that every exporter gives them, and which build it is.

use std::sync::LazyLock;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::gauge;
use crate::clock;

/// When this process began, more or less: seconds since 1970.
pub(super) static STARTED: LazyLock<f64> = LazyLock::new(|| super::seconds(clock::wall()));

pub(super) fn figures() -> Registry {
    let mut registry = Registry::default();
    let build: Family<[(&str, &str); 1], Gauge> = Family::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    registry.register("haas_build_info", "Which build runs", build);

    let mut add = |name: &str, help: &str, unit: Option<Unit>, value: i64| {
        let figure: Gauge = Gauge::default();
        figure.set(value);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, figure),
            None => registry.register(name, help, figure),
        }
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
        kib.unwrap_or(0) * 1024
    };
    let bytes = Some(Unit::Bytes);
    add("process_virtual_memory", "Virtual memory", bytes.clone(), memory("VmSize:"));
    add("process_resident_memory", "Resident memory", bytes, memory("VmRSS:"));
    let count = |folder: &str| std::fs::read_dir(folder).map_or(0, |entries| entries.count());
    add("process_open_fds", "Open file descriptors", None, gauge(count("/proc/self/fd")));
    add("process_threads", "Threads", None, gauge(count("/proc/self/task")));
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    add("process_max_fds", "File descriptors that may be open", None, most);

    let started: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
    started.set(*STARTED);
    let help = "When the process began, since 1970";
    registry.register_with_unit("process_start_time", help, Unit::Seconds, started);
    let cpu: Counter<f64, std::sync::atomic::AtomicU64> = Counter::default();
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        for time in [usage.user_time(), usage.system_time()] {
            cpu.inc_by(super::seconds(time.tv_sec() * 1_000_000 + time.tv_usec()));
        }
    }
    let help = "User and system time of the process";
    registry.register_with_unit("process_cpu", help, Unit::Seconds, cpu);
    registry
}
