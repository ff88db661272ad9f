//! Tenants and the calendar: nodes are there at their hour, go back and go off, are replaced when they
//! die, and haasd may die meanwhile.
#![expect(clippy::print_stdout, reason = "what was measured is for the one who runs it")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use haas_api::client::Reserved;
use haas_api::names::UserName;
use haas_api::overlay::NewOverlay;
use haas_api::reservation::{
    ExtendReservation, NewReservation, OnNodeLoss, ReasonCode, Reservation, ReservationState,
};
use haas_api::user::{NewUser, Role, TokenRequest, UserKind};
use tests::postgres::Postgres;
use tests::{Haasd, files};

use crate::rack::{Controller, LONG, SimRack, behave, refusal};

const ABORT: &str = "HAAS_ABORT_AFTER_COMMIT";

/// No reservation of two nodes commits more often than this.
const MOST: usize = 400;

/// Boots that fail are given up soon, and nodes that nobody has go off.
const LIMITS: &str = "\n[boot]\nfirmware = \"20s\"\nstage = \"20s\"\ntotal = \"40s\"\nattempts = 1\n\
                      shutdown = \"20s\"\n[reservations]\nboot_time = \"30s\"\n\
                      [[idle]]\nnode_group = \"rack1\"\nidle_timeout = \"1h\"\n";

/// haasd with all nodes managed, in one node group.
fn controller(sim: &SimRack) -> Result<Controller<'_>> {
    let controller = sim.haasd_with_inventory(LIMITS, &inventory(sim)?)?;
    controller.manage(&format!("n[1-{}]", sim.nodes.len()), true)?;
    Ok(controller)
}

/// The same on an empty PostgreSQL.
fn controller_on<'sim>(sim: &'sim SimRack, postgres: &Postgres) -> Result<Controller<'sim>> {
    let url = postgres.socket_url();
    let config = format!("database_url = \"{url}\"\n{}{LIMITS}", files::haasd_toml(&sim.rack)?);
    let haasd = Haasd::start(&sim.rack, &config, &inventory(sim)?)?;
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/minimal");
    haasd.ctl(&["image", "build", recipe])?.ok()?;
    let controller = Controller { sim, haasd };
    controller.manage(&format!("n[1-{}]", sim.nodes.len()), true)?;
    Ok(controller)
}

fn inventory(sim: &SimRack) -> Result<String> {
    let all: Vec<usize> = (1..=sim.nodes.len()).collect();
    let nodes = sim.nodes_toml_of(&all)?;
    let nodes = nodes.replace("\naddress = ", "\ngroups = [\"rack1\"]\naddress = ");
    Ok(format!("{nodes}\n[[group]]\nname = \"rack1\"\n"))
}

/// A tenant with a token and an overlay `dev`.
#[derive(Debug)]
struct Tenant {
    name: UserName,
    token: String,
}

impl Tenant {
    fn new(haas: &Controller<'_>, name: &str) -> Result<Tenant> {
        let name: UserName = name.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        let user = NewUser {
            name: name.clone(),
            role: Role::User,
            kind: UserKind::Person,
            ssh_keys: Vec::new(),
        };
        haas.api(async |client| client.add_user(&user).await)??;
        let wanted = TokenRequest::default();
        let token = haas.api(async |client| client.new_token(&name, &wanted).await)??.token;
        let dev = "dev".parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        let overlay = NewOverlay { owner: None, name: dev };
        haas.api_as(&token, async |client| client.new_overlay(&overlay).await)??;
        Ok(Tenant { name, token })
    }

    fn reserve(&self, haas: &Controller<'_>, new: &NewReservation) -> Result<Reservation> {
        match haas.api_as(&self.token, async |client| client.reserve(new).await)?? {
            Reserved::Made(made) => Ok(*made),
            Reserved::Plan(plan) => bail!("no dry run was asked for, yet: {plan:?}"),
        }
    }

    fn look(&self, haas: &Controller<'_>, id: i64) -> Result<Reservation> {
        Ok(haas.api_as(&self.token, async |client| client.reservation(id).await)??)
    }

    /// Waits until a reservation is in this state.
    fn until(
        &self,
        haas: &Controller<'_>,
        id: i64,
        state: ReservationState,
    ) -> Result<Reservation> {
        let what = format!("reservation {id} of {} to be {}", self.name, state.as_str());
        let found = haas.until(&what, LONG, || {
            let now = self.look(haas, id)?;
            ensure!(now.state == state || !now.state.is_over(), "{now:#?}");
            Ok((now.state == state).then_some(now))
        });
        found.with_context(|| format!("{:#?}", self.look(haas, id)))
    }
}

fn wish(nodes: u32, walltime: Duration) -> Result<NewReservation> {
    Ok(NewReservation {
        nodes,
        walltime_s: Some(walltime.as_secs()),
        begin: None,
        queue: None,
        project: None,
        condition: None,
        nodeset: None,
        exclude: None,
        image: "minimal".parse().map_err(|e| anyhow::anyhow!("{e}"))?,
        overlay: None,
        grow: None,
        follow_tag: false,
        on_node_loss: OnNodeLoss::Replace,
        dry_run: false,
    })
}

/// The same for an hour that comes.
fn wish_in(nodes: u32, walltime: Duration, begin: Duration) -> Result<NewReservation> {
    let begin = jiff::Timestamp::now() + begin;
    Ok(NewReservation { begin: Some(begin.to_string()), ..wish(nodes, walltime)? })
}

fn held(one: &Reservation) -> Vec<&str> {
    let held = one.assigned.iter().filter(|node| node.state != "lost");
    held.map(|node| node.node.as_str()).collect()
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_two_tenants_share_a_rack_by_the_calendar() -> Result<()> {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let sim = SimRack::start("calendar", 5)?;
    let haas = controller(&sim)?;
    let (alice, bob) = (Tenant::new(&haas, "alice")?, Tenant::new(&haas, "bob")?);
    // Others are root beside what she leaves on disks here.
    haas.haasd.ctl(&["overlay", "share-disk", "alice/dev", "--yes"])?.ok()?;

    // Queued: it begins at once, and its time counts from when its nodes are ready.
    let overlay = Some("dev".parse().map_err(|e| anyhow::anyhow!("{e}"))?);
    let first = alice.reserve(&haas, &NewReservation { overlay, ..wish(2, hour)? })?.id;
    let active = alice.until(&haas, first, ReservationState::Active)?;
    ensure!(held(&active) == ["n1", "n2"], "{active:#?}");
    ensure!(sim.count("on") == [1, 1, 0, 0, 0], "{:?}", sim.count("on"));
    let others = haas.api_as(&bob.token, async |client| client.reservation(first).await)?;
    ensure!(refusal(others)?.code == "no-reservation");

    // For an hour: more than there is is refused at once, and what is accepted is ready by then.
    let begun = Instant::now();
    let soon = Duration::from_secs(45);
    let far = wish_in(4, minute, soon)?;
    let refused = refusal(haas.api_as(&bob.token, async |client| client.reserve(&far).await)?)?;
    ensure!(refused.code == "no-slot" && refused.detail.contains("3 could be had"), "{refused:?}");
    let second = bob.reserve(&haas, &wish_in(2, minute / 2, soon)?)?;
    ensure!(second.state == ReservationState::Planned, "{second:#?}");
    let later = bob.reserve(&haas, &wish_in(4, hour, 2 * hour)?)?;

    // An extension: with the reason and the longest possible one.
    let extend = |by: Duration, far: bool| {
        let wanted = ExtendReservation { by_s: by.as_secs(), as_far_as_possible: far };
        haas.api_as(&alice.token, async |client| client.extend_reservation(first, &wanted).await)
    };
    let refused = refusal(extend(3 * hour, false)?)?;
    ensure!(refused.code == "cannot-extend", "{refused:?}");
    ensure!(
        refused.detail.contains("is promised to another reservation from")
            && refused.detail.contains("it could be extended by "),
        "{refused:?}"
    );
    let longer = extend(3 * hour, true)??;
    ensure!((5_400..9_000).contains(&longer.walltime_s), "{longer:#?}");

    let second = bob.until(&haas, second.id, ReservationState::Active)?;
    ensure!(begun.elapsed() + Duration::from_secs(1) >= soon, "it is active before its hour");
    ensure!(second.late_s.unwrap_or_default() <= 10, "{second:#?}");
    ensure!(held(&second) == ["n3", "n4"], "{second:#?}");

    // A node dies in the middle: its power goes, and it does not boot again.
    behave(sim.node(1), |b| b.never_boots = true)?;
    sim::power::off(sim.node(1))?;
    let healed = haas.until("another node in its place", 2 * LONG, || {
        let now = alice.look(&haas, first)?;
        let ready = now.assigned.iter().filter(|node| node.state == "ready").count();
        Ok((now.code == ReasonCode::Replaced && ready == 2).then_some(now))
    })?;
    ensure!(
        healed.state == ReservationState::Active && !held(&healed).contains(&"n1"),
        "{healed:#?}"
    );
    let told = healed.steps.iter().find(|step| step.code == ReasonCode::Replaced);
    let told = told.context("it is told")?;
    ensure!(told.detail.starts_with("rank 0 was on n1, which is lost"), "{told:?}");
    let later = bob.look(&haas, later.id)?;
    ensure!(later.state == ReservationState::Planned, "{later:#?}");
    ensure!(!held(&later).contains(&"n1"), "{later:#?}");

    // The end: in order, and the nodes go off, since a rule says so.
    bob.until(&haas, second.id, ReservationState::Ended)?;
    let told = format!("notice: reservation {}: its time is over in", second.id);
    for number in [3, 4] {
        let diary = sim.node(number).diary();
        ensure!(diary.contains(&told), "nobody was told on n{number}:\n{diary}");
    }
    haas.api_as(&alice.token, async |client| client.release_reservation(first).await)??;
    alice.until(&haas, first, ReservationState::Ended)?;
    for number in [2, 3, 4, 5] {
        ensure!(!sim::power::is_on(sim.node(number))?, "n{number} is on");
        ensure!(!sim.node(number).power_lines().iter().any(|line| line.verb == "off"));
    }
    // And on again for the next claim: its ranks go home.
    let overlay = Some("dev".parse().map_err(|e| anyhow::anyhow!("{e}"))?);
    let only = NewReservation { overlay, nodeset: Some("n2".to_owned()), ..wish(1, hour)? };
    let dry = NewReservation { dry_run: true, ..only };
    match haas.api_as(&alice.token, async |client| client.reserve(&dry).await)?? {
        // Rank 0 has its data on the node that died.
        Reserved::Plan(plan) => ensure!(plan.state == ReservationState::Pending, "{plan:?}"),
        Reserved::Made(made) => bail!("a dry run made {made:?}"),
    }
    let but_n1 = NewReservation { exclude: Some("n1".to_owned()), ..wish(2, hour)? };
    let again = alice.reserve(&haas, &but_n1)?.id;
    alice.until(&haas, again, ReservationState::Active)?;
    Ok(())
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_reservation_survives_a_crash_after_any_commit() -> Result<()> {
    let sim = SimRack::start("calcrash", 2)?;
    survives_any_crash(&sim, controller(&sim)?)
}

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e --slow"]
fn slow_a_reservation_survives_a_crash_after_any_commit_to_postgresql() -> Result<()> {
    let postgres = Postgres::start()?;
    let sim = SimRack::start("calcrashpg", 2)?;
    survives_any_crash(&sim, controller_on(&sim, &postgres)?)
}

fn survives_any_crash(sim: &SimRack, mut haas: Controller<'_>) -> Result<()> {
    let begun = Instant::now();
    let alice = Tenant::new(&haas, "alice")?;
    let mut crashes = 0;
    for k in 1..MOST {
        haas.haasd.stop()?;
        sim.forget_power()?;
        haas.haasd.set_env(ABORT, &k.to_string());
        haas.haasd.launch_unready()?;
        let survived = lives(&mut haas, &alice, k).with_context(|| format!("k={k}"))?;
        if survived {
            break;
        }
        crashes += 1;
    }
    println!("{crashes} crashes in {:.0} s", begun.elapsed().as_secs_f32());
    ensure!(crashes > 15, "a reservation cannot have so few commits: {crashes}");
    Ok(())
}

/// Takes a reservation of both nodes from being asked for to being given back, with a haasd that aborts after some
/// commit and is started again. Whether it did not.
fn lives(haas: &mut Controller<'_>, alice: &Tenant, k: usize) -> Result<bool> {
    let new = wish(2, Duration::from_secs(3_600))?;
    let (mut asked, mut crashed) = (None, false);
    let end = Instant::now() + 3 * LONG;
    let ended = loop {
        ensure!(
            Instant::now() < end,
            "it does not end: {:?}",
            asked.map(|id| alice.look(haas, id))
        );
        if !haas.haasd.is_running() {
            ensure!(!crashed, "haasd died once more");
            crashed = true;
            haas.haasd.unset_env(ABORT);
            haas.haasd.wait_exit(LONG)?;
            haas.haasd.launch()?;
        }
        if !haas.haasd.is_ready() {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        match asked {
            None => {
                // The answer may be lost in the crash.
                let known = haas
                    .api_as(&alice.token, async |client| client.reservations(false, true).await)?;
                match known {
                    Ok(known) if known.is_empty() => {
                        asked = alice.reserve(haas, &new).ok().map(|made| made.id);
                    }
                    Ok(known) => asked = Some(known[0].id),
                    Err(_) => {}
                }
            }
            Some(id) => {
                // What cannot be asked is asked again, of the next haasd.
                if let Ok(now) = alice.look(haas, id) {
                    if now.state.is_over() {
                        break now;
                    }
                    if now.state == ReservationState::Active && now.code != ReasonCode::Released {
                        let _ = haas.api_as(&alice.token, async |client| {
                            client.release_reservation(id).await
                        })?;
                    }
                }
            }
        }
        std::thread::sleep(Duration::from_millis(30));
    };
    ensure!(ended.state == ReservationState::Ended, "{ended:#?}");
    let mut steps: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &ended.steps {
        *steps.entry(step.what.as_str()).or_default() += 1;
    }
    for what in ["submitted", "starting", "active", "ending", "ended"] {
        ensure!(steps.get(what) == Some(&1), "k={k}: {what} in {steps:?}");
    }
    let counts = haas.sim.count("on");
    ensure!(
        counts == [1, 1],
        "k={k}: nodes were switched on {counts:?} times\n{}",
        haas.sim.diaries()
    );
    ensure!(haas.sim.count("off") == [0, 0], "k={k}: all ended in order");
    for number in [1, 2] {
        ensure!(!sim::power::is_on(haas.sim.node(number))?, "k={k}: n{number} is on");
    }
    if !crashed {
        // It may abort any moment now, which is no crash in a reservation any more.
        haas.haasd.unset_env(ABORT);
        haas.haasd.kill()?;
        haas.haasd.launch()?;
    }
    Ok(!crashed)
}
