#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| iscsi_target::fuzzing::pdus(bytes));
