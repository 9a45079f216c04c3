//! On a real Kubernetes control plane. Where its programs are missing every test here is skipped; `scripts/control-plane` builds them.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod agent;
mod control_plane;
mod faults;
mod gate;
mod gitops;
mod lease;
mod manifests;
mod parts;
mod placement;
mod real_machine;
mod schema;
mod workspaces;

use std::fs;

/// A manifest of `manifests/examples`.
fn example(name: &str) -> String {
    let path = format!("{}/../manifests/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).expect("an example")
}
