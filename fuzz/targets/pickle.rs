#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| barycenter_fuzz::pickle(bytes));
