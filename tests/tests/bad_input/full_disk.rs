//! Disks without room.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use microagent_tests::{
    host::{Host, busybox_image, manifest},
    image_fixture::{Compression, ImageFixture, LayerBuilder},
    registry::Registry,
};
use serde_json::json;

use crate::{assert_leave_nothing, assert_told, halted};

/// A small file system of its own; gone when dropped.
struct Small(PathBuf);

impl Small {
    /// Mounts it, or prints why the test is skipped.
    fn mount(test: &str, dir: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(dir).expect("a directory");
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir.to_owned()));
        }
        println!("SKIP {test}: needs root and the right to mount");
        None
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("mount");
        assert!(grown.success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_cache_disk_is_told_and_the_pull_goes_on_when_there_is_room() {
    let Some(registry) = Registry::start("full_cache") else { return };
    // Little to pull, much to write.
    let layer = LayerBuilder::new().file("large", 0o755, &vec![b'x'; 100 << 20]).finish();
    let large = ImageFixture::new().layer(layer, Compression::Gzip).run("Cmd", vec!["/large"]).build();
    let image = large.push(&registry, "demo/large", "1");
    let mut host = Host::new();
    let images = host.cache().join("images");
    let Some(small) = Small::mount("full_cache", &images, "32m") else { return };
    host.start_controller();
    host.drop_file("large.yaml", &manifest("large", &image, &json!({ "command": ["/large"] })));
    let place = images.to_str().expect("a path");
    assert_told(&host, "large", "ImageResolved=False", "DiskFull", &["no space left", place, "free some space"]);
    // Room for the layer (and what a pull leaves free), not for the root disk made of it.
    small.grow("80m");
    host.wait("large", "ImageResolved");
    assert_told(&host, "large", "RootfsBuilt=False", "DiskFull", &["demo/large", "room"]);
    assert_eq!(host.check_disks(&images), 0, "no half of a root disk is taken for one");
    assert_eq!(host.half_made(), Vec::<PathBuf>::new());
    small.grow("300m");
    host.wait("large", "RootfsBuilt");
    assert_eq!(host.check_disks(&images), 1);
    host.drop_file("large.yaml", &manifest("large", &image, &halted()));
    host.wait("large", "Ready");
    assert_leave_nothing(&host, &["large"]);
    host.kill_controller();
}

#[test]
fn a_full_state_disk_stops_nobody_for_good() {
    let Some(registry) = Registry::start("full_state") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    let Some(small) = Small::mount("full_state", &host.state(), "512k") else { return };
    host.start_controller();
    // The tables of so large a file system are larger than the disk it is to be on.
    let resources = json!({ "memory": "128Mi", "disk": "1Ti" });
    let spec = json!({ "runPolicy": "Once", "command": ["/bin/echo", "done"], "resources": resources });
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    let place = host.state().join("machines");
    assert_told(&host, "web", "MachineStarted=False", "DiskFull", &[place.to_str().expect("a path")]);
    // Not a byte is left now, for nobody's record.
    let filler = host.state().join("filler");
    let filled = Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", filler.display())).output();
    assert!(!filled.expect("dd").status.success(), "the disk is full");
    host.drop_file("late.yaml", &manifest("late", &image, &halted()));
    fs::remove_file(filler).expect("the filler");
    small.grow("300m");
    host.wait("late", "Ready");
    let _ = host.told("web", "Ready", "Succeeded", &[]);
    assert_eq!(host.ok(["logs", "web"]), "done\n");
    assert_leave_nothing(&host, &["web", "late"]);
    host.kill_controller();
}
