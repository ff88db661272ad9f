//! How machines are, by BMCs that speak Redfish, and BMCs that are started anew.

use haas_api::hardware::{Level, Sensor};
use serde_json::{Value, json};

use super::*;
use crate::power::{BmcReport, HealthDriver};

async fn look(driver: &Redfish) -> BmcReport {
    driver.look().await.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn sensor<'a>(report: &'a BmcReport, name: &str) -> &'a Sensor {
    let found = report.sensors.iter().find(|sensor| sensor.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:?}", report.sensors))
}

#[track_caller]
fn fru<'a>(report: &'a BmcReport, of: &str, name: &str) -> &'a str {
    let fru = report.info.frus.iter().find(|fru| fru.name == of);
    let found = fru.and_then(|fru| fru.fields.iter().find(|field| field.name == name));
    found.map_or_else(|| panic!("no {of}: {name} in {:?}", report.info), |field| &field.value)
}

/// A log entry as iDRAC has it.
fn entry(number: usize) -> Value {
    json!({
        "@odata.id": format!("/redfish/v1/Entries/{number}"), "Id": number.to_string(),
        "Created": format!("2026-11-{:02}T00:{:02}:00Z", 1 + number / 60, number % 60),
        "SensorType": "Memory", "Severity": "Warning", "Message": format!("event {number}")
    })
}

#[tokio::test]
async fn sensors_power_log_and_parts_are_read_as_each_vendor_has_them() {
    let ilo = look(&Rig::new(Vendor::Ilo).driver()).await;
    assert_eq!(ilo.info.protocol, "Redfish 1.6.0");
    assert_eq!(ilo.info.vendor.as_deref(), Some("HPE"));
    assert_eq!(ilo.info.firmware.as_deref(), Some("iLO 5 v2.44"));
    assert_eq!(fru(&ilo, "machine", "product serial"), "CZJ0000001");
    assert_eq!(fru(&ilo, "machine", "product asset tag"), "rack 7");
    assert!(ilo.info.frus.iter().any(|fru| fru.name.contains("DIMM")), "{:?}", ilo.info.frus);
    let heat = sensor(&ilo, "02-CPU 1");
    assert_eq!((heat.value, heat.unit.as_str(), heat.level), (Some(40.0), "°C", Level::Ok));
    assert_eq!((sensor(&ilo, "Fan 1").unit.as_str(), ilo.watts), ("%", Some(139)));
    assert!(ilo.sensors.iter().all(|sensor| sensor.name != "03-CPU 2"), "it is absent");
    assert_eq!(
        (sensor(&ilo, "System").level, sensor(&ilo, "Memory").level),
        (Level::Ok, Level::Ok)
    );
    assert_eq!((ilo.sel.total, ilo.sel.used_percent), (2, None), "it forgets the oldest");
    let last = ilo.sel.items.last().unwrap();
    assert_eq!((last.id, last.level), (2, Level::Critical));
    assert_eq!(last.at.as_deref(), Some("2026-11-02T17:21:03.000Z"));

    let idrac = look(&Rig::new(Vendor::Idrac).driver()).await;
    let fan = sensor(&idrac, "System Board Fan1B");
    assert_eq!((fan.value, fan.unit.as_str(), fan.level), (Some(480.0), "RPM", Level::Critical));
    assert_eq!(fan.states, ["below lower critical"]);
    assert_eq!((idrac.watts, sensor(&idrac, "PS1 Status").value), (Some(224), None));
    let ids: Vec<_> = idrac.sel.items.iter().map(|entry| (entry.id, entry.asserted)).collect();
    assert_eq!(ids, [(1, true), (2, false), (3, true)], "oldest first");
    assert_eq!(idrac.sel.items[2].sensor, "Fan");
    assert_eq!(idrac.sel.used_percent, Some(0));

    let openbmc = look(&Rig::new(Vendor::OpenBmc).driver()).await;
    assert_eq!((openbmc.watts, sensor(&openbmc, "CPU0").value), (Some(318), Some(51.5)));
    assert_eq!(sensor(&openbmc, "CPU0").unit, "°C");
    assert_eq!(
        (sensor(&openbmc, "P12V").value, sensor(&openbmc, "P12V").level),
        (None, Level::Unknown)
    );
    assert_eq!(sensor(&openbmc, "PSU 0").level, Level::Warning);
    assert_eq!((openbmc.sel.items.len(), openbmc.sel.items[0].level), (1, Level::Warning));

    let supermicro = look(&Rig::new(Vendor::Supermicro).driver()).await;
    assert_eq!(supermicro.watts, None, "a number in quotes is none");
    assert_eq!(
        sensor(&supermicro, "CPU Temp").level,
        Level::Ok,
        "it is measured, and below its limit"
    );
    assert_eq!(sensor(&supermicro, "PCH Temp").value, None);
    assert_eq!((supermicro.sel.total, supermicro.sel.used_percent), (0, Some(0)));

    let ami = look(&Rig::new(Vendor::Ami).driver()).await;
    assert_eq!(sensor(&ami, "CPU0_TEMP").value, None);
    assert_eq!((ami.watts, ami.sel.items[0].event.as_str()), (None, "Correctable ECC"));
    assert_eq!(ami.info.firmware.as_deref(), Some("13.05.00"), "its only manager is its own");
}

#[tokio::test]
async fn what_fails_is_seen_the_next_time_and_parts_are_not_read_again() {
    let rig = Rig::new(Vendor::Idrac);
    let driver = rig.driver();
    let first = look(&driver).await;
    assert!(!first.info.frus.is_empty());
    let chassis = "/redfish/v1/Chassis/System.Embedded.1";
    {
        let mut service = rig.server.service();
        let power = service.resource(&format!("{chassis}/Power"));
        power["PowerControl"][0]["PowerConsumedWatts"] = json!(null);
        power["PowerSupplies"][0]["Status"]["Health"] = json!("Critical");
        let metrics = service.resource(&format!("{chassis}/EnvironmentMetrics"));
        metrics["PowerWatts"]["Reading"] = json!(301.4);
    }
    let before = rig.server.service().counts().requests;
    let second = look(&driver).await;
    let requests = rig.server.service().counts().requests - before;
    assert_eq!(sensor(&second, "PS1 Status").level, Level::Critical);
    assert_eq!(second.watts, Some(301), "the newer way tells what the older one does not");
    assert_eq!(second.info.frus, first.info.frus);
    assert!(requests < 15, "{requests} requests for a look");
    assert_eq!(rig.server.service().counts().logins, 1);
}

#[tokio::test]
async fn of_a_long_log_the_last_entries_are_kept_whichever_end_it_begins_with() {
    let entries = "/redfish/v1/Managers/iDRAC.Embedded.1/LogServices/Sel/Entries";
    for newest_first in [true, false] {
        let rig = Rig::new(Vendor::Idrac);
        let driver = rig.driver();
        look(&driver).await;
        let mut members: Vec<_> = (1..=1_000).map(entry).collect();
        if newest_first {
            members.reverse();
        }
        {
            let mut service = rig.server.service();
            let log = service.resource(entries);
            log["Members@odata.count"] = json!(members.len());
            log["Members"] = json!(members);
        }
        rig.set_faults(Faults { page: 50, ..Faults::default() });
        let before = rig.server.service().counts().requests;
        let sel = look(&driver).await.sel;
        let requests = rig.server.service().counts().requests - before;
        let ids: Vec<_> = sel.items.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, (873..=1_000).collect::<Vec<_>>(), "newest first: {newest_first}");
        assert_eq!((sel.total, sel.used_percent), (1_000, Some(97)));
        assert!(requests < 20, "{requests} requests: the whole log was read");
    }
}

#[tokio::test]
async fn a_log_of_links_is_read_by_its_last_ones_where_nothing_expands() {
    let rig = Rig::new(Vendor::Ilo);
    rig.server.service().resource("/redfish/v1")["ProtocolFeaturesSupported"] = json!({});
    let report = look(&rig.driver()).await;
    assert_eq!(report.sel.items.last().unwrap().level, Level::Critical);
    assert_eq!(report.sel.items.len(), 2);
}

#[tokio::test]
async fn a_log_is_cleared_where_it_can_be() {
    let rig = Rig::new(Vendor::OpenBmc);
    let driver = rig.driver();
    driver.clear_sel().await.unwrap();
    assert_eq!(look(&driver).await.sel.total, 0);
    assert_eq!(rig.orders(), ["clear log"]);
    let service = "/redfish/v1/Systems/system/LogServices/EventLog";
    rig.server.service().resource(service)["Actions"] = json!({});
    let told = driver.clear_sel().await.unwrap_err().to_string();
    assert!(told.contains("cannot clear the log: it does not offer to clear its log"), "{told}");
}

#[tokio::test]
async fn power_goes_first_while_a_bmc_is_looked_at() {
    let rig = Rig::new(Vendor::Idrac);
    let driver = rig.driver();
    look(&driver).await;
    rig.set_faults(Faults { slow_ms: 30, ..Faults::default() });
    let asked = || rig.server.service().counts().requests;
    let before = asked();
    let power = async {
        while asked() < before + 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let before = asked();
        driver.set(PowerAction::On).await.unwrap();
        asked() - before
    };
    let (report, requests) = tokio::join!(look(&driver), power);
    assert_eq!(report.watts, Some(224), "the look went on afterwards");
    // Its own two, the one that was with the BMC, and one that was next.
    assert!(requests <= 4, "{requests} requests until the order was given");
}

#[tokio::test]
async fn a_bmc_is_started_anew_with_what_it_offers() {
    for (vendor, order) in [
        (Vendor::Ilo, "bmc GracefulRestart"),
        (Vendor::Idrac, "bmc GracefulRestart"),
        (Vendor::OpenBmc, "bmc GracefulRestart"),
        // It does not say what it offers.
        (Vendor::Supermicro, "bmc GracefulRestart"),
    ] {
        let rig = Rig::new(vendor);
        let redfish = rig.driver();
        redfish.reset_bmc().await.unwrap_or_else(|error| panic!("{vendor:?}: {error}"));
        assert_eq!(rig.orders(), [order], "{vendor:?}");
        // Its sessions are gone, and a new one is made.
        assert_eq!(redfish.state().await.unwrap(), Power::Off);
    }
    let rig = Rig::new(Vendor::Ilo);
    let manager = rig.server.service().resource("/redfish/v1/Managers/1").clone();
    let mut forced = manager.clone();
    forced["Actions"]["#Manager.Reset"]["ResetType@Redfish.AllowableValues"] =
        json!(["ForceRestart"]);
    *rig.server.service().resource("/redfish/v1/Managers/1") = forced;
    // An order that is obeyed at once may have no answer.
    rig.set_faults(Faults { lost_answers: 1, ..Faults::default() });
    rig.driver().reset_bmc().await.unwrap();
    assert_eq!(rig.orders(), ["bmc ForceRestart"], "it is given once");

    let error = Rig::new(Vendor::Ami).driver().reset_bmc().await.unwrap_err();
    assert!(error.needs_person());
    let told = error.to_string();
    assert!(told.contains("cannot start it anew: it does not offer to be started anew"), "{told}");
}

#[tokio::test]
async fn who_may_only_look_sees_how_the_machine_is_and_clears_nothing() {
    let mut setup = Setup::new(Vendor::Idrac, USER, PASSWORD);
    setup.users[0].role = "ReadOnly";
    let rig = Rig::with(setup);
    let driver = rig.driver();
    assert_eq!(look(&driver).await.watts, Some(224));
    let told = driver.clear_sel().await.unwrap_err().to_string();
    assert!(told.contains("cannot clear the log: the account may not do this"), "{told}");
    assert!(rig.orders().is_empty());
}

#[tokio::test]
async fn odd_answers_take_away_what_they_are_about_and_nothing_else() {
    let rig = Rig::new(Vendor::Idrac);
    let options = Options { failures: 1_000, ..quick() };
    let driver = Redfish::new(rig.spec(), true).with_patience(options, LONG);
    let chassis = "/redfish/v1/Chassis/System.Embedded.1";
    for path in [
        "/redfish/v1/Systems/System.Embedded.1",
        "/redfish/v1/Managers/iDRAC.Embedded.1",
        chassis,
        &format!("{chassis}/Thermal"),
        &format!("{chassis}/Power"),
        "/redfish/v1/Managers/iDRAC.Embedded.1/LogServices",
        "/redfish/v1/Managers/iDRAC.Embedded.1/LogServices/Sel",
        "/redfish/v1/Managers/iDRAC.Embedded.1/LogServices/Sel/Entries",
    ] {
        let whole = rig.server.service().resource(path).clone();
        let is_read = |value: &Value| value.is_object() || value.is_array();
        let keys = whole.as_object().unwrap().iter().filter(|(_, value)| is_read(value));
        for (number, (key, _)) in keys.enumerate() {
            let mut resource = whole.clone();
            resource[key] = [json!(7), json!([{ "Name": 3 }])][number % 2].clone();
            *rig.server.service().resource(path) = resource;
            look(&driver).await;
        }
        *rig.server.service().resource(path) = whole;
    }
    assert_eq!(look(&driver).await.watts, Some(224));
}

#[tokio::test]
async fn sushy_tools_emulator_says_how_its_machine_is() {
    let sushy = Sushy::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pin = TlsTrust::Fingerprint(sushy.fingerprint().to_owned());
    let spec = spec(sushy.address(), Sushy::USER, secret(&dir, Sushy::PASSWORD), pin);
    let redfish = Redfish::new(spec, true).with_patience(Options::default(), LONG);
    let report = redfish.look().await.unwrap_or_else(|error| panic!("{error}"));
    assert!(report.info.protocol.starts_with("Redfish 1."), "{report:?}");
}
