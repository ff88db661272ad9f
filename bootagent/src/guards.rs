//! Keeps the image's own software away from what the root hangs on: the boot NIC, whose address the
//! agent has set, and the iSCSI session, which the agent keeps.
//!
//! Each network program is told in its own words. Most of it lies in /run and so is new at each boot,
//! behind what the image and the user have written in /etc: a guard is not a lock. Who is root on the
//! node may still take the NIC down by hand, and then the node hangs until its BMC resets it.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use haas_api::{agent::BootPlan, names::Mac};

use crate::files::replace;

/// What cloud-init reads last of its own files; it has no place in /run.
pub(crate) const CLOUD_INIT: &str = "etc/cloud/cloud.cfg.d/99-haas-boot.cfg";

/// Where ifupdown's unit finds which NICs are not its business.
const IFUPDOWN: &str = "run/haas/ifupdown";

/// Units of open-iscsi, as Debian and the Enterprise Linux family name them. The session is the
/// agent's: a second initiator would take it for its own.
const ISCSI_UNITS: [&str; 9] = [
    "iscsi.service",
    "iscsi-init.service",
    "iscsi-onboot.service",
    "iscsi-starter.service",
    "iscsid.service",
    "iscsid.socket",
    "iscsiuio.service",
    "iscsiuio.socket",
    "open-iscsi.service",
];

/// Logins wait for the agent, whatever the image thinks of it.
const WAIT_FOR_READY: &str = "[Service]\nTimeoutStartSec=infinity\nExecStartPre=/bin/sh -c \
                              'until [ -e /run/haas/ready ]; do sleep 0.2; done'\n";

/// Writes the guards into a root in which /run is mounted. `nic` is the boot NIC's name.
pub(crate) fn write(root: &Path, plan: &BootPlan, nic: &str) -> io::Result<()> {
    if root.join("etc/cloud").is_dir() {
        // Its files, its user data and its modules stay: only the network is ours.
        replace(&root.join(CLOUD_INIT), 0o644, "network: {config: disabled}\n")?;
    }
    if !root.join("etc/systemd").is_dir() {
        return Ok(());
    }
    let mac = plan.net.mac;
    let networkd = root.join("run/systemd/network");
    // The first file that matches counts; netplan's begin with 10.
    replace(&networkd.join("00-haas-boot.network"), 0o644, &networkd_network(mac))?;
    replace(&networkd.join("00-haas-boot.link"), 0o644, &networkd_link(mac))?;
    let has_dns = !plan.net.dns.is_empty();
    let manager = root.join("run/NetworkManager/conf.d/00-haas-boot.conf");
    replace(&manager, 0o644, &network_manager(mac, has_dns))?;

    let units = root.join("run/systemd/system");
    let own = fs::read_to_string(root.join("etc/default/networking")).unwrap_or_default();
    replace(&root.join(IFUPDOWN), 0o644, &ifupdown(nic, &own))?;
    drop_in(&units, "networking.service", &format!("[Service]\nEnvironmentFile=/{IFUPDOWN}\n"))?;
    mask(&units, &format!("ifup@{nic}.service"))?;
    for unit in ISCSI_UNITS {
        mask(&units, unit)?;
    }
    // Those with @ are started by ssh.socket and sshd.socket, once for each that comes.
    for unit in ["ssh.service", "sshd.service", "ssh@.service", "sshd@.service"] {
        drop_in(&units, unit, WAIT_FOR_READY)?;
    }
    Ok(())
}

fn networkd_network(mac: Mac) -> String {
    format!(
        "[Match]\nMACAddress={mac}\n\n[Network]\nDHCP=no\nKeepConfiguration=yes\n\
         IgnoreCarrierLoss=yes\n"
    )
}

/// For udev, which would rename the NIC or give it another address.
fn networkd_link(mac: Mac) -> String {
    format!("[Match]\nMACAddress={mac}\n\n[Link]\nNamePolicy=keep kernel\nMACAddressPolicy=none\n")
}

/// The list is one key, which a file of the image may set anew; the section stands in that case too.
fn network_manager(mac: Mac, has_dns: bool) -> String {
    // resolv.conf is written from haasd's settings where there are any.
    let dns = if has_dns { "[main]\ndns=none\n\n" } else { "" };
    format!(
        "{dns}[keyfile]\nunmanaged-devices+=mac:{mac}\n\n\
         [device-haas-boot]\nmatch-device=mac:{mac}\nmanaged=0\n"
    )
}

/// ifup and ifdown of all NICs leave this one out, also when the image's file asks for it and at
/// shutdown. The last assignment counts, so those that the image's own leaves out stand here too.
fn ifupdown(nic: &str, own: &str) -> String {
    let theirs = own.lines().rev().find_map(|line| line.trim().strip_prefix("EXCLUDE_INTERFACES="));
    let theirs = theirs.unwrap_or_default().trim().trim_matches(['"', '\'']);
    format!("EXCLUDE_INTERFACES=\"{}\"\n", format!("{nic} {theirs}").trim())
}

fn mask(units: &Path, unit: &str) -> io::Result<()> {
    let link = units.join(unit);
    fs::create_dir_all(units)?;
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink("/dev/null", link)
}

fn drop_in(units: &Path, unit: &str, text: &str) -> io::Result<()> {
    let folder: PathBuf = units.join(format!("{unit}.d"));
    replace(&folder.join("00-haas-boot.conf"), 0o644, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::fake;

    fn guarded(folders: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("root");
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).expect("folder");
        }
        // A node may be held and try again: what is there already is no error.
        for _ in 0..2 {
            write(root.path(), &fake::plan(0), "eth0").expect("guards");
        }
        root
    }

    #[test]
    fn each_network_program_is_told_in_its_own_words() {
        let root = guarded(&["etc/systemd", "etc/cloud"]);
        let read = |path: &str| fs::read_to_string(root.path().join(path)).expect(path);
        let mac = "52:54:00:00:00:01";
        assert!(read("run/systemd/network/00-haas-boot.network").contains(mac));
        let manager = read("run/NetworkManager/conf.d/00-haas-boot.conf");
        assert!(manager.contains(&format!("unmanaged-devices+=mac:{mac}")), "{manager}");
        assert_eq!(read(IFUPDOWN), "EXCLUDE_INTERFACES=\"eth0\"\n");
        assert!(read(CLOUD_INIT).contains("config: disabled"));
        for unit in ["ifup@eth0.service", "iscsid.socket", "open-iscsi.service"] {
            let link = fs::read_link(root.path().join("run/systemd/system").join(unit));
            assert_eq!(link.expect(unit), Path::new("/dev/null"));
        }
    }

    #[test]
    fn an_image_without_these_programs_gets_nothing() {
        let root = guarded(&["etc"]);
        assert!(!root.path().join("run").exists());
        assert!(!root.path().join("etc/cloud").exists());
    }

    #[test]
    fn what_the_image_leaves_out_itself_stays_left_out() {
        let own = "# VERBOSE=no\nEXCLUDE_INTERFACES=\"eth5 wlan*\"\n";
        assert_eq!(ifupdown("eth0", own), "EXCLUDE_INTERFACES=\"eth0 eth5 wlan*\"\n");
        assert_eq!(ifupdown("eth0", "EXCLUDE_INTERFACES=\n"), "EXCLUDE_INTERFACES=\"eth0\"\n");
        assert_eq!(ifupdown("eth0", "#EXCLUDE_INTERFACES=x"), "EXCLUDE_INTERFACES=\"eth0\"\n");
    }

    #[test]
    fn the_managers_resolver_is_stopped_only_where_haasd_names_servers() {
        let mac = fake::plan(0).net.mac;
        assert!(!network_manager(mac, false).contains("dns"));
        assert!(network_manager(mac, true).starts_with("[main]\ndns=none\n"));
    }
}
