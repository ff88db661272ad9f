//! iPXE, as QEMU brings it, boots from the disk: the firmware's own initiator, which keeps the default
//! PDU size, has one command at a time, and shows what it read on the serial line.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, TARGET};

const GREETING: &str = "read from the second block";

/// A boot sector that loads 64 blocks from block 1 on through the BIOS and prints the text there.
const BOOT_SECTOR: &[u8] = &[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // cli; ax, ds, es, ss = 0
    0xbc, 0x00, 0x7c, 0xfb, // sp = 0x7c00; sti
    0xbe, 0x80, 0x7c, 0xb4, 0x42, 0xcd,
    0x13, // int 0x13, extended read by the packet at 0x7c80
    0x72, 0x10, // on error: stop
    0xbe, 0x00, 0x80, // si = 0x8000
    0xac, 0x84, 0xc0, 0x74, 0x09, // next byte; at the zero: stop
    0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // to the serial port, and on
    0xf4, 0xf4, 0xf4, 0xeb, 0xfd, // stop
];

/// The packet: 64 blocks to 0x8000 from block 1.
const PACKET: [u8; 16] = [16, 0, 64, 0, 0x00, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// A child process that ends with the value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ipxe_boots_from_the_disk() {
    // iPXE opens and closes again a disk of 1 MiB, which is less than one cylinder.
    let mut disk = vec![0; 16 << 20];
    disk[..BOOT_SECTOR.len()].copy_from_slice(BOOT_SECTOR);
    disk[0x80..0x90].copy_from_slice(&PACKET);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512..512 + GREETING.len()].copy_from_slice(GREETING.as_bytes());
    let daemon = Daemon::serve(disk, &[]);

    // QEMU's user network shows the loopback of this computer as 10.0.2.2.
    let script = format!(
        "#!ipxe\nset initiator-iqn iqn.2026-01.org.example:firmware\n\
         sanboot iscsi:10.0.2.2::{}:0:{TARGET}\n",
        daemon.addr.port()
    );
    let dir = daemon.dir.path();
    std::fs::write(dir.join("boot.ipxe"), script).unwrap();
    let serial = dir.join("serial.log");
    let network = format!("user,id=n,tftp={},bootfile=boot.ipxe", dir.display());
    let guest = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-m", "128", "-display", "none", "-monitor", "none"])
        .args(["-netdev", &network, "-device", "e1000,netdev=n", "-boot", "n"])
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .stdin(Stdio::null())
        .spawn();
    let _guest = Guest(guest.unwrap_or_else(|error| {
        panic!("cannot run qemu-system-x86_64 ({error}): install qemu-system-x86 and ipxe-qemu")
    }));
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let shown = std::fs::read(&serial).unwrap_or_default();
        let shown = String::from_utf8_lossy(&shown);
        if shown.contains(GREETING) {
            return;
        }
        assert!(Instant::now() < deadline, "iPXE did not boot; the serial line has: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
