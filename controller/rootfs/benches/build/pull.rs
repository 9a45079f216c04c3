//! From a registry to a root disk.

use std::{fs, path::Path, process::Command, sync::Arc, time::Instant};

use microagent_base::Silent;
use microagent_images::{Credentials, ImageReference, PullOptions, PullPolicy, Store, host_platform};
use microagent_tests::{
    figures::{figure, median, millis},
    registry::Registry,
};

use crate::{RUNS, image::Image};

/// Prints how many times the floor, on the same disk, it takes to pull from a registry on this host and build.
pub(crate) fn figure_of(image: &Image, disk: &Path, floor_ms: f64) {
    let Some(registry) = Registry::start("build bench") else { return };
    let name = format!("{}/bench/large:1", registry.addr());
    let pushed = Command::new("skopeo")
        .args(["copy", "--quiet", "--dest-tls-verify=false"])
        .args([format!("oci:{}", image.layout.display()), format!("docker://{name}")])
        .status();
    if !pushed.is_ok_and(|status| status.success()) {
        eprintln!("skopeo cannot push the image");
        return;
    }
    let reference: ImageReference = name.parse().unwrap();
    let options = PullOptions { credentials: Credentials::none(), ..PullOptions::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let platform = host_platform();
    let run = |_| {
        let dir = disk.join("store");
        let store = Store::open(&dir).unwrap();
        let started = Instant::now();
        let pull = store.pull_baseline(&reference, &platform, PullPolicy::Always, &options, Arc::new(Silent));
        runtime.block_on(pull).unwrap();
        let took = millis(started.elapsed());
        fs::remove_dir_all(&dir).unwrap();
        rustix::fs::sync();
        took
    };
    let mut times: Vec<f64> = (0..RUNS).map(run).collect();
    eprintln!("pull and build, durable: {times:.0?} ms");
    figure("pull_build_over_floor_large", median(&mut times) / floor_ms, "ratio");
}
