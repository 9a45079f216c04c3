//! A host that lacks something.

use std::process::Command;

use microagent_tests::{
    host::{Host, busybox_image, manifest},
    registry::Registry,
};

use crate::{assert_leave_nothing, assert_told, stays};

/// Runs a controller that lacks something until it has told that, and kills it.
fn lacking(host: &mut Host, change: impl FnOnce(&mut Command), reason: &str, words: &[&str]) {
    host.start_controller_with(change);
    assert_told(host, "web", "Stalled", reason, words);
    host.kill_controller();
}

#[test]
fn what_the_host_lacks_is_named_and_once_it_is_there_the_workspace_runs_by_itself() {
    let Some(registry) = Registry::start("bad_host") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.drop_file("web.yaml", &manifest("web", &image, &stays()));
    let nowhere = host.scratch().join("nowhere");
    lacking(
        &mut host,
        |command| {
            command.env("PATH", &nowhere).env_remove("MICROAGENT_QEMU");
        },
        "BackendUnavailable",
        &["is not in PATH", "install", "microagent doctor"],
    );
    // With the name in the environment, no other vsock program is looked for, were it there or not.
    lacking(
        &mut host,
        |command| {
            command.env("MICROAGENT_VHOST_DEVICE_VSOCK", &nowhere);
        },
        "BackendUnavailable",
        &["vhost-device-vsock"],
    );
    lacking(
        &mut host,
        |command| {
            command.env("MICROAGENT_SUPERVISOR_QEMU", &nowhere);
        },
        "BackendUnavailable",
        &["nowhere"],
    );
    // A program that answers what is no answer.
    lacking(
        &mut host,
        |command| {
            command.env("MICROAGENT_SUPERVISOR_QEMU", "/bin/echo");
        },
        "BackendUnavailable",
        &["/bin/echo"],
    );
    assert_eq!(host.conditions("web")["ImageResolved"].0, "True", "what can be made is made");
    host.start_controller();
    host.wait("web", "Ready");
    assert_eq!(host.ok(["exec", "web", "--", "echo", "alive"]), "alive\n");
    assert_leave_nothing(&host, &["web"]);
}
