//! Machines that a tenant leaves otherwise than he got them: nobody else gets them before an admin has
//! looked.

use anyhow::{Result, ensure};
use haas_api::baseline::{BaselineRequest, Part};
use haas_api::names::UserName;
use haas_api::node::NodeState;
use haas_api::operation::{Operation, OperationState};
use haas_api::overlay::NewOverlay;
use haas_api::user::{NewUser, Role, UserKind};
use sim::bmc::User;

use crate::bmcs::Bmcs;
use crate::rack::{Controller, LONG, PATIENT, SimRack, behave};

const MALLORY: &str = "BMC user 2: was not there, is mallory, administrator, enabled";
const ORDER: &str = "firmware version: was 1.0, is 6.66";

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn a_node_that_a_tenant_has_changed_is_nobodys_until_an_admin_has_accepted_it() -> Result<()> {
    let sim = SimRack::start("baseline", 1)?;
    let bmcs = Bmcs::start(&sim)?;
    let haas = sim.haasd_with_power(PATIENT, |number| bmcs.power_of(number))?;
    haas.manage("n1", true)?;
    let bob: UserName = "bob".parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let name = "his".parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let user =
        NewUser { name: bob.clone(), kind: UserKind::Person, role: Role::User, ssh_keys: vec![] };
    let overlay = NewOverlay { owner: Some(bob), name };
    haas.api(async |client| client.add_user(&user).await)??;
    haas.api(async |client| client.new_overlay(&overlay).await)??;

    haas.switched("n1", "a")?;
    let on = || bmcs.farm.bmc(0).orders().iter().filter(|order| *order == "on").count();
    ensure!(on() == 1);
    let mallory =
        User { name: "mallory".to_owned(), password: "hidden in the BMC".to_owned(), limit: 4 };
    bmcs.farm.bmc(0).add_user(mallory);
    // Who has it keeps it: it is compared when another one gets it.
    haas.switched("n1", "b")?;
    ensure!(on() == 2);

    refused(&haas, haas.switch("n1", "bob/his")??, MALLORY)?;
    ensure!(on() == 2, "it was switched on for bob");
    ensure!(!haas.haasd.log().contains("hidden in the BMC"));
    accept(&haas)?;
    ensure!(on() == 3);

    // By the agent: before bob's overlay is mounted for the next one.
    let mut told = sim.node(1).baseline()?;
    told.entry(Part::Firmware).or_default().insert("version".to_owned(), "6.66".to_owned());
    behave(sim.node(1), |node| node.baseline = Some(told))?;
    let attached = sim.node(1).diary().matches("admitted").count();
    refused(&haas, haas.switch("n1", "a")??, ORDER)?;
    ensure!(sim.node(1).diary().matches("admitted").count() == attached, "{}", sim.diaries());
    accept(&haas)?;

    let kinds: Vec<_> = haas.events()?.into_iter().map(|event| event.kind).collect();
    let count = |kind: &str| kinds.iter().filter(|one| *one == kind).count();
    ensure!(count("baseline-recorded") == 2, "by the BMC and by the agent: {kinds:?}");
    ensure!(count("baseline-differs") == 2 && count("baseline-accepted") == 2, "{kinds:?}");
    Ok(())
}

/// The switch fails, the node is in quarantine, and both say why.
fn refused(haas: &Controller<'_>, operation: Operation, words: &str) -> Result<()> {
    let over = haas.over(&operation.id)?;
    ensure!(over.state == OperationState::Failed, "{over:?}");
    ensure!(over.nodes.iter().all(|node| node.reason.contains(words)), "{:?}", over.nodes);
    let node = haas.node("n1")?;
    let drain = node.drain.expect("it is out of service");
    ensure!(drain.state.as_str() == "quarantine" && drain.reason.contains(words), "{drain:?}");
    let told = haas.events()?.into_iter().rev().find(|event| event.kind == "baseline-differs");
    let data = told.expect("it is told").data;
    ensure!(data["words"][0] == words, "{data}");
    Ok(())
}

/// An admin takes the node as it is, and what was wanted of it goes on.
fn accept(haas: &Controller<'_>) -> Result<()> {
    let request = BaselineRequest { nodeset: "n1".to_owned() };
    haas.api(async |client| client.accept_baselines(&request).await)??;
    haas.until("the node to be ready after all", LONG, || {
        Ok((haas.node("n1")?.state == NodeState::Ready).then_some(()))
    })
}
