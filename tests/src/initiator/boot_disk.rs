//! A disk that boots by itself, as a computer's own would: partition table, GRUB, a file system with
//! GRUB's menu and a kernel, and data behind it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::software::{Software, run};

const SECTOR: u64 = 512;
/// Where partitions begin today; what is in front of it is GRUB's.
const START: u64 = 1 << 20;
const PARTITION: u64 = 96 << 20;

/// The menu has one entry and is not shown.
const MENU: &str = "\
serial --unit=0 --speed=115200
terminal_output serial
set root=(hd0,msdos1)
linux /vmlinuz console=ttyS0 quiet net.ifnames=0
initrd /initramfs
boot
";

impl Software {
    /// Makes the disk as the file `path`, with `data` random bytes behind its partition.
    pub fn boot_disk(&self, path: &Path, data: u64) -> Result<()> {
        let tree = path.with_extension("tree");
        fs::create_dir_all(tree.join("boot/grub"))?;
        fs::write(tree.join("boot/grub/grub.cfg"), MENU)?;
        fs::copy(self.kernel(), tree.join("vmlinuz"))?;
        fs::copy(self.initramfs(), tree.join("initramfs"))?;
        let partition = path.with_extension("partition");
        File::create(&partition)?.set_len(PARTITION)?;
        let mut mke2fs = Command::new("mke2fs");
        run(mke2fs.args(["-q", "-t", "ext2", "-d"]).arg(&tree).arg(&partition))?;
        fs::remove_dir_all(tree)?;

        let mut disk = File::create_new(path)?;
        disk.set_len(START + PARTITION)?;
        write_table(path)?;
        self.write_grub(&disk)?;
        std::io::Seek::seek(&mut disk, std::io::SeekFrom::Start(START))?;
        std::io::copy(&mut File::open(&partition)?, &mut disk)?;
        fs::remove_file(partition)?;
        std::io::copy(&mut File::open("/dev/urandom")?.take(data), &mut disk)?;
        Ok(())
    }

    /// GRUB's first sector, and the rest of it in front of the partition.
    fn write_grub(&self, disk: &File) -> Result<()> {
        let root = self.root();
        fs::create_dir_all(root.join("output"))?;
        let mut image = Command::new("chroot");
        image.arg(&root).args(["/usr/bin/grub-mkimage", "-O", "i386-pc", "-o", "/output/core.img"]);
        image.args(["-p", "(hd0,msdos1)/boot/grub"]);
        run(image.args([
            "biosdisk",
            "part_msdos",
            "ext2",
            "normal",
            "linux",
            "serial",
            "terminal",
        ]))?;
        let first = fs::read(root.join("usr/lib/grub/i386-pc/boot.img"))?;
        let core = fs::read(root.join("output/core.img"))?;
        ensure!(SECTOR + core.len() as u64 <= START, "GRUB does not fit before the partition");
        // Behind the code lie the disk's signature and the partition table.
        disk.write_all_at(first.get(..440).context("boot.img is one sector")?, 0)?;
        disk.write_all_at(&core, SECTOR)?;
        Ok(())
    }
}

fn write_table(disk: &Path) -> Result<()> {
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.arg("-q").arg(disk).stdin(Stdio::piped());
    let mut sfdisk = sfdisk.spawn().context("cannot run sfdisk (fdisk)")?;
    let table = format!(
        "label: dos\nstart={}, size={}, type=83, bootable\n",
        START / SECTOR,
        PARTITION / SECTOR
    );
    sfdisk.stdin.take().context("sfdisk has a piped input")?.write_all(table.as_bytes())?;
    let status = sfdisk.wait()?;
    ensure!(status.success(), "sfdisk ended with {status}");
    Ok(())
}
