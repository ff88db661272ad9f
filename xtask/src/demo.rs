//! The main job on a virtual rack, told step by step by `haas-demo`.

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
