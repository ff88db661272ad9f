//! Numbers for the heartbeat, each from where the kernel keeps it. Nothing here touches the root:
//! the heartbeat must go on while the root's target is away.

use std::{fs, io};

use nix::{
    sys::statvfs::statvfs,
    time::{ClockId, clock_gettime},
};

/// The size of a record in utmp on x86_64, and where its fields are.
const UTMP: usize = 384;
const USER_PROCESS: i16 = 7;
const SSH: u16 = 22;
/// States of a socket as the kernel's tables have them.
const ESTABLISHED: &str = "01";
const LISTENS: &str = "0A";

/// Milliseconds since the kernel started, sleep included.
pub(crate) fn uptime_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

/// Dirty and writeback page cache, KiB.
pub(crate) fn dirty_kib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let value = line.strip_prefix("Dirty:").or_else(|| line.strip_prefix("Writeback:"))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    });
    lines.sum()
}

/// Bytes read from a disk so far.
pub(crate) fn read_bytes(disk: &str) -> u64 {
    let text = fs::read_to_string(format!("/sys/block/{disk}/stat")).unwrap_or_default();
    // The third number counts sectors of 512 bytes.
    text.split_whitespace().nth(2).and_then(|n| n.parse::<u64>().ok()).map_or(0, |n| n * 512)
}

/// Size and free bytes of a file system.
pub(crate) fn file_system(at: &str) -> io::Result<(u64, u64)> {
    let stat = statvfs(at)?;
    Ok((stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size()))
}

/// People logged in: those in utmp, or, in an image that keeps none, the ssh connections.
pub(crate) fn logins() -> Vec<String> {
    let known = fs::read("/run/utmp").map(|data| utmp(&data)).unwrap_or_default();
    if !known.is_empty() {
        return known;
    }
    tables("/proc/net").flat_map(|table| ssh_peers(&table)).collect()
}

/// Whether somebody listens on the ssh port in the network that the node's init is in.
pub(crate) fn ssh_listens() -> bool {
    tables("/proc/1/net").any(|table| !ssh_sockets(&table, LISTENS).is_empty())
}

fn tables(folder: &str) -> impl Iterator<Item = String> {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(move |name| fs::read_to_string(format!("{folder}/{name}")).ok())
}

fn utmp(data: &[u8]) -> Vec<String> {
    let text = |field: &[u8]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    data.chunks_exact(UTMP)
        .filter(|record| i16::from_le_bytes([record[0], record[1]]) == USER_PROCESS)
        .map(|record| format!("{} {}", text(&record[44..76]), text(&record[8..40])))
        .collect()
}

/// Who is connected to the ssh port, by /proc/net/tcp or tcp6.
fn ssh_peers(table: &str) -> Vec<String> {
    let peer = |remote: &str| {
        let address = remote.split(':').next()?;
        // IPv4, also as it stands at the end of a mapped IPv6 address.
        let last = address.get(address.len().checked_sub(8)?..)?;
        let peer = u32::from_str_radix(last, 16).ok()?;
        Some(format!("ssh {}", std::net::Ipv4Addr::from(peer.swap_bytes())))
    };
    ssh_sockets(table, ESTABLISHED).into_iter().filter_map(peer).collect()
}

/// The remote ends of all sockets on the ssh port that are in this state.
fn ssh_sockets<'t>(table: &'t str, wanted: &str) -> Vec<&'t str> {
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (state == wanted && port == SSH).then_some(remote)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_in_utmp() {
        let mut record = vec![0; UTMP];
        record[0] = 7;
        record[8..13].copy_from_slice(b"pts/0");
        record[44..49].copy_from_slice(b"alice");
        let mut boot = vec![0; UTMP];
        boot[0] = 2;
        assert_eq!(utmp(&[boot, record, vec![7; 5]].concat()), ["alice pts/0"]);
    }

    #[test]
    fn connections_to_sshd() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0B004D0A:0016 01004D0A:C350 01 00000000\n\
            1: 00000000:0016 00000000:0000 0A 00000000\n\
            2: 0B004D0A:C351 01004D0A:0CBC 01 00000000\n\
            rubbish\n";
        assert_eq!(ssh_peers(table), ["ssh 10.77.0.1"]);
        assert_eq!(ssh_sockets(table, LISTENS), ["00000000:0000"]);
        let (_, without) = table.rsplit_once("1: ").expect("the second socket");
        assert!(ssh_sockets(without, LISTENS).is_empty());
    }
}
