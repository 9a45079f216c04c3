//! The figures of the supervisors: `figure NAME VALUE UNIT` on standard output, run counts and remarks on standard error.
//!
//! What QEMU and the guest take is measured beside, by starting the same programs by hand; compare the ratios between machines.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench ends when something is not as it should be")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use microagent_guest_protocol::{Config, LISTENING_LINE, Process, Root};
use microagent_supervisor_protocol::{
    Disk, Identity, Kernel, KernelFormat, Machine, MachineConfig, MachineState, OUTPUT_BYTES, PROTOCOL, StartRequest,
    Supervisor, Target,
};
use microagent_tests::{
    figures::{figure, median, millis, rss_mib},
    host::{Host, bin_dir, busybox_image},
    qemu,
    registry::Registry,
};
use serde_json::json;

/// How often each thing is measured. The median of nine survives four disturbed runs.
const RUNS: usize = 9;

/// How many machines are started together.
const MANY: usize = 50;

/// The memory of a machine, in MiB.
const MEMORY: u64 = 128;

const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let Some(registry) = Registry::start("supervisors bench") else { return };
    let image = busybox_image().build().push(&registry, "bench/web", "1");
    let mut host = Host::new();
    host.start_controller();
    let parts = Parts::of_workspace(&host, &image);

    let (mut starts, mut inspects, mut shims) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let bench = Bench::new(&parts, &format!("bench-{run}"));
        let began = Instant::now();
        let machine = bench.start();
        starts.push(millis(began.elapsed()));
        let machine = bench.until(machine, |m| m.guest.ready);
        ours.push(f64::from(u32::try_from(machine.timings["listening"]).unwrap()));
        shims.push(rss_mib(machine.owner.unwrap().pid));
        for _ in 0..RUNS {
            let began = Instant::now();
            bench.inspect();
            inspects.push(millis(began.elapsed()));
        }
        let programs = Programs::of(&bench);
        bench.delete();
        // By turns, so that all see the same neighbours.
        by_hand.push(programs.boot());
    }
    eprintln!("start: {RUNS} runs {starts:.1?} ms");
    figure("start_to_vmm_ms", median(&mut starts), "ms");
    eprintln!("VMM running to guest-init listening: ours {ours:.0?} ms, by hand {by_hand:.0?} ms");
    figure("ready_over_bare", median(&mut ours) / median(&mut by_hand), "ratio");
    eprintln!("resident memory of the shim, of which most is the executable's pages: {shims:.2?} MiB");
    figure("shim_rss_mib", median(&mut shims), "MiB");
    figure("inspect_ms", median(&mut inspects), "ms");
    figure("start_50_seconds", start_many(&parts), "s");
}

/// Starts many machines together; gives the seconds until the guests of all are ready.
fn start_many(parts: &Parts) -> f64 {
    let benches: Vec<_> = (0..MANY).map(|n| Bench::new(parts, &format!("many-{n}"))).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for bench in &benches {
            scope.spawn(|| bench.until(bench.start(), |m| m.guest.ready));
        }
    });
    let took = began.elapsed().as_secs_f64();
    benches.iter().for_each(Bench::delete);
    took
}

/// What all machines of the bench are made of.
struct Parts {
    dir: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    baseline: PathBuf,
    overlay: PathBuf,
}

impl Parts {
    /// Takes them from a workspace that a controller made; its overlay, which was never started from, is copied.
    fn of_workspace(host: &Host, image: &str) -> Self {
        let manifest = json!({
            "apiVersion": "microagent.dev/v1alpha1",
            "kind": "Workspace",
            "metadata": { "name": "parts" },
            "spec": {
                "image": image,
                "resources": { "memory": format!("{MEMORY}Mi"), "disk": "64Mi" },
                "command": ["/bin/sleep", "100000"],
                "lifecycle": { "terminationGracePeriodSeconds": 0 },
            },
        });
        host.drop_file("parts.yaml", &manifest.to_string());
        host.wait("parts", "Ready");
        let uid = host.object("parts")["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut args = qemu::arguments_of(&uid).expect("the machine's QEMU runs");
        let disks: Vec<PathBuf> =
            args.windows(2).filter(|pair| pair[0] == "-blockdev").map(|pair| disk(&pair[1])).collect();
        let [baseline, overlay] = disks.try_into().expect("a baseline and an overlay");
        let parts = Self {
            dir: host.scratch().to_owned(),
            kernel: PathBuf::from(&*qemu::value(&mut args, "-kernel")),
            initramfs: PathBuf::from(&*qemu::value(&mut args, "-initrd")),
            baseline,
            overlay: host.scratch().join("overlay.ext4"),
        };
        sparse_copy(&overlay, &parts.overlay);
        parts
    }
}

/// The file of a disk in QEMU's description of it.
fn disk(node: &str) -> PathBuf {
    let node: serde_json::Value = serde_json::from_str(node).unwrap();
    PathBuf::from(node["file"]["filename"].as_str().unwrap())
}

fn sparse_copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap();
    assert!(copied.success(), "cannot copy {}", from.display());
}

/// One machine.
struct Bench<'a> {
    parts: &'a Parts,
    supervisor: Supervisor,
    uid: String,
    overlay: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(parts: &'a Parts, uid: &str) -> Self {
        let overlay = parts.dir.join(format!("{uid}.ext4"));
        sparse_copy(&parts.overlay, &overlay);
        let supervisor = Supervisor::new(bin_dir().join("microagent-supervisor-qemu"));
        Self { parts, supervisor, uid: uid.to_owned(), overlay }
    }

    fn target(&self) -> Target {
        Target { uid: self.uid.clone(), machine_dir: self.parts.dir.join(&self.uid) }
    }

    fn start(&self) -> Machine {
        let request = StartRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            identity: Identity {
                uid: self.uid.clone(),
                name: format!("bench/{}", self.uid),
                generation: 1,
                boot_id: "boot".to_owned(),
            },
            config: MachineConfig {
                vcpus: 1,
                memory_mib: MEMORY,
                kernel: Kernel { path: self.parts.kernel.clone(), format: KernelFormat::Elf, args: Vec::new() },
                initramfs: self.parts.initramfs.clone(),
                disks: vec![
                    Disk { id: "baseline".to_owned(), path: self.parts.baseline.clone(), read_only: true },
                    Disk { id: "overlay".to_owned(), path: self.overlay.clone(), read_only: false },
                ],
                boot_timeout_ms: 600_000,
                log_bytes: 1 << 20,
                output_bytes: OUTPUT_BYTES,
                qemu: None,
                firecracker: None,
                apple_vf: None,
            },
            guest: Config {
                root: Root { baseline: 0, overlay: Some(1) },
                grace_seconds: 0,
                ..Config::new("boot", Process::new(vec!["/bin/sleep".to_owned(), "100000".to_owned()]))
            },
            restore: None,
        };
        self.supervisor.start(request, PATIENCE).unwrap()
    }

    fn inspect(&self) -> Machine {
        self.supervisor.inspect(self.target(), PATIENCE).unwrap()
    }

    fn until(&self, mut machine: Machine, so: impl Fn(&Machine) -> bool) -> Machine {
        let until = Instant::now() + PATIENCE;
        while !so(&machine) {
            assert!(machine.state != MachineState::Exited && Instant::now() < until, "it does not come: {machine:?}");
            // Looks cost CPU that the guests need.
            thread::sleep(Duration::from_millis(200));
            machine = self.inspect();
        }
        machine
    }

    fn delete(&self) {
        self.supervisor.delete(self.target(), PATIENCE).unwrap();
    }
}

/// The programs of a machine, to be started by hand.
struct Programs {
    dir: PathBuf,
    helper: Option<Vec<String>>,
    qemu: Vec<String>,
}

impl Programs {
    fn of(bench: &Bench<'_>) -> Self {
        let qemu = qemu::arguments_of(&bench.uid).expect("the machine's QEMU runs");
        let cid = qemu.iter().find_map(|arg| arg.split("guest-cid=").nth(1)).map(str::to_owned);
        // Where the kernel serves vsock there is no helper, and the address is on QEMU's own command line.
        let helper = if cid.is_some() {
            None
        } else {
            let owner = bench.inspect().owner.unwrap().pid;
            let is_it = |args: &Vec<String>| args.iter().any(|arg| arg == "--guest-cid");
            Some(children(owner).into_iter().find(is_it).expect("a program serves vsock"))
        };
        let dir = bench.parts.dir.join("by-hand");
        fs::create_dir_all(&dir).unwrap();
        Self { dir, helper, qemu }
    }

    /// Boots once; gives the milliseconds from QEMU's start to guest-init's line on the console.
    fn boot(&self) -> f64 {
        for socket in ["vhost.sock", "guest.sock"] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        let mut helper = self.helper.as_ref().map(|args| self.spawn(args, Stdio::null()));
        while helper.is_some() && !self.dir.join("vhost.sock").exists() {
            thread::sleep(Duration::from_millis(1));
        }
        let began = Instant::now();
        let mut qemu = self.spawn(&self.qemu, Stdio::piped());
        let console = BufReader::new(qemu.stdout.take().unwrap());
        let heard = console.lines().map_while(Result::ok).any(|line| line.contains(LISTENING_LINE));
        assert!(heard, "the machine that was started by hand ended early");
        let took = millis(began.elapsed());
        for child in [Some(&mut qemu), helper.as_mut()].into_iter().flatten() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        took
    }

    fn spawn(&self, args: &[String], stdout: Stdio) -> Child {
        Command::new(&args[0])
            .args(&args[1..])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// The command lines of a process's children.
fn children(pid: u32) -> Vec<Vec<String>> {
    let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let line = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let args = |line: Vec<u8>| {
        line.split(|b| *b == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .filter(|arg| !arg.is_empty())
            .collect()
    };
    pids.split_whitespace().map(|pid| args(line(pid))).collect()
}
