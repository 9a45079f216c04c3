//! Workspaces on a lean kernel, where one was built: through the built programs and a real machine.

use std::fs;

use microagent_tests::{
    host::{Host, busybox_image, manifest},
    image_fixture::{Compression, LayerBuilder},
    static_program,
};
use serde_json::{Value, json};

#[test]
fn a_lean_guest_gives_container_engines_runtimes_and_tracers_all_that_they_use() {
    const TEST: &str = "a_lean_guest_gives_container_engines_runtimes_and_tracers_all_that_they_use";
    let Some(mut host) = Host::lean(TEST) else { return };
    let Some(probe) = static_program::compile("tests/lean/probe.rs", host.scratch().join("probe")) else {
        println!("SKIP {TEST}: needs rustc with its musl target");
        return;
    };
    let layer = LayerBuilder::new().file("bin/probe", 0o755, &fs::read(probe).unwrap()).finish();
    let layout = host.scratch().join("image");
    busybox_image().layer(layer, Compression::Gzip).build().write_layout(&layout, "1");
    host.start_controller();
    let image = format!("oci-layout:{}:1", layout.display());
    let spec = json!({ "runPolicy": "Once", "command": ["/bin/probe"], "resources": { "memory": "256Mi" } });
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    let _ = host.told("web", "Ready", "Succeeded", &[]);

    let told = host.ok(["logs", "web"]);
    let failed: Vec<&str> = told.lines().filter(|line| line.starts_with("failed")).collect();
    let worked = told.lines().filter(|line| line.starts_with("ok ")).count();
    let tried = told.lines().find_map(|line| line.strip_prefix("probed ")).map(|count| count.parse::<usize>().unwrap());
    assert!(failed.is_empty() && tried == Some(worked), "{failed:#?}\n{told}");

    // `default` took it: the package's kernel has another release.
    let object = host.object("web");
    assert!(object["status"]["kernel"]["version"].as_str().unwrap().ends_with("-microagent"), "{}", object["status"]);
}

#[test]
fn a_lean_kernel_lacks_nothing_for_any_backend_or_workload() {
    let Some(host) = Host::lean("a_lean_kernel_lacks_nothing_for_any_backend_or_workload") else { return };
    let verified: Value = serde_json::from_str(&host.ok(["kernel", "verify", "-o", "json"])).unwrap();
    for kernel in verified.as_array().unwrap() {
        assert_eq!((&kernel["ok"], &kernel["lacks"]), (&json!(true), &json!({})), "{kernel}");
    }
    let listed: Value = serde_json::from_str(&host.ok(["kernel", "list", "-o", "json"])).unwrap();
    let kernel = &listed[0];
    assert_eq!(
        (&kernel["source"], &kernel["build"]["untaken"], &kernel["pvh"]),
        (&json!("build"), &json!([]), &json!(true))
    );
    assert!(kernel["package"].as_str().unwrap().starts_with("linux-source-"), "{kernel}");
    assert!(kernel["modules"].as_array().unwrap().iter().all(|module| module["builtin"] == true), "{kernel}");
}
