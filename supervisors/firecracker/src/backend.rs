//! Firecracker as a backend.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use microagent_base::{durable, process::ProcessId};
use microagent_shim::{Backend, Confined, LOGGER, Launch, METRICS_PIPE, Program};
use microagent_supervisor_protocol::{
    Accelerator, Capabilities, Check, ErrorBody, ErrorCode, Features, Identity, MachineConfig, Snapshot, SnapshotKind,
    Verb, VsockProvider,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::Deserialize;

use crate::{
    checks, configure, disks,
    host::{Host, may_jail},
    jail::Jail,
    kernel,
    plan::{API_SOCKET, Notes, PIPES},
    power, snapshot,
};

/// What a guest must have left beside its balloon, in MiB.
const LEFT_MIB: u64 = 64;

/// Firecracker on this host.
pub(crate) struct Firecracker {
    host: Host,
}

impl Firecracker {
    pub(crate) fn new() -> Self {
        Self { host: Host::default() }
    }

    /// Checks what a machine asks for.
    fn check_config(&self, config: &MachineConfig) -> Result<(), ErrorBody> {
        kernel::check(&config.kernel)?;
        disks::check(config)?;
        let balloon = config.firecracker.as_ref().and_then(|options| options.balloon_mib).unwrap_or(0);
        if u64::from(balloon) + LEFT_MIB > config.memory_mib {
            let message =
                format!("a balloon of {balloon} MiB leaves less than {LEFT_MIB} of {} MiB", config.memory_mib);
            return Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
        }
        self.jailer(config).map(drop)
    }

    /// The jailer to use for the machine, if it is to have a jail. What was asked for is never left out without a word.
    fn jailer(&self, config: &MachineConfig) -> Result<Option<&Path>, ErrorBody> {
        let unsupported = |why: String| {
            ErrorBody::new(ErrorCode::UnsupportedConfig, format!("a jail was asked for and cannot be made: {why}"))
        };
        match config.firecracker.as_ref().and_then(|options| options.jailer) {
            Some(false) => Ok(None),
            Some(true) => {
                may_jail().map_err(unsupported)?;
                Ok(Some(self.host.jailer().map_err(|e| unsupported(e.message))?))
            }
            None => Ok(if may_jail().is_ok() { self.host.jailer().ok() } else { None }),
        }
    }

    /// Why no machine can be started on this host.
    fn lacks(&self) -> Result<(), ErrorBody> {
        self.host.firecracker()?;
        self.host.kvm_broken().map_or(Ok(()), |broken| Err(checks::kvm_error(broken.denied, &broken.why)))
    }
}

impl Backend for Firecracker {
    fn name(&self) -> &'static str {
        "Firecracker"
    }

    fn verbs(&self) -> &[Verb] {
        &Verb::ALL
    }

    fn max_vcpus(&self) -> u32 {
        32
    }

    fn capabilities(&self) -> Capabilities {
        let lacks = self.lacks().err();
        Capabilities {
            backend: self.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: self.host.firecracker().ok().map(|vmm| vmm.line.clone()),
            verbs: Verb::ALL.to_vec(),
            accelerators: if lacks.is_none() { vec![Accelerator::Kvm] } else { Vec::new() },
            accelerator_reason: lacks.map(|lacks| format!("{}; {}", lacks.message, lacks.remediation)),
            kernel_format: Some(kernel::FORMAT),
            max_vcpus: self.max_vcpus(),
            features: Features {
                kernel_formats: vec![kernel::FORMAT],
                vsock: Some(VsockProvider::Vmm),
                snapshots: vec![SnapshotKind::Full, SnapshotKind::Diff],
                ..Features::default()
            },
        }
    }

    fn check(&self, config: Option<&MachineConfig>) -> Vec<Check> {
        let mut checks = checks::host(&self.host);
        checks.extend(config.and_then(|config| self.check_config(config).err()).map(checks::config));
        checks
    }

    fn launches(&self, identity: &Identity, config: &MachineConfig) -> Result<Vec<Launch>, ErrorBody> {
        self.lacks()?;
        self.check_config(config)?;
        let vmm = self.host.firecracker()?;
        let firecracker = &vmm.path;
        // Until it is told where to log it would log to the console.
        let quiet = ["--level", "Off"].map(str::to_owned);
        let uid = &identity.uid;
        let jailer = self.jailer(config)?;
        let jail = jailer.map(|_| Jail::of(uid, firecracker));
        let (path, mut args, confined) = match (jailer, &jail) {
            (Some(jailer), Some(jail)) => {
                let confined = Confined { binds: jail.binds(config) };
                (jailer, jail.arguments(uid, firecracker, config), Some(confined))
            }
            _ => (firecracker.as_path(), ["--id", uid, "--api-sock", API_SOCKET].map(str::to_owned).into(), None),
        };
        args.extend(quiet);
        let notes = Notes { version: vmm.line.clone(), jail };
        let outside = |name: &str| notes.outside(name).to_string_lossy().into_owned();
        Ok(vec![Launch {
            accelerator: Accelerator::Kvm,
            accelerator_reason: None,
            helper: None,
            vmm: Program {
                path: path.to_string_lossy().into_owned(),
                args,
                socket: Some(outside(API_SOCKET)),
                confined,
            },
            limits: None,
            logger: Some(outside(LOGGER)),
            metrics: Some(outside(METRICS_PIPE)),
            kernel_vsock_cid: None,
            notes: serde_json::to_value(&notes)
                .map_err(|e| ErrorBody::new(ErrorCode::Host, format!("cannot encode the launch: {e}")))?,
            silence_ms: None,
        }])
    }

    fn prepare(&self, launch: &Launch, config: &MachineConfig) -> Result<(), ErrorBody> {
        let notes = notes(launch)?;
        let failed = |e: &dyn std::fmt::Display| ErrorBody::new(ErrorCode::Host, format!("cannot make a pipe: {e}"));
        if let Some(jail) = &notes.jail {
            jail.make_root()?;
        }
        for pipe in PIPES.map(|name| notes.outside(name)) {
            durable::remove_file(&pipe).map_err(|e| failed(&e))?;
            mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(|e| failed(&e))?;
        }
        notes.jail.as_ref().map_or(Ok(()), |jail| jail.furnish(config))
    }

    fn configure(&self, launch: &Launch, config: &MachineConfig) -> Result<(), ErrorBody> {
        configure::boot(&notes(launch)?, config)
    }

    fn snapshot_facts(&self, launch: &Launch, config: &MachineConfig) -> Result<BTreeMap<String, String>, ErrorBody> {
        Ok(snapshot::facts(&notes(launch)?, config))
    }

    fn check_snapshot(&self, config: &MachineConfig, wanted: &Snapshot) -> Result<(), ErrorBody> {
        snapshot::check(config, wanted)
    }

    fn snapshot(
        &self,
        launch: &Launch,
        _config: &MachineConfig,
        vmm: ProcessId,
        dir: &Path,
        kind: SnapshotKind,
    ) -> Result<(), ErrorBody> {
        snapshot::make(&notes(launch)?, vmm, dir, kind)
    }

    fn prepare_restore(&self, launch: &Launch, _config: &MachineConfig, chain: &[PathBuf]) -> Result<(), ErrorBody> {
        snapshot::prepare(&notes(launch)?, chain)
    }

    fn restore(&self, launch: &Launch, config: &MachineConfig, chain: &[PathBuf]) -> Result<(), ErrorBody> {
        snapshot::load(&notes(launch)?, config, chain)
    }

    fn press_power_button(&self) {
        power::press_button();
    }

    fn set_paused(&self, vmm: ProcessId, paused: bool) -> Result<(), ErrorBody> {
        power::set_paused(vmm, paused)
    }

    /// There is one way to launch.
    fn gave_up(&self, _launch: &Launch, _why: &str) {}
}

fn notes(launch: &Launch) -> Result<Notes, ErrorBody> {
    Notes::deserialize(&launch.notes)
        .map_err(|e| ErrorBody::new(ErrorCode::Host, format!("the shim was started by another supervisor: {e}")))
}
