#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    microagent_images::fuzzing::archive(data);
});
