//! An image's root while it is a folder in the worker: looking things up in it as its own system
//! would, and what is put right in every root.
//!
//! Links in it are foreign data. They are followed by [`within`] and nothing else, so that an
//! absolute link never leads to the controller's own files.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Permissions},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, ensure};
use nix::sys::{
    stat::{UtimensatFlags, utimensat},
    time::TimeSpec,
};

use super::tool::{EPOCH, say};
use crate::inventory::Arch;

/// Folders that must be there, because something is mounted on them before init starts.
const MOUNT_POINTS: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// What must be different on each node, so it may not be in an image (by beginning of the name).
const PER_NODE: [(&str, &str); 5] = [
    ("etc/ssh", "ssh_host_"),
    ("etc/dropbear", "dropbear_"),
    ("var/lib/dbus", "machine-id"),
    ("var/lib/systemd", "random-seed"),
    ("var/lib/systemd", "credential.secret"),
];

/// Where `path` is in the root when links are followed as if the root were `/`. None where it,
/// or a folder on the way, is not there.
pub(super) fn within(root: &Path, path: &str) -> Option<PathBuf> {
    let mut left: VecDeque<OsString> = parts(Path::new(path));
    let mut found = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            found.pop();
            continue;
        }
        let next = root.join(&found).join(&part);
        if !next.symlink_metadata().ok()?.is_symlink() {
            found.push(part);
            continue;
        }
        links += 1;
        if links > 40 {
            return None;
        }
        let target = fs::read_link(&next).ok()?;
        if target.is_absolute() {
            found = PathBuf::new();
        }
        for part in parts(&target).into_iter().rev() {
            left.push_front(part);
        }
    }
    Some(root.join(found))
}

/// Makes the folders of a merged-/usr system (`/bin` is a link to `usr/bin`, and so on), which all
/// of today's distributions have, so that an overlay fits each image.
pub(super) fn make_skeleton(root: &Path) -> anyhow::Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let folder = root.join("usr").join(name);
        fs::create_dir_all(&folder).with_context(|| cannot("create", &folder))?;
        let link = root.join(name);
        symlink(format!("usr/{name}"), &link).with_context(|| cannot("create", &link))?;
    }
    for name in ["etc", "var", "root", "home"].iter().chain(&MOUNT_POINTS) {
        let folder = root.join(name);
        fs::create_dir_all(&folder).with_context(|| cannot("create", &folder))?;
    }
    let mode = |name: &str, mode| {
        let path = root.join(name);
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .with_context(|| cannot("set the mode of", &path))
    };
    mode("root", 0o700)?;
    mode("tmp", 0o1777)
}

/// Copies a recipe's files over the root: owned by root, 0755 where the owner may execute and
/// 0644 otherwise, since a checkout keeps no other mode.
pub(super) fn copy_over(from: &Path, root: &Path, at: &str) -> anyhow::Result<()> {
    let folder = within(root, at)
        .filter(|folder| folder.is_dir())
        .with_context(|| format!("/{at} is no folder in the root"))?;
    let mut entries: Vec<_> =
        fs::read_dir(from).and_then(Iterator::collect).with_context(|| cannot("list", from))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().with_context(|| cannot("take the name of", &path))?;
        let (to, meta) = (folder.join(name), entry.metadata().context("cannot read a recipe")?);
        if meta.is_dir() {
            if to.symlink_metadata().is_err() {
                fs::create_dir(&to).with_context(|| cannot("create", &to))?;
            }
            copy_over(&path, root, &format!("{at}/{name}"))?;
            continue;
        }
        // What lies there may be a link; it is replaced, not written through.
        if to.symlink_metadata().is_ok() {
            fs::remove_file(&to).with_context(|| cannot("replace", &to))?;
        }
        if meta.is_symlink() {
            fs::read_link(&path)
                .and_then(|target| symlink(target, &to))
                .with_context(|| cannot("copy", &path))?;
        } else {
            ensure!(meta.is_file(), "{} is neither file, folder nor link", path.display());
            let mode = if meta.mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            fs::copy(&path, &to)
                .and_then(|_| fs::set_permissions(&to, Permissions::from_mode(mode)))
                .with_context(|| cannot("copy", &path))?;
        }
    }
    Ok(())
}

/// Puts right what is wrong in any root that was in use: identities that two nodes must not
/// share, and files in folders that are mounted over.
pub(super) fn clean(root: &Path) -> anyhow::Result<()> {
    for name in MOUNT_POINTS {
        match within(root, name) {
            Some(folder) if name != "dev" => empty(&folder)?,
            Some(_) => {}
            None => {
                let folder = root.join(name);
                fs::create_dir(&folder).with_context(|| cannot("create", &folder))?;
            }
        }
    }
    for (folder, prefix) in PER_NODE {
        let Some(found) = within(root, folder).filter(|f| f.is_dir()) else { continue };
        for entry in fs::read_dir(&found).with_context(|| cannot("list", &found))? {
            let entry = entry.with_context(|| cannot("list", &found))?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                say(&format!("removing /{folder}/{}", entry.file_name().to_string_lossy()));
                fs::remove_file(entry.path()).with_context(|| cannot("remove", &entry.path()))?;
            }
        }
    }
    // An empty file, not a missing one: systemd then takes the id that the agent gives it.
    let etc = within(root, "etc").context("the root has no /etc")?;
    let id = etc.join("machine-id");
    if id.symlink_metadata().is_ok_and(|m| m.len() > 0) {
        say("emptying /etc/machine-id");
        fs::remove_file(&id).with_context(|| cannot("remove", &id))?;
    }
    if id.symlink_metadata().is_err() {
        fs::write(&id, "").with_context(|| cannot("write", &id))?;
    }
    Ok(())
}

/// Refuses a root that no node could start.
pub(super) fn check(root: &Path, arch: Arch) -> anyhow::Result<()> {
    let init = within(root, "sbin/init").filter(|init| init.is_file()).context(
        "the root has no /sbin/init: install systemd-sysv or another init in it, or pass the \
         folder, tar or disk that really holds a system",
    )?;
    let mode = fs::metadata(&init).with_context(|| cannot("read", &init))?.mode();
    ensure!(mode & 0o111 != 0, "/sbin/init in the root may not be executed (mode {mode:o})");
    let mut head = Vec::new();
    fs::File::open(&init)
        .and_then(|file| file.take(20).read_to_end(&mut head))
        .with_context(|| cannot("read", &init))?;
    if head.starts_with(b"\x7fELF") && head.len() == 20 {
        // ELF: e_machine, 62 is x86-64 and 183 is AArch64.
        let (machine, expected) = (
            u16::from_le_bytes([head[18], head[19]]),
            match arch {
                Arch::X86_64 => 62,
                Arch::Aarch64 => 183,
            },
        );
        ensure!(
            machine == expected,
            "/sbin/init in the root is for another processor (ELF machine {machine}, expected \
             {expected}): pass the right arch"
        );
    } else {
        ensure!(head.starts_with(b"#!"), "/sbin/init in the root is neither program nor script");
    }
    Ok(())
}

/// Gives everything that was written since `start` the time [`EPOCH`].
pub(super) fn clamp_times(path: &Path, start: SystemTime) -> anyhow::Result<()> {
    let meta = path.symlink_metadata().with_context(|| cannot("read", path))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).with_context(|| cannot("list", path))? {
            clamp_times(&entry.with_context(|| cannot("list", path))?.path(), start)?;
        }
    }
    // A file system's clock ticks in milliseconds, so it may lie behind by as much.
    let start = start - std::time::Duration::from_millis(20);
    if meta.modified().is_ok_and(|modified| modified >= start) {
        let time = TimeSpec::new(EPOCH, 0);
        utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
            .with_context(|| cannot("set the time of", path))?;
    }
    Ok(())
}

/// For the context of an error.
pub(super) fn cannot(action: &str, path: &Path) -> String {
    format!("cannot {action} {}", path.display())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn empty(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| cannot("list", folder))? {
        let path = entry.with_context(|| cannot("list", folder))?.path();
        let is_dir = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| cannot("remove", &path))?;
    }
    Ok(())
}
