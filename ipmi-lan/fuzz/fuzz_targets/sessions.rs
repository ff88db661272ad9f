#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipmi_lan::fuzzing::sessions(bytes));
