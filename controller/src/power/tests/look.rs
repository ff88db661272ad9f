//! How machines are, by BMCs of our own and of somebody else.

use haas_api::hardware::{Level, Sensor};
use ipmi_lan::Options;
use sim::{
    IpmiSim,
    bmc::{Farm, Faults},
};

use super::ipmi::{LONG, Rig, farm};
use crate::power::{BmcReport, HealthDriver, Power, PowerDriver, health_driver};

async fn look(driver: &dyn HealthDriver) -> BmcReport {
    driver.look().await.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn sensor<'a>(report: &'a BmcReport, name: &str) -> &'a Sensor {
    let found = report.sensors.iter().find(|sensor| sensor.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:?}"))
}

#[track_caller]
fn fru<'a>(report: &'a BmcReport, name: &str) -> &'a str {
    let mut fields = report.info.frus.iter().flat_map(|fru| &fru.fields);
    let found = fields.find(|field| field.name == name);
    found.map_or_else(|| panic!("no {name} in {report:?}"), |field| &field.value)
}

#[tokio::test]
async fn sensors_log_and_fru_of_somebody_elses_bmc_are_read() {
    let sim = IpmiSim::start().unwrap();
    let rig = Rig::at(sim.address());
    let driver = health_driver(&rig.spec(IpmiSim::USER, IpmiSim::PASSWORD)).unwrap();
    let report = look(driver.as_ref()).await;
    let heat = sensor(&report, "Referee Temp");
    assert_eq!((heat.value, heat.unit.as_str(), heat.level), (Some(96.0), "°C", Level::Ok));
    assert_eq!(heat.kind, "Temperature");
    assert_eq!(sensor(&report, "PSU").level, Level::Ok);
    assert!(!sensor(&report, "PSU").states.is_empty());
    assert_eq!(fru(&report, "board serial"), "B77");
    assert_eq!(report.watts, None, "it knows no DCMI");
    assert_eq!(report.sel.total, 1);
    let entry = &report.sel.items[0];
    assert_eq!((entry.level, entry.asserted), (Level::Critical, true));
    assert!(entry.sensor.contains("Memory"), "{entry:?}");

    driver.clear_sel().await.unwrap();
    assert_eq!(look(driver.as_ref()).await.sel.items, []);
}

#[tokio::test]
async fn sensors_log_and_fru_are_read_and_what_fails_is_seen() {
    let (farm, rig) = farm();
    let driver = rig.quick(Options::default(), LONG);
    let well = look(&driver).await;
    assert!(well.sensors.iter().all(|sensor| sensor.level == Level::Ok), "{well:?}");
    assert_eq!(sensor(&well, "FAN1").value, Some(5_400.0));
    assert_eq!(sensor(&well, "Total Power").unit, "W");
    assert_eq!((fru(&well, "product serial"), fru(&well, "board name")), ("P-0001", "SIM-BOARD"));
    assert_eq!(well.info.protocol, "IPMI 2.0");
    assert_eq!(well.watts, Some(240));

    farm.bmc(0).sensor("CPU1 Temp").states = 0b11_000;
    farm.bmc(0).sensor("FAN1").is_there = false;
    farm.bmc(0).sensor("PSU1 Status").states = 0b1001;
    farm.bmc(0).log("DIMM A3", 1);
    let ill = look(&driver).await;
    assert_eq!(sensor(&ill, "CPU1 Temp").level, Level::Critical);
    assert_eq!((sensor(&ill, "FAN1").value, sensor(&ill, "FAN1").level), (None, Level::Unknown));
    assert_eq!(sensor(&ill, "PSU1 Status").level, Level::Critical);
    let entry = &ill.sel.items[0];
    assert_eq!((entry.sensor.as_str(), entry.level), ("DIMM A3", Level::Critical));
    assert!(entry.at.is_some());

    driver.clear_sel().await.unwrap();
    assert_eq!(farm.bmc(0).log_entries(), 0);
    assert_eq!(look(&driver).await.sel.total, 0);
}

#[tokio::test]
async fn what_a_machine_draws_is_what_its_bmc_says_by_dcmi() {
    let (farm, rig) = farm();
    let driver = rig.quick(Options::default(), LONG);
    farm.bmc(0).set_watts(Some(517));
    assert_eq!(look(&driver).await.watts, Some(517));
    farm.bmc(0).set_watts(None);
    let report = look(&driver).await;
    assert_eq!(report.watts, None, "it speaks no DCMI");
    assert_eq!(report.sensors.len(), 6, "and the rest is read all the same");
}

#[tokio::test]
async fn of_a_long_log_the_last_entries_are_kept() {
    let (farm, rig) = farm();
    for _ in 0..300 {
        farm.bmc(0).log("DIMM A3", 0);
    }
    let driver = rig.quick(Options::default(), LONG);
    let before = farm.counts().commands;
    let sel = look(&driver).await.sel;
    assert_eq!((sel.total, sel.items.len()), (300, 128));
    assert_eq!(sel.items.last().unwrap().id, 300);
    assert!(farm.counts().commands - before < 250, "the whole log was read");
    // What has not changed is not read again.
    let before = farm.counts().commands;
    assert_eq!(look(&driver).await.sel.items.len(), 128);
    assert!(farm.counts().commands - before < 15, "{:?}", farm.counts());
}

#[tokio::test]
async fn a_bmc_that_answers_little_at_once_on_a_bad_network_is_read_all_the_same() {
    let (farm, rig) = farm();
    farm.set_faults(&Faults { piece: 8, lost: 0.05, duplicated: 0.1, ..Faults::default() });
    let options = Options {
        first_wait: std::time::Duration::from_millis(30),
        longest_wait: std::time::Duration::from_millis(100),
        ..Options::default()
    };
    let report = look(&rig.quick(options, LONG)).await;
    assert_eq!(report.sensors.len(), 6);
    assert_eq!(sensor(&report, "FAN1").value, Some(5_400.0));
}

#[tokio::test]
async fn power_goes_first_while_a_bmc_is_looked_at() {
    let (farm, rig) = farm();
    farm.set_faults(&Faults { slow_ms: 10, ..Faults::default() });
    for _ in 0..128 {
        farm.bmc(0).log("DIMM A3", 0);
    }
    let driver = rig.quick(Options::default(), LONG);
    let power = async {
        while farm.counts().commands < 20 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let before = farm.counts().commands;
        assert_eq!(driver.state().await.unwrap(), Power::Off);
        farm.counts().commands - before
    };
    let (report, commands) = tokio::join!(look(&driver), power);
    assert_eq!(report.sel.total, 128, "the look went on afterwards");
    // Its own, the one that was with the BMC, and one that was next.
    assert!(commands <= 4, "{commands} commands until the power state was known");
    assert_eq!(farm.counts().opened, 1, "one session is for both");
}

#[tokio::test]
async fn what_is_wrong_with_the_account_is_told_as_it_is_for_power() {
    let farm = Farm::start(1, &sim::bmc::Setup::new(IpmiSim::USER, "another")).unwrap();
    let rig = Rig::at(farm.addresses()[0]);
    let error = rig.quick(Options::default(), LONG).look().await.unwrap_err().to_string();
    assert!(error.contains("cannot read the sensors and the log: wrong password"), "{error}");
}
