//! Nodes whose BMCs speak Redfish, and not always as they should.

use std::fs;
use std::net::TcpListener;

use anyhow::{Result, ensure};
use haas_api::operation::PowerVerb;
use sim::redfish::{Faults, Node, Server, Setup, Tls, Vendor};
use tests::{CONTROLLER, built};

use crate::rack::{PATIENT, SimRack};

const USER: &str = "haas";
const PASSWORD: &str = "s3cret-of-bmc";

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn nodes_are_switched_by_redfish_through_what_bmcs_do() -> Result<()> {
    let sim = SimRack::start("redfish", 2)?;
    let few = Setup { sessions: 1, ..Setup::new(Vendor::Idrac, USER, PASSWORD) };
    let first = bmc(&sim, 1, few)?;
    let second = bmc(&sim, 2, Setup::new(Vendor::Ami, USER, PASSWORD))?;
    fs::write(sim.rack.dir().join("bmc-password"), PASSWORD)?;
    let inventory = nodes_toml(&[&first, &second]);
    let mut haas = sim.haasd_with_inventory(PATIENT, &inventory)?;
    haas.manage("n[1-2]", true)?;

    haas.switched("n[1-2]", "a")?;
    // Each BMC says UEFI and the nodes are BIOS: one lets the mode be written.
    for ((server, _), boot) in [(&first, "boot Pxe Once"), (&second, "boot Pxe Once Legacy")] {
        let service = server.service();
        ensure!(service.orders() == [boot, "On"], "{:?}", service.orders());
        let counts = service.counts();
        ensure!(counts.logins == 1 && counts.basic == 0, "{counts:?}");
    }

    // One loses its sessions in the middle and is busy, the other is slow.
    first.0.service().forget_sessions();
    first.0.service().set_faults(Faults { unavailable: 3, wants_etag: true, ..Faults::default() });
    second.0.service().set_faults(Faults { slow_ms: 300, ..Faults::default() });
    haas.switched("n[1-2]", "b")?;
    ensure!(first.0.service().counts().logins == 2);
    let cut = |server: &Server| server.service().orders().iter().any(|order| order == "ForceOff");
    ensure!(!cut(&first.0) && !cut(&second.0), "nobody's power was to be cut");

    // An order whose answer is lost was obeyed all the same.
    haas.done(haas.power("n[1-2]", PowerVerb::Off, false)??)?;
    first.0.service().set_faults(Faults { lost_answers: 1, ..Faults::default() });
    second.0.service().set_faults(Faults::default());
    haas.done(haas.power("n[1-2]", PowerVerb::On, false)??)?;
    let on = first.0.service().orders().iter().filter(|order| *order == "On").count();
    ensure!(on == 3, "each boot is one order: {:?}", first.0.service().orders());

    haas.haasd.stop()?;
    for (server, _) in [&first, &second] {
        ensure!(server.service().open_sessions() == 0, "haasd has left a session open");
    }
    Ok(())
}

/// A BMC in the rack's network that switches a simulated node.
fn bmc(sim: &SimRack, number: usize, setup: Setup) -> Result<(Server, Tls)> {
    let listener = sim.rack.in_netns(|| TcpListener::bind((CONTROLLER, 0)))??;
    let tls = Tls::self_signed()?;
    let node = Node { folder: sim.node(number).clone(), program: built("haas-sim-node")? };
    Ok((Server::start_at(listener, setup, &tls, node)?, tls))
}

fn nodes_toml(bmcs: &[&(Server, Tls)]) -> String {
    let mut text = format!(
        "[defaults]\ncache = \"0\"\n[defaults.power]\ndriver = \"redfish\"\n\
         user = \"{USER}\"\npassword_file = \"bmc-password\"\n"
    );
    for (number, (server, tls)) in (1..).zip(bmcs) {
        text.push_str(&format!(
            "\n[[node]]\nname = \"n{number}\"\nmac = \"{}\"\naddress = \"10.77.0.{}\"\n\
             power = {{ address = \"{CONTROLLER}\", port = {}, fingerprint = \"{}\" }}\n",
            crate::rack::mac(number),
            number + 10,
            server.address().port(),
            tls.fingerprint(),
        ));
    }
    text
}
