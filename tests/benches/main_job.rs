//! The figures of the main job: `figure NAME VALUE UNIT` on standard output, run counts and remarks on standard error.
//!
//! Everything is measured in one run on one machine; compare the ratios, not the milliseconds, between machines.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends when something is not as it should be")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use microagent_tests::{
    host::{Host, bin_dir, busybox_image, test_cache},
    program,
    registry::Registry,
};
use serde_json::json;

/// How often each thing is measured. The median of seven survives two disturbed runs.
const RUNS: usize = 7;

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
    stop(&host, "cold");

    let (mut drops, mut boots, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let floor = Bare::new(&host);
    for run in 0..RUNS {
        let name = format!("warm-{run}");
        let dropped = start(&host, &name, &image);
        drops.push(started_ms(&host, &name) - dropped);
        boots.push(host.object(&name)["status"]["timings"]["guest.workload"].as_f64().unwrap());
        if run + 1 == RUNS {
            figure("controller_idle_rss_mib", idle_rss_mib(host.controller_pid()), "MiB");
        }
        stop(&host, &name);
        // By turns, so that both see the same neighbours.
        bare.extend(floor.as_ref().map(Bare::boot));
    }
    eprintln!("drop_to_start: {RUNS} runs {drops:.1?} ms");
    figure("drop_to_start_ms", median(&mut drops), "ms");
    eprintln!("kernel start to workload: {RUNS} runs {boots:.0?} ms; bare: {bare:.0?} ms");
    let ours = median(&mut boots);
    figure("boot_ms", ours, "ms");
    if floor.is_some() {
        let floor = median(&mut bare);
        figure("bare_boot_ms", floor, "ms");
        figure("boot_over_bare_vmm", ours / floor, "ratio");
    }
    let guest_init = fs::metadata(bin_dir().join("microagent-guest-init")).unwrap().len();
    #[expect(clippy::cast_precision_loss, reason = "a size below 2^52")]
    figure("guest_init_kib", guest_init as f64 / 1024.0, "KiB");
}

fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.2} {unit}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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

/// Resident memory of the controller with one settled workspace.
fn idle_rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// The same kernel by hand, with the smallest init there is.
struct Bare {
    command: Vec<String>,
}

impl Bare {
    /// Takes QEMU's own command line of a machine of ours, without what only ours needs.
    fn new(host: &Host) -> Option<Self> {
        let kernel = kernel()?;
        let initramfs = host.scratch().join("bare.cpio");
        if !make_initramfs(host.scratch(), &initramfs) {
            eprintln!("bare boot not measured: no static init could be built");
            return None;
        }
        let qemu = program(&format!("qemu-system-{}", std::env::consts::ARCH))?;
        let khz = tsc_khz();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let command = [
            &text(&qemu),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-machine",
            "microvm,acpi=on,pic=off",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "256",
            "-smp",
            "1",
            "-kernel",
            &text(&kernel),
            "-initrd",
            &text(&initramfs),
            "-append",
            &format!("console=ttyS0 quiet panic=-1 no_timer_check tsc_early_khz={khz}"),
        ];
        Some(Self { command: command.iter().map(ToString::to_string).collect() })
    }

    /// Boots once; gives the guest's clock at the init's first line, in ms.
    fn boot(&self) -> f64 {
        let output = Command::new(&self.command[0]).args(&self.command[1..]).stdin(Stdio::null()).output().unwrap();
        let console = String::from_utf8_lossy(&output.stdout);
        let line = console.lines().find_map(|line| line.trim().strip_prefix("bare-init "));
        line.unwrap_or_else(|| panic_with(&console)).trim().parse().unwrap()
    }
}

fn panic_with(console: &str) -> ! {
    eprintln!("the bare machine did not print its line:\n{console}");
    std::process::exit(1)
}

/// The ELF kernel that the tests share.
fn kernel() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![test_cache().join("kernels")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            } else if entry.file_name() == "vmlinux" {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found.pop()
}

/// A cpio archive with the bare init alone.
fn make_initramfs(work: &Path, out: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bare/init.rs");
    let root = work.join("bare");
    fs::create_dir_all(root.join("dev")).unwrap();
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let built = Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols", "--target", &target, "-o"])
        .args([&root.join("init"), &source])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return false;
    }
    let script = format!("cd '{}' && printf 'init\\n' | cpio --quiet -o -H newc > '{}'", root.display(), out.display());
    Command::new("sh").args(["-c", &script]).status().is_ok_and(|status| status.success())
}

/// The frequency of the host's time stamp counter, for guests that cannot find it out on a busy host.
fn tsc_khz() -> u64 {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = info.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a frequency of some GHz in kHz")]
    let khz = (mhz.unwrap_or(2000.0) * 1000.0) as u64;
    khz
}
