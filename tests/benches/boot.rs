//! The figures of a boot, with the distribution's kernel and with a lean one: `figure NAME VALUE UNIT` on standard output, run counts
//! and remarks on standard error.
//!
//! Both are measured by turns, in one run on one machine; compare the ratios, not the milliseconds, between machines.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends when something is not as it should be")]

mod bare;

use std::{fs, path::Path, time::Instant};

use microagent_tests::{
    figures::{figure, median, millis},
    host::{Host, busybox_image, manifest},
    qemu::{arguments_of, value},
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
    let Some(lean) = Host::lean("boot bench") else { return };
    let mut package = Side::new(Host::new());
    let mut lean = Side::new(lean);
    for _ in 0..RUNS {
        // By turns, so that both see the same neighbours.
        package.turn();
        lean.turn();
    }
    let package_bare = package.tell("package");
    let lean_bare = lean.tell("lean");
    figure("lean_over_package", lean_bare / package_bare, "ratio");
    figure("lean_ready_over_bare", median(&mut lean.ready) / median(&mut lean.init), "ratio");
    figure("lean_kernel_mib", mib(&lean.kernel), "MiB");
    figure("lean_initramfs_kib", mib(&lean.initramfs) * 1024.0, "KiB");
}

/// A host, and what was measured on it.
struct Side {
    host: Host,
    image: String,
    bare: Option<Bare>,
    kernel: String,
    initramfs: String,
    /// Of a machine with an init that prints, with the words that we give a kernel: from the start of QEMU to its end.
    wall: Vec<f64>,
    /// Of such a machine that is started by hand: the guest's clock at that init's line.
    init: Vec<f64>,
    /// Of our machine: the guest's clock when guest-init has its configuration.
    ready: Vec<f64>,
    /// Of our machine, from the manifest to a workload that runs.
    apply: Vec<f64>,
}

impl Side {
    fn new(mut host: Host) -> Self {
        let layout = host.scratch().join("image");
        busybox_image().build().write_layout(&layout, "1");
        host.start_controller();
        let image = format!("oci-layout:{}:1", layout.display());
        let none = Vec::new;
        let (kernel, initramfs) = (String::new(), String::new());
        let mut side = Self {
            host,
            image,
            bare: None,
            kernel,
            initramfs,
            wall: none(),
            init: none(),
            ready: none(),
            apply: none(),
        };
        // The first start makes the root disk and the initramfs.
        let _ = side.start();
        let uid = side.host.object("web")["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut args = arguments_of(&uid).expect("the machine's QEMU runs");
        side.kernel = value(&mut args, "-kernel").clone();
        side.initramfs = value(&mut args, "-initrd").clone();
        side.bare = Bare::of_machine(&side.host, "web");
        side.stop();
        side
    }

    fn turn(&mut self) {
        let took = self.start();
        self.apply.push(took);
        self.ready.push(self.host.object("web")["status"]["timings"]["guest.configured"].as_f64().expect("a timing"));
        self.stop();
        if let Some(bare) = &self.bare {
            self.init.push(bare.boot(Line::ByHand));
            let started = Instant::now();
            let _ = bare.boot(Line::Ours);
            self.wall.push(millis(started.elapsed()));
        }
    }

    /// Drops the manifest and waits for the workload; gives how long that took, in ms.
    fn start(&self) -> f64 {
        let spec = json!({ "command": ["/bin/sleep", "100000"], "lifecycle": { "terminationGracePeriodSeconds": 0 } });
        let started = Instant::now();
        self.host.drop_file("web.yaml", &manifest("web", &self.image, &spec));
        self.host.wait("web", "Ready");
        millis(started.elapsed())
    }

    fn stop(&self) {
        fs::remove_file(self.host.folder().join("web.yaml")).unwrap();
        self.host.wait_deleted("web");
    }

    /// Prints the figures of this side alone; gives the time of its bare machine.
    fn tell(&mut self, name: &str) -> f64 {
        eprintln!(
            "{name}: {RUNS} runs; bare {:.0?} ms, to the init {:.0?} ms, ready {:.0?} ms",
            self.wall, self.init, self.ready
        );
        let bare = median(&mut self.wall);
        figure(&format!("{name}_bare_ms"), bare, "ms");
        figure(&format!("{name}_warm_apply_to_workload_ms"), median(&mut self.apply), "ms");
        bare
    }
}

fn mib(path: impl AsRef<Path>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a size below 2^52")]
    let bytes = fs::metadata(path).unwrap().len() as f64;
    bytes / f64::from(1 << 20)
}
