//! `backend: Firecracker` from the manifest to the machine.

use std::fs;

use microagent_tests::{
    fake::bootable_kernel,
    firecracker::MachineHost,
    host::{Host, bin_dir},
};
use serde_json::json;

#[test]
fn a_workspace_that_asks_for_firecracker_gets_it_and_is_paused_and_deleted() {
    let stand_in = MachineHost::new("stay");
    stand_in.write_script();
    let mut host = Host::with_fake_machines();
    let kernel = host.scratch().join("vmlinux");
    fs::write(&kernel, bootable_kernel("6.1.0-fixture")).unwrap();
    host.start_controller_with(|command| {
        command
            .env("MICROAGENT_SUPERVISOR_FIRECRACKER", bin_dir().join("microagent-supervisor-firecracker"))
            .env("MICROAGENT_FIRECRACKER", stand_in.root().join("firecracker"))
            .env("MICROAGENT_KVM", "assumed");
    });
    let manifest = |power: &str| {
        let spec =
            json!({ "backend": "Firecracker", "powerState": power, "kernel": { "source": "path", "path": &kernel } });
        host.fake_manifest("fc", &spec)
    };
    host.drop_file("fc.yaml", &manifest("Running"));
    host.wait("fc", "Ready");
    let object = host.object("fc");
    assert_eq!(object["status"]["backend"], "Firecracker");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let line = host.processes(uid).join("\n");
    assert!(line.contains("firecracker") && line.contains("--id"), "{line}");
    host.drop_file("fc.yaml", &manifest("Paused"));
    let _ = host.told("fc", "Ready", "Paused", &[]);
    fs::remove_file(host.folder().join("fc.yaml")).unwrap();
    host.wait_deleted("fc");
    assert_eq!(host.processes(uid), Vec::<String>::new());
    assert_eq!(host.machines(), Vec::<String>::new());
}
