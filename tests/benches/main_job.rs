//! The figures of the main job: `figure NAME VALUE UNIT` on standard output, run counts and remarks on standard error.
//!
//! Everything is measured in one run on one machine; compare the ratios, not the milliseconds, between machines.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends when something is not as it should be")]

mod bare;

use std::{fs, process::Command, time::SystemTime};

use microagent_tests::{
    figures::{figure, median, rss_mib},
    host::{Host, bin_dir, busybox_image},
    registry::Registry,
};
use serde_json::json;

use bare::{Bare, Line};

/// How often each thing is measured. The median of nine survives four disturbed runs.
const RUNS: usize = 9;

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(registry) = Registry::start("main_job bench") else { return };
    let image = busybox_image().build().push(&registry, "bench/web", "1");
    let mut host = Host::new();
    host.start_controller();

    // The first start makes everything: its stages are those of the demo.
    start(&host, "cold", &image);
    for (stage, ms) in host.object("cold")["status"]["timings"].as_object().expect("timings") {
        figure(&format!("stage_{}_ms", stage.replace('.', "_")), ms.as_f64().unwrap(), "ms");
    }
    let floors = Bare::of_machine(&host, "cold");
    stop(&host, "cold");

    let (mut drops, mut boots, mut by_hand, mut same_line) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let name = format!("warm-{run}");
        let dropped = start(&host, &name, &image);
        drops.push(started_ms(&host, &name) - dropped);
        boots.push(host.object(&name)["status"]["timings"]["guest.workload"].as_f64().unwrap());
        if run + 1 == RUNS {
            figure("controller_idle_rss_mib", rss_mib(host.controller_pid()), "MiB");
        }
        stop(&host, &name);
        // By turns, so that all see the same neighbours.
        if let Some(bare) = &floors {
            by_hand.push(bare.boot(Line::ByHand));
            same_line.push(bare.boot(Line::Ours));
        }
    }
    eprintln!("drop_to_start: {RUNS} runs {drops:.1?} ms");
    figure("drop_to_start_ms", median(&mut drops), "ms");
    let ours = median(&mut boots);
    figure("boot_ms", ours, "ms");
    eprintln!("kernel start to workload: {RUNS} runs {boots:.0?} ms");
    if floors.is_some() {
        let (floor, same) = (median(&mut by_hand), median(&mut same_line));
        eprintln!("bare by hand: {by_hand:.0?} ms; bare with our kernel command line: {same_line:.0?} ms");
        figure("bare_boot_ms", floor, "ms");
        figure("boot_over_bare_vmm", ours / floor, "ratio");
        // What is left when the words on the kernel's command line are not counted as ours: modules, mounts, the start.
        figure("boot_over_bare_same_line", ours / same, "ratio");
    }
    let guest_init = fs::metadata(bin_dir().join("microagent-guest-init")).unwrap().len();
    #[expect(clippy::cast_precision_loss, reason = "a size below 2^52")]
    figure("guest_init_kib", guest_init as f64 / 1024.0, "KiB");
}

/// Drops the manifest and waits for the workload; gives when the file was there, in ms since 1970.
fn start(host: &Host, name: &str, image: &str) -> f64 {
    let manifest = json!({
        "apiVersion": "microagent.dev/v1alpha1",
        "kind": "Workspace",
        "metadata": { "name": name },
        "spec": {
            "image": image,
            "resources": { "memory": "256Mi", "disk": "1Gi" },
            "command": ["/bin/sleep", "100000"],
            "lifecycle": { "terminationGracePeriodSeconds": 0 },
        },
    });
    host.drop_file(&format!("{name}.yaml"), &manifest.to_string());
    let dropped = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0;
    host.wait(name, "Ready");
    dropped
}

fn stop(host: &Host, name: &str) {
    fs::remove_file(host.folder().join(format!("{name}.yaml"))).unwrap();
    host.wait_deleted(name);
}

/// When the controller called `start`, in ms since 1970: the time of its log line.
fn started_ms(host: &Host, name: &str) -> f64 {
    let log = fs::read_to_string(host.scratch().join("controller.log")).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("starting the machine") && line.contains(&format!("default/{name} ")))
        .expect("the controller logs each start");
    let time = line.split_whitespace().next().unwrap();
    let output = Command::new("date").args(["-d", time, "+%s.%N"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse::<f64>().unwrap() * 1000.0
}
