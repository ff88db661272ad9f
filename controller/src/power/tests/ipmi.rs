use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use ipmi_lan::Options;
use sim::{
    IpmiSim,
    bmc::{Farm, Faults, PowerState, Setup, User},
};

use super::{
    super::ipmi::{Ipmi, Login},
    *,
};
use crate::inventory::{BmcPrivilege, CipherSuite, SecretRef};

/// A BMC, and a folder for the secrets that lead to it.
pub(super) struct Rig {
    bmc: SocketAddr,
    dir: tempfile::TempDir,
}

impl Rig {
    pub(super) fn at(bmc: SocketAddr) -> Self {
        Self { bmc, dir: tempfile::tempdir().unwrap() }
    }

    fn secret(&self, text: &str) -> SecretRef {
        let path = self.dir.path().join(format!("secret-{text}"));
        fs::write(&path, text).unwrap();
        SecretRef::File(path)
    }

    pub(super) fn spec(&self, user: &str, password: &str) -> PowerSpec {
        PowerSpec::Ipmi {
            address: self.bmc.ip(),
            port: self.bmc.port(),
            mac: None,
            user: user.to_owned(),
            password: self.secret(password),
            kg: None,
            privilege: BmcPrivilege::Administrator,
            cipher_suite: None,
        }
    }

    fn login(&self) -> Login {
        Login {
            bmc: self.bmc,
            user: IpmiSim::USER.to_owned(),
            password: self.secret(IpmiSim::PASSWORD),
            kg: None,
            privilege: BmcPrivilege::Administrator,
            cipher_suite: None,
        }
    }

    /// A driver with a fleet of its own, that waits as long as a test wants to.
    pub(super) fn quick(&self, options: Options, limit: Duration) -> Ipmi {
        Ipmi::new(self.login(), true).with_patience(options, limit)
    }
}

pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) fn farm() -> (Farm, Rig) {
    farm_with(&Setup::new(IpmiSim::USER, IpmiSim::PASSWORD))
}

fn farm_with(setup: &Setup) -> (Farm, Rig) {
    let farm = Farm::start(1, setup).unwrap();
    let rig = Rig::at(farm.addresses()[0]);
    (farm, rig)
}

#[tokio::test]
async fn ipmi_keeps_the_promises() {
    let sim = IpmiSim::start().unwrap();
    let rig = Rig::at(sim.address());
    let spec = rig.spec(IpmiSim::USER, IpmiSim::PASSWORD);
    let ipmi = driver(&spec, Firmware::Uefi).unwrap();
    keeps_the_promises(ipmi.as_ref(), &|| sim.log().unwrap()).await;
    ipmi.set_boot_device(BootDevice::Disk).await.unwrap();
    assert_eq!(sim.log().unwrap().last().map(String::as_str), Some("boot default"));
}

#[tokio::test]
async fn ipmi_keeps_the_promises_with_a_bmc_of_today() {
    let (farm, rig) = farm();
    let spec = rig.spec(IpmiSim::USER, IpmiSim::PASSWORD);
    let ipmi = driver(&spec, Firmware::Uefi).unwrap();
    let words = [("on", "power 1"), ("off", "power 0"), ("soft", "shutdown")];
    let word = |order: &String| {
        let known = words.iter().find(|(word, _)| word == order);
        known.map_or(order.clone(), |(_, log)| (*log).to_owned())
    };
    let log = || farm.bmc(0).orders().iter().map(word).collect();
    keeps_the_promises(ipmi.as_ref(), &log).await;
    assert_eq!(farm.counts().opened, 1, "one session was for all");
}

#[tokio::test]
async fn calls_to_one_bmc_take_turns() {
    let (farm, rig) = farm();
    let spec = rig.spec(IpmiSim::USER, IpmiSim::PASSWORD);
    let calls = (0..16).map(|_| {
        let ipmi = driver(&spec, Firmware::Bios).unwrap();
        async move { ipmi.state().await.unwrap() }
    });
    let states = futures_util::future::join_all(calls).await;
    assert_eq!(states, [Power::Off; 16]);
    assert_eq!(farm.counts().opened, 1);
}

#[tokio::test]
async fn wrong_password_wrong_user_and_too_little_privilege_are_told_apart() {
    const GUEST: &str = "guest";
    let mut setup = Setup::new(IpmiSim::USER, IpmiSim::PASSWORD);
    setup.users.push(User {
        name: GUEST.to_owned(),
        password: IpmiSim::PASSWORD.to_owned(),
        limit: 2,
    });
    let (farm, rig) = farm_with(&setup);
    let table = [
        (
            IpmiSim::USER,
            "hunter2",
            "wrong password; check the file or variable that the inventory names",
        ),
        (
            "nobody",
            IpmiSim::PASSWORD,
            "it refuses the user; check the account's name and that it may use IPMI over LAN",
        ),
        (
            GUEST,
            IpmiSim::PASSWORD,
            "it refuses the privilege ADMINISTRATOR; raise the account's privilege limit on the LAN channel",
        ),
        (
            IpmiSim::USER,
            "a-password-of-more-than-20",
            "the password is longer than IPMI's 20 bytes; set a shorter one",
        ),
    ];
    for (user, password, expected) in table {
        let ipmi = driver(&rig.spec(user, password), Firmware::Bios).unwrap();
        // The second time it is not tried, and told all the same.
        for _ in 0..2 {
            let error = ipmi.set(PowerAction::On).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("BMC {}: cannot switch power on: {expected}", rig.bmc)
            );
            assert!(error.needs_person());
            let all = format!("{error:?} {error} {ipmi:?}");
            assert!(!all.replace(&format!("secret-{password}"), "").contains(password), "{all}");
        }
    }
    assert!(farm.bmc(0).orders().is_empty(), "nothing was switched");
}

#[tokio::test]
async fn suite_key_and_privilege_are_those_of_the_inventory() {
    let mut kg = [0; 20];
    kg[..2].copy_from_slice(b"ab");
    let account = Setup::new(IpmiSim::USER, IpmiSim::PASSWORD);
    let (farm, rig) = farm_with(&Setup { kg: Some(kg), suites: vec![3], ..account });
    let told = |login: Login| async {
        let error = Ipmi::new(login, false).set(PowerAction::On).await.unwrap_err();
        assert!(error.needs_person());
        error.to_string()
    };
    let seventeen = Login { cipher_suite: Some(CipherSuite::Seventeen), ..rig.login() };
    let text = told(seventeen).await;
    assert!(text.contains("no cipher suite that may be used (status 0x11)"), "{text}");
    let text = told(rig.login()).await;
    assert!(text.contains("its key K_g is another one; check kg_file"), "{text}");
    let bad = Login { kg: Some(rig.secret("0xab.cd")), ..rig.login() };
    let text = told(bad).await;
    assert!(text.contains("K_g must have 1 to 20 bytes"), "{text}");
    let right = Login {
        kg: Some(rig.secret("0x6162")),
        privilege: BmcPrivilege::Operator,
        cipher_suite: Some(CipherSuite::Three),
        ..rig.login()
    };
    Ipmi::new(right, false).set(PowerAction::On).await.unwrap();
    assert_eq!(farm.bmc(0).power(Instant::now()), PowerState::On);
}

#[tokio::test]
async fn a_password_that_was_changed_is_used_at_once() {
    let (_farm, rig) = farm();
    let wrong = rig.spec(IpmiSim::USER, "hunter2");
    let ipmi = driver(&wrong, Firmware::Bios).unwrap();
    assert!(ipmi.state().await.unwrap_err().needs_person());
    fs::write(rig.dir.path().join("secret-hunter2"), IpmiSim::PASSWORD).unwrap();
    assert_eq!(ipmi.state().await.unwrap(), Power::Off);
}

#[tokio::test]
async fn a_password_that_cannot_be_read_is_told_without_asking_the_bmc() {
    let (farm, rig) = farm();
    let mut spec = rig.spec(IpmiSim::USER, IpmiSim::PASSWORD);
    if let PowerSpec::Ipmi { password, .. } = &mut spec {
        *password = SecretRef::File("/nowhere/secret".into());
    }
    let told = driver(&spec, Firmware::Bios).unwrap().state().await.unwrap_err().to_string();
    assert!(told.contains("cannot read the secret in /nowhere/secret"), "{told}");
    assert_eq!(farm.counts().packets, 0);
}

#[tokio::test]
async fn a_silent_bmc_is_told_from_one_where_nobody_listens() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let rig = Rig::at(silent.local_addr().unwrap());
    let ipmi = rig.quick(Options::default(), Duration::from_secs(1));
    let started = Instant::now();
    let told = ipmi.state().await.unwrap_err().to_string();
    assert!(told.contains("cannot read the power state: no answer to "), "{told}");
    assert!(started.elapsed() < LONG, "the time limit holds: {:?}", started.elapsed());
    drop(silent);
    let told = ipmi.state().await.unwrap_err().to_string();
    assert!(told.contains("nothing listens on that UDP port"), "{told}");
}

#[tokio::test]
async fn a_dead_bmc_is_left_alone_for_a_while_and_that_is_told() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let rig = Rig::at(silent.local_addr().unwrap());
    let options = Options { failures: 1, ..Options::default() };
    let ipmi = rig.quick(options, Duration::from_millis(600));
    assert!(ipmi.state().await.is_err());
    let error = ipmi.state().await.unwrap_err();
    let told = error.to_string();
    assert!(told.contains("no answer to ") && told.contains("It is left alone until"), "{told}");
    assert!(!error.needs_person());
}

#[tokio::test]
async fn a_slow_bmc_is_ordered_once() {
    let (farm, rig) = farm();
    let ipmi =
        rig.quick(Options { order_wait: Duration::from_millis(200), ..Options::default() }, LONG);
    assert_eq!(ipmi.state().await.unwrap(), Power::Off);
    farm.set_faults(&Faults { slow_ms: 400, ..Faults::default() });
    ipmi.set(PowerAction::On).await.unwrap();
    assert_eq!(farm.bmc(0).orders(), ["on"], "it was obeyed, only its answer came late");
}

#[tokio::test]
async fn every_node_is_switched_on_and_off_over_a_network_that_loses_a_tenth() {
    let (farm, rig) = farm();
    let options = Options { order_wait: Duration::from_secs(1), ..Options::default() };
    let ipmi = rig.quick(options, LONG);
    farm.set_faults(&Faults { lost: 0.1, ..Faults::default() });
    for _ in 0..10 {
        for (action, power) in [(PowerAction::On, Power::On), (PowerAction::Off, Power::Off)] {
            ipmi.set_boot_device(BootDevice::Pxe).await.unwrap();
            ipmi.set(action).await.unwrap();
            assert_eq!(ipmi.state().await.unwrap(), power);
        }
    }
}

#[tokio::test]
async fn a_bmc_that_takes_orders_and_does_nothing_is_cured_by_starting_it_anew() {
    let (farm, rig) = farm();
    let ipmi = rig.quick(Options::default(), LONG);
    farm.set_faults(&Faults { deaf: true, ..Faults::default() });
    ipmi.set(PowerAction::On).await.unwrap();
    assert_eq!(ipmi.state().await.unwrap(), Power::Off, "it only says that it did");
    ipmi.reset_bmc().await.unwrap();
    assert_eq!(farm.counts().resets, 1);
    // It is away while it starts, and all its sessions are gone.
    let end = Instant::now() + LONG;
    while ipmi.state().await.is_err() {
        assert!(Instant::now() < end, "it does not come back");
    }
    ipmi.set(PowerAction::On).await.unwrap();
    assert_eq!(ipmi.state().await.unwrap(), Power::On);
}
