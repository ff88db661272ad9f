//! Demos: the main job on a virtual rack, and a switch of a simulated fleet, both told by `haas-demo`.

use std::process::Command;

use anyhow::Result;

use crate::{e2e, run, setup};

pub(crate) fn run(keep: bool, down: bool) -> Result<()> {
    if !down {
        setup::run()?;
        e2e::build()?;
    }
    let mut demo = run::as_root(run::built("haas-demo"));
    if keep {
        demo.arg("--keep");
    }
    if down {
        demo.arg("--down");
    }
    run::run(demo.current_dir(run::root()))
}

/// Needs no root: a user namespace has all that simulated nodes need.
pub(crate) fn fleet(count: u32) -> Result<()> {
    setup::run()?;
    e2e::build()?;
    let mut demo = if run::is_root() {
        Command::new(run::built("haas-demo"))
    } else {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "--mount", "--kill-child", "--fork"]);
        // ip keeps its namespaces in /run/netns.
        let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
        unshare.args(["sh", "-c", script, "sh"]).arg(run::built("haas-demo"));
        unshare
    };
    run::run(demo.args(["--sim", &count.to_string()]).current_dir(run::root()))
}
