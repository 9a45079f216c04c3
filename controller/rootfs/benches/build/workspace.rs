//! What a workspace costs once its image is there.

use std::{fs::File, path::Path, sync::Arc, time::Instant};

use microagent_base::Silent;
use microagent_images::{Credentials, ImageReference, PullOptions, PullPolicy, Store, host_platform};
use microagent_rootfs::{EmptyOptions, format};
use microagent_tests::figures::{figure, median, millis};

use crate::image::Image;

/// A usual size of `resources.disk`, in bytes.
const OVERLAY: u64 = 10 << 30;

/// Many, as one takes no time.
const RUNS: usize = 51;

/// Prints the times of an empty writable disk, and of all disks of a workspace whose image is cached.
pub(crate) fn figures(image: Option<&Image>, disk: &Path) {
    let mut empty: Vec<f64> = (0..RUNS).map(|run| overlay(&disk.join(format!("overlay-{run}")))).collect();
    figure("overlay_create_ms", median(&mut empty), "ms");

    let Some(image) = image else { return };
    let store = Store::open(&disk.join("store")).unwrap();
    let reference: ImageReference = format!("oci-layout:{}", image.layout.display()).parse().unwrap();
    let options = PullOptions { credentials: Credentials::none(), ..PullOptions::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let platform = host_platform();
    let pull = || {
        let pull = store.pull(&reference, &platform, PullPolicy::IfNotPresent, &options, Arc::new(Silent));
        store.build_baseline(&runtime.block_on(pull).unwrap(), &Silent).unwrap()
    };
    pull();
    let one = |run: usize| {
        let started = Instant::now();
        assert!(pull().path.exists());
        overlay(&disk.join(format!("workspace-{run}")));
        millis(started.elapsed())
    };
    let mut disks: Vec<f64> = (0..RUNS).map(one).collect();
    figure("workspace_disk_ms", median(&mut disks), "ms");
}

/// Milliseconds to make an empty disk, durable.
fn overlay(path: &Path) -> f64 {
    let started = Instant::now();
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    format(&file, OVERLAY, &EmptyOptions::default()).unwrap();
    millis(started.elapsed())
}
