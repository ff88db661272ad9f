//! The node's agent: one static binary, built for size in a target folder of its own.

use std::path::PathBuf;

use anyhow::Result;
use haas_initramfs::AgentFiles;

use crate::run;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `bootagent` and `target/agent.cpio.zst`, its half of the initramfs, and returns where the
/// binary lies.
pub(crate) fn build() -> Result<PathBuf> {
    // Its own folder, because other flags would otherwise rebuild every dependency back and forth.
    let folder = run::target().join("agent");
    let mut cargo = run::cargo(&["build", "--package", "bootagent", "--profile", "agent"]);
    // Naming the target keeps these flags away from build scripts and procedural macros.
    cargo.args(["--target", TARGET]);
    cargo.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", "-C target-feature=+crt-static");
    run::run(&mut cargo)?;
    let agent = folder.join(TARGET).join("agent/bootagent");
    let archive = haas_initramfs::agent_cpio(&AgentFiles::debian(agent.clone()))?;
    std::fs::write(run::target().join("agent.cpio.zst"), archive)?;
    Ok(agent)
}
