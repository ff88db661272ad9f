//! Importing a system that was made elsewhere, inside the image worker: a folder, a tar archive
//! or a raw disk.
//!
//! Whatever it comes in, its files are copied into a folder of ours and packed anew, so that each
//! image has the same kind of root and the original stays as it is. tar, cp and mount do the
//! copying: they keep owners, modes, times, hard links, devices, extended attributes and ACLs.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use super::{
    build::copy_modules,
    kernel,
    manifest::{FsType, Manifest, check_argument},
    pack::{Parts, pack},
    rootfs::{cannot, within},
    tool::{cannot_start, check, output, run, say, tool},
    worker::PackModules,
};
use crate::inventory::Arch;

/// What the worker imports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) source: Source,
    pub(super) kernel: Option<PathBuf>,
    pub(super) modules: Option<PathBuf>,
    pub(super) arch: Arch,
    /// None: what the kernel can mount.
    pub(super) fstype: Option<FsType>,
    pub(super) cmdline: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Source {
    Directory(PathBuf),
    Tar(PathBuf),
    /// A tar archive on standard input.
    TarStream,
    RawDisk(PathBuf),
}

pub(super) fn import(
    order: &Order,
    work: &Path,
    pack_modules: PackModules,
) -> anyhow::Result<Manifest> {
    let start = SystemTime::now();
    for argument in &order.cmdline {
        check_argument(argument).map_err(anyhow::Error::msg)?;
    }
    let root = work.join("root");
    fs::create_dir(&root).with_context(|| cannot("create", &root))?;
    match &order.source {
        Source::Directory(path) => copy_tree(path, &root)?,
        Source::Tar(path) => {
            let file = File::open(path).with_context(|| cannot("read", path))?;
            unpack(BufReader::with_capacity(1 << 16, file), &root)?;
        }
        Source::TarStream => unpack(io::stdin().lock(), &root)?,
        Source::RawDisk(path) => copy_disk(path, work, &root)?,
    }
    let kernel = match &order.kernel {
        Some(vmlinuz) => kernel::given(vmlinuz, order.modules.as_deref(), &root, order.arch)?,
        None => {
            anyhow::ensure!(order.modules.is_none(), "a modules folder needs its kernel file too");
            kernel::find(&root, order.arch)?
        }
    };
    if within(&root, &format!("lib/modules/{}", kernel.release)).is_none() {
        copy_modules(&kernel, &root)?;
    }
    let fstype = order.fstype.unwrap_or_else(|| kernel::root_fs(&kernel));
    let parts = Parts {
        kernel,
        arch: order.arch,
        fstype,
        cmdline: &order.cmdline,
        ready_checks: &[],
        start,
    };
    pack(&root, parts, work, pack_modules)
}

/// Copies a tree, but not what else is mounted in it: a system in use has /proc and more.
fn copy_tree(from: &Path, root: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(from.is_dir(), "{} is not a folder", from.display());
    say(&format!("copying {}", from.display()));
    run(tool("cp")
        .args(["--archive", "--one-file-system", "--reflink=auto", "--no-target-directory", "--"])
        .arg(from)
        .arg(root))
}

/// Unpacks a tar archive, compressed or not. A member outside the root (`..`) is refused by tar,
/// and links that lead out of it are only made when nothing is written through them any more.
fn unpack(mut archive: impl BufRead, root: &Path) -> anyhow::Result<()> {
    let head = archive.fill_buf().context("cannot read the archive")?;
    anyhow::ensure!(!head.is_empty(), "the archive is empty");
    let compression: &[&str] = match head {
        [0x1f, 0x8b, ..] => &["--gzip"],
        [0xfd, b'7', b'z', b'X', b'Z', ..] => &["--xz"],
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["--zstd"],
        [b'B', b'Z', b'h', ..] => &["--bzip2"],
        _ => &[],
    };
    say("unpacking the archive");
    let mut command = tool("tar");
    command
        .args(["--extract", "--file=-", "--numeric-owner", "--same-owner", "--same-permissions"])
        .args(["--xattrs", "--xattrs-include=*", "--acls", "--delay-directory-restore"])
        .args(compression)
        .arg("--directory")
        .arg(root)
        .stdin(Stdio::piped());
    let mut child = command.spawn().with_context(|| cannot_start(&command))?;
    let copied = copy_with_tail(&mut archive, child.stdin.take().expect("its input is a pipe"));
    let status = child.wait().context("cannot wait for tar")?;
    // When tar fails, writing to it fails too; what tar says is the reason.
    check(&command, status).context("the archive cannot be taken as a whole")?;
    match copied {
        // tar takes an archive that was cut off between two members for a whole one. Compressed
        // ones carry their own checksum.
        Ok(tail) => anyhow::ensure!(
            !compression.is_empty() || tail.iter().all(|byte| *byte == 0),
            "the archive was cut off: it lacks its end mark, a block of zeros"
        ),
        // tar stops reading at the end mark, before padding behind it.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        Err(e) => return Err(e).context("cannot read the archive"),
    }
    Ok(())
}

/// Copies to the end and returns the last block.
fn copy_with_tail(from: &mut impl BufRead, mut to: impl Write) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 512;
    let mut tail = Vec::new();
    loop {
        let bytes = match from.fill_buf() {
            Ok([]) => return Ok(tail),
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(bytes)?;
        tail.extend_from_slice(&bytes[bytes.len().saturating_sub(BLOCK)..]);
        tail.drain(..tail.len().saturating_sub(BLOCK));
        let taken = bytes.len();
        from.consume(taken);
    }
}

/// A partition, or the whole disk where there are none.
struct Part {
    number: u32,
    offset: u64,
    /// Bytes; 0 reaches to the end.
    size: u64,
}

/// Copies the root out of a raw disk or file system image, which is only ever read.
fn copy_disk(disk: &Path, work: &Path, root: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(disk.is_file(), "{} is not a file", disk.display());
    let at = work.join("mnt");
    fs::create_dir(&at).with_context(|| cannot("create", &at))?;
    let parts = partitions(disk)?;
    let mut seen = Vec::new();
    for part in &parts {
        let name = match part.number {
            0 => "the whole disk".to_owned(),
            number => format!("partition {number}"),
        };
        let mut options = format!("ro,loop,nosuid,nodev,offset={}", part.offset);
        if part.size > 0 {
            options.push_str(&format!(",sizelimit={}", part.size));
        }
        let mounted = run(tool("mount").arg("-o").arg(options).arg("--").arg(disk).arg(&at));
        if mounted.is_err() {
            seen.push(format!("{name} cannot be mounted (is it clean?)"));
            continue;
        }
        let copied = match within(&at, "sbin/init") {
            Some(_) => copy_tree(&at, root).map(|()| true),
            None => Ok(false),
        };
        umount2(&at, MntFlags::empty()).with_context(|| cannot("unmount", &at))?;
        if copied? {
            say(&format!("the root is {name}"));
            return Ok(());
        }
        seen.push(format!("{name} has no /sbin/init"));
    }
    bail!("{} holds no root: {}", disk.display(), seen.join("; "))
}

fn partitions(disk: &Path) -> anyhow::Result<Vec<Part>> {
    let whole = || vec![Part { number: 0, offset: 0, size: 0 }];
    // partx fails where there is no partition table.
    let listed = output(
        tool("partx")
            .args(["--raw", "--noheadings", "--output", "NR,START,SECTORS", "--"])
            .arg(disk),
    );
    let Ok(listed) = listed else { return Ok(whole()) };
    let mut parts = Vec::new();
    for line in listed.lines() {
        let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let [number, start, sectors] = fields[..] else { bail!("partx printed {line:?}") };
        let bytes =
            |sectors: u64| sectors.checked_mul(512).context("a partition is larger than any disk");
        let number = u32::try_from(number).context("too many partitions")?;
        // An extended partition only holds others, in 2 sectors.
        if sectors > 2 {
            parts.push(Part { number, offset: bytes(start)?, size: bytes(sectors)? });
        }
    }
    Ok(if parts.is_empty() { whole() } else { parts })
}
