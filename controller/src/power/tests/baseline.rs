//! What BMCs of our own and of somebody else tell of accounts, network and firmware.

use haas_api::baseline::{Facts, Part};
use ipmi_lan::Options;
use sim::{
    IpmiSim,
    bmc::{Faults, User},
    redfish::Vendor,
};

use super::{
    ipmi::{LONG, Rig, farm},
    redfish::Rig as RedfishRig,
};
use crate::power;

async fn read(rig: &Rig) -> Facts {
    let told = rig.quick(Options::default(), LONG).baseline().await;
    told.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn value<'a>(facts: &'a Facts, part: Part, name: &str) -> &'a str {
    let found = facts.get(&part).and_then(|told| told.get(name));
    found.unwrap_or_else(|| panic!("no {name} in {facts:?}"))
}

#[tokio::test]
async fn accounts_network_and_firmware_are_read_and_what_changes_is_seen() {
    let (farm, rig) = farm();
    let was = read(&rig).await;
    assert_eq!(was[&Part::BmcUsers].len(), 1);
    let admin = format!("{}, administrator, enabled", IpmiSim::USER);
    assert_eq!(value(&was, Part::BmcUsers, "1"), admin);
    assert_eq!(value(&was, Part::BmcFirmware, "of the BMC"), "1.00");
    for (name, expected) in [
        ("address from", "static"),
        ("address", "10.9.0.1"),
        ("mask", "255.255.0.0"),
        ("gateway", "10.9.255.254"),
        ("VLAN", "none"),
        ("privileges of cipher suites", "aaXXXXXXXXXXXXXX"),
        ("who may come in", "always, up to administrator"),
    ] {
        assert_eq!(value(&was, Part::BmcLan, name), expected);
    }
    assert_eq!(was, read(&rig).await, "nothing has changed");

    let (name, password) = ("mallory".to_owned(), "secret of mallory".to_owned());
    farm.bmc(0).add_user(User { name, password: password.clone(), limit: 4 });
    farm.bmc(0).lan().vlan = Some(7);
    farm.bmc(0).set_firmware(2, 3);
    let is = read(&rig).await;
    assert_eq!(value(&is, Part::BmcUsers, "2"), "mallory, administrator, enabled");
    assert_eq!(value(&is, Part::BmcLan, "VLAN"), "7");
    assert_eq!(value(&is, Part::BmcFirmware, "of the BMC"), "2.03");
    assert!(!format!("{is:?}").contains(&password));
    // Another address every day is no change.
    farm.bmc(0).lan().dhcp = true;
    let by_dhcp = read(&rig).await;
    assert_eq!(value(&by_dhcp, Part::BmcLan, "address from"), "DHCP");
    assert!(!by_dhcp[&Part::BmcLan].contains_key("address"), "{by_dhcp:?}");
}

#[tokio::test]
async fn what_a_bmc_does_not_tell_is_left_out_and_one_that_is_silent_is_an_error() {
    let (farm, rig) = farm();
    farm.set_faults(&Faults { tells_no_accounts: true, ..Faults::default() });
    let told = read(&rig).await;
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [Part::BmcFirmware]);
    farm.set_faults(&Faults { hangs: true, ..Faults::default() });
    let options = Options {
        first_wait: std::time::Duration::from_millis(20),
        longest_wait: std::time::Duration::from_millis(50),
        ..Options::default()
    };
    let error = rig.quick(options, LONG).baseline().await.unwrap_err().to_string();
    assert!(error.contains("cannot read its accounts and settings"), "{error}");
}

#[tokio::test]
async fn a_bmc_of_somebody_else_is_read() {
    let sim = IpmiSim::start().unwrap();
    let rig = Rig::at(sim.address());
    let spec = rig.spec(IpmiSim::USER, IpmiSim::PASSWORD);
    let told = power::baseline(&spec).await.unwrap().unwrap();
    let users = told[&Part::BmcUsers].values().collect::<Vec<_>>();
    assert!(users.iter().any(|user| user.starts_with(IpmiSim::USER)), "{told:?}");
    assert!(told.contains_key(&Part::BmcFirmware), "{told:?}");
}

#[tokio::test]
async fn by_redfish_every_vendor_tells_accounts_and_firmware() {
    for (vendor, manager, version) in [
        (Vendor::Ilo, "1", "iLO 5 v2.44"),
        (Vendor::Idrac, "iDRAC.Embedded.1", "4.40.00.00"),
        (Vendor::OpenBmc, "bmc", "2.14.0"),
        (Vendor::Supermicro, "1", "01.71.20"),
        (Vendor::Ami, "Self", "13.05.00"),
    ] {
        let of = format!("of {manager}");
        let rig = RedfishRig::new(vendor);
        let driver = rig.driver();
        let was = driver.baseline().await.unwrap();
        let users = &was[&Part::BmcUsers];
        assert!(users.values().any(|user| user.starts_with("haas, ")), "{vendor:?}: {was:?}");
        assert!(!format!("{was:?}").contains("s3cret"), "{vendor:?}");
        assert_eq!(was, driver.baseline().await.unwrap(), "{vendor:?}: nothing has changed");
        assert_eq!(value(&was, Part::BmcFirmware, &of), version, "{vendor:?}");
        let network = value(&was, Part::BmcLan, &format!("{manager} eth0"));
        assert_eq!(network, "10.9.0.1/255.255.0.0 via 10.9.255.254 (Static)", "{vendor:?}");
        rig.add_user("mallory");
        rig.set_firmware("1.1");
        let is = driver.baseline().await.unwrap();
        assert_eq!(is[&Part::BmcUsers].len(), users.len() + 1, "{vendor:?}: {is:?}");
        assert_eq!(value(&is, Part::BmcFirmware, &of), "1.1", "{vendor:?}");
        driver.close().await;
    }
}
