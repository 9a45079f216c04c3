//! A host whose QEMU and vsock program are scripts, and the guest behind them.

use std::{
    env, fs,
    io::Write,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use microagent_guest_protocol::{CONTROL_PORT, Config, EnvVar, Health, Output, Process};
use microagent_shim::{GUEST_SOCKET, MACHINE_RECORD, Record};
use microagent_supervisor_protocol::{
    Accelerator, CallError, Halt, Identity, Kernel, KernelFormat, Machine, MachineConfig, MachineState, PROTOCOL,
    QemuOptions, StartRequest, Supervisor, Target, vsock,
};
use microagent_tests::guest;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};
use tempfile::TempDir;

pub(crate) const SUPERVISOR: &str = env!("CARGO_BIN_EXE_microagent-supervisor-qemu");

/// For everything that must happen; long, as the machines that run tests are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Stands for a secret in the guest's configuration.
pub(crate) const SECRET: &str = "correct-horse-battery-staple";

#[derive(Clone)]
pub(crate) struct Host {
    root: Arc<TempDir>,
    pub(crate) uid: String,
    /// A folder between the root and the machine's directory.
    pub(crate) below: String,
    pub(crate) boot_timeout_ms: u64,
    pub(crate) accelerator: Option<Accelerator>,
    pub(crate) health: Option<Health>,
    pub(crate) outputs: Vec<&'static str>,
    pub(crate) output_bytes: u64,
}

impl Host {
    /// A host whose guest behaves in this way.
    pub(crate) fn new(mode: &str) -> Self {
        let host = Self::empty();
        for name in ["kernel", "initramfs"] {
            fs::write(host.root().join(name), "").unwrap();
        }
        // The scripts run in the machine's directory; the guest powers off through the fifo.
        let console = match mode {
            "dead" => "echo no memory for you >&2; exit 1",
            "panic" => "echo '[ 1.0] Kernel panic - not syncing: no init'; exit 0",
            "silent" => "exec sleep 600",
            _ => "echo booting; echo 'microagent: guest-init listening'; read line < poweroff.sock; exit 0",
        };
        let kvm = if mode == "kvmless" {
            "case \"$*\" in *'-accel kvm'*) echo no vcpu for you >&2; exit 1;; esac"
        } else {
            ""
        };
        host.script("qemu", &format!("[ \"$1\" = --version ] && exec echo QEMU emulator version 9.9.9\n[ -p poweroff.sock ] || mkfifo poweroff.sock\n{kvm}\n{console}"));
        let exe = env::current_exe().unwrap();
        let exe = exe.display();
        host.script("vsock", &format!("FAKE_GUEST={mode} exec {exe} --exact fake_guest --nocapture"));
        host.script(
            "supervisor",
            &format!(
                "d='{}'\nMICROAGENT_QEMU=\"$d/qemu\" MICROAGENT_VHOST_DEVICE_VSOCK=\"$d/vsock\" MICROAGENT_RUNTIME_DIR=\"$d/run\" exec {SUPERVISOR}",
                host.root().display()
            ),
        );
        host
    }

    fn empty() -> Self {
        Self {
            root: Arc::new(tempfile::tempdir().unwrap()),
            uid: "u-1".to_owned(),
            below: "m".to_owned(),
            boot_timeout_ms: 60_000,
            accelerator: Some(Accelerator::Tcg),
            health: None,
            outputs: Vec::new(),
            output_bytes: 1 << 20,
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root().join(&self.below)
    }

    /// Written by another process: a descriptor for writing that a test beside this one inherits makes the file busy.
    fn script(&self, name: &str, text: &str) {
        let mut sh = Command::new("sh")
            .args(["-c", "cat > \"$1\"; chmod 755 \"$1\"", "sh"])
            .arg(self.root().join(name))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        sh.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        assert!(sh.wait().unwrap().success());
    }

    pub(crate) fn supervisor(&self) -> Supervisor {
        Supervisor::new(self.root().join("supervisor"))
    }

    pub(crate) fn target(&self) -> Target {
        Target { uid: self.uid.clone(), machine_dir: self.dir() }
    }

    fn config(&self) -> MachineConfig {
        MachineConfig {
            vcpus: 1,
            memory_mib: 256,
            kernel: Kernel { path: self.root().join("kernel"), format: KernelFormat::Elf, args: Vec::new() },
            initramfs: self.root().join("initramfs"),
            disks: Vec::new(),
            boot_timeout_ms: self.boot_timeout_ms,
            log_bytes: 1 << 20,
            output_bytes: self.output_bytes,
            qemu: Some(QemuOptions { machine: None, accelerator: self.accelerator }),
            firecracker: None,
            apple_vf: None,
        }
    }

    pub(crate) fn start(&self, boot_id: &str) -> Result<Machine, CallError> {
        let workload = Process {
            env: vec![EnvVar { name: "TOKEN".to_owned(), value: SECRET.to_owned() }],
            ..Process::new(vec!["/bin/true".to_owned()])
        };
        let guest = Config {
            health: self.health.clone(),
            outputs: self.outputs.iter().map(|n| Output { name: (*n).to_owned(), path: "/x".to_owned() }).collect(),
            ..Config::new(boot_id, workload)
        };
        let identity = Identity {
            uid: self.uid.clone(),
            name: "default/w".to_owned(),
            generation: 1,
            boot_id: boot_id.to_owned(),
        };
        let request = StartRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            identity,
            config: self.config(),
            guest,
            restore: None,
        };
        self.supervisor().start(request, PATIENCE)
    }

    pub(crate) fn prepare(&self) -> Result<Machine, CallError> {
        self.supervisor().prepare(self.target(), self.config(), PATIENCE)
    }

    pub(crate) fn inspect(&self) -> Result<Machine, CallError> {
        self.supervisor().inspect(self.target(), PATIENCE)
    }

    pub(crate) fn halt(&self, grace_seconds: u32) -> Result<Machine, CallError> {
        self.supervisor().halt(self.target(), Halt { grace_seconds, no_wait: false }, PATIENCE)
    }

    pub(crate) fn kill(&self) -> Result<Machine, CallError> {
        self.supervisor().kill(self.target(), PATIENCE)
    }

    pub(crate) fn pause(&self) -> Result<Machine, CallError> {
        self.supervisor().pause(self.target(), PATIENCE)
    }

    pub(crate) fn resume(&self) -> Result<Machine, CallError> {
        self.supervisor().resume(self.target(), PATIENCE)
    }

    pub(crate) fn quarantine(&self) -> Result<Machine, CallError> {
        self.supervisor().quarantine(self.target(), PATIENCE)
    }

    /// Whether QEMU stands still.
    pub(crate) fn is_still(&self) -> bool {
        self.record().vmm.unwrap().is_stopped().unwrap()
    }

    /// A client's connection to the guest.
    pub(crate) fn connect(&self) -> std::io::Result<UnixStream> {
        vsock::connect(&self.inspect().unwrap().vsock.unwrap(), CONTROL_PORT, PATIENCE)
    }

    pub(crate) fn delete(&self) -> Result<Machine, CallError> {
        self.supervisor().delete(self.target(), PATIENCE)
    }

    pub(crate) fn record(&self) -> Record {
        serde_json::from_slice(&fs::read(self.dir().join(MACHINE_RECORD)).unwrap()).unwrap()
    }

    pub(crate) fn ended(&self) -> Machine {
        self.until(|m| m.state == MachineState::Exited)
    }

    /// Waits until the record says so; a change of it is a rename in the directory.
    pub(crate) fn until(&self, so: impl Fn(&Machine) -> bool) -> Machine {
        let begun = Instant::now();
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, self.dir(), inotify::WatchFlags::MOVED_TO).unwrap();
        loop {
            let machine = self.inspect().unwrap();
            if so(&machine) {
                return machine;
            }
            let left =
                PATIENCE.checked_sub(begun.elapsed()).unwrap_or_else(|| panic!("it does not become so: {machine:?}"));
            poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&Timespec::try_from(left).unwrap())).unwrap();
            let mut events = [0; 4096];
            while rustix::io::read(&watch, &mut events).is_ok_and(|n| n > 0) {}
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The last owner ends what a failed test left running.
        if Arc::strong_count(&self.root) == 1 && self.root().join("supervisor").exists() {
            let _ = self.delete();
        }
    }
}

/// The vsock program and the guest behind it in one, when this executable was started as that.
pub(crate) fn guest() {
    let Ok(mode) = env::var("FAKE_GUEST") else { return };
    let listener = UnixListener::bind(GUEST_SOCKET).unwrap();
    let _vhost = UnixListener::bind("vhost.sock").unwrap();
    if mode == "silent" {
        // It is ended with its machine.
        loop {
            std::thread::park();
        }
    }
    let accept = || guest::connected(&listener.accept().unwrap().0).unwrap().expect("the host wants the control port");
    let power_off = Arc::new(|| fs::write("poweroff.sock", "off\n").unwrap());
    guest::live(&mode, &guest::Machine { accept: &accept, power_off });
}
