//! SELinux labels of a root whose system has a policy: every file gets the label that this policy
//! has for its path.
//!
//! Whatever labels came along belong to the policy of another computer, or to a container, and the
//! files that a build writes have none. Where the root is complete, a node has nothing to relabel, which
//! would copy the whole image into the overlay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    rootfs::{cannot, within},
    tool::{run, say, tool},
};

/// Labels the root, if its SELinux is not disabled.
pub(super) fn label(root: &Path) -> anyhow::Result<()> {
    let Some(contexts) = file_contexts(root)? else { return Ok(()) };
    say("labelling the root by its SELinux policy");
    run(tool("setfiles").args(["-F", "-r"]).arg(root).arg(contexts).arg(root))?;
    // Many installers leave this for the first start.
    let relabel = root.join(".autorelabel");
    if relabel.symlink_metadata().is_ok() {
        say("removing /.autorelabel");
        fs::remove_file(&relabel).with_context(|| cannot("remove", &relabel))?;
    }
    Ok(())
}

/// The policy's table of labels by path.
fn file_contexts(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Some(file) = within(root, "etc/selinux/config").filter(|f| f.is_file()) else {
        return Ok(None);
    };
    let config = fs::read_to_string(&file).with_context(|| cannot("read", &file))?;
    let value = |key: &str| {
        let mut lines = config.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.next_back().map(str::trim)
    };
    let (Some("enforcing" | "permissive"), Some(policy)) =
        (value("SELINUX="), value("SELINUXTYPE="))
    else {
        return Ok(None);
    };
    let contexts = format!("etc/selinux/{policy}/contexts/files/file_contexts");
    Ok(within(root, &contexts).filter(|file| file.is_file()))
}
