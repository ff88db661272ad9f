//! Real initiators against `haas-iscsi`, on computers that haasd knows nothing of: Linux's open-iscsi,
//! dm-multipath, and iPXE that boots a disk with its own boot loader. Targets end in every way while
//! their disks are read; no read may fail, and each byte is compared.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::initiator::{GATEWAY, Initiator, Software, random_file};
use tests::storm::Recording;
use tests::{Output, Rack, RackSpec, Target, wait_for};

const TARGET: &str = "iqn.2026-01.org.example:disk";
const SECRET: &str = "open-sesame-123";
/// Where targets listen: the rack's bridge has the first address, and gets the other.
const PORTALS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// Generous: the machine may be shared, and QEMU emulates every instruction.
const SOON: Duration = Duration::from_secs(120);
/// How long a target stays away: long enough for more than one attempt to come back.
const AWAY: Duration = Duration::from_secs(8);
const MIB: u64 = 1 << 20;
/// As many as people of this field boot at once.
const STORM: u32 = 640;

/// Where udev shows the first portal's disk.
const DISK: &str = "/dev/disk/by-path/ip-10.77.0.1:3260-iscsi-iqn.2026-01.org.example:disk-lun-0";

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_open_iscsi_reads_a_gibibyte_while_the_target_is_restarted() -> Result<()> {
    Rack::with(RackSpec::new("initiator", Vec::new()), |rack| {
        let software = Software::unpack()?;
        let node = Initiator::start(rack, 1, &software)?;
        let disk = random_file(rack.dir().join("disk.img"), 1024 * MIB)?;
        let chap = chap(rack)?;
        let options = ["--chap", &chap, "--initiator", &node.iqn];
        let mut target = Target::start(rack, &portal(0), TARGET, &disk, &options)?;
        node.wait()?;
        let found = discover(&node, 0)?;
        ensure!(found == format!("{},1 {TARGET}\n", portal(0)), "discovery finds {found:?}");

        set(&node, "node.session.timeo.replacement_timeout", "-1")?;
        set(&node, "node.conn[0].iscsi.HeaderDigest", "CRC32C")?;
        set(&node, "node.conn[0].iscsi.DataDigest", "CRC32C")?;
        set(&node, "node.session.auth.authmethod", "CHAP")?;
        set(&node, "node.session.auth.username", "user")?;
        // Whoever does not know the secret is not let in.
        set(&node, "node.session.auth.password", "open-sesame-124")?;
        let refused = node.run("iscsiadm -m node --login || true")?;
        ensure!(refused.contains("authorization failure"), "a wrong secret: {refused}");
        set(&node, "node.session.auth.password", SECRET)?;
        node.run("iscsiadm -m node --login && udevadm settle")?;
        let session = node.run("iscsiadm -m session -P 2")?;
        for agreed in ["HeaderDigest: CRC32C", "DataDigest: CRC32C", "username: user"] {
            ensure!(session.contains(agreed), "{agreed} is not in {session}");
        }

        under_load(&[&node], DISK, &disk, |read| {
            reads_on(&read[0], 256 * MIB)?;
            target.terminate()?;
            away_and_back(&mut target, &[&node], read)?;
            reads_on(&read[0], 256 * MIB)?;
            target.kill()?;
            away_and_back(&mut target, &[&node], read)
        })
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_nodes_read_on_when_the_target_is_killed_in_a_boot_storm() -> Result<()> {
    Rack::with(RackSpec::new("initiators", Vec::new()), |rack| {
        let software = Software::unpack()?;
        let start = |number| Initiator::start(rack, number, &software);
        let nodes = [start(1)?, start(2)?];
        let nodes: Vec<_> = nodes.iter().collect();
        let recording = Recording::new(rack)?;
        let disk = random_file(rack.dir().join("disk.img"), recording.disk_bytes)?;
        let storm = || recording.storm(rack, STORM, &url(0), &disk);
        let mut target = Target::start(rack, &portal(0), TARGET, &disk, &[])?;
        for node in &nodes {
            node.wait()?;
            discover(node, 0)?;
            set(node, "node.session.timeo.replacement_timeout", "-1")?;
            node.run("iscsiadm -m node --login && udevadm settle")?;
        }
        under_load(&nodes, DISK, &disk, |read| {
            for _ in 0..2 {
                let broken = storm()?;
                read.iter().try_for_each(|read| reads_on(read, 4 * MIB))?;
                broken.breaks(|| target.kill())?;
                away_and_back(&mut target, &nodes, read)?;
            }
            // All of it comes to those who boot now, and the nodes read on beside them.
            let whole = storm()?;
            read.iter().try_for_each(|read| reads_on(read, 4 * MIB))?;
            whole.passes()
        })
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_two_targets_of_one_image_are_two_paths_to_one_disk() -> Result<()> {
    Rack::with(RackSpec::new("multipath", Vec::new()), |rack| {
        let second = format!("{}/24", PORTALS[1]);
        let mut ip = rack.command("ip");
        Output::of(ip.args(["address", "add", &second, "dev", "br0"]))?.ok()?;
        let software = Software::unpack()?;
        let node = Initiator::start(rack, 1, &software)?;
        // Each controller has a copy of the image of its own, and half of those who boot.
        let recording = Recording::new(rack)?;
        let disk = random_file(rack.dir().join("disk.img"), recording.disk_bytes)?;
        let storm = |number| recording.storm(rack, STORM / 2, &url(number), &disk);
        let copy = rack.dir().join("copy.img");
        fs::copy(&disk, &copy)?;
        let digest = ["--sha256", &"5a".repeat(32)];
        let mut targets = [
            Target::start(rack, &portal(0), TARGET, &disk, &digest)?,
            Target::start(rack, &portal(1), TARGET, &copy, &digest)?,
        ];
        node.wait()?;
        discover(&node, 0)?;
        discover(&node, 1)?;
        node.run("iscsiadm -m node --login && udevadm settle")?;
        node.run("multipathd")?;
        paths(&node, ["active", "active"])?;
        let maps = node.run("multipathd show maps raw format %w")?;
        // udev shows it a moment later.
        node.wait_for("ls /dev/mapper", maps.trim(), SOON)?;
        let device = format!("/dev/mapper/{}", maps.trim());

        under_load(&[&node], &device, &disk, |read| {
            for number in [0, 1, 0] {
                let (broken, whole) = (storm(number)?, storm(1 - number)?);
                reads_on(&read[0], 4 * MIB)?;
                broken.breaks(|| targets[number].kill())?;
                paths(&node, ["active", "failed"])?;
                // The other path alone carries the user.
                reads_on(&read[0], 4 * MIB)?;
                targets[number].start_again()?;
                paths(&node, ["active", "active"])?;
                whole.passes()?;
            }
            Ok(())
        })
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_ipxe_boots_a_disk_with_its_own_boot_loader() -> Result<()> {
    Rack::with(RackSpec::new("sanboot", Vec::new()), |rack| {
        let disk = rack.dir().join("disk.img");
        Software::unpack()?.boot_disk(&disk, 32 * MIB)?;
        let chap = chap(rack)?;
        let _target = Target::start(rack, "127.0.0.1:3260", TARGET, &disk, &["--chap", &chap])?;
        let settings = format!("set username user\nset password {SECRET}");
        let uri = format!("iscsi:{GATEWAY}::3260:0:{TARGET}");
        let node = Initiator::boot_from(rack, 1, &settings, &uri)?;
        node.wait()?;

        // What the firmware leaves for the system that it starts.
        let left = node.run("cd /sys/firmware/ibft; cat initiator/initiator-name target0/target-name target0/ip-addr")?;
        ensure!(left == format!("{}\n{TARGET}\n{GATEWAY}\n", node.iqn), "the iBFT has {left:?}");
        // The system goes on with it: the card's address from the start, and now the disk.
        node.run("iscsistart -b && udevadm settle")?;
        node.run("test -b /dev/sda1")?;
        node.compare("/dev/sda", &disk, &AtomicU64::new(0))
    })
}

/// Where other initiators find the disk behind portal 0 or 1.
fn url(number: usize) -> String {
    format!("iscsi://{}/{TARGET}/0", portal(number))
}

/// Portal 0 or 1.
fn portal(number: usize) -> String {
    format!("{}:3260", PORTALS[number])
}

/// What `--chap` takes: a user, and a file with the secret.
fn chap(rack: &Rack) -> Result<String> {
    let file = rack.dir().join("secret");
    fs::write(&file, SECRET)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(format!("user:{}", file.display()))
}

/// Has the node ask a portal for its targets, and start its iscsid before the first time.
fn discover(node: &Initiator, number: usize) -> Result<String> {
    node.run("pidof iscsid > /run/iscsid || iscsid")?;
    node.run(&format!("iscsiadm -m discovery -t sendtargets -p {}", PORTALS[number]))
}

/// Changes a setting of the targets that were found.
fn set(node: &Initiator, name: &str, value: &str) -> Result<()> {
    node.run(&format!("iscsiadm -m node -o update -n '{name}' -v '{value}'")).map(drop)
}

/// Waits until the disk's paths are these, in any order.
fn paths(node: &Initiator, wanted: [&str; 2]) -> Result<()> {
    let mut shown = Ok(String::new());
    wait_for(&format!("paths that are {wanted:?}"), SOON, || {
        shown = node.run("multipathd show paths raw format %t");
        let mut found: Vec<_> = shown.iter().flat_map(|text| text.lines()).map(str::trim).collect();
        found.sort_unstable();
        found == wanted
    })
    .with_context(|| format!("multipathd shows {shown:?}"))
}

/// Has a program on each node read its disk again and again, all the time while `trouble` goes on, which
/// is told how many bytes each has read. Every pass is read to its end; none may meet an error.
fn under_load(
    nodes: &[&Initiator],
    device: &str,
    disk: &Path,
    trouble: impl FnOnce(&[AtomicU64]) -> Result<()>,
) -> Result<()> {
    let read: Vec<AtomicU64> = nodes.iter().map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let programs: Vec<_> = nodes
            .iter()
            .zip(&read)
            .map(|(&node, read)| scope.spawn(move || keep_reading(node, device, disk, read, over)))
            .collect();
        let result = trouble(&read);
        over.store(true, Ordering::Relaxed);
        let join = |program: thread::ScopedJoinHandle<'_, Result<()>>| {
            program.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let ends: Vec<_> = programs.into_iter().map(join).collect();
        for end in ends {
            end.with_context(|| format!("meanwhile: {result:?}"))?;
        }
        result
    })
}

fn keep_reading(
    node: &Initiator,
    device: &str,
    disk: &Path,
    read: &AtomicU64,
    over: &AtomicBool,
) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        node.compare(device, disk, read)?;
    }
    Ok(())
}

/// Waits until a program has read so many bytes more.
fn reads_on(read: &AtomicU64, bytes: u64) -> Result<()> {
    let start = read.load(Ordering::Relaxed);
    let what = format!("a program that has read {start} bytes to read {bytes} more");
    wait_for(&what, SOON, || read.load(Ordering::Relaxed) >= start + bytes)
}

/// The target has just ended: the nodes notice, and wait for it; then it is there again, and they
/// read on.
fn away_and_back(target: &mut Target, nodes: &[&Initiator], read: &[AtomicU64]) -> Result<()> {
    for node in nodes {
        node.wait_for("cat /sys/class/iscsi_session/session*/state", "FAILED", SOON)?;
    }
    let bytes = || read.iter().map(|read| read.load(Ordering::Relaxed)).collect::<Vec<_>>();
    // What was on its way has come.
    thread::sleep(AWAY / 2);
    let before = bytes();
    thread::sleep(AWAY / 2);
    ensure!(before == bytes(), "the nodes read from a target that is away");
    target.start_again()?;
    read.iter().try_for_each(|read| reads_on(read, 4 * MIB))
}
