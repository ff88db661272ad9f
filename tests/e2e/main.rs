//! The suites on the virtual rack, one module per promise. They need QEMU and root, are ignored by
//! `cargo test` and run by `cargo xtask e2e`, one test after the other.

mod attacks;
mod boot_once;
mod cold_boots;
mod cold_ledger;
mod cold_readers;
mod console;
mod debian;
mod disks;
mod faults_bmc;
mod faults_boot;
mod faults_controller;
mod faults_disks;
mod faults_power;
mod guards;
mod initiators;
mod kexec;
mod main_job;
mod networks;
mod outages;
mod persistence;
mod rack_powers_and_boots;
mod ready_checks;
mod rescue;
mod reservations;
mod support;
mod tenants;
mod transaction;
mod uefi;
mod wrong_image;
