//! A host whose Virtualization.framework is the stand-in, with one machine.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use microagent_conformance::Parts;
use microagent_guest_protocol::{Config, Process};
use microagent_supervisor_protocol::{
    AppleVfOptions, CallError, Disk, ErrorBody, Halt, Identity, Kernel, KernelFormat, Machine, MachineConfig,
    MachineState, PROTOCOL, StartRequest, Supervisor, Target,
};
use tempfile::TempDir;

/// For everything that must happen; long, as the machines that run tests are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at what nothing tells of.
const LOOK: Duration = Duration::from_millis(10);

/// The supervisor with the stand-in. Cargo builds the examples of a package with all of its tests, but not with one target of them (`--test`).
pub(crate) fn stand_in() -> Supervisor {
    let path = env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/stand_in");
    assert!(path.exists(), "{} is not there: `cargo build --examples` makes it", path.display());
    Supervisor::new(path)
}

/// The head of a kernel of the form that boots on this architecture.
fn kernel() -> (Vec<u8>, KernelFormat) {
    let (at, magic, format) = if cfg!(target_arch = "x86_64") {
        (0x202, b"HdrS", KernelFormat::BzImage)
    } else {
        (0x38, b"ARM\x64", KernelFormat::Image)
    };
    let mut head = vec![0; 1024];
    head[at..at + 4].copy_from_slice(magic);
    (head, format)
}

/// Makes the files of a machine whose guest behaves so.
pub(crate) fn config(dir: &Path, words: &[&str]) -> io::Result<MachineConfig> {
    let (kernel, format) = kernel();
    for (name, bytes) in
        [("kernel", kernel), ("initrd", vec![7; 512]), ("base", vec![0; 4096]), ("overlay", vec![0; 4096])]
    {
        fs::write(dir.join(name), bytes)?;
    }
    let disk = |id: &str, read_only| Disk { id: id.to_owned(), path: dir.join(id), read_only };
    Ok(MachineConfig {
        vcpus: 2,
        memory_mib: 256,
        kernel: Kernel { path: dir.join("kernel"), format, args: words.iter().map(|w| (*w).to_owned()).collect() },
        initramfs: dir.join("initrd"),
        disks: vec![disk("base", true), disk("overlay", false)],
        boot_timeout_ms: 60_000,
        log_bytes: 1 << 20,
        output_bytes: 1 << 20,
        qemu: None,
        firecracker: None,
        apple_vf: Some(AppleVfOptions { balloon: true }),
    })
}

/// Machines for the conformance kit.
pub(crate) struct StandIns;

impl Parts for StandIns {
    fn config(&self, dir: &Path) -> io::Result<MachineConfig> {
        config(dir, &["stand-in.guest=stay"])
    }

    fn guest(&self, boot_id: &str) -> Config {
        Config::new(boot_id, Process::new(vec!["stay".to_owned()]))
    }
}

/// A host with one machine.
pub(crate) struct Host {
    root: TempDir,
    pub(crate) supervisor: Supervisor,
    pub(crate) config: MachineConfig,
}

impl Host {
    /// A machine whose kernel is told these words.
    pub(crate) fn new(words: &[&str]) -> Self {
        let root = tempfile::Builder::new().prefix("vf-").tempdir().unwrap();
        let config = config(root.path(), words).unwrap();
        Self { root, supervisor: stand_in(), config }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("m")
    }

    pub(crate) fn target(&self) -> Target {
        Target { uid: "u-1".to_owned(), machine_dir: self.dir() }
    }

    pub(crate) fn start(&self) -> Result<Machine, CallError> {
        let identity = Identity {
            uid: "u-1".to_owned(),
            name: "default/w".to_owned(),
            generation: 1,
            boot_id: "boot-1".to_owned(),
        };
        let request = StartRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            identity,
            config: self.config.clone(),
            guest: Config::new("boot-1", Process::new(vec!["stay".to_owned()])),
            restore: None,
        };
        self.supervisor.start(request, PATIENCE)
    }

    /// Starts the machine and waits until its guest is configured.
    pub(crate) fn running(self) -> Self {
        self.start().unwrap();
        self.until(|machine| machine.state == MachineState::Running);
        self
    }

    pub(crate) fn inspect(&self) -> Machine {
        self.supervisor.inspect(self.target(), PATIENCE).unwrap()
    }

    pub(crate) fn halt(&self, grace_seconds: u32) -> Machine {
        self.supervisor.halt(self.target(), Halt { grace_seconds, no_wait: false }, PATIENCE).unwrap()
    }

    pub(crate) fn until(&self, so: impl Fn(&Machine) -> bool) -> Machine {
        let begun = Instant::now();
        loop {
            let machine = self.inspect();
            if so(&machine) {
                return machine;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not become so: {machine:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// The machine once it has ended.
    pub(crate) fn ended(&self) -> Machine {
        self.until(|machine| machine.state == MachineState::Exited)
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(name)).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A failed test leaves nothing running.
        let _ = self.supervisor.delete(self.target(), PATIENCE);
    }
}

/// Why it was refused.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> ErrorBody {
    match result {
        Err(CallError::Refused { error, .. }) => *error,
        other => panic!("{other:?}"),
    }
}
