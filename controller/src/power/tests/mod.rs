//! What every driver promises, and what each does when things go wrong.

mod baseline;
mod exec;
mod ipmi;
mod look;
mod redfish;

use super::*;

/// The promises that every driver which reaches a node keeps. `log` is what the node saw.
async fn keeps_the_promises(driver: &dyn PowerDriver, log: &dyn Fn() -> Vec<String>) {
    assert_eq!(driver.state().await.unwrap(), Power::Off);
    driver.set_boot_device(BootDevice::Pxe).await.unwrap();
    driver.set(PowerAction::On).await.unwrap();
    assert_eq!(driver.state().await.unwrap(), Power::On);
    driver.set(PowerAction::Soft).await.unwrap();
    assert_eq!(driver.state().await.unwrap(), Power::Off);
    driver.set(PowerAction::On).await.unwrap();
    driver.set(PowerAction::Off).await.unwrap();
    // An order that is already fulfilled is no error.
    driver.set(PowerAction::Off).await.unwrap();
    assert_eq!(driver.state().await.unwrap(), Power::Off);
    let orders = log();
    let powers: Vec<_> = orders.iter().filter(|o| !o.starts_with("boot")).cloned().collect();
    let expected = ["power 1", "shutdown", "power 1", "power 0", "power 0"];
    assert_eq!(powers, expected, "each order reaches the node once");
    assert!(orders.contains(&"boot pxe".to_owned()), "{orders:?}");
}

#[tokio::test]
async fn manual_asks_for_a_person() {
    let manual = driver(&PowerSpec::Manual, Firmware::Bios).unwrap();
    assert_eq!(manual.state().await.unwrap(), Power::Unknown);
    let error = manual.set(PowerAction::On).await.unwrap_err();
    assert!(matches!(&error, PowerError::NeedsPerson { what } if what == "switch the node on"));
    assert!(error.needs_person());
    assert!(manual.set_boot_device(BootDevice::Pxe).await.is_err());
    assert!(manual.reset_bmc().await.unwrap_err().needs_person());
}

#[tokio::test]
async fn drivers_of_one_bmc_share_one_turn() {
    let (a, b) = (turn_at("x".to_owned()), turn_at("x".to_owned()));
    assert!(Arc::ptr_eq(&a, &b));
    assert!(!Arc::ptr_eq(&a, &turn_at("y".to_owned())));
}
