//! A node's disk: a sparse raw file, so that a test can read and write what the node sees.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::haasd::Output;
use crate::hardware::{Content, OldOs};

/// One disk of a node. Change it only while the node is off.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
    bytes: u64,
}

impl Disk {
    pub(crate) fn create(path: PathBuf, bytes: u64, content: &Content) -> Result<Disk> {
        let disk = Disk { path, bytes };
        disk.replace(content)?;
        Ok(disk)
    }

    /// The raw image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts another disk of the same size in its place.
    pub fn replace(&self, content: &Content) -> Result<()> {
        self.fill(content)
            .with_context(|| format!("cannot prepare the disk {}", self.path.display()))
    }

    fn fill(&self, content: &Content) -> Result<()> {
        // Emptied, not replaced by a new file: a stopped QEMU's successor opens the same path.
        let file = File::create(&self.path)?;
        match content {
            Content::Blank => {}
            Content::Bytes(pieces) => {
                for (offset, bytes) in pieces {
                    file.write_all_at(bytes, *offset)?;
                }
            }
            Content::File(source) => {
                drop(file);
                copy_sparse(source, &self.path)?;
            }
            Content::OldOs { marker, then } => {
                file.write_all_at(&boot_sector(marker, *then)?, 0)?;
            }
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let filled = file.metadata()?.len();
        ensure!(filled <= self.bytes, "{filled} bytes do not fit on {}", self.bytes);
        file.set_len(self.bytes)?;
        Ok(())
    }

    /// Writes as the node could have, e.g. to damage a header.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        ensure!(offset + bytes.len() as u64 <= self.bytes, "offset {offset} is beyond the disk");
        Ok(OpenOptions::new().write(true).open(&self.path)?.write_all_at(bytes, offset)?)
    }

    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(&self.path)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Keeps its present content in a file, which can be another disk's [`Content::File`].
    pub fn keep(&self, copy: &Path) -> Result<()> {
        copy_sparse(&self.path, copy)
    }

    /// Equal for disks with equal content: says whether anything was changed. Hashes only what is
    /// not zero, since most of a disk is.
    pub fn fingerprint(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        for_each_written(&File::open(&self.path)?, |offset, piece| {
            hash.update(offset.to_le_bytes());
            hash.update(piece);
            Ok(())
        })?;
        Ok(hex::encode(hash.finalize()))
    }

    /// Checks that the overlay store on it was closed in order: its journal is empty, and nothing in
    /// the file system needs repair. The node must be off.
    pub fn store_is_clean(&self) -> Result<()> {
        let table = Output::of(Command::new("sfdisk").arg("-J").arg(&self.path))?.ok()?.stdout;
        let table: serde_json::Value = serde_json::from_str(&table)?;
        let partitions = table["partitiontable"]["partitions"].as_array();
        let store = partitions.and_then(|all| all.iter().find(|p| p["name"] == "haas-overlay"));
        let start = store.and_then(|store| store["start"].as_u64()).context("no overlay store")?;
        let device = format!("{}?offset={}", self.path.display(), start * 512);
        let header = Output::of(Command::new("dumpe2fs").args(["-h", &device]))?.ok()?.stdout;
        let is_clean = header.lines().any(|line| line == "Filesystem state:         clean");
        ensure!(is_clean && !header.contains("needs_recovery"), "not closed in order:\n{header}");
        Output::of(Command::new("e2fsck").args(["-f", "-n", &device]))?.ok().map(drop)
    }

    /// Bytes that really lie on the host's disk, i.e. were written and not discarded.
    pub fn allocated(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.path)?.blocks() * 512)
    }
}

/// Copies a disk without giving blocks to its zeros, as [`fs::copy`] would.
fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        let (from, to) = (File::open(from)?, File::create(to)?);
        to.set_len(from.metadata()?.len())?;
        for_each_written(&from, |offset, piece| to.write_all_at(piece, offset))
    };
    copy().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Calls `visit` with the offset and the bytes of every 64 KiB that are not all zero.
fn for_each_written(
    file: &File,
    mut visit: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    const PIECE: usize = 1 << 16;
    let (mut piece, zero) = (vec![0; PIECE], vec![0; PIECE]);
    let end = file.metadata()?.len();
    for offset in (0..end).step_by(PIECE) {
        let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
        let piece = &mut piece[..length];
        file.read_exact_at(piece, offset)?;
        if *piece != zero[..length] {
            visit(offset, piece)?;
        }
    }
    Ok(())
}

/// Real-mode code of one sector: prints the marker on COM1, then does as it is told.
fn boot_sector(marker: &str, then: OldOs) -> Result<Vec<u8>> {
    // cli; xor ax,ax; mov ds,ax; mov si,TEXT (patched below); cld
    let mut code = vec![0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x00, 0x00, 0xfc];
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x10]); // next: lodsb; test al,al; jz printed
    code.extend([0x50, 0xba, 0xfd, 0x03]); //             push ax; mov dx,0x3fd (line status)
    code.extend([0xec, 0xa8, 0x20, 0x74, 0xfb]); //       wait: in al,dx; test al,0x20; jz wait
    code.extend([0x58, 0xba, 0xf8, 0x03, 0xee]); //       pop ax; mov dx,0x3f8; out dx,al
    code.extend([0xeb, 0xeb]); //                         jmp next
    // printed: Q35 with SeaBIOS has its ACPI power management registers at 0x600.
    let power_off = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef]; // mov dx,0x604; mov ax,0x2000; out dx,ax
    match then {
        OldOs::Hangs => {}
        OldOs::PowersOff => code.extend(power_off),
        OldOs::Reboots => code.extend([0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee]), // out 0xcf9,6
        OldOs::ObeysThePowerButton => {
            code.extend([0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef]); // enable the button: out 0x602,0x100
            // look: mov dx,0x600; in ax,dx; test ah,1; jz look
            code.extend([0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf7]);
            code.extend(power_off);
        }
    }
    code.extend([0xf4, 0xeb, 0xfd]); // rest: hlt; jmp rest
    let text = 0x7c00 + u16::try_from(code.len())?;
    code[6..8].copy_from_slice(&text.to_le_bytes());
    code.extend(marker.as_bytes());
    code.extend(b"\r\n\0");
    ensure!(code.len() <= 440, "the marker is too long for a boot sector");
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_sparse_and_holds_what_was_put_on_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let content = Content::Bytes(vec![(32 << 20, b"there".to_vec())]);
        let disk = Disk::create(dir.path().join("d"), 64 << 20, &content).expect("it fits");
        assert_eq!(disk.read_at(32 << 20, 5).expect("readable"), b"there");
        assert!(disk.allocated().expect("it exists") < 1 << 20);
        let before = disk.fingerprint().expect("readable");
        disk.write_at(5, b"x").expect("it fits");
        assert_ne!(disk.fingerprint().expect("readable"), before);
        disk.write_at(5, b"\0").expect("it fits");
        assert_eq!(disk.fingerprint().expect("readable"), before);
        disk.replace(&Content::Blank).expect("it fits");
        assert_eq!(disk.read_at(32 << 20, 5).expect("readable"), [0; 5]);
    }

    #[test]
    fn a_boot_sector_is_one_signed_sector() {
        let sector = boot_sector("OLD", OldOs::Hangs).expect("short");
        assert_eq!((sector.len(), &sector[510..]), (512, &[0x55, 0xaa][..]));
        assert!(boot_sector(&"x".repeat(500), OldOs::Hangs).is_err());
    }
}
