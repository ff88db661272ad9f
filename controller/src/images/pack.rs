//! The last step of every build and import: from a finished root folder and a kernel to the three
//! files of an image and its manifest.
//!
//! The same folder gives the same bytes: file systems get fixed times and ids, and the salt of
//! the dm-verity tree comes from the file system's own digest (ADR 0002).

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, ensure};
use haas_api::check::ReadyCheck;

use super::{
    blobs::digest_file,
    hold::hold_kernel,
    kernel::{Kernel, can_mount},
    manifest::{FsType, KernelBlob, Manifest, RootBlob, SCHEMA, Verity},
    rootfs::{cannot, check, clamp_times, clean},
    selinux,
    tool::{EPOCH, output as output_of, run, say, tool},
    worker::{PackModules, output},
};
use crate::inventory::Arch;

/// Bytes of a block of data and of the tree.
const BLOCK: u32 = 4096;

/// What is packed besides the root.
pub(super) struct Parts<'a> {
    pub(super) kernel: Kernel,
    pub(super) arch: Arch,
    pub(super) fstype: FsType,
    pub(super) cmdline: &'a [String],
    pub(super) ready_checks: &'a [ReadyCheck],
    /// When the worker began to write the root.
    pub(super) start: SystemTime,
}

/// Cleans and checks the root and packs it.
pub(super) fn pack(
    root: &Path,
    parts: Parts<'_>,
    work: &Path,
    pack_modules: PackModules,
) -> anyhow::Result<Manifest> {
    let Parts { kernel, arch, fstype, cmdline, ready_checks, start } = parts;
    let [root_file, kernel_file, modules_file] = output(work);
    check(root, arch)?;

    // Cheap refusals come before the minutes of compressing.
    say(&format!("kernel {}", kernel.release));
    ensure!(
        can_mount(&kernel, fstype),
        "kernel {} lacks the module {fstype}, without which it cannot mount the root: choose another \
         kernel, or another fstype in the recipe",
        kernel.release
    );
    let modules = pack_modules(&kernel.modules, &kernel.release)
        .map_err(anyhow::Error::from_boxed)
        .with_context(|| cannot("pack the modules in", &kernel.modules))?;
    fs::write(&modules_file, modules).with_context(|| cannot("write", &modules_file))?;
    fs::copy(&kernel.vmlinuz, &kernel_file).with_context(|| cannot("copy", &kernel.vmlinuz))?;

    clean(root)?;
    hold_kernel(root)?;
    selinux::label(root)?;
    clamp_times(root, start)?;
    say(&format!("packing the root as {fstype}"));
    make_fs(root, fstype, &root_file)?;
    let root = add_verity(&root_file, fstype)?;

    let digest = |path: &Path| digest_file(path).with_context(|| cannot("read", path));
    let kernel_blob = digest(&kernel_file)?;
    let manifest = Manifest {
        schema: SCHEMA,
        arch,
        root,
        kernel: KernelBlob {
            digest: kernel_blob.digest,
            size: kernel_blob.size,
            release: kernel.release,
        },
        modules: digest(&modules_file)?,
        cmdline: cmdline.to_vec(),
        ready_checks: ready_checks.to_vec(),
    };
    manifest.check()?;
    Ok(manifest)
}

fn make_fs(root: &Path, fstype: FsType, file: &Path) -> anyhow::Result<()> {
    match fstype {
        // ADR 0002 has the measurements behind 16 KiB.
        FsType::Erofs => run(tool("mkfs.erofs")
            .args(["--quiet", "-zlz4hc", "-C16384", "--preserve-mtime"])
            .args([&format!("-T{EPOCH}"), "-U00000000-0000-0000-0000-000000000000"])
            .arg(file)
            .arg(root)),
        FsType::Squashfs => run(tool("mksquashfs")
            .arg(root)
            .arg(file)
            .args(["-comp", "zstd", "-noappend", "-no-progress", "-quiet"])
            // SOURCE_DATE_EPOCH is in the environment already, and naming it twice is refused.
            .args(["-reproducible"])),
    }
}

/// Pads the file system to whole blocks and appends its dm-verity tree.
fn add_verity(file: &Path, fstype: FsType) -> anyhow::Result<RootBlob> {
    let size = fs::metadata(file).with_context(|| cannot("read", file))?.len();
    let data_size = size.next_multiple_of(u64::from(BLOCK));
    set_len(file, data_size)?;
    let salt = digest_file(file).with_context(|| cannot("read", file))?.digest.hex().to_owned();
    let text = output_of(
        tool("veritysetup")
            .arg("format")
            .arg(file)
            .arg(file)
            .args(["--hash=sha256", "--format=1"])
            .args([format!("--data-block-size={BLOCK}"), format!("--hash-block-size={BLOCK}")])
            .arg(format!("--data-blocks={}", data_size / u64::from(BLOCK)))
            .arg(format!("--hash-offset={data_size}"))
            .arg(format!("--salt={salt}"))
            .arg(format!("--uuid={}", uuid_of(&salt))),
    )?;
    let root_hash = text
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .map(|hash| hash.trim().to_owned())
        .context("veritysetup did not print the root hash")?;
    let size = fs::metadata(file).with_context(|| cannot("read", file))?.len();
    set_len(file, size.next_multiple_of(u64::from(BLOCK)))?;
    let blob = digest_file(file).with_context(|| cannot("read", file))?;
    Ok(RootBlob {
        digest: blob.digest,
        size: blob.size,
        fstype,
        data_size,
        verity: Verity {
            root_hash,
            salt,
            hash_offset: data_size,
            data_block_size: BLOCK,
            hash_block_size: BLOCK,
        },
    })
}

/// A UUID of version 8 (RFC 9562: made as the application likes) from hexadecimal digits.
fn uuid_of(hex: &str) -> String {
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

fn set_len(file: &Path, len: u64) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|file: File| file.set_len(len))
        .with_context(|| cannot("pad", file))
}
