//! Many workspaces in one folder, and the controller that keeps them.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::Verb;
use microagent_tests::{
    fake::{self, FakeDir, elf_kernel},
    image_fixture::{Compression, ImageFixture, LayerBuilder},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Cpu, cpu, peak_rss_mib};

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Between two looks for what is awaited.
const POLL: Duration = Duration::from_millis(5);

pub(crate) struct Farm {
    dir: TempDir,
    fake: FakeDir,
    size: usize,
    controller: Option<Child>,
}

impl Farm {
    /// The manifests, written; nothing runs yet.
    pub(crate) fn new(size: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("microagent-scale-").tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("kernel"), elf_kernel("6.1.0-fixture")).unwrap();
        let layer = LayerBuilder::new().dir("tmp", 0o1777).finish();
        ImageFixture::new().layer(layer, Compression::Gzip).build().write_layout(&dir.path().join("image"), "1");
        let fake = FakeDir::create(&dir.path().join("fake")).unwrap();
        let farm = Self { dir, fake, size, controller: None };
        for index in 0..size {
            farm.write(index, "Always");
        }
        farm
    }

    /// Starts the controller; gives how long it takes until every workspace is ready.
    pub(crate) fn settle(&mut self) -> Duration {
        let own = ProcessId::own().unwrap();
        let log = File::create(self.path("controller.log")).unwrap();
        let began = Instant::now();
        let controller = Command::new(env!("CARGO_BIN_EXE_microagent-controller"))
            .arg("--folder")
            .arg(self.path("folder"))
            .env("MICROAGENT_STATE_DIR", self.path("state"))
            .env("MICROAGENT_CACHE_DIR", self.path("cache"))
            .env("MICROAGENT_GUEST_INIT", self.path("kernel"))
            .env("MICROAGENT_SUPERVISOR_QEMU", env::current_exe().unwrap())
            .env(fake::DIR_VARIABLE, self.fake.path())
            .env(fake::INSTANT_VARIABLE, format!("{} {}", own.pid, own.start_time))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.controller = Some(controller);
        let mut told = began;
        for index in 0..self.size {
            while !self.is(index, "Running") {
                assert!(began.elapsed() < PATIENCE, "workspace {index} of {} is not ready", self.size);
                thread::sleep(POLL);
                if told.elapsed() > Duration::from_secs(60) {
                    told = Instant::now();
                    eprintln!("{}: {index} are ready after {:.0?}", self.size, began.elapsed());
                }
            }
        }
        began.elapsed()
    }

    /// From the change of one file to the supervisor's `start`.
    pub(crate) fn edit_to_start_ms(&self, index: usize) -> f64 {
        let until = |phase: &str| {
            let began = Instant::now();
            while !self.is(index, phase) {
                assert!(began.elapsed() < PATIENCE, "workspace {index} is never {phase}");
                thread::sleep(POLL);
            }
        };
        self.write(index, "Halted");
        until("Halted");
        let uid = self.object(index).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        let edited = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        self.write(index, "Always");
        until("Running");
        let started = *self.fake.calls(Verb::Start, &uid).last().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a time below 2^52 ns")]
        let ms = (started - edited) as f64 / 1e6;
        ms
    }

    pub(crate) fn cpu(&self) -> Cpu {
        cpu(self.pid())
    }

    pub(crate) fn peak_rss_mib(&self) -> f64 {
        peak_rss_mib(self.pid())
    }

    /// How often the supervisor was called.
    pub(crate) fn calls(&self) -> usize {
        fs::read_to_string(self.fake.path().join("calls.log")).unwrap_or_default().lines().count()
    }

    /// The published object of a workspace.
    pub(crate) fn object(&self, index: usize) -> Option<Value> {
        read(&self.path("state/status/default").join(format!("{}.json", name(index))))
    }

    /// Its record, as the controller has it.
    pub(crate) fn record(&self, index: usize) -> Option<Value> {
        read(&self.path("state/workspaces/default").join(format!("{}.json", name(index))))
    }

    /// The machine, as its supervisor has it.
    pub(crate) fn machine(&self, uid: &str) -> Option<Value> {
        read(&self.path("state/machines").join(uid).join("vm/machine.json"))
    }

    /// Whether a workspace is ready, and so.
    fn is(&self, index: usize, phase: &str) -> bool {
        self.object(index).is_some_and(|object| {
            let status = &object["status"];
            let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
            status["phase"] == phase && status["conditions"].as_array().is_some_and(|all| all.iter().any(ready))
        })
    }

    /// As an editor that renames into place.
    fn write(&self, index: usize, policy: &str) {
        let manifest = json!({
            "apiVersion": "microagent.dev/v1alpha1",
            "kind": "Workspace",
            "metadata": { "name": name(index) },
            "spec": {
                "image": format!("oci-layout:{}:1", self.path("image").display()),
                "kernel": { "source": "path", "path": self.path("kernel") },
                "runPolicy": policy,
                "resources": { "memory": "64Mi", "disk": "64Mi" },
                "command": ["stay"],
                "lifecycle": { "terminationGracePeriodSeconds": 0 },
            },
        });
        let new = self.path("new.yaml");
        fs::write(&new, manifest.to_string()).unwrap();
        fs::rename(new, self.path("folder").join(format!("{}.yaml", name(index)))).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pid(&self) -> u32 {
        self.controller.as_ref().expect("a controller").id()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.path("controller.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the controller's last words:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        if let Some(mut controller) = self.controller.take() {
            let _ = controller.kill();
            let _ = controller.wait();
        }
    }
}

fn name(index: usize) -> String {
    format!("ws-{index:05}")
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
