//! Kernels.

use std::{fs, path::PathBuf};

use microagent_tests::{
    host::{Host, busybox_image, manifest},
    registry::Registry,
};
use serde_json::{Value, json};

use crate::{Bystander, assert_leave_nothing, assert_told};

/// The directory of the distribution's kernel in the host's store.
fn installed(host: &Host) -> PathBuf {
    let kernels = fs::read_dir(host.cache().join("kernels/kernels")).expect("the kernel store");
    kernels.flatten().next().expect("a kernel is installed").path()
}

fn by_path(path: &PathBuf) -> Value {
    json!({ "kernel": { "source": "path", "path": path }, "command": ["/bin/true"] })
}

#[test]
fn a_kernel_that_cannot_carry_a_workspace_fails_that_one_and_is_no_others_kernel() {
    let Some(registry) = Registry::start("bad_kernels") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.own_kernels();
    let kernel = installed(&host);
    let scratch = host.scratch().join("boot");
    fs::create_dir(&scratch).expect("a directory");
    let copy = |from: &str, to: &str| {
        fs::copy(kernel.join(from), scratch.join(to)).expect("a kernel file");
        scratch.join(to)
    };
    let bare = copy("vmlinux", "bare");
    let driverless = copy("image", "vmlinuz-own");
    let _ = copy("config", "config-own");
    let cut = copy("image", "cut");
    fs::File::options().write(true).open(&cut).and_then(|file| file.set_len(1_000_000)).expect("a kernel file");
    let text = scratch.join("text");
    fs::write(&text, "not a kernel\n".repeat(1000)).expect("a file");
    host.start_controller();
    for (name, path) in [("bare", &bare), ("driverless", &driverless), ("cut", &cut), ("text", &text)] {
        host.drop_file(&format!("{name}.yaml"), &manifest(name, &image, &by_path(path)));
    }

    let words = ["virtio_blk", "CONFIG_VIRTIO_BLK", "kernel.source"];
    assert_told(&host, "driverless", "Stalled", "MissingDriver", &words);
    assert_told(&host, "text", "Stalled", "UnsupportedKernel", &[text.to_str().expect("a path")]);
    assert_told(&host, "cut", "Stalled", "UnsupportedKernel", &[cut.to_str().expect("a path")]);
    // What a kernel without configuration has, only booting it tells: guest-init then says what is missing.
    assert_told(&host, "bare", "Stalled", "GuestFailed", &["guest-init", "vsock"]);
    // The kernel that is installed now for `bare` is of the same version as the distribution's, and newer in the store.
    let bystander = Bystander::start(&host, &image);
    bystander.assert_untouched(&host);
    assert_leave_nothing(&host, &["bare", "driverless", "cut", "text"]);
}

#[test]
fn a_guest_whose_kernel_panics_is_told_as_that_and_started_again_later_and_later() {
    let Some(registry) = Registry::start("panic") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.start_controller();
    let spec = json!({ "kernel": { "args": ["rdinit=/none"] }, "command": ["/bin/true"] });
    host.drop_file("panics.yaml", &manifest("panics", &image, &spec));
    assert_told(
        &host,
        "panics",
        "MachineStarted=False",
        "GuestPanic",
        &["Kernel panic - not syncing", "logs --console"],
    );
    host.wait("panics", "MachineStarted");
    assert_told(&host, "panics", "Ready=False", "GuestPanic", &["Unable to mount root fs"]);
    let console = host.ok(["logs", "--console", "panics"]);
    assert!(console.matches("Kernel panic - not syncing").count() >= 2, "{console}");
    // What is wrong is in the manifest, and is mended there.
    host.drop_file("panics.yaml", &manifest("panics", &image, &json!({ "runPolicy": "Halted" })));
    host.wait("panics", "Ready");
    assert_leave_nothing(&host, &["panics"]);
}
