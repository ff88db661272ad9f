mod health;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use haas_api::bmc::Hardware;
use sim::{
    Sushy,
    redfish::{Faults, Plain, Server, Setup, Tls, User, Vendor},
};

use super::{
    super::redfish::{Options, Redfish},
    *,
};
use crate::inventory::{ConsoleBy, NetworkBoot, RedfishSpec, SecretRef, TlsTrust};

const USER: &str = "haas";
const PASSWORD: &str = "s3cret:of bmc";
const LONG: Duration = Duration::from_secs(20);

/// A BMC, and a folder for the secrets that lead to it.
pub(super) struct Rig {
    server: Server,
    tls: Tls,
    dir: tempfile::TempDir,
}

impl Rig {
    pub(super) fn new(vendor: Vendor) -> Self {
        Self::with(Setup::new(vendor, USER, PASSWORD))
    }

    fn with(setup: Setup) -> Self {
        Self::with_tls(setup, Tls::self_signed().unwrap())
    }

    fn with_tls(setup: Setup, tls: Tls) -> Self {
        let server = Server::start(setup, &tls, Plain::default()).unwrap();
        Self { server, tls, dir: tempfile::tempdir().unwrap() }
    }

    fn secret(&self, text: &str) -> SecretRef {
        secret(&self.dir, text)
    }

    fn spec(&self) -> RedfishSpec {
        let pin = TlsTrust::Fingerprint(self.tls.fingerprint().to_owned());
        spec(self.server.address(), USER, self.secret(PASSWORD), pin)
    }

    /// A driver with a fleet of its own, that waits as long as a test wants to.
    fn quick(&self, spec: RedfishSpec) -> Redfish {
        Redfish::new(spec, true).with_patience(quick(), LONG)
    }

    pub(super) fn driver(&self) -> Redfish {
        self.quick(self.spec())
    }

    /// Somebody has given the BMC other firmware.
    pub(super) fn set_firmware(&self, version: &str) {
        self.server.service().set_firmware(version);
    }

    /// Somebody has made himself an account.
    pub(super) fn add_user(&self, name: &str) {
        self.server.service().add_user(User {
            name: name.to_owned(),
            password: "another".to_owned(),
            role: "Administrator",
        });
    }

    fn orders(&self) -> Vec<String> {
        self.server.service().orders().to_vec()
    }

    fn set_faults(&self, faults: Faults) {
        self.server.service().set_faults(faults);
    }
}

fn secret(dir: &tempfile::TempDir, text: &str) -> SecretRef {
    let path = dir.path().join("secret");
    fs::write(&path, text).unwrap();
    SecretRef::File(path)
}

fn spec(bmc: SocketAddr, user: &str, password: SecretRef, tls: TlsTrust) -> RedfishSpec {
    RedfishSpec {
        address: bmc.ip(),
        port: bmc.port(),
        mac: None,
        user: user.to_owned(),
        password,
        tls,
        server_name: None,
        system: None,
        network_boot: NetworkBoot::Pxe,
        console: ConsoleBy::Nothing,
    }
}

fn quick() -> Options {
    Options {
        first_wait: Duration::from_millis(10),
        longest_wait: Duration::from_millis(40),
        ..Options::default()
    }
}

/// The orders as the suite of all drivers knows them.
fn words(orders: &[String]) -> Vec<String> {
    let word = |order: &String| match order.as_str() {
        "On" | "ForceOn" => "power 1".to_owned(),
        "ForceOff" => "power 0".to_owned(),
        "GracefulShutdown" | "PushPowerButton" => "shutdown".to_owned(),
        boot if boot.starts_with("boot Pxe Once") => "boot pxe".to_owned(),
        other => other.to_owned(),
    };
    orders.iter().map(word).collect()
}

#[tokio::test]
async fn redfish_keeps_the_promises_and_one_session_is_for_all() {
    for vendor in [Vendor::Idrac, Vendor::OpenBmc, Vendor::Supermicro, Vendor::Ami] {
        let rig = Rig::new(vendor);
        let redfish = driver(&PowerSpec::Redfish(rig.spec()), Firmware::Uefi).unwrap();
        keeps_the_promises(redfish.as_ref(), &|| words(&rig.orders())).await;
        let counts = rig.server.service().counts();
        assert_eq!((counts.logins, counts.refused), (1, 0), "{vendor:?}");
    }
}

#[tokio::test]
async fn what_is_off_already_is_switched_off_without_an_error_where_the_bmc_has_one() {
    let rig = Rig::new(Vendor::Ilo);
    let redfish = rig.driver();
    assert_eq!(redfish.state().await.unwrap(), Power::Off);
    redfish.set(PowerAction::Off).await.unwrap();
    redfish.set(PowerAction::On).await.unwrap();
    redfish.set(PowerAction::Soft).await.unwrap();
    assert_eq!(redfish.state().await.unwrap(), Power::Off);
    // It has no other soft shutdown than the button, which would switch on what is off.
    let told = redfish.set(PowerAction::Soft).await.unwrap_err().to_string();
    assert!(told.contains("it does not offer a soft shutdown (it offers On, ForceOff"), "{told}");
    assert_eq!(rig.orders(), ["On", "PushPowerButton"]);
}

#[tokio::test]
async fn the_boot_override_is_written_as_each_vendor_takes_it_and_nothing_else_is_changed() {
    for (vendor, efi, expected) in [
        (Vendor::Ilo, true, "boot Pxe Once"),
        // Its mode cannot be written: the rest is.
        (Vendor::Ilo, false, "boot Pxe Once"),
        (Vendor::Idrac, true, "boot Pxe Once"),
        (Vendor::OpenBmc, true, "boot Pxe Once UEFI"),
        (Vendor::OpenBmc, false, "boot Pxe Once"),
        (Vendor::Supermicro, true, "boot Pxe Once UEFI"),
        (Vendor::Ami, true, "boot Pxe Once"),
        (Vendor::Ami, false, "boot Pxe Once Legacy"),
    ] {
        let rig = Rig::new(vendor);
        let redfish = Redfish::new(rig.spec(), efi).with_patience(quick(), LONG);
        redfish.set_boot_device(BootDevice::Pxe).await.unwrap();
        assert_eq!(rig.orders(), [expected], "{vendor:?}, UEFI: {efi}");
        redfish.set_boot_device(BootDevice::Bios).await.unwrap();
        redfish.set_boot_device(BootDevice::Disk).await.unwrap();
        assert_eq!(rig.orders().len(), 3);
    }
}

#[tokio::test]
async fn uefi_http_is_asked_for_where_it_is_offered() {
    let rig = Rig::new(Vendor::Ami);
    let http = RedfishSpec { network_boot: NetworkBoot::Http, ..rig.spec() };
    rig.quick(http).set_boot_device(BootDevice::Pxe).await.unwrap();
    assert_eq!(rig.orders(), ["boot UefiHttp Once"]);
    let rig = Rig::new(Vendor::OpenBmc);
    let http = RedfishSpec { network_boot: NetworkBoot::Http, ..rig.spec() };
    let error = rig.quick(http).set_boot_device(BootDevice::Pxe).await.unwrap_err();
    assert!(error.needs_person());
    let told = error.to_string();
    assert!(
        told.contains("cannot set the boot device to the network: it does not offer"),
        "{told}"
    );
    assert!(told.contains("to boot once by UEFI HTTP (it offers None, Pxe, "), "{told}");
    assert!(rig.orders().is_empty());
}

#[tokio::test]
async fn an_override_that_holds_for_every_boot_is_left_as_it_is() {
    let rig = Rig::new(Vendor::OpenBmc);
    {
        let mut service = rig.server.service();
        let system = service.system().to_owned();
        let boot = &mut service.resource(&system)["Boot"];
        boot["BootSourceOverrideEnabled"] = "Continuous".into();
        boot["BootSourceOverrideTarget"] = "Pxe".into();
        boot["BootSourceOverrideMode"] = "UEFI".into();
    }
    rig.driver().set_boot_device(BootDevice::Pxe).await.unwrap();
    assert!(rig.orders().is_empty(), "{:?}", rig.orders());
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_sent_nothing() {
    let rig = Rig::new(Vendor::Idrac);
    let tls = TlsTrust::Fingerprint("ab".repeat(32));
    let redfish = rig.quick(RedfishSpec { tls, ..rig.spec() });
    let error = redfish.state().await.unwrap_err();
    assert!(error.needs_person());
    let told = error.to_string();
    assert!(told.contains(&format!("has the fingerprint {}", rig.tls.fingerprint())), "{told}");
    assert!(told.contains(&format!("not {}", "ab".repeat(32))), "{told}");
    assert_eq!(rig.server.service().counts().requests, 0, "not even the root was asked for");
}

#[tokio::test]
async fn authorities_vouch_for_the_name_that_the_inventory_says() {
    let setup = || Setup::new(Vendor::OpenBmc, USER, PASSWORD);
    let rig = Rig::with_tls(setup(), Tls::by_authority("n01-bmc.example").unwrap());
    let ca_file = rig.dir.path().join("ca.pem");
    fs::write(&ca_file, rig.tls.authority().unwrap()).unwrap();
    let by = |name: Option<&str>, ca_file: &std::path::Path| {
        let tls = TlsTrust::CaFile(ca_file.to_owned());
        rig.quick(RedfishSpec { tls, server_name: name.map(str::to_owned), ..rig.spec() })
    };
    assert_eq!(by(Some("n01-bmc.example"), &ca_file).state().await.unwrap(), Power::Off);
    let asked = rig.server.service().counts().requests;
    // Another name, the bare address, another authority, none.
    let other = rig.dir.path().join("other.pem");
    fs::write(&other, Tls::by_authority("x").unwrap().authority().unwrap()).unwrap();
    let empty = rig.dir.path().join("empty.pem");
    fs::write(&empty, "nothing").unwrap();
    for (name, ca_file, expected) in [
        (Some("n02-bmc.example"), &ca_file, "is not accepted by ca_file"),
        (None, &ca_file, "is not accepted by ca_file"),
        (Some("n01-bmc.example"), &other, "is not accepted by ca_file"),
        (Some("n01-bmc.example"), &empty, "it holds no certificate in PEM"),
        (Some("n01-bmc.example"), &rig.dir.path().join("missing"), "ca_file cannot be used: /"),
    ] {
        let error = by(name, ca_file).state().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{name:?} {ca_file:?}: {error}");
        assert!(error.needs_person());
    }
    assert_eq!(rig.server.service().counts().requests, asked);
}

#[tokio::test]
async fn a_session_is_used_again_replaced_when_it_is_forgotten_and_closed_at_the_end() {
    let rig = Rig::new(Vendor::OpenBmc);
    let redfish = rig.driver();
    for _ in 0..3 {
        redfish.state().await.unwrap();
    }
    assert_eq!(rig.server.service().counts().logins, 1);
    rig.server.service().forget_sessions();
    redfish.set(PowerAction::On).await.unwrap();
    assert_eq!(
        rig.orders(),
        ["On"],
        "what was refused with 401 is ordered once more, and obeyed once"
    );
    assert_eq!(rig.server.service().counts().logins, 2);
    assert_eq!(rig.server.service().open_sessions(), 1);
    redfish.close().await;
    assert_eq!(rig.server.service().open_sessions(), 0);
    assert_eq!(rig.server.service().counts().logouts, 1);
}

#[tokio::test]
async fn an_idle_session_is_closed() {
    let rig = Rig::new(Vendor::Ilo);
    let options = Options { idle: Duration::from_millis(30), ..quick() };
    let redfish = Redfish::new(rig.spec(), true).with_patience(options, LONG);
    redfish.state().await.unwrap();
    let started = Instant::now();
    while rig.server.service().open_sessions() > 0 {
        assert!(started.elapsed() < LONG, "the session stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    redfish.state().await.unwrap();
}

#[tokio::test]
async fn a_bmc_whose_sessions_are_all_taken_is_spoken_to_by_the_account_itself() {
    for vendor in [Vendor::Idrac, Vendor::OpenBmc] {
        let setup = Setup { sessions: 0, ..Setup::new(vendor, USER, PASSWORD) };
        let rig = Rig::with(setup.clone());
        let redfish = rig.driver();
        redfish.set(PowerAction::On).await.unwrap();
        assert_eq!(redfish.state().await.unwrap(), Power::On);
        let counts = rig.server.service().counts();
        assert!(counts.logins == 0 && counts.basic > 0, "{counts:?}");
        // One that takes no account either says which sessions are to be closed.
        let rig = Rig::with(Setup { basic: false, ..setup });
        let error = rig.driver().state().await.unwrap_err();
        assert!(error.to_string().contains("it has no free session ("), "{error}");
        assert!(!error.needs_person(), "another tool may go");
    }
}

#[tokio::test]
async fn calls_to_one_bmc_take_turns_and_share_a_session() {
    let setup = Setup { sessions: 1, basic: false, ..Setup::new(Vendor::Idrac, USER, PASSWORD) };
    let rig = Rig::with(setup);
    let calls = (0..8).map(|_| {
        let redfish = driver(&PowerSpec::Redfish(rig.spec()), Firmware::Bios).unwrap();
        async move { redfish.state().await.unwrap() }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [Power::Off; 8]);
}

#[tokio::test]
async fn a_wrong_account_is_told_and_not_tried_again_until_it_is_changed() {
    for vendor in [Vendor::Ilo, Vendor::OpenBmc] {
        let rig = Rig::new(vendor);
        let redfish = rig.driver();
        let wrong = rig.secret("hunter2");
        for _ in 0..3 {
            let error = redfish.set(PowerAction::On).await.unwrap_err();
            assert!(error.needs_person());
            let all = format!("{error:?} {error} {redfish:?}");
            assert!(all.contains("cannot switch power on: it refuses user or password"), "{all}");
            assert!(!all.contains("hunter2"), "{all}");
        }
        assert_eq!(rig.server.service().counts().refused, 1, "an account would be locked");
        let SecretRef::File(path) = wrong else { unreachable!() };
        fs::write(path, PASSWORD).unwrap();
        assert_eq!(redfish.state().await.unwrap(), Power::Off);
    }
}

#[tokio::test]
async fn who_may_only_look_is_told_so() {
    let mut setup = Setup::new(Vendor::OpenBmc, USER, PASSWORD);
    setup.users[0].role = "ReadOnly";
    let rig = Rig::with(setup);
    let redfish = rig.driver();
    assert_eq!(redfish.state().await.unwrap(), Power::Off);
    for error in [
        redfish.set(PowerAction::On).await.unwrap_err(),
        redfish.set_boot_device(BootDevice::Pxe).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("the account may not do this (HTTP 403"), "{error}");
        assert!(error.needs_person());
    }
    assert!(rig.orders().is_empty());
}

#[tokio::test]
async fn an_etag_is_sent_where_it_is_wanted_and_read_anew_where_it_has_changed() {
    let rig = Rig::new(Vendor::Idrac);
    rig.set_faults(Faults { wants_etag: true, ..Faults::default() });
    rig.driver().set_boot_device(BootDevice::Pxe).await.unwrap();
    assert_eq!(rig.orders(), ["boot Pxe Once"]);
}

#[tokio::test]
async fn a_bmc_that_is_not_ready_is_asked_again_within_the_calls_time() {
    let rig = Rig::new(Vendor::Supermicro);
    let redfish = rig.driver();
    rig.set_faults(Faults { unavailable: 3, ..Faults::default() });
    redfish.set(PowerAction::On).await.unwrap();
    rig.set_faults(Faults { unavailable: 2, ..Faults::default() });
    assert_eq!(redfish.state().await.unwrap(), Power::On);
    assert_eq!(rig.orders(), ["On"]);
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_not_given_again_if_it_was_obeyed() {
    let rig = Rig::new(Vendor::OpenBmc);
    let redfish = rig.driver();
    redfish.state().await.unwrap();
    rig.set_faults(Faults { lost_answers: 1, ..Faults::default() });
    redfish.set(PowerAction::On).await.unwrap();
    assert_eq!(rig.orders(), ["On"]);
    // Nor is one that is answered slowly.
    rig.set_faults(Faults { slow_ms: 300, ..Faults::default() });
    let options = Options { order: Duration::from_millis(100), ..quick() };
    let redfish = Redfish::new(rig.spec(), true).with_patience(options, LONG);
    redfish.set(PowerAction::Off).await.unwrap();
    assert_eq!(rig.orders(), ["On", "ForceOff"]);
}

#[tokio::test]
async fn a_state_that_lags_is_told_as_the_bmc_tells_it() {
    let rig = Rig::new(Vendor::Idrac);
    let redfish = rig.driver();
    rig.set_faults(Faults { lag_ms: 60_000, ..Faults::default() });
    redfish.set(PowerAction::On).await.unwrap();
    assert_eq!(
        redfish.state().await.unwrap(),
        Power::Off,
        "what it says counts, not what was ordered"
    );
    rig.set_faults(Faults::default());
    assert_eq!(redfish.state().await.unwrap(), Power::On);
}

#[tokio::test]
async fn a_dead_bmc_is_told_and_left_alone_for_a_while() {
    let rig = Rig::new(Vendor::Idrac);
    rig.set_faults(Faults { silent: true, ..Faults::default() });
    let options = Options { failures: 1, request: Duration::from_millis(100), ..quick() };
    let redfish = Redfish::new(rig.spec(), true).with_patience(options, Duration::from_millis(400));
    let told = redfish.state().await.unwrap_err().to_string();
    assert!(told.contains("cannot read the power state: no answer; check its address"), "{told}");
    let error = redfish.state().await.unwrap_err();
    assert!(error.to_string().contains("It is left alone until it is asked again in"), "{error}");
    assert!(!error.needs_person());

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spec = RedfishSpec { port: nobody.port(), ..rig.spec() };
    let told = rig.quick(spec).state().await.unwrap_err().to_string();
    assert!(told.contains("nothing listens on that TCP port"), "{told}");
}

#[tokio::test]
async fn what_speaks_no_tls_or_no_redfish_is_told() {
    let rig = Rig::new(Vendor::Idrac);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::Write as _;
        while let Ok((mut stream, _)) = plain.accept() {
            let _ = stream.write_all(b"HTTP/1.1 400 no\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let told = rig.quick(RedfishSpec { port, ..rig.spec() }).state().await.unwrap_err();
    assert!(told.to_string().contains("no TLS connection ("), "{told}");
    *rig.server.service().resource("/redfish/v1") = serde_json::json!({ "hello": "world" });
    let error = rig.driver().state().await.unwrap_err();
    assert!(error.to_string().contains("what answers there is no Redfish service ("), "{error}");
    assert_eq!(rig.server.service().counts().logins, 0);
}

#[tokio::test]
async fn a_bmc_with_several_systems_is_asked_for_the_one_that_is_named() {
    let rig = Rig::new(Vendor::Idrac);
    {
        let mut service = rig.server.service();
        let system = service.system().to_owned();
        let members = serde_json::json!([
            { "@odata.id": "/redfish/v1/Systems/HGX_Baseboard_0" }, { "@odata.id": system }
        ]);
        service.resource("/redfish/v1/Systems")["Members"] = members;
    }
    let told = rig.driver().state().await.unwrap_err().to_string();
    assert!(
        told.contains("several systems (HGX_Baseboard_0, System.Embedded.1); say which"),
        "{told}"
    );
    let system = Some("System.Embedded.1".to_owned());
    let named = rig.quick(RedfishSpec { system, ..rig.spec() });
    assert_eq!(named.state().await.unwrap(), Power::Off);
}

#[tokio::test]
async fn odd_answers_are_told_and_end_nothing() {
    let rig = Rig::new(Vendor::OpenBmc);
    let options = Options { failures: 1000, ..quick() };
    let redfish = Redfish::new(rig.spec(), true).with_patience(options, LONG);
    redfish.state().await.unwrap();
    for length in [1, 40, 5 << 20] {
        rig.set_faults(Faults { garbage: length, ..Faults::default() });
        let told = redfish.state().await.unwrap_err().to_string();
        assert!(told.contains("its answers made no sense ("), "{told}");
    }
    rig.set_faults(Faults::default());
    // Whatever a BMC puts where something else belongs is as if it were not there.
    let system = rig.server.service().system().to_owned();
    let whole = rig.server.service().resource(&system).clone();
    let odd = [
        serde_json::json!(7),
        serde_json::json!([[]]),
        serde_json::json!({ "a": null }),
        serde_json::json!("//x"),
    ];
    for key in whole.as_object().unwrap().keys() {
        for odd in &odd {
            let mut resource = whole.clone();
            resource[key] = odd.clone();
            *rig.server.service().resource(&system) = resource;
            let _ = redfish.state().await;
            let _ = redfish.set_boot_device(BootDevice::Pxe).await;
            let _ = redfish.hardware().await;
        }
    }
    *rig.server.service().resource(&system) = whole;
    assert_eq!(redfish.state().await.unwrap(), Power::Off);
}

async fn hardware_of(vendor: Vendor) -> Hardware {
    Rig::new(vendor).driver().hardware().await.unwrap()
}

#[tokio::test]
async fn the_hardware_is_what_the_bmc_tells_without_empty_sockets_and_odd_parts() {
    let ilo = hardware_of(Vendor::Ilo).await;
    assert_eq!(ilo.serial.as_deref(), Some("CZJ0000001"));
    let cpus: Vec<_> = ilo.cpus.iter().map(|cpu| (cpu.socket.as_str(), cpu.cores)).collect();
    assert_eq!(cpus, [("Proc 1", Some(16)), ("Proc 2", Some(16))]);
    assert_eq!(ilo.memory.len(), 1, "the other socket is empty");
    assert_eq!(
        (ilo.memory[0].size, ilo.memory[0].part.as_deref()),
        (Some(32 << 30), Some("840758-091"))
    );
    assert_eq!(ilo.drives.len(), 1, "the other drive is a dead link");
    let nics: Vec<_> = ilo.nics.iter().map(|nic| (nic.mac.to_string(), nic.link)).collect();
    let macs = ["20:67:7c:d6:39:a0", "20:67:7c:d6:39:a1"].map(str::to_owned);
    let [first, second] = macs;
    assert_eq!(nics, [(first, None), (second, Some(true))]);

    let idrac = hardware_of(Vendor::Idrac).await;
    assert_eq!(idrac.drives[0].health.as_deref(), Some("Warning"));
    assert_eq!(idrac.memory.iter().filter_map(|module| module.size).sum::<u64>(), 32 << 30);
    assert_eq!(idrac.nics[0].speed_mbps, None);

    let openbmc = hardware_of(Vendor::OpenBmc).await;
    assert_eq!(openbmc.cpus[1].kind.as_deref(), Some("GPU"));
    assert_eq!(openbmc.drives.len(), 1, "from SimpleStorage, without the empty slot");

    let supermicro = hardware_of(Vendor::Supermicro).await;
    assert_eq!(supermicro.serial, None, "blanks are no serial number");
    assert_eq!(supermicro.memory[0].size, None, "a size in quotes is none");
    assert_eq!(supermicro.nics.len(), 1, "what has no MAC is no NIC");
    assert!(hardware_of(Vendor::Ami).await.cpus.is_empty());
}

#[tokio::test]
async fn sushy_tools_emulator_is_switched_and_booted() {
    let sushy = Sushy::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pin = TlsTrust::Fingerprint(sushy.fingerprint().to_owned());
    let spec = spec(sushy.address(), Sushy::USER, secret(&dir, Sushy::PASSWORD), pin);
    let redfish = Redfish::new(spec, true).with_patience(Options::default(), LONG);
    assert_eq!(redfish.state().await.unwrap(), Power::Off);
    redfish.set_boot_device(BootDevice::Pxe).await.unwrap();
    // Its power changes some time after the order.
    for (action, power) in [(PowerAction::On, Power::On), (PowerAction::Off, Power::Off)] {
        redfish.set(action).await.unwrap();
        let started = Instant::now();
        while redfish.state().await.unwrap() != power {
            assert!(started.elapsed() < LONG, "{action:?}\n{}", sushy.log().unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let hardware = redfish.hardware().await.unwrap();
    let macs: Vec<_> = hardware.nics.iter().map(|nic| nic.mac.to_string()).collect();
    assert_eq!(macs, ["00:5c:52:31:3a:9c"], "{hardware:?}");
    let log = sushy.log().unwrap();
    let patches = log.matches(&format!("PATCH /redfish/v1/Systems/{}", Sushy::SYSTEM)).count();
    assert_eq!(patches, 1, "{log}");
}

#[tokio::test]
async fn a_look_finds_out_who_answers_and_what_the_account_may_do() {
    use super::super::probe::{Known, Wanted, probe};
    let mut setup = Setup::new(Vendor::Idrac, USER, PASSWORD);
    setup.users.push(User {
        name: "look".to_owned(),
        password: PASSWORD.to_owned(),
        role: "ReadOnly",
    });
    let rig = Rig::with(setup);
    let ipmi = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wanted = |user: &str, fingerprint: Option<&str>| Wanted {
        address: rig.server.address().ip(),
        ipmi_port: ipmi.port(),
        redfish_port: rig.server.address().port(),
        account: Some(Known::typed(
            user.to_owned(),
            crate::secret::Secret::new(PASSWORD.to_owned()),
        )),
        fingerprint: fingerprint.map(str::to_owned),
    };
    // Nothing is verified yet: the account stays here.
    let first = probe(wanted(USER, None)).await;
    assert!(!first.ipmi.answers && first.redfish.answers && !first.redfish.verified);
    assert_eq!(first.redfish.fingerprint.as_deref(), Some(rig.tls.fingerprint()));
    assert_eq!(first.redfish.vendor.as_deref(), Some("Dell"));
    assert_eq!(first.stanza, None);
    let counts = rig.server.service().counts();
    assert_eq!((counts.logins, counts.basic), (0, 0));

    let second = probe(wanted(USER, Some(rig.tls.fingerprint()))).await;
    assert_eq!(second.redfish.error, None);
    assert_eq!(second.redfish.role.as_deref(), Some("Administrator"));
    assert_eq!(second.redfish.may_switch, Some(true));
    assert!(second.redfish.boot_targets.contains(&"UefiHttp".to_owned()));
    assert!(second.redfish.hardware.is_some());
    let stanza = second.stanza.unwrap();
    assert!(stanza.contains(&format!("fingerprint = \"{}\"", rig.tls.fingerprint())), "{stanza}");

    let looker = probe(wanted("look", Some(rig.tls.fingerprint()))).await;
    assert_eq!((looker.redfish.may_switch, looker.stanza), (Some(false), None));
    let other = probe(wanted(USER, Some(&"ab".repeat(32)))).await;
    assert!(!other.redfish.verified && other.stanza.is_none());
    assert!(other.redfish.error.unwrap().contains("has the fingerprint"), "{:?}", other.advice);
    assert!(rig.orders().is_empty(), "a look changes nothing");
}
