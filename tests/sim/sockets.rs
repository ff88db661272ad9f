//! haasd is exchanged while systemd holds its ports: whoever calls meanwhile waits and is not refused.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tests::pages::root;
use tests::{Output, spawn, wait_for};

use crate::rack::{LONG, PATIENT, SimRack};

/// First bytes of a login request and of the answer to it (RFC 7143, sections 11.12 and 11.13).
const LOGIN: [u8; 2] = [0x43, 0x87];
const LOGIN_RESPONSE: u8 = 0x23;
/// The class of status of a target that cannot serve now.
const TARGET_ERROR: u8 = 3;

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_call_between_two_haasds_waits_and_is_not_refused() -> Result<()> {
    let sim = SimRack::start("sockets", 1)?;
    let mut haas = sim.haasd(PATIENT)?;
    haas.haasd.stop()?;
    let [iscsi, api] = example_sockets()?;
    haas.haasd.hold_sockets([iscsi, api])?;
    haas.haasd.launch()?;
    ensure!(!haas.haasd.log().contains("has no use for"), "{}", haas.haasd.log());
    // A node boots through both.
    haas.switched("n1", "a")?;
    haas.haasd.stop()?;

    let mut initiator = sim.rack.in_netns(|| TcpStream::connect(iscsi))??;
    initiator.set_read_timeout(Some(LONG))?;
    initiator.write_all(&login_request())?;
    let mut ctl = haas.haasd.ctl_command()?;
    ctl.args(["node", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ctl = spawn(ctl)?;
    wait_for("haasctl to call", LONG, || callers(&sim, api).is_ok_and(|count| count > 0))?;
    ensure!(callers(&sim, iscsi)? > 0, "the initiator does not wait");
    haas.haasd.launch()?;
    let mut answer = [0; 48];
    initiator.read_exact(&mut answer).context("the initiator got no answer")?;
    ensure!(answer[0] == LOGIN_RESPONSE && answer[36] != TARGET_ERROR, "{answer:02x?}");
    wait_for("haasctl to end", LONG, || matches!(ctl.try_wait(), Ok(Some(_))))?;
    let listed = ctl.wait_with_output()?;
    let (said, failed) =
        (String::from_utf8_lossy(&listed.stdout), String::from_utf8_lossy(&listed.stderr));
    ensure!(listed.status.success() && said.contains("n1"), "{said}{failed}");
    Ok(())
}

/// How many wait there for somebody to take them.
fn callers(sim: &SimRack, address: SocketAddr) -> Result<u32> {
    let mut ss = sim.rack.command("ss");
    ss.args(["-Hltn", "src", &address.to_string()]);
    let shown = Output::of(&mut ss)?.ok()?.stdout;
    let waiting = shown.split_whitespace().nth(1).context("nobody listens")?;
    Ok(waiting.parse()?)
}

/// Those of the socket unit that the documentation has.
fn example_sockets() -> Result<[SocketAddr; 2]> {
    let unit = fs::read_to_string(root().join("docs/examples/haasd.socket"))?;
    let sockets = unit.lines().filter_map(|line| line.strip_prefix("ListenStream="));
    let sockets = sockets.map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    sockets.try_into().map_err(|found| anyhow::anyhow!("the unit has {found:?}"))
}

/// Asks for a discovery session, as a stranger.
fn login_request() -> Vec<u8> {
    let text =
        b"InitiatorName=iqn.2026-01.org.example:stranger\0SessionType=Discovery\0AuthMethod=None\0";
    let mut request = vec![0; 48];
    request[..2].copy_from_slice(&LOGIN);
    request[7] = text.len() as u8;
    request.extend_from_slice(text);
    request.resize(request.len().next_multiple_of(4), 0);
    request
}
