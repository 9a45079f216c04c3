//! What many workspaces in one folder cost, without machines: `figure NAME VALUE UNIT` on standard output, run counts on
//! standard error. Each size is measured in a process of its own, so that memory is told rightly; growth is to be linear.
//!
//! Sizes may be given as arguments: `cargo bench -p microagent-controller --bench folder -- 1000 2000`.

#![expect(clippy::unwrap_used, reason = "a bench ends when something is not as it should be")]

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use dlmalloc::GlobalDlmalloc;
use jiff::Timestamp;
use microagent_controller::{
    Paths, Record,
    desired::{Applied, Desired},
    sink::{Sink as _, StatusFiles},
    source::{FolderSource, QUIET_UNANNOUNCED},
};
use microagent_crds::{
    Backend, Condition, ConditionStatus, ConditionType, Phase, Reason, Time, WorkspaceStatus,
    status::{ImageStatus, KernelStatus},
};
use rustix::time::{ClockId, clock_gettime};

/// The heap of the controller.
#[global_allocator]
static HEAP: GlobalDlmalloc = GlobalDlmalloc;

/// How often each look is measured.
const RUNS: u32 = 21;

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![2_500, 5_000, 10_000];
    }
    if let [n] = sizes[..] {
        return measure(n);
    }
    for n in sizes {
        let own = std::env::current_exe().unwrap();
        assert!(Command::new(own).arg(n.to_string()).status().unwrap().success());
    }
}

fn measure(n: usize) {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths { state: root.path().join("state"), cache: root.path().join("cache") };
    let folder = root.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for i in 0..n {
        fs::write(file(&folder, i), manifest(i, 0)).unwrap();
    }
    let before = rss();
    let mut host = Host {
        source: FolderSource::new(&folder),
        desired: Desired::load(&paths, [folder.clone()]).unwrap(),
        sink: StatusFiles::new(&paths),
        now: Instant::now(),
    };
    host.look(Duration::ZERO);

    // What nobody announced counts at the second look, which reads and parses all files.
    host.now += QUIET_UNANNOUNCED;
    let start = Instant::now();
    let snapshot = host.source.scan(host.now);
    figure("folder_read", n, start.elapsed().as_secs_f64(), "s");
    let start = Instant::now();
    let applied = host.desired.apply(snapshot, time());
    figure("folder_first_records", n, start.elapsed().as_secs_f64(), "s");
    assert_eq!((applied.changed.len(), applied.failures.len()), (n, 0));
    let published =
        |host: &Host| host.desired.records().iter().filter(|r| host.sink.publish(r, Some(&status(r))).unwrap()).count();
    let start = Instant::now();
    assert_eq!(published(&host), n);
    figure("folder_first_status", n, start.elapsed().as_secs_f64(), "s");
    figure("folder_memory", n, (rss() - before) as f64 / n as f64, "B/workspace");

    let mut quiet = Vec::new();
    for _ in 0..RUNS {
        let start = cpu();
        assert!(host.look(Duration::from_secs(15)).changed.is_empty());
        quiet.push(ms(cpu() - start));
    }
    figure("folder_quiet_relist_cpu", n, median(&mut quiet), "ms");

    let (mut seen, mut taken, mut taken_cpu) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        fs::write(file(&folder, n / 2), manifest(n / 2, 1 + run)).unwrap();
        let start = Instant::now();
        host.look(Duration::from_secs(15));
        seen.push(ms(start.elapsed()));
        let (start, used) = (Instant::now(), cpu());
        assert_eq!(host.look(QUIET_UNANNOUNCED).changed.len(), 1);
        taken.push(ms(start.elapsed()));
        taken_cpu.push(ms(cpu() - used));
    }
    figure("folder_change_seen", n, median(&mut seen), "ms");
    figure("folder_change_taken", n, median(&mut taken), "ms");
    figure("folder_change_taken_cpu", n, median(&mut taken_cpu), "ms");

    assert_eq!(published(&host), 1);
    let Host { desired, sink, .. } = host;
    drop((desired, sink));
    let before = rss();
    let start = Instant::now();
    let desired = Desired::load(&paths, [folder.clone()]).unwrap();
    let sink = StatusFiles::new(&paths);
    figure("folder_restart", n, start.elapsed().as_secs_f64(), "s");
    let mut host = Host { source: FolderSource::new(&folder), desired, sink, now: Instant::now() };
    host.look(Duration::ZERO);
    assert!(host.look(QUIET_UNANNOUNCED).changed.is_empty());
    assert_eq!(published(&host), 0);
    eprintln!("n={n}: {RUNS} runs; memory after a restart {:+.1} MiB", (rss() - before) as f64 / f64::from(1 << 20));
}

struct Host {
    source: FolderSource,
    desired: Desired,
    sink: StatusFiles,
    now: Instant,
}

impl Host {
    fn look(&mut self, after: Duration) -> Applied {
        self.now += after;
        let applied = self.desired.apply(self.source.scan(self.now), time());
        assert!(applied.failures.is_empty());
        self.sink.publish_rejected(self.desired.rejected()).unwrap();
        applied
    }
}

/// The time in whole seconds, as statuses have it.
fn time() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

fn file(folder: &Path, i: usize) -> std::path::PathBuf {
    folder.join(format!("workspace-{i:05}.yaml"))
}

/// A manifest as people write them.
fn manifest(i: usize, change: u32) -> String {
    format!(
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata:\n  name: workspace-{i:05}\n  labels:\n    team: agents\nspec:\n  \
         image: registry.example/team/agent:1.2.3\n  command: [\"/usr/bin/agent\", \"--serve\"]\n  env:\n    - name: AGENT_ID\n      \
         value: \"{i}-{change}\"\n    - name: LOG\n      value: info\n  resources:\n    cpus: 2\n    memory: 1Gi\n"
    )
}

/// The status of a workspace that runs.
fn status(record: &Record) -> WorkspaceStatus {
    let types = [
        ConditionType::ImageResolved,
        ConditionType::RootfsBuilt,
        ConditionType::KernelInstalled,
        ConditionType::MachineStarted,
        ConditionType::GuestReady,
        ConditionType::SetupComplete,
        ConditionType::Running,
        ConditionType::RestartRequired,
        ConditionType::Reconciling,
        ConditionType::Stalled,
        ConditionType::Ready,
    ];
    let condition = |type_| Condition {
        type_,
        status: ConditionStatus::True,
        reason: Reason::Unknown,
        message: "the workload runs as the manifest says".to_owned(),
        observed_generation: Some(record.generation),
        last_transition_time: Time(record.created_at),
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    WorkspaceStatus {
        phase: Some(Phase::Running),
        observed_generation: Some(record.generation),
        running_generation: Some(record.generation),
        conditions: types.into_iter().map(condition).collect(),
        image: Some(ImageStatus { digest: digest.clone() }),
        kernel: Some(KernelStatus { version: "6.12.0".to_owned(), digest }),
        backend: Some(Backend::Qemu),
        boot_id: Some(record.uid.clone()),
        timings: ["guest.workload", "machine.start"].map(|stage| (stage.to_owned(), 100)).into(),
        ..WorkspaceStatus::default()
    }
}

fn figure(name: &str, n: usize, value: f64, unit: &str) {
    println!("figure {name}_{n} {value:.2} {unit}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The CPU time of the process, system calls included.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The memory of the process, in bytes.
fn rss() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: i64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
