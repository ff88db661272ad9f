//! schemathesis, which asks the API everything that its description allows and much that it does not.
//! Debian has no package of it.

use std::{fs, process::Command};

use anyhow::Result;

use crate::run;

/// Installs the pinned version into a folder of its own. Does nothing, quickly, if it is there.
pub(crate) fn install() -> Result<()> {
    let wanted = run::root().join("xtask/schemathesis.txt");
    let folder = run::target().join("tools/schemathesis");
    let installed = folder.join("installed.txt");
    let text = fs::read_to_string(&wanted)?;
    if fs::read_to_string(&installed).is_ok_and(|there| there == text) {
        return Ok(());
    }
    run::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run::run(pip.arg(wanted))?;
    fs::write(installed, text)?;
    Ok(())
}
