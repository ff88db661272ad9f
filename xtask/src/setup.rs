//! The Debian packages that building, testing and demonstrating need, and why each; and what Debian does not
//! have, in an environment of its own under `target/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

const PACKAGES: &[(&str, &str)] = &[
    // Building.
    ("gcc", "links our programs, compiles the C parts of ring, SQLite and zstd"),
    ("libc6-dev", "the C library's headers, and its static form for the agent"),
    // What goes into images and initramfs.
    ("busybox-static", "the user land of the image `minimal`, and the agent's rescue shell"),
    ("dropbear-bin", "the ssh server of the image `minimal`"),
    ("e2fsprogs", "makes the overlay store's ext4; also in the initramfs"),
    ("erofs-utils", "packs an image's root as erofs"),
    ("squashfs-tools", "packs an image's root as squashfs"),
    ("cryptsetup-bin", "veritysetup: an image's hash tree"),
    ("mmdebstrap", "installs the packages of an image that is a whole Debian system"),
    ("apt-utils", "apt-ftparchive: lists the packages that such an image is installed from"),
    ("policycoreutils", "setfiles: labels the files of an image whose system has SELinux"),
    ("kmod", "depmod, for images that carry all of their kernel's modules"),
    ("bzip2", "reads archives that are imported as images"),
    ("xz-utils", "reads archives that are imported as images"),
    ("cpio", "an independent reader of the initramfs archives, for tests"),
    ("zstd", "an independent reader of compressed archives, for tests"),
    // What haasd serves to firmware.
    ("ipxe", "undionly.kpxe and snponly.efi, served to nodes over TFTP"),
    ("shim-signed", "shimx64.efi, served to nodes with Secure Boot"),
    ("grub-efi-amd64-signed", "the GRUB that shim loads"),
    // The virtual rack.
    ("qemu-system-x86", "emulates the nodes"),
    ("seabios", "the nodes' BIOS"),
    ("ipxe-qemu", "the boot code of the nodes' network cards"),
    ("openipmi", "ipmi_sim: the nodes' BMCs"),
    ("ipmitool", "asks the BMCs from outside, to check our own IPMI"),
    ("freeipmi-tools", "ipmipower: another client of our simulated BMCs, and of their bench"),
    ("iproute2", "namespace, bridge and taps of the rack"),
    ("ovmf", "UEFI firmware, to try snponly.efi"),
    ("nftables", "loses packets of the rack's network, as a bad switch does"),
    ("openssh-client", "logs in to the nodes as their users do"),
    ("openssh-server", "a node's ssh server without a node, to try haasctl's ssh with"),
    ("socat", "talks to consoles and sockets of the rack"),
    ("fdisk", "sfdisk: disks as other systems leave them, for tests"),
    ("tcpdump", "shows what went over the rack's network when a test fails"),
    // Other people's programs that ours are tested against.
    ("libiscsi-dev", "the client of the bench of our iSCSI target"),
    ("dnsmasq-base", "somebody else's DHCP server, and a DHCP relay"),
    ("kea-dhcp4-server", "another DHCP server of somebody else"),
    ("libiscsi-bin", "an independent iSCSI initiator"),
    ("qemu-utils", "qemu-img, which reads a whole image over iSCSI"),
    ("qemu-block-extra", "QEMU's own iSCSI initiator"),
    ("curl", "an independent TFTP and HTTP client"),
    ("sqlite3", "copies haasd's database, as the page on operations has it done"),
    ("rsync", "copies its images, likewise"),
    ("python3", "makes odd archives for the tests of the import"),
    ("python3-venv", "holds sushy-tools, which Debian does not have"),
    ("python3-venv", "a folder of its own for schemathesis, which asks the API everything"),
    ("tgt", "an independent iSCSI target, to compare speeds with"),
    ("libfaketime", "makes the controller's clock jump, to see that nothing expires"),
    ("postgresql", "the second database that every store test runs on"),
];

/// OpenStack's Redfish emulator, a BMC of somebody else's for the tests of our driver.
const SUSHY_TOOLS: &str = "sushy-tools==2.2.0";

/// Installs what is missing. Does nothing, quickly, if nothing is.
pub(crate) fn run() -> Result<()> {
    debian()?;
    sushy_tools()
}

fn sushy_tools() -> Result<()> {
    // The tests look here, wherever cargo builds (`sim/src/sushy.rs`).
    let place = run::root().join("target/sushy-tools");
    if place.join("bin/sushy-emulator").exists() {
        return Ok(());
    }
    run::say(format!("sushy-tools, a Redfish emulator, goes to {}.", place.display()));
    run::run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&place))?;
    let mut pip = Command::new(place.join("bin/pip"));
    run::run(pip.args(["install", "--quiet", "--disable-pip-version-check", SUSHY_TOOLS]))
}

fn debian() -> Result<()> {
    if !Path::new("/etc/debian_version").exists() {
        bail!("this needs Debian (12 or later); by hand: {}", names(PACKAGES).join(" "));
    }
    let missing = missing()?;
    if missing.is_empty() {
        if !knows_packages() {
            run::say("apt has no package lists; building images needs them.");
            run::run(&mut apt_get(&["update", "-q"]))?;
        }
        return Ok(());
    }
    run::say("These Debian packages are missing and will be installed:");
    for (name, why) in &missing {
        run::say(format!("  {name:<18} {why}"));
    }
    run::run(&mut apt_get(&["update", "-q"]))?;
    let install = || {
        let mut apt = apt_get(&["install", "-q", "-y", "--no-install-recommends"]);
        apt.args(names(&missing));
        apt
    };
    let Err(refused) = run::run(&mut install()) else { return Ok(()) };
    let strangers = strangers()?;
    if strangers.is_empty() {
        return Err(refused);
    }
    // Parts of one source go together in one version only, such as QEMU's.
    run::say(format!("From elsewhere, to be set back to the archive's: {}", strangers.join(" ")));
    run::run(install().arg("--allow-downgrades").args(strangers))
}

/// The packages of the list that are installed in a version that no archive has, each as
/// `name=version` with the one that it has.
fn strangers() -> Result<Vec<String>> {
    let mut strangers = Vec::new();
    for (name, version) in installed("${Version}")? {
        let output = Command::new("apt-cache").args(["madison", &name]).output();
        let output = output.context("cannot run apt-cache")?;
        // `name | version | archive`, the best version first.
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut offered = listed.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim()));
        let best = offered.clone().next();
        if let Some(best) = best.filter(|_| offered.all(|offer| offer != version)) {
            strangers.push(format!("{name}={best}"));
        }
    }
    Ok(strangers)
}

/// Whether apt has lists, which image builds look packages up in.
fn knows_packages() -> bool {
    std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries.flatten().any(|e| e.file_name().to_string_lossy().contains("Packages"))
    })
}

/// The packages of the list that are not installed.
fn missing() -> Result<Vec<(&'static str, &'static str)>> {
    let installed = installed("${Package}")?;
    let here = |name: &str| installed.iter().any(|(there, _)| there == name);
    Ok(PACKAGES.iter().copied().filter(|(name, _)| !here(name)).collect())
}

/// The packages of the list that are installed, each with one field of dpkg's.
fn installed(field: &str) -> Result<Vec<(String, String)>> {
    let mut query = Command::new("dpkg-query");
    let format = format!("${{db:Status-Status}} ${{Package}} {field}\n");
    // It fails if one is unknown, and still lists the others.
    let output = query.args(["-W", "-f", &format]).args(names(PACKAGES)).output();
    let output = output.context("cannot run dpkg-query")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let package = |line: &str| {
        let (name, value) = line.strip_prefix("installed ")?.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(listed.lines().filter_map(package).collect())
}

fn apt_get(args: &[&str]) -> Command {
    // Through env, since sudo may drop our variables.
    let mut apt = run::as_root("env");
    apt.arg("DEBIAN_FRONTEND=noninteractive").arg("apt-get").args(args);
    apt
}

fn names(packages: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    packages.iter().map(|(name, _)| *name).collect()
}
