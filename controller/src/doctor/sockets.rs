//! Whether another program has a port that haasd needs, by the kernel's tables: two programs may have
//! the same UDP port, so that trying to open it would not tell.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use haas_api::doctor::Finding;

use crate::config::{Config, DhcpMode};

const TOPIC: &str = "ports";

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let ports = &config.ports;
    let mut needed = vec![
        ("tcp", ports.api, "the API and the agents' channel"),
        ("tcp", ports.http, "boot files"),
        ("tcp", ports.iscsi, "images"),
    ];
    if config.networks.iter().any(|n| n.dhcp != DhcpMode::Off) {
        needed.push(("udp", ports.dhcp, "DHCP"));
        needed.push(("udp", ports.tftp, "TFTP"));
    }
    if config.networks.iter().any(|n| n.dhcp == DhcpMode::Proxy) {
        needed.push(("udp", ports.pxe, "ProxyDHCP"));
    }
    let holders = holders();
    let ours: Vec<_> = config.networks.iter().map(|n| n.controller).collect();
    let collides = |address: Ipv4Addr| address.is_unspecified() || ours.contains(&address);
    let mut findings = Vec::new();
    for (kind, port, what_for) in needed.into_iter().filter(|(_, port, _)| *port != 0) {
        for socket in sockets(kind).into_iter().filter(|s| s.port == port && collides(s.address)) {
            let holder = holders.get(&socket.inode);
            // systemd keeps haasd's own sockets while it is away (haasd.socket).
            let is_kept = |holder: &Holder| holder.program == "systemd" && holder.pid == 1;
            if holder.is_some_and(|holder| holder.program == "haasd" || is_kept(holder)) {
                continue;
            }
            let who = match holder {
                Some(Holder { program, pid, .. }) => format!("{program} (process {pid})"),
                None => "a program of another namespace".to_owned(),
            };
            findings.push(Finding::wrong(
                TOPIC,
                format!("{} port {port} is held by {who}", kind.to_uppercase()),
                &format!("haasd needs it for {what_for} and does not start without it"),
                match holder {
                    Some(Holder { unit: Some(unit), .. }) => format!(
                        "systemctl disable --now {unit}, or let it listen on other interfaces"
                    ),
                    Some(Holder { pid, .. }) => {
                        format!("kill {pid}, or let it listen on other interfaces")
                    }
                    None => format!("ss -lnp sport = :{port}"),
                },
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(TOPIC, "no other program has a port that haasd needs"));
    }
    findings
}

/// A socket that waits for others.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    address: Ipv4Addr,
    port: u16,
    inode: u64,
}

#[derive(Debug)]
struct Holder {
    program: String,
    pid: u32,
    /// What systemd knows it as.
    unit: Option<String>,
}

fn sockets(kind: &str) -> Vec<Waiting> {
    let four = fs::read_to_string(format!("/proc/net/{kind}")).unwrap_or_default();
    let six = fs::read_to_string(format!("/proc/net/{kind}6")).unwrap_or_default();
    four.lines().chain(six.lines()).filter_map(|line| waiting(line, kind)).collect()
}

/// A line of /proc/net/tcp, udp, tcp6 or udp6. A socket on every IPv6 address has the IPv4 ones too.
fn waiting(line: &str, kind: &str) -> Option<Waiting> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    // TCP_LISTEN, and of UDP what is not connected (TCP_CLOSE).
    let state = if kind == "tcp" { "0A" } else { "07" };
    if *fields.get(3)? != state {
        return None;
    }
    let address = match address.len() {
        8 => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.swap_bytes()),
        _ if address.bytes().all(|b| b == b'0') => Ipv4Addr::UNSPECIFIED,
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Waiting { address, port, inode: fields.get(9)?.parse().ok()? })
}

/// Every socket's number with the program that has it.
fn holders() -> BTreeMap<u64, Holder> {
    let mut holders = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|i| i.parse().ok()) {
                let group = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
                let (program, unit) = (name.trim().to_owned(), unit_of(&group));
                holders.insert(inode, Holder { program, pid, unit });
            }
        }
    }
    holders
}

/// The systemd unit in a process's /proc/PID/cgroup, which may have another name than its program.
fn unit_of(group: &str) -> Option<String> {
    let parts = group.lines().flat_map(|line| line.split('/'));
    let mut units = parts.filter(|part| part.ends_with(".service"));
    units.next_back().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_wait_are_read_from_the_kernels_tables() {
        let line = "  1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        let expected = Waiting { address: [127, 0, 0, 1].into(), port: 8080, inode: 4711 };
        assert_eq!(waiting(line, "tcp"), Some(expected));
        assert_eq!(waiting(&line.replace(" 0A ", " 01 "), "tcp"), None, "it is connected");
        let any = line.replace("0100007F", &"0".repeat(32));
        assert_eq!(waiting(&any, "tcp").map(|w| w.address), Some(Ipv4Addr::UNSPECIFIED));
        assert_eq!(waiting("  sl  local_address rem_address   st", "udp"), None);
    }

    #[test]
    fn a_program_is_stopped_by_the_name_of_its_unit() {
        assert_eq!(unit_of("0::/system.slice/tgt.service\n").as_deref(), Some("tgt.service"));
        let by_hand = "0::/user.slice/user-0.slice/session-4.scope\n";
        assert_eq!(unit_of(by_hand), None);
    }

    #[test]
    fn a_port_of_another_program_is_found_with_its_name() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = sockets("tcp").into_iter().find(|s| s.port == port).expect("it listens");
        let holders = holders();
        assert_eq!(holders[&found.inode].pid, std::process::id());
    }
}
