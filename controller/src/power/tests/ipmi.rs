use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::ipmi::Ipmi,
    sim::{PASSWORD, Sim, USER},
    *,
};
use crate::inventory::SecretRef;

fn spec(sim: &Sim, user: &str, password: &str) -> PowerSpec {
    let path = sim.path(&format!("password-{}", password.len()));
    fs::write(&path, password).unwrap();
    PowerSpec::Ipmi {
        address: sim.bmc.ip(),
        port: sim.bmc.port(),
        mac: None,
        user: user.to_owned(),
        password: SecretRef::File(path),
    }
}

// A driver that waits as long as a test wants to.
fn quick(sim: &Sim, bmc: SocketAddr, answers: &'static [Duration]) -> Ipmi {
    let PowerSpec::Ipmi { user, password, .. } = spec(sim, USER, PASSWORD) else { unreachable!() };
    let ipmi = Ipmi::new(bmc, user, password, true).unwrap();
    ipmi.with_patience(answers, Duration::from_secs(10))
}

const SHORT: &[Duration] = &[Duration::from_millis(300), Duration::from_millis(300)];
const PATIENT: &[Duration] = &[Duration::from_secs(60); 9];
const GROWING: &[Duration] =
    &[Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(4)];

#[tokio::test]
async fn ipmi_keeps_the_promises() {
    let sim = Sim::start();
    let ipmi = driver(&spec(&sim, USER, PASSWORD), Firmware::Uefi).unwrap();
    keeps_the_promises(ipmi.as_ref(), &|| sim.log()).await;
    ipmi.set_boot_device(BootDevice::Disk).await.unwrap();
    assert_eq!(sim.log().last().map(String::as_str), Some("boot default"));
}

#[tokio::test]
async fn sessions_are_closed() {
    let sim = Sim::start();
    let ipmi = driver(&spec(&sim, USER, PASSWORD), Firmware::Bios).unwrap();
    for _ in 0..100 {
        assert_eq!(ipmi.state().await.unwrap(), Power::Off);
    }
}

#[tokio::test]
async fn calls_to_one_bmc_take_turns() {
    let sim = Sim::start();
    let calls = (0..16).map(|_| {
        let ipmi = driver(&spec(&sim, USER, PASSWORD), Firmware::Bios).unwrap();
        async move { ipmi.state().await.unwrap() }
    });
    let states = futures_util::future::join_all(calls).await;
    assert_eq!(states, [Power::Off; 16]);
}

#[tokio::test]
async fn wrong_password_wrong_user_and_too_little_privilege_are_told_apart() {
    let sim = Sim::start();
    let table = [
        (USER, "hunter2", "wrong password; check the file or variable that the inventory names"),
        (
            "nobody",
            PASSWORD,
            "it refuses the user; check the account's name and that it may use IPMI over LAN",
        ),
        (
            "guest",
            PASSWORD,
            "it refuses the privilege ADMINISTRATOR; raise the account's privilege limit on the LAN channel",
        ),
        (
            USER,
            "a-password-of-more-than-20",
            "the password is longer than IPMI's 20 bytes; set a shorter one",
        ),
    ];
    for (user, password, expected) in table {
        let ipmi = driver(&spec(&sim, user, password), Firmware::Bios).unwrap();
        let error = ipmi.set(PowerAction::On).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("BMC {}: cannot switch power on: {expected}", sim.bmc)
        );
        assert!(error.needs_person());
        let all = format!("{error:?} {error} {ipmi:?}");
        assert!(!all.contains(password), "{all}");
    }
    assert!(sim.log().is_empty(), "nothing was switched");
}

#[tokio::test]
async fn a_password_that_cannot_be_read_is_told_without_asking_the_bmc() {
    let sim = Sim::start();
    let mut spec = spec(&sim, USER, PASSWORD);
    if let PowerSpec::Ipmi { password, .. } = &mut spec {
        *password = SecretRef::File("/nowhere/secret".into());
    }
    let told = driver(&spec, Firmware::Bios).unwrap().state().await.unwrap_err().to_string();
    assert!(told.contains("cannot read the secret in /nowhere/secret"), "{told}");
}

#[tokio::test]
async fn a_silent_bmc_is_told_from_one_where_nobody_listens() {
    let sim = Sim::start();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let bmc = silent.local_addr().unwrap();
    let ipmi = quick(&sim, bmc, SHORT);
    let started = Instant::now();
    let told = ipmi.state().await.unwrap_err().to_string();
    assert!(told.contains("cannot read the power state: no answer in 2 attempts"), "{told}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(silent);
    let told = ipmi.state().await.unwrap_err().to_string();
    assert!(told.contains("nothing listens on that UDP port"), "{told}");
}

#[tokio::test]
async fn a_slow_bmc_is_ordered_once() {
    let sim = Sim::start();
    sim.delay("1.2");
    let ipmi = quick(&sim, sim.bmc, GROWING);
    ipmi.set(PowerAction::On).await.unwrap();
    assert_eq!(sim.log(), ["power 1"], "the order was obeyed, only its answer came late");
}

#[tokio::test]
async fn the_time_limit_holds_for_all_attempts_together() {
    let sim = Sim::start();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ipmi = quick(&sim, silent.local_addr().unwrap(), PATIENT);
    let ipmi = ipmi.with_patience(PATIENT, Duration::from_secs(1));
    let started = Instant::now();
    assert!(ipmi.state().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

// What a relay between driver and BMC does to a packet on its way back.
type Mischief = fn(&mut Vec<u8>, count: usize) -> usize;

// Relays packets, one client at a time; `mischief` returns how often a packet is delivered.
fn relay(bmc: SocketAddr, mischief: Mischief) -> SocketAddr {
    let front = UdpSocket::bind("127.0.0.1:0").unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").unwrap();
    back.connect(bmc).unwrap();
    back.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let address = front.local_addr().unwrap();
    // Ends with the test's process, or when nothing has come for a while.
    front.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    thread::spawn(move || {
        let mut count = 0;
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = front.recv_from(&mut buffer) {
            let _ = back.send(&buffer[..length]);
            let Ok(length) = back.recv(&mut buffer) else { continue };
            let mut answer = buffer[..length].to_vec();
            count += 1;
            for _ in 0..mischief(&mut answer, count) {
                let _ = front.send_to(&answer, client);
            }
        }
    });
    address
}

// RMCP header, then authentication type 6 (RMCP+) and the payload's type.
const RAKP4: [u8; 2] = [0x06, 0x15];

#[tokio::test]
async fn a_packet_that_the_library_panics_on_costs_one_session() {
    let sim = Sim::start();
    let truncate_first_rakp4: Mischief = |answer, count| {
        if answer.get(4..6) == Some(&RAKP4) && count < 6 {
            answer.truncate(8);
        }
        1
    };
    let ipmi = quick(&sim, relay(sim.bmc, truncate_first_rakp4), GROWING);
    assert_eq!(ipmi.state().await.unwrap(), Power::Off);
}

#[tokio::test]
async fn a_bmc_that_always_talks_nonsense_is_told_as_that() {
    let sim = Sim::start();
    let truncate_every_rakp4: Mischief = |answer, _| {
        if answer.get(4..6) == Some(&RAKP4) {
            answer.truncate(8);
        }
        1
    };
    let ipmi = quick(&sim, relay(sim.bmc, truncate_every_rakp4), GROWING);
    let told = ipmi.state().await.unwrap_err().to_string();
    assert!(told.contains("its answers made no sense"), "{told}");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_in_a_new_session() {
    let sim = Sim::start();
    // Pong, capabilities, open session, RAKP 2 and 4, privilege: the seventh is chassis control's.
    let lose_the_seventh: Mischief = |_, count| usize::from(count != 7);
    let ipmi = quick(&sim, relay(sim.bmc, lose_the_seventh), GROWING);
    ipmi.set(PowerAction::On).await.unwrap();
    assert_eq!(sim.log(), ["power 1"]);
}

#[tokio::test]
async fn answers_that_come_twice_never_become_a_wrong_state() {
    let sim = Sim::start();
    let double_the_sixth: Mischief = |_, count| 1 + usize::from(count == 6);
    let ipmi = quick(&sim, relay(sim.bmc, double_the_sixth), GROWING);
    ipmi.set(PowerAction::On).await.unwrap();
    assert_eq!(ipmi.state().await.unwrap(), Power::On);
}
