//! SELinux labels of what the agent writes into a root whose policy is not loaded yet.
//!
//! Until systemd loads the policy the kernel labels nothing: a new file has no label, and a folder
//! that overlayfs copies up for it loses the one that it has in the image (Linux before 6.8). Under
//! the policy both would be `unlabeled_t`, which hardly a program may read. So whatever the agent has
//! touched and has no label gets the one that the image's own policy has for its path.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::sys;

/// Of libselinux's own tools: it looks labels up and needs no policy in the kernel.
const MATCHPATHCON: &str = "usr/sbin/matchpathcon";

/// Labels these paths and the folders above them, in a root that this process is chrooted into.
/// Paths that are not there are passed over.
pub(crate) fn write(root: &Path, paths: &[PathBuf]) -> io::Result<()> {
    let Some(contexts) = file_contexts(root) else { return Ok(()) };
    let bare: Vec<PathBuf> = with_folders(paths)
        .into_iter()
        .map(|path| root.join(path))
        .filter(|path| fs::symlink_metadata(path).is_ok() && sys::label(path).is_none())
        .collect();
    if bare.is_empty() {
        return Ok(());
    }
    let output = Command::new(root.join(MATCHPATHCON))
        .arg("-n")
        .arg("-f")
        .arg(&contexts)
        .args(&bare)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("/{MATCHPATHCON} of libselinux: {e}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("/{MATCHPATHCON} fails: {text}")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for (path, label) in bare.iter().zip(text.lines()) {
        // `<<none>>` means that the policy leaves the path as it is.
        if label.contains(':') {
            sys::set_label(path, label)?;
        }
    }
    Ok(())
}

/// The image's table of labels by path, where its SELinux is not disabled.
fn file_contexts(root: &Path) -> Option<PathBuf> {
    let config = fs::read_to_string(root.join("etc/selinux/config")).ok()?;
    let value = |key: &str| {
        let mut lines = config.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.next_back().map(str::trim)
    };
    if value("SELINUX=").is_none_or(|mode| mode == "disabled") {
        return None;
    }
    let contexts =
        root.join("etc/selinux").join(value("SELINUXTYPE=")?).join("contexts/files/file_contexts");
    contexts.is_file().then_some(contexts)
}

/// Relative paths with every folder above each, down from the root itself.
fn with_folders(paths: &[PathBuf]) -> BTreeSet<&Path> {
    paths.iter().flat_map(|path| path.ancestors()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn root(config: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("root");
        let contexts = root.path().join("etc/selinux/targeted/contexts/files");
        fs::create_dir_all(&contexts).expect("folders");
        fs::write(contexts.join("file_contexts"), "/.* system_u:object_r:default_t:s0\n")
            .expect("contexts");
        fs::write(root.path().join("etc/selinux/config"), config).expect("config");
        root
    }

    #[test]
    fn the_policy_is_that_of_the_images_configuration() {
        let on = "# SELINUX=disabled\nSELINUX=permissive\nSELINUXTYPE=targeted\n";
        let found = file_contexts(root(on).path()).expect("a table");
        assert!(found.ends_with("etc/selinux/targeted/contexts/files/file_contexts"));
        for off in
            ["SELINUX=disabled\nSELINUXTYPE=targeted\n", "SELINUX=enforcing\nSELINUXTYPE=mls\n", ""]
        {
            assert_eq!(file_contexts(root(off).path()), None, "{off:?}");
        }
    }

    #[test]
    fn the_folders_above_are_looked_at_too() {
        let paths = ["etc/ssh/key", "etc/hosts"].map(PathBuf::from);
        let all: Vec<_> = with_folders(&paths).into_iter().collect();
        assert_eq!(all, ["", "etc", "etc/hosts", "etc/ssh", "etc/ssh/key"].map(Path::new));
    }

    #[test]
    fn what_has_no_label_gets_the_policys_and_what_has_one_keeps_it() {
        let root = root("SELINUX=enforcing\nSELINUXTYPE=targeted\n");
        let at = |path: &str| root.path().join(path);
        // Says of each path what it was asked.
        fs::create_dir_all(at("usr/sbin")).expect("folder");
        let tool =
            "#!/bin/sh\nshift 3\nfor path; do echo \"system_u:object_r:${path##*/}_t:s0\"; done\n";
        fs::write(at("usr/sbin/matchpathcon"), tool).expect("tool");
        fs::set_permissions(at("usr/sbin/matchpathcon"), fs::Permissions::from_mode(0o755))
            .expect("mode");
        for name in ["etc/hosts", "etc/shadow"] {
            fs::write(at(name), "").expect("file");
        }
        let kept = "system_u:object_r:shadow_t:s0";
        sys::set_label(&at("etc/shadow"), kept).expect("only root may set labels");
        let paths = ["etc/hosts", "etc/shadow", "etc/gone"].map(PathBuf::from);
        write(root.path(), &paths).expect("labels");
        for (path, label) in [
            ("etc/hosts", "system_u:object_r:hosts_t:s0"),
            ("etc", "system_u:object_r:etc_t:s0"),
            ("etc/shadow", kept),
        ] {
            assert_eq!(sys::label(&at(path)).as_deref(), Some(label), "{path}");
        }
    }
}
