#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_tests::fuzzing::wire(data));
