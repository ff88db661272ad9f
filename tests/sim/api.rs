//! Everything that the API's description allows, and much that it does not, is asked of a live haasd by
//! schemathesis (`xtask/schemathesis.txt`): no answer may be a server's error, or one that is not
//! described.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use tests::{CONTROLLER, target_dir};

use crate::rack::{Controller, PATIENT, SimRack};

/// What an answer may not be. Names and node sets have more rules than a schema can say, so input that
/// fits the schema may still be refused.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,\
                      ignored_auth";

/// Bodies that are a tar are any bytes.
const HOOKS: &str = "import schemathesis\n\
    schemathesis.serializer.alias('application/x-tar', 'application/octet-stream')\n";

#[test]
#[ignore = "needs root, built binaries and schemathesis; run: cargo xtask e2e --slow"]
fn slow_whoever_asks_whatever_gets_no_servers_error_and_no_undescribed_answer() -> Result<()> {
    let sim = SimRack::start("schema", 2)?;
    let haas = sim.haasd(PATIENT)?;
    haas.switched("n1", "a")?;
    let token = token_of_a_user(&haas)?;
    for (who, token) in [("nobody", None), ("alice", Some(token))] {
        ask_everything(&haas, who, token.as_deref())?;
    }
    let log = haas.haasd.log();
    let errors: Vec<_> = log.lines().filter(|line| line.contains("a request failed")).collect();
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

/// alice owns a project, an overlay, a group and a grant.
fn token_of_a_user(haas: &Controller<'_>) -> Result<String> {
    let file = haas.sim.rack.dir().join("alice.token");
    let name = file.to_string_lossy();
    for command in [
        "user add alice",
        "project create vision --owner alice",
        "overlay create alice/dev",
        "grant add vision overlay:alice/dev use",
        &format!("user token alice --file {name}"),
    ] {
        let words: Vec<_> = command.split(' ').collect();
        haas.haasd.ctl(&words)?.ok()?;
    }
    Ok(fs::read_to_string(&file)?.trim().to_owned())
}

fn ask_everything(haas: &Controller<'_>, who: &str, token: Option<&str>) -> Result<()> {
    let folder = haas.sim.rack.dir().join("schemathesis").join(who);
    fs::create_dir_all(&folder)?;
    // Not an argument, which everybody on the machine could read.
    let header = token.map(|token| format!("Authorization = \"Bearer {token}\"\n"));
    let headers = header.map_or_else(String::new, |header| format!("[headers]\n{header}"));
    let config = format!("hooks = \"hooks.py\"\n{headers}");
    fs::write(folder.join("schemathesis.toml"), config)?;
    fs::write(folder.join("hooks.py"), HOOKS)?;
    let mut command = haas.sim.rack.command(program()?);
    command.current_dir(&folder).args(["run", &format!("https://{CONTROLLER}:8443/openapi.json")]);
    command.args(["--tls-verify", "false", "--checks", CHECKS, "--continue-on-failure"]);
    command.args(["--max-examples", "40", "--seed", "1", "--no-color", "--rate-limit", "auto"]);
    // Who ends his own token asks as nobody from then on.
    command.args(["--exclude-path", "/v1/logout", "--exclude-path-regex", "/password$|/tokens/"]);
    // It never ends.
    command.args(["--exclude-path", "/v1/events"]);
    run(&mut command, &folder.join("output.txt"))
}

fn run(command: &mut Command, output: &Path) -> Result<()> {
    let done = command.output()?;
    fs::write(output, [&done.stdout[..], &done.stderr].concat())?;
    ensure!(done.status.success(), "{}", fs::read_to_string(output)?);
    Ok(())
}

/// What `cargo xtask setup` has installed.
fn program() -> Result<std::path::PathBuf> {
    let program = target_dir()?.join("tools/schemathesis/bin/schemathesis");
    ensure!(program.exists(), "run cargo xtask setup: {} is missing", program.display());
    Ok(program)
}
