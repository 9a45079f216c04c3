//! `microagent supervisor conformance`: the supervisor of QEMU keeps to the protocol with real guests, and what is told of one that
//! does not.

use std::{fs, os::unix::fs::PermissionsExt};

use microagent_tests::host::{Host, bin_dir};
use serde_json::Value;

/// What a machine for tests may not let the kit try.
const MAY_BE_SKIPPED: [&str; 2] = ["makes-snapshots", "reused-pid-is-left-alone"];

#[test]
fn the_supervisor_of_qemu_conforms_with_real_guests() {
    let host = Host::new();
    let _ = host.ok(["kernel", "install"]);
    let path = bin_dir().join("microagent-supervisor-qemu");
    let output = host.microagent(["supervisor", "conformance", path.to_str().unwrap(), "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcomes = report["outcomes"].as_array().unwrap();
    for outcome in outcomes {
        let name = outcome["name"].as_str().unwrap();
        let good = outcome["verdict"] == "passed" || outcome["verdict"] == "skipped" && MAY_BE_SKIPPED.contains(&name);
        assert!(good, "{outcome:#}");
    }
    assert!(output.status.success() && outcomes.len() > 45);
    assert_eq!(report["capabilities"]["backend"], "Qemu");
}

#[test]
fn one_that_does_not_conform_is_told_with_the_promises_that_it_breaks() {
    let host = Host::new();
    let path = host.scratch().join("mute");
    fs::write(&path, "#!/bin/sh\ncat >/dev/null\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let path = path.to_str().unwrap();
    let output = host.microagent(["supervisor", "conformance", path, "--only", "tells-capabilities,starts"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("0 passed, 2 failed, 0 skipped") && text.contains("before it answered Capabilities"),
        "{text}"
    );
    let (code, error) = host.fails(["supervisor", "conformance", path, "--only", "dances"]);
    assert!(code == 2 && error.contains("there is no check \"dances\""), "{error}");
    assert!(host.ok(["supervisor", "conformance", "--list"]).contains("becomes-ready"));
}
