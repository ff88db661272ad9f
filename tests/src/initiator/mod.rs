//! Computers that haasd does not manage and that use an iSCSI target as any other would, with Debian's
//! kernel, open-iscsi, multipath-tools and udev.
//!
//! Such a computer is an initramfs and nothing else: it is up in seconds, takes scripts over the
//! network, and what a program on it reads is compared here, byte by byte.

mod boot_disk;
mod software;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use software::Software;

use crate::console::{Console, Mark};
use crate::hardware::SwitchHw;
use crate::netns::Netns;
use crate::rack::Rack;
use crate::sys;

/// What a computer may take to come up, on a machine that has other things to do.
const BOOT: Duration = Duration::from_secs(180);
/// How long a script, or a read, may show nothing.
const SILENCE: Duration = Duration::from_secs(180);
/// Where a computer takes scripts.
const PORT: u16 = 514;
/// QEMU's own network shows the namespace's loopback address to the firmware as this.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// A computer. It is switched off when dropped.
#[derive(Debug)]
pub struct Initiator {
    /// Its initiator name.
    pub iqn: String,
    pub console: Console,
    netns: Netns,
    scripts: SocketAddr,
    qemu: Child,
}

impl Initiator {
    /// Computer `number`, counted from 1, at 10.77.0.`number + 10` on the rack's bridge. It is up
    /// some time later: [`Initiator::wait`].
    pub fn start(rack: &Rack, number: u8, software: &Software) -> Result<Initiator> {
        let (netns, iqn) = (rack.namespace(), iqn(number));
        let address = Ipv4Addr::new(10, 77, 0, 10 + number);
        let tap = format!("initiator{number}");
        netns.add_tap(&tap, SwitchHw::default())?;
        let mut qemu = machine(netns);
        qemu.arg("-kernel").arg(software.kernel()).arg("-initrd").arg(software.initramfs());
        let words = ["console=ttyS0", "quiet", "net.ifnames=0"].join(" ");
        qemu.args(["-append", &format!("{words} address={address}/24 initiator={iqn}")]);
        qemu.args(["-netdev", &format!("tap,id=n,ifname={tap},script=no,downscript=no")]);
        qemu.args([
            "-device",
            &format!("virtio-net-pci,netdev=n,mac=52:54:00:77:01:{number:02x},romfile="),
        ]);
        Initiator::switch_on(rack, number, qemu, SocketAddr::new(address.into(), PORT))
    }

    /// A computer without a disk whose firmware boots from the iSCSI disk behind `uri`: the boot code
    /// of its network card is iPXE, and gets its address from QEMU.
    pub fn boot_from(rack: &Rack, number: u8, settings: &str, uri: &str) -> Result<Initiator> {
        let folder = rack.dir().join(format!("tftp{number}"));
        fs::create_dir_all(&folder)?;
        let script =
            format!("#!ipxe\nset initiator-iqn {}\n{settings}\nsanboot {uri}\n", iqn(number));
        fs::write(folder.join("boot.ipxe"), script)?;
        let scripts = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 5000 + u16::from(number));
        let mut qemu = machine(rack.namespace());
        let network = format!(
            "user,id=n,tftp={},bootfile=boot.ipxe,hostfwd=tcp:{scripts}-:{PORT}",
            folder.display()
        );
        qemu.args(["-netdev", &network, "-device", "e1000,netdev=n", "-boot", "n"]);
        Initiator::switch_on(rack, number, qemu, scripts)
    }

    fn switch_on(
        rack: &Rack,
        number: u8,
        mut qemu: Command,
        scripts: SocketAddr,
    ) -> Result<Initiator> {
        let console = rack.dir().join(format!("initiator{number}.serial"));
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.stdin(Stdio::null());
        let qemu = sys::spawn(qemu).context("cannot start qemu-system-x86_64")?;
        let console = Console::new(console);
        let netns = rack.namespace().clone();
        Ok(Initiator { iqn: iqn(number), console, netns, scripts, qemu })
    }

    /// Waits until it takes scripts.
    pub fn wait(&self) -> Result<()> {
        self.console.wait_for("the computer is up", Mark::default(), BOOT)?;
        // It listens a moment after it has said so.
        self.wait_for("echo it answers", "it answers", BOOT)
    }

    /// Runs a shell script that must succeed; returns what it printed.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut answer = String::new();
        self.send(script)?.read_to_string(&mut answer).with_context(|| script.to_owned())?;
        match answer.rsplit_once("\n[exit ") {
            Some((printed, "0]\n")) => Ok(printed.to_owned()),
            _ => bail!("{}: {script}\n{answer}", self.iqn),
        }
    }

    /// Runs a script again and again until it prints `text`.
    pub fn wait_for(&self, script: &str, text: &str, limit: Duration) -> Result<()> {
        let mut answer = Ok(String::new());
        crate::wait::wait_for(&format!("{text:?} of {script}"), limit, || {
            answer = self.run(script);
            answer.as_ref().is_ok_and(|printed| printed.contains(text))
        })
        .with_context(|| format!("{} last said {answer:?}", self.iqn))
    }

    /// Reads the whole of `device` as a user's program does, without a cache, and compares it with
    /// `file`. Counts in `read` how many bytes were right.
    pub fn compare(&self, device: &str, file: &Path, read: &AtomicU64) -> Result<()> {
        let said = "/run/dd-$$";
        let script =
            format!("dd if={device} bs=256k iflag=direct 2> {said} || {{ cat {said}; exit 1; }}");
        let mut answer = self.send(&script)?;
        let mut original = File::open(file)?;
        let (mut left, mut got, mut want) =
            (original.metadata()?.len(), vec![0; 1 << 18], vec![0; 1 << 18]);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(got.len());
            let count = match answer.read(&mut got[..most]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("{}: nothing came from {device} for {SILENCE:?}", self.iqn)
                }
                count => count?,
            };
            original.read_exact(&mut want[..count])?;
            if count == 0 || got[..count] != want[..count] {
                let same = (0..count).take_while(|&i| got[i] == want[i]).count();
                let mut rest = got[same..count].to_vec();
                answer.take(400).read_to_end(&mut rest)?;
                let rest = String::from_utf8_lossy(&rest[..rest.len().min(400)]).into_owned();
                let at = original.metadata()?.len() - left + same as u64;
                bail!("{}: {device} differs from byte {at} on: {rest:?}", self.iqn);
            }
            left -= count as u64;
            read.fetch_add(count as u64, Ordering::Relaxed);
        }
        let mut end = String::new();
        answer.read_to_string(&mut end)?;
        ensure!(end == "\n[exit 0]\n", "{}: after {device} came {end:?}", self.iqn);
        Ok(())
    }

    /// Opens a connection whose answer is what the script prints.
    fn send(&self, script: &str) -> Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&self.scripts, Duration::from_secs(20));
        let mut stream =
            self.netns.run(connect)?.with_context(|| format!("{} takes no script", self.iqn))?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.write_all(script.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        Ok(stream)
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn iqn(number: u8) -> String {
    format!("iqn.2026-01.org.example:computer{number}")
}

/// What all have: no disk, one card of random numbers. The processor has instructions for CRC32C.
fn machine(netns: &Netns) -> Command {
    let mut qemu = netns.command("qemu-system-x86_64");
    qemu.args(["-machine", "q35,graphics=off", "-accel", "tcg,tb-size=128", "-cpu", "max"]);
    qemu.args(["-smp", "1", "-m", "512", "-nodefaults", "-display", "none", "-vga", "none"]);
    qemu.args(["-monitor", "none", "-no-reboot", "-device", "virtio-rng-pci"]);
    qemu
}

/// A file of random bytes: no two of its blocks are alike.
pub fn random_file(path: PathBuf, bytes: u64) -> Result<PathBuf> {
    std::io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut File::create_new(&path)?)?;
    Ok(path)
}
