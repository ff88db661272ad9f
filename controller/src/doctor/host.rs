//! The machine that haasd runs on: clock, disk, limits, kernel, programs.

use std::{collections::BTreeSet, fs, path::Path};

use haas_api::doctor::Finding;
use nix::sys::statvfs::statvfs;

use super::sys;
use crate::{config::Config, images, inventory::NodeSpec};

/// Free bytes of the state directory below which images no longer fit, and below which the
/// database is in danger.
const SPACE_FEW: u64 = 10 << 30;
const SPACE_NONE: u64 = 1 << 30;

/// Open files for haasd itself, and for each node: its session, its agent, its downloads.
const FILES_OWN: u64 = 256;
const FILES_NODE: u64 = 8;

/// Neighbours that are no nodes: routers, name servers, people.
const NEIGHBOURS_OWN: usize = 64;

/// Programs that images are made with.
const PROGRAMS: [&str; 13] = [
    "apt-ftparchive",
    "apt-get",
    "chroot",
    "cp",
    "depmod",
    "dpkg-deb",
    "mkfs.erofs",
    "mksquashfs",
    "mmdebstrap",
    "partx",
    "setfiles",
    "tar",
    "veritysetup",
];
const PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What the kernel must have, seen by a file; the module, and what it is for.
const KERNEL: [(&str, &str, &str); 2] = [
    ("/proc/net/packet", "af_packet", "iPXE waits for a router that is not there at each boot"),
    ("/dev/loop-control", "loop", "file system images and raw disks cannot be imported"),
];

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![clock(sys::clock_is_set()), disk(&config.state_dir)];
    let missing: Vec<_> = KERNEL.iter().filter(|(seen, _, _)| !Path::new(seen).exists()).collect();
    for (_, module, why) in &missing {
        let what = format!("the kernel has no {module}");
        findings.push(Finding::warning("kernel modules", what, why, format!("modprobe {module}")));
    }
    if missing.is_empty() {
        findings.push(Finding::good("kernel modules", "all are there"));
    }
    findings.push(programs(|name| PATH.iter().any(|folder| Path::new(folder).join(name).exists())));
    findings
}

fn clock(is_set: Option<bool>) -> Finding {
    const TOPIC: &str = "clock";
    match is_set {
        Some(true) => Finding::good(TOPIC, "it is kept by a time server"),
        Some(false) => Finding::warning(
            TOPIC,
            "no time server keeps it",
            "each node takes its clock from here as it boots: files and certificates of its users \
             would be of another time",
            "apt-get install systemd-timesyncd, or chrony; then timedatectl".to_owned(),
        ),
        None => Finding::warning(
            TOPIC,
            "the kernel does not say whether a time server keeps it",
            "each node takes its clock from here as it boots",
            "timedatectl".to_owned(),
        ),
    }
}

fn disk(state_dir: &Path) -> Finding {
    const TOPIC: &str = "disk space";
    // It is made at the first start.
    let there = state_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let free = match statvfs(there) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(error) => {
            return Finding::wrong(
                TOPIC,
                format!("{} cannot be asked: {error}", there.display()),
                "haasd keeps its database and its images there",
                format!("ls -ld {}", there.display()),
            );
        }
    };
    space(&state_dir.display().to_string(), free)
}

fn space(state_dir: &str, free: u64) -> Finding {
    const TOPIC: &str = "disk space";
    let mib = free >> 20;
    let what = format!("{mib} MiB are free for {state_dir}");
    let remedy = "haasctl image list; haasctl image rm IMAGE; or a larger disk".to_owned();
    if free < SPACE_NONE {
        let why = "a database that cannot be written stops every change";
        Finding::wrong(TOPIC, what, why, remedy)
    } else if free < SPACE_FEW {
        Finding::warning(TOPIC, what, "builds and imports of images may find no room", remedy)
    } else {
        Finding::good(TOPIC, what)
    }
}

/// The limits of this process, which are haasd's only where this is haasd.
pub(super) fn own_limits(nodes: usize) -> Finding {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    open_files(&limits, nodes)
}

fn open_files(limits: &str, nodes: usize) -> Finding {
    const TOPIC: &str = "file limits";
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    // "unlimited" is no number.
    let soft = soft.and_then(|soft| soft.parse::<u64>().ok()).unwrap_or(u64::MAX);
    let needed = FILES_OWN + FILES_NODE * nodes as u64;
    if soft >= needed {
        return Finding::good(TOPIC, format!("enough for {nodes} nodes"));
    }
    Finding::wrong(
        TOPIC,
        format!("haasd may open {soft} files, and {nodes} nodes need {needed}"),
        "the nodes that come last cannot reach their images",
        "LimitNOFILE=65536 in haasd.service, then systemctl daemon-reload and restart".to_owned(),
    )
}

/// Whether the kernel remembers enough neighbours (ARP): one entry for each node and for each BMC that is
/// behind no router. Nothing where it does not say: the limit is the machine's, and a network namespace of
/// its own does not see it.
pub(super) fn neighbours(nodes: &[NodeSpec]) -> Option<Finding> {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?;
    let bmcs: BTreeSet<_> = nodes.iter().filter_map(|node| node.power.address()).collect();
    Some(enough_neighbours(limit.trim().parse().ok()?, nodes.len(), bmcs.len()))
}

fn enough_neighbours(limit: usize, nodes: usize, bmcs: usize) -> Finding {
    const TOPIC: &str = "neighbours";
    let needed = nodes + bmcs + NEIGHBOURS_OWN;
    if needed <= limit {
        return Finding::good(TOPIC, format!("the kernel keeps {limit}, enough for {nodes} nodes"));
    }
    let size = (2 * needed).next_power_of_two();
    let settings = [(1, size / 4), (2, size / 2), (3, size)]
        .map(|(number, size)| format!("net.ipv4.neigh.default.gc_thresh{number}={size}"));
    let what = format!(
        "the kernel keeps {limit} (gc_thresh3), and {nodes} nodes with {bmcs} BMCs may need {needed}"
    );
    let why = "when its ARP table is full, it sends nothing to nodes that are not in it: they lose their disks \
               and hang as they boot, and dmesg says \"neighbor table overflow\"";
    let remedy = format!("sysctl -w {}; the same in /etc/sysctl.d/haas.conf", settings.join(" "));
    // BMCs behind a router need none.
    if nodes + NEIGHBOURS_OWN > limit {
        Finding::wrong(TOPIC, what, why, remedy)
    } else {
        Finding::warning(TOPIC, what, why, remedy)
    }
}

fn programs(is_there: impl Fn(&str) -> bool) -> Finding {
    const TOPIC: &str = "packages";
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return Finding::good(TOPIC, "every program that images are made with is there");
    }
    let mut packages: Vec<_> =
        missing.iter().map(|name| images::package_of(name).unwrap_or("coreutils")).collect();
    packages.sort_unstable();
    packages.dedup();
    Finding::warning(
        TOPIC,
        format!("{} not there", missing.join(", ")),
        "images cannot be built or imported without them; nodes boot those that there are",
        format!("apt-get install {}", packages.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use haas_api::doctor::FindingState;

    use super::*;

    #[test]
    fn little_space_is_a_warning_and_none_is_wrong() {
        let state = |free| space("/var/lib/haas", free).state;
        assert_eq!(state(100 << 30), FindingState::Good);
        assert_eq!(state(5 << 30), FindingState::Warning);
        assert_eq!(state(100 << 20), FindingState::Wrong);
        assert_eq!(disk(Path::new("/proc/none/state")).state, FindingState::Wrong);
    }

    #[test]
    fn open_files_are_counted_by_nodes() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024   524288  files\n";
        assert_eq!(open_files(limits, 90).state, FindingState::Good);
        let few = open_files(limits, 200);
        assert!(few.state == FindingState::Wrong && few.what.contains("1024"), "{few:?}");
        assert_eq!(
            open_files("Max open files  unlimited  unlimited", 9_999).state,
            FindingState::Good
        );
    }

    #[test]
    fn more_nodes_than_the_kernel_keeps_neighbours_are_told_with_what_to_type() {
        assert_eq!(enough_neighbours(1024, 480, 480).state, FindingState::Good);
        let few = enough_neighbours(1024, 500, 500);
        assert_eq!(few.state, FindingState::Warning, "its BMCs may be behind a router");
        assert_eq!(enough_neighbours(1024, 1000, 0).state, FindingState::Wrong);
        assert!(
            few.what.contains("keeps 1024 (gc_thresh3), and 500 nodes with 500 BMCs"),
            "{few:?}"
        );
        assert_eq!(
            few.remedy.as_deref(),
            Some(
                "sysctl -w net.ipv4.neigh.default.gc_thresh1=1024 net.ipv4.neigh.default.gc_thresh2=2048 \
                 net.ipv4.neigh.default.gc_thresh3=4096; the same in /etc/sysctl.d/haas.conf"
            )
        );
    }

    #[test]
    fn missing_programs_are_told_with_their_packages() {
        let found = programs(|name| !["mkfs.erofs", "chroot", "cp"].contains(&name));
        assert_eq!(found.what, "chroot, cp, mkfs.erofs not there");
        assert_eq!(found.remedy.as_deref(), Some("apt-get install coreutils erofs-utils"));
        assert_eq!(programs(|_| true).state, FindingState::Good);
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_a_warning() {
        let states = [Some(true), Some(false), None].map(|is_set| clock(is_set).state);
        assert_eq!(states, [FindingState::Good, FindingState::Warning, FindingState::Warning]);
        assert!(sys::clock_is_set().is_some(), "the kernel says so or not");
    }
}
