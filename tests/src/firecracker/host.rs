//! A host for tests of the Firecracker supervisor: its Firecracker is the stand-in, or a real one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::{
    env, fs,
    io::{self, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use microagent_base::process::ProcessId;
use microagent_guest_protocol::{CONTROL_PORT, Config, EnvVar, Output, Process, Root};
use microagent_supervisor_protocol::{
    CallError, Disk, FirecrackerOptions, Halt, Identity, Kernel, KernelFormat, Machine, MachineConfig, MachineState,
    PROTOCOL, Request, Response, Restore, Snapshot, SnapshotRequest, StartRequest, Supervisor, Target, vsock,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{Asked, Description, Fault, REQUESTS, Script};
use crate::{fake::bootable_kernel, host::bin_dir, program};

/// The arguments that the jailer was given, beside it.
pub(super) const JAILER_ARGS: &str = "jailer-args.json";

/// What is in a jail that the supervisor made, before the jailer adds its own.
pub const JAIL_FILES: [&str; 6] = ["kernel", "initramfs", "disk0", "disk1", "logger.fifo", "metrics.fifo"];

/// For everything that must happen; long, as the machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stands for a secret in the guest's configuration.
pub const SECRET: &str = "correct-horse-battery-staple";

/// A host with one machine.
#[derive(Clone)]
pub struct MachineHost {
    root: Arc<TempDir>,
    /// How the stand-in behaves from its next start on.
    pub script: Script,
    /// The real Firecracker to use instead.
    real: Option<PathBuf>,
    /// What only Firecracker understands.
    pub options: FirecrackerOptions,
    /// The UID of the machine.
    pub uid: String,
    /// Where the machine's directory is, below the root.
    pub below: String,
    /// See [`MachineConfig::boot_timeout_ms`].
    pub boot_timeout_ms: u64,
    /// The kernel.
    pub kernel: Kernel,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The names of what the guest copies out.
    pub outputs: Vec<&'static str>,
}

/// The real Firecracker of this host, if it has one.
#[must_use]
pub fn real_firecracker() -> Option<PathBuf> {
    env::var_os("MICROAGENT_FIRECRACKER")
        .map(PathBuf::from)
        .or_else(|| program("firecracker"))
        .filter(|path| path.is_file())
}

/// A kernel for the real Firecracker, an uncompressed `vmlinux`: what `MICROAGENT_FIRECRACKER_KERNEL` names.
#[must_use]
pub fn real_kernel() -> Option<PathBuf> {
    env::var_os("MICROAGENT_FIRECRACKER_KERNEL").map(PathBuf::from)
}

impl MachineHost {
    /// A host whose stand-in has a guest of this mode, and no jail.
    ///
    /// # Panics
    /// When the programs were not built.
    #[must_use]
    pub fn new(guest: &str) -> Self {
        let private = fs::Permissions::from_mode(0o700);
        let root = tempfile::Builder::new().prefix("fc-").permissions(private).tempdir().unwrap();
        let path = root.path();
        // Cargo builds the programs of a package beside its tests.
        let stand_in = env::current_exe().unwrap().ancestors().nth(2).unwrap().join("microagent-fake-firecracker");
        for name in ["firecracker", "jailer"] {
            if fs::hard_link(&stand_in, path.join(name)).is_err() {
                // By another process: a descriptor for writing that a test beside this one inherits makes the file busy.
                assert!(Command::new("cp").arg(&stand_in).arg(path.join(name)).status().unwrap().success());
            }
        }
        for (name, bytes) in [("vmlinux", bootable_kernel("6.1.0-fixture")), ("initrd", vec![7; 512])] {
            fs::write(path.join(name), bytes).unwrap();
        }
        for name in ["base.ext4", "overlay.ext4"] {
            fs::File::create(path.join(name)).unwrap().set_len(1 << 20).unwrap();
        }
        let host = Self {
            script: Script {
                guest: guest.to_owned(),
                version: "1.17.0".to_owned(),
                jailer_version: "1.17.0".to_owned(),
                fault: None,
                api: Description::path(),
            },
            real: None,
            options: FirecrackerOptions { jailer: Some(false), ..FirecrackerOptions::default() },
            uid: "u-1".to_owned(),
            below: "m".to_owned(),
            boot_timeout_ms: 60_000,
            kernel: Kernel { path: path.join("vmlinux"), format: KernelFormat::Elf, args: Vec::new() },
            vcpus: 2,
            outputs: Vec::new(),
            root: Arc::new(root),
        };
        host.write_script();
        host.write_supervisor();
        host
    }

    /// The same with something wrong.
    #[must_use]
    pub fn with_fault(guest: &str, fault: Fault) -> Self {
        let mut host = Self::new(guest);
        host.script.fault = Some(fault);
        host
    }

    /// A host with a real Firecracker, and its KVM.
    #[must_use]
    pub fn real(firecracker: &Path) -> Self {
        let mut host = Self::new("silent");
        host.real = Some(firecracker.to_owned());
        host.write_supervisor();
        host
    }

    /// Has the stand-in behave as the script says from its next start on.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_script(&self) {
        fs::write(self.root().join("script.json"), serde_json::to_vec(&self.script).unwrap()).unwrap();
    }

    fn write_supervisor(&self) {
        let supervisor = bin_dir().join("microagent-supervisor-firecracker");
        assert!(supervisor.exists(), "{} is not there: run scripts/build first", supervisor.display());
        let root = self.root().display();
        let vmm = match &self.real {
            Some(real) => format!("MICROAGENT_FIRECRACKER='{}'", real.display()),
            None => format!(
                "MICROAGENT_FIRECRACKER='{root}/firecracker' MICROAGENT_JAILER='{root}/jailer' MICROAGENT_KVM=assumed"
            ),
        };
        let text = format!("#!/bin/sh\n{vmm} exec '{}' \"$@\"\n", supervisor.display());
        let mut sh = Command::new("sh")
            .args(["-c", "cat > \"$1\"; chmod 755 \"$1\"", "sh"])
            .arg(self.root().join("supervisor"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        sh.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(sh.wait().unwrap().success());
    }

    /// Everything of this host.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The machine's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.root().join(&self.below)
    }

    /// The supervisor's executable.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        Supervisor::new(self.root().join("supervisor"))
    }

    /// The machine.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { uid: self.uid.clone(), machine_dir: self.dir() }
    }

    /// What the machine is made of.
    #[must_use]
    pub fn config(&self) -> MachineConfig {
        let disk =
            |id: &str, name: &str, read_only| Disk { id: id.to_owned(), path: self.root().join(name), read_only };
        MachineConfig {
            vcpus: self.vcpus,
            memory_mib: 128,
            kernel: self.kernel.clone(),
            initramfs: self.root().join("initrd"),
            disks: vec![disk("baseline", "base.ext4", true), disk("overlay", "overlay.ext4", false)],
            boot_timeout_ms: self.boot_timeout_ms,
            log_bytes: 1 << 20,
            output_bytes: 1 << 20,
            qemu: None,
            firecracker: Some(self.options.clone()),
            apple_vf: None,
        }
    }

    /// Starts the machine, by what the script says now.
    ///
    /// # Errors
    /// Those of the supervisor.
    ///
    /// # Panics
    /// When the script cannot be written.
    pub fn start(&self, boot_id: &str) -> Result<Machine, CallError> {
        self.start_from(boot_id, None)
    }

    /// Starts the machine from a snapshot.
    ///
    /// # Errors
    /// Those of the supervisor.
    ///
    /// # Panics
    /// When the script cannot be written.
    pub fn start_from(&self, boot_id: &str, restore: Option<&Path>) -> Result<Machine, CallError> {
        self.write_script();
        let workload = Process {
            env: vec![EnvVar { name: "TOKEN".to_owned(), value: SECRET.to_owned() }],
            ..Process::new(vec!["/bin/true".to_owned()])
        };
        let guest = Config {
            root: Root { baseline: 0, overlay: Some(1) },
            outputs: self.outputs.iter().map(|n| Output { name: (*n).to_owned(), path: "/x".to_owned() }).collect(),
            ..Config::new(boot_id, workload)
        };
        let request = StartRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            identity: Identity {
                uid: self.uid.clone(),
                name: "default/w".to_owned(),
                generation: 1,
                boot_id: boot_id.to_owned(),
            },
            config: self.config(),
            guest,
            restore: restore.map(|dir| Restore { dir: dir.to_owned() }),
        };
        self.supervisor().start(request, PATIENCE)
    }

    /// Starts the machine and waits until its guest is configured.
    ///
    /// # Panics
    /// When it does not come to that.
    #[must_use]
    pub fn running(self) -> Self {
        self.start("b1").unwrap();
        let _ = self.until(|m| m.state == MachineState::Running);
        self
    }

    /// The machine now.
    ///
    /// # Errors
    /// Those of the supervisor.
    pub fn inspect(&self) -> Result<Machine, CallError> {
        self.supervisor().inspect(self.target(), PATIENCE)
    }

    /// # Errors
    /// Those of the supervisor.
    pub fn halt(&self, grace_seconds: u32) -> Result<Machine, CallError> {
        self.supervisor().halt(self.target(), Halt { grace_seconds, no_wait: false }, PATIENCE)
    }

    /// # Errors
    /// Those of the supervisor.
    pub fn kill(&self) -> Result<Machine, CallError> {
        self.supervisor().kill(self.target(), PATIENCE)
    }

    /// # Errors
    /// Those of the supervisor.
    pub fn pause(&self) -> Result<Machine, CallError> {
        self.supervisor().pause(self.target(), PATIENCE)
    }

    /// # Errors
    /// Those of the supervisor.
    pub fn resume(&self) -> Result<Machine, CallError> {
        self.supervisor().resume(self.target(), PATIENCE)
    }

    /// # Errors
    /// Those of the supervisor.
    pub fn quarantine(&self) -> Result<Machine, CallError> {
        self.supervisor().quarantine(self.target(), PATIENCE)
    }

    /// # Errors
    /// Those of the supervisor.
    pub fn delete(&self) -> Result<Machine, CallError> {
        self.supervisor().delete(self.target(), PATIENCE)
    }

    /// Any other call, past the client: the response as it came.
    ///
    /// # Panics
    /// When the executable cannot be run, or answers no JSON.
    #[must_use]
    pub fn call(&self, request: &Request) -> Response {
        let mut child =
            Command::new(self.root().join("supervisor")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&serde_json::to_vec(request).unwrap()).unwrap();
        serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
    }

    /// Makes a snapshot.
    #[must_use]
    pub fn snapshot(&self, snapshot: Snapshot) -> Response {
        self.call(&Request::Snapshot(SnapshotRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            snapshot,
        }))
    }

    /// A client's connection to the guest.
    ///
    /// # Errors
    /// Those of the handshake.
    ///
    /// # Panics
    /// When there is no machine.
    pub fn connect(&self) -> io::Result<UnixStream> {
        vsock::connect(&self.inspect().unwrap().vsock.unwrap(), CONTROL_PORT, PATIENCE)
    }

    /// What the record says of a process of the machine: `shim` or `vmm`.
    ///
    /// # Panics
    /// When there is no record, or no such process in it.
    #[must_use]
    pub fn process(&self, name: &str) -> ProcessId {
        let record: Value = serde_json::from_slice(&fs::read(self.dir().join("machine.json")).unwrap()).unwrap();
        serde_json::from_value(record[name].clone()).unwrap()
    }

    /// The VMM itself, which is a descendant of the shim's child where it is jailed.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn vmm(&self) -> ProcessId {
        let mut process = self.process("vmm");
        loop {
            let pid = process.pid;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            match children.split_whitespace().next() {
                Some(pid) => process = ProcessId::of(pid.parse().unwrap()).unwrap(),
                None => return process,
            }
        }
    }

    /// The directory that is the root of the jail.
    #[must_use]
    pub fn jail(&self) -> PathBuf {
        self.dir().join("jail/firecracker").join(&self.uid).join("root")
    }

    /// What the stand-in was asked, in order.
    ///
    /// # Panics
    /// When that cannot be read.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        let jailed = self.jail().join(REQUESTS);
        let path = if jailed.exists() { jailed } else { self.root().join(REQUESTS) };
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What was put there last.
    ///
    /// # Panics
    /// When nothing was.
    #[must_use]
    pub fn body(&self, path: &str) -> Value {
        let asked = self.asked();
        let found = asked.iter().rev().find(|asked| asked.path == path && asked.method != "GET");
        found.unwrap_or_else(|| panic!("{path} was not asked: {asked:?}")).body.clone()
    }

    /// The arguments that the jailer was given.
    ///
    /// # Panics
    /// When it was not called.
    #[must_use]
    pub fn jailer_args(&self) -> Vec<String> {
        serde_json::from_slice(&fs::read(self.root().join(JAILER_ARGS)).unwrap()).unwrap()
    }

    /// A log of the machine.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(name)).unwrap_or_default()
    }

    /// Waits until the machine has ended.
    #[must_use]
    pub fn ended(&self) -> Machine {
        self.until(|m| m.state == MachineState::Exited)
    }

    /// Waits until it is so, by what `inspect` tells.
    ///
    /// # Panics
    /// When it does not become so.
    #[must_use]
    pub fn until(&self, so: impl Fn(&Machine) -> bool) -> Machine {
        let begun = Instant::now();
        loop {
            let machine = self.inspect().unwrap();
            if so(&machine) {
                return machine;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not become so: {machine:?}\n{}", self.log("shim.log"));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for MachineHost {
    fn drop(&mut self) {
        // The last owner ends what a failed test left running.
        if Arc::strong_count(&self.root) == 1 {
            let _ = self.delete();
        }
    }
}
