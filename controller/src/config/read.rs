//! From the text of haasd.toml to a checked [`Config`]: every key, its default and its limits.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, time::Duration};

use haas_api::names::NodeGroupName;
use ipnet::IpNet;

use super::{
    Auth, AuthMode, Baseline, BootLimits, Config, Console, DrainHook, Events, HealthChecks,
    IdleRule, Iscsi, Metrics, Network, NetworkHook, Ports, PowerLimits, Reach, Reachability,
    Tenants, Webhooks,
    network::{interface, networks},
    problem::Problems,
    queues,
    reader::{Notes, Table},
    units,
};
use crate::model::{Micros, SECOND};

pub(super) const DURATION: &str = "a duration such as \"300s\", \"15m\" or \"1h\"";

pub(super) fn config(
    text: &str,
    path: &Path,
    addresses_of: &dyn Fn(&str) -> Option<Vec<Ipv4Addr>>,
) -> (Config, Option<Problems>) {
    let file = path.display().to_string();
    let notes = Notes::new(&file, text);
    let parsed = notes.parse();
    let root = notes.root(&parsed);
    let folder = path.parent().unwrap_or(Path::new(""));
    let file_or = |key, default: &str| {
        let given = root.get(key).and_then(|value| value.text());
        folder.join(given.unwrap_or(default))
    };

    let state_dir = file_or("state_dir", "/var/lib/haas");
    let mut config = Config {
        database_url: database_url(&root, &state_dir),
        state_dir,
        nodes_file: file_or("nodes_file", "nodes.toml"),
        agent_cpio: file_or("agent_cpio", "/usr/lib/haas/agent.cpio.zst"),
        ipxe_dir: file_or("ipxe_dir", "/usr/lib/ipxe"),
        shim: file_or("shim", "/usr/lib/shim/shimx64.efi.signed"),
        grub: file_or("grub", "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
        templates_dir: file_or("templates_dir", "/usr/share/haas/templates"),
        api_interfaces: Vec::new(),
        networks: networks(&root, addresses_of),
        ports: root.get("ports").and_then(|v| v.table()).map(ports).unwrap_or_default(),
        iscsi: root.get("iscsi").and_then(|v| v.table()).map(iscsi).unwrap_or_default(),
        boot: root.get("boot").and_then(|v| v.table()).map(boot).unwrap_or_default(),
        health: root.get("health").and_then(|v| v.table()).map(health).unwrap_or_default(),
        power_ramp: root
            .get("power_ramp")
            .and_then(|v| v.table())
            .map(power_ramp)
            .unwrap_or_default(),
        auth: root.get("auth").and_then(|v| v.table()).map(auth).unwrap_or_default(),
        metrics: root.get("metrics").and_then(|v| v.table()).map(metrics).unwrap_or_default(),
        events: root.get("events").and_then(|v| v.table()).map(events).unwrap_or_default(),
        webhooks: root.get("webhooks").and_then(|v| v.table()).map(webhooks).unwrap_or_default(),
        network_hook: root.get("network_hook").and_then(|v| v.table()).and_then(network_hook),
        drain_hook: root.get("drain_hook").and_then(|v| v.table()).and_then(drain_hook),
        console: root.get("console").and_then(|v| v.table()).map(console).unwrap_or_default(),
        baseline: root.get("baseline").and_then(|v| v.table()).map(baseline).unwrap_or_default(),
        tenants: root.get("tenants").and_then(|v| v.table()).map(tenants).unwrap_or_default(),
        reachability: root
            .get("reachability")
            .and_then(|v| v.table())
            .map(reachability)
            .unwrap_or_default(),
        power: root.get("power").and_then(|v| v.table()).map(power).unwrap_or_default(),
        idle: idle(&root),
        reservations: root
            .get("reservations")
            .and_then(|v| v.table())
            .map(queues::reservations)
            .unwrap_or_default(),
        queues: queues::queues(&root),
    };
    config.api_interfaces = api_interfaces(&root, &config.networks);
    root.refuse_unknown();
    let problems = notes.finish(()).err();
    (config, problems)
}

fn auth(table: Table<'_>) -> Auth {
    let register = table.get("register").and_then(|value| value.flag()).unwrap_or_default();
    let modes = [("token", AuthMode::Token), ("off", AuthMode::Off)];
    let mode = table.get("mode").and_then(|value| value.word(&modes)).unwrap_or_default();
    let read = |text: &str| units::seconds(text).filter(|s| *s <= 3650 * 86_400);
    let right = format!("{DURATION}, at most 3650d");
    let keep_removed_s = table.get("keep_removed").and_then(|value| value.with(&right, read));
    let keep_removed_s = keep_removed_s.unwrap_or(Auth::default().keep_removed_s);
    table.refuse_unknown();
    Auth { mode, register, keep_removed_s }
}

fn network_hook(table: Table<'_>) -> Option<NetworkHook> {
    let timeout_s = within_an_hour(&table, "timeout").unwrap_or(60);
    let command = command(&table);
    table.refuse_unknown();
    Some(NetworkHook { command: command?, timeout_s })
}

fn drain_hook(table: Table<'_>) -> Option<DrainHook> {
    let timeout_s = within_an_hour(&table, "timeout").unwrap_or(60);
    let again_s = within_an_hour(&table, "again").unwrap_or(30);
    let read = |text: &str| units::seconds(text).filter(|s| (1..=30 * 86_400).contains(s));
    let right = format!("{DURATION}, from 1s to 30d");
    let limit_s = table.get("limit").and_then(|value| value.with(&right, read)).unwrap_or(3_600);
    let command = command(&table);
    table.refuse_unknown();
    Some(DrainHook { command: command?, timeout_s, again_s, limit_s })
}

/// Seconds that have to do with one call of a program.
fn within_an_hour(table: &Table<'_>, key: &'static str) -> Option<u64> {
    let read = |text: &str| units::seconds(text).filter(|s| (1..=3600).contains(s));
    let right = format!("{DURATION}, from 1s to 1h");
    table.get(key).and_then(|value| value.with(&right, read))
}

/// The program of a table that is for nothing else.
fn command(table: &Table<'_>) -> Option<Vec<String>> {
    let value = table.get("command");
    if value.is_none() {
        table.refuse(&table.path_of("command"), "is missing", "a program and its arguments");
    }
    value.and_then(|value| value.command())
}

fn metrics(table: Table<'_>) -> Metrics {
    let mut metrics = Metrics { listen: Vec::new(), allow: networks_in(&table) };
    if let Some(listen) = table.get("listen") {
        let right = "a list of addresses with their ports, such as [\"127.0.0.1:9090\"]";
        for item in listen.items(right) {
            let Some(address) = item.parsed::<std::net::SocketAddr>(right) else { continue };
            if !address.ip().is_loopback() && metrics.allow.is_empty() {
                let wrong =
                    format!("{address} is reached from elsewhere, and nobody may read there");
                let _: Option<()> = item.refuse(wrong, "`allow` beside it, or a loopback address");
            }
            metrics.listen.push(address);
        }
    }
    table.refuse_unknown();
    metrics
}

fn events(table: Table<'_>) -> Events {
    let read =
        |text: &str| units::seconds(text).filter(|s| (2 * 86_400..=3_650 * 86_400).contains(s));
    let right = format!("{DURATION}, from 2d to 3650d");
    let keep = table.get("keep").and_then(|value| value.with(&right, read));
    table.refuse_unknown();
    keep.map_or_else(Events::default, |keep_s| Events { keep_s })
}

fn webhooks(table: Table<'_>) -> Webhooks {
    let webhooks = Webhooks { allow: networks_in(&table) };
    table.refuse_unknown();
    webhooks
}

/// The list `allow` of a table. An address stands for itself alone.
fn networks_in(table: &Table<'_>) -> Vec<IpNet> {
    let right = "a list of addresses or networks, such as [\"10.0.0.9\", \"10.1.0.0/24\"]";
    let network = |text: &str| {
        let one = text.parse::<std::net::IpAddr>().map(IpNet::from);
        one.ok().or_else(|| text.parse::<IpNet>().ok())
    };
    let Some(allow) = table.get("allow") else { return Vec::new() };
    allow.items(right).iter().filter_map(|item| item.with(right, network)).collect()
}

fn health(table: Table<'_>) -> HealthChecks {
    let read = |text: &str| match text {
        "off" => Some(None),
        text => {
            let seconds = units::seconds(text).filter(|s| (10..=86_400).contains(s))?;
            Some(Some(Duration::from_secs(seconds)))
        }
    };
    let right = format!("{DURATION}, from 10s to 1d, or \"off\"");
    let poll = table.get("poll").and_then(|value| value.with(&right, read));
    table.refuse_unknown();
    poll.map_or_else(HealthChecks::default, |poll| HealthChecks { poll })
}

/// Its keys are node groups, which are in the inventory.
fn power_ramp(table: Table<'_>) -> BTreeMap<NodeGroupName, u32> {
    let mut ramps = BTreeMap::new();
    for (key, value) in table.all() {
        let Ok(group) = key.value.parse::<NodeGroupName>() else {
            let wrong = format!("{:?} is no node group's name", key.value);
            let _: Option<()> = value.refuse(wrong, "a group of nodes.toml, without the '@'");
            continue;
        };
        let limit = value.number(1..=100_000).and_then(|n| u32::try_from(n).ok());
        ramps.extend(limit.map(|limit| (group, limit)));
    }
    ramps
}

fn power(table: Table<'_>) -> PowerLimits {
    let limit = table.get("auto_limit").and_then(|value| value.number(0..=1_000_000));
    let limit = limit.and_then(|n| n.try_into().ok());
    table.refuse_unknown();
    PowerLimits { auto_limit: limit.unwrap_or(PowerLimits::default().auto_limit) }
}

fn idle(root: &Table<'_>) -> Vec<IdleRule> {
    let mut rules: Vec<IdleRule> = Vec::new();
    for table in root.tables("idle") {
        let group = table.need("node_group", "a node group of nodes.toml");
        let group = group.and_then(|value| value.name::<NodeGroupName>());
        let right = format!("{DURATION}, from 1m to 30d");
        let read = |text: &str| units::seconds(text).filter(|s| (60..=2_592_000).contains(s));
        let timeout = table.need("idle_timeout", &right).and_then(|value| value.with(&right, read));
        let min_on = table.get("min_on").and_then(|value| value.number(0..=1_000_000));
        table.refuse_unknown();
        let (Some(group), Some(timeout)) = (group, timeout) else { continue };
        if rules.iter().any(|rule| rule.group == group) {
            table.refuse(&table.path_of("node_group"), format!("{group} has two rules"), "one");
            continue;
        }
        let timeout = Micros::try_from(timeout).unwrap_or(Micros::MAX / SECOND) * SECOND;
        let min_on = min_on.and_then(|n| n.try_into().ok()).unwrap_or_default();
        rules.push(IdleRule { group, timeout, min_on });
    }
    rules
}

fn database_url(root: &Table<'_>, state_dir: &Path) -> String {
    let default = || format!("sqlite://{}", state_dir.join("haas.db").display());
    let Some(value) = root.get("database_url") else { return default() };
    let Some(url) = value.text() else { return default() };
    // What is refused is not repeated: it may hold a password.
    if !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        let _: Option<()> = value.refuse(
            "names no database that haasd can use",
            "\"sqlite:///path/haas.db\" or \"postgres://user@host/database\"",
        );
    }
    url.to_owned()
}

fn api_interfaces(root: &Table<'_>, networks: &[Network]) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let api = root.get("api").and_then(|value| value.table());
    let named = api.as_ref().and_then(|api| api.get("interfaces"));
    if let Some(named) = named {
        if named.is_empty_list() {
            let _: Option<()> = named.refuse("names no interface", "at least one interface");
        }
        for item in named.items("a list of interface names") {
            let Some(name) = interface(&item) else { continue };
            if list.contains(&name) {
                let _: Option<()> = item.refuse(format!("{name:?} is named twice"), "it once");
            }
            list.push(name);
        }
    } else {
        for network in networks.iter().filter(|n| !n.interface.is_empty()) {
            if !list.contains(&network.interface) {
                list.push(network.interface.clone());
            }
        }
    }
    if let Some(api) = api {
        api.refuse_unknown();
    }
    list
}

fn ports(table: Table<'_>) -> Ports {
    let default = Ports::default();
    // Port 0, "any free one", is for tests.
    let port = |key, default| {
        let number = table.get(key).and_then(|value| value.number(0..=65_535));
        number.and_then(|n| n.try_into().ok()).unwrap_or(default)
    };
    let ports = Ports {
        api: port("api", default.api),
        http: port("http", default.http),
        iscsi: port("iscsi", default.iscsi),
        tftp: port("tftp", default.tftp),
        dhcp: port("dhcp", default.dhcp),
        pxe: port("pxe", default.pxe),
    };
    let tcp = [("api", ports.api), ("http", ports.http), ("iscsi", ports.iscsi)];
    let udp = [("tftp", ports.tftp), ("dhcp", ports.dhcp), ("pxe", ports.pxe)];
    for group in [tcp, udp] {
        for (i, (key, port)) in group.iter().enumerate() {
            if let Some((other, _)) = group[..i].iter().find(|(_, p)| p == port && *p != 0) {
                let wrong = format!("{port} is also the port of {other}");
                table.refuse(&table.path_of(key), wrong, "a port of its own");
            }
        }
    }
    table.refuse_unknown();
    ports
}

fn iscsi(table: Table<'_>) -> Iscsi {
    const MEGABYTE: u64 = 1_000_000;
    let number = |key, most| {
        let number = table.get(key).and_then(|value| value.number(1..=most));
        number.and_then(|n| u64::try_from(n).ok())
    };
    let iscsi = Iscsi {
        io_threads: number("io_threads", 64).and_then(|n| n.try_into().ok()),
        node_rate: number("node_rate", 1_000_000).map(|rate| rate * MEGABYTE),
        user_rate: number("user_rate", 1_000_000).map(|rate| rate * MEGABYTE),
        user_sessions: number("user_sessions", 1_000_000).and_then(|n| n.try_into().ok()),
    };
    table.refuse_unknown();
    iscsi
}

fn console(table: Table<'_>) -> Console {
    let default = Console::default();
    let size = |text: &str| units::mebibytes(text).filter(|mib| (1..=1 << 20).contains(mib));
    let age = |text: &str| units::seconds(text).filter(|s| (3600..=3650 * 86_400).contains(s));
    let console = Console {
        log: table.get("log").and_then(|value| value.flag()).unwrap_or(default.log),
        size_mib: table
            .get("size")
            .and_then(|value| value.with("a size such as \"8 MiB\", from 1 MiB to 1 TiB", size))
            .unwrap_or(default.size_mib),
        age_s: table
            .get("age")
            .and_then(|value| value.with("a time such as \"30d\", from 1h to 3650d", age))
            .unwrap_or(default.age_s),
    };
    table.refuse_unknown();
    console
}

fn baseline(table: Table<'_>) -> Baseline {
    let words = [("between-tenants", true), ("never", false)];
    let check = table.get("check").and_then(|value| value.word(&words));
    table.refuse_unknown();
    check.map_or_else(Baseline::default, |check| Baseline { check })
}

fn tenants(table: Table<'_>) -> Tenants {
    let words = [("refuse", false), ("allow", true)];
    let allows = |key| table.get(key).and_then(|value| value.word(&words)).unwrap_or_default();
    let tenants = Tenants {
        undeclared_disks: allows("undeclared_disks"),
        root_beside_others: allows("root_beside_others"),
    };
    table.refuse_unknown();
    tenants
}

fn reachability(table: Table<'_>) -> Reachability {
    let default = Reachability::default();
    let words = [("off", Reach::Off), ("warn", Reach::Warn), ("refuse", Reach::Refuse)];
    let check = table.get("check").and_then(|value| value.word(&words)).unwrap_or(default.check);
    let controller_ports = match table.get("controller_ports") {
        None => default.controller_ports,
        Some(ports) => {
            let items = ports.items("a list of TCP ports, such as [22, 5432]");
            let number = |item: &super::reader::Value<'_>| item.number(1..=65_535)?.try_into().ok();
            items.iter().filter_map(number).take(16).collect()
        }
    };
    table.refuse_unknown();
    Reachability { check, controller_ports }
}

fn boot(table: Table<'_>) -> BootLimits {
    let default = BootLimits::default();
    let limit = |key, default| {
        let read = |text: &str| units::seconds(text).filter(|s| (1..=86_400).contains(s));
        let right = format!("{DURATION}, from 1s to 1d");
        table.get(key).and_then(|value| value.with(&right, read)).unwrap_or(default)
    };
    let limits = BootLimits {
        firmware_s: limit("firmware", default.firmware_s),
        stage_s: limit("stage", default.stage_s),
        total_s: limit("total", default.total_s),
        attempts: table
            .get("attempts")
            .and_then(|value| value.number(1..=10))
            .and_then(|n| n.try_into().ok())
            .unwrap_or(default.attempts),
        shutdown_s: limit("shutdown", default.shutdown_s),
    };
    if limits.total_s < limits.firmware_s {
        let wrong = format!("{}s is less than firmware's {}s", limits.total_s, limits.firmware_s);
        table.refuse(&table.path_of("total"), wrong, "a whole boot to take longer than its part");
    }
    table.refuse_unknown();
    limits
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
