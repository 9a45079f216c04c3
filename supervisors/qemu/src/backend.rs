//! QEMU as a backend.

use std::{sync::OnceLock, time::Duration};

use microagent_base::{Digest, process::ProcessId};
use microagent_shim::{
    Backend, Launch, Program, VERBS,
    cgroup::{Groups, Limits},
    kvm,
    memory::Memory,
    program::version_line,
};
use microagent_supervisor_protocol::{
    Accelerator, Capabilities, Check, CheckStatus, ErrorBody, ErrorCode, Features, Identity, KernelFormat,
    MachineConfig, QemuMachine, Verb, VsockProvider,
};

use crate::{
    command::{self, Plan, VHOST_SOCKET},
    host::{self, Vsock},
    tsc::{self, Tsc},
};

/// How long the console may stay silent under KVM before the translator is tried, in milliseconds. Guests print within a
/// fraction of a second; five seconds leave room for a busy host.
const KVM_SILENCE_MS: u64 = 5000;

/// What QEMU and the program that serves vsock may take beyond the guest's memory, in MiB. They take some 60; the rest is for what the
/// kernel counts to them.
const OVERHEAD_MIB: u64 = 256;

/// The most that QEMU keeps of translated code, in MiB: the default of `-accel tcg,tb-size` on 64-bit hosts.
const TRANSLATED_MIB: u64 = 1024;

/// How many threads QEMU may have beside one for each virtual CPU: its pool for I/O has 64 at most.
const THREADS: u32 = 128;

/// How long QEMU may take to stand still: a thread stops when its disk has answered.
const STILL: Duration = Duration::from_secs(5);

/// QEMU on this host.
pub(crate) struct Qemu {
    /// Why KVM does not work; looked for at most once in a call.
    kvm: OnceLock<Option<String>>,
}

impl Qemu {
    pub(crate) fn new() -> Self {
        Self { kvm: OnceLock::new() }
    }

    fn kvm_broken(&self) -> Option<String> {
        self.kvm.get_or_init(|| Memory::recall().kvm_broken.or_else(|| kvm::probe().err().map(|e| e.why))).clone()
    }

    /// The accelerators to try, best first, and why the first is not a better one.
    fn accelerators(&self, asked: Option<Accelerator>) -> Result<(Vec<Accelerator>, Option<String>), ErrorBody> {
        let unavailable = |why| Err(ErrorBody::new(ErrorCode::AcceleratorUnavailable, why));
        match asked {
            Some(Accelerator::Hvf) => unavailable("Hvf is Apple's and not on this host".to_owned()),
            Some(Accelerator::Tcg) => Ok((vec![Accelerator::Tcg], None)),
            Some(Accelerator::Kvm) => match self.kvm_broken() {
                Some(why) => unavailable(why),
                None => Ok((vec![Accelerator::Kvm], None)),
            },
            None => Ok(match self.kvm_broken() {
                Some(why) => (vec![Accelerator::Tcg], Some(why)),
                None => (vec![Accelerator::Kvm, Accelerator::Tcg], None),
            }),
        }
    }
}

impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "Qemu"
    }

    fn verbs(&self) -> &[Verb] {
        &VERBS
    }

    fn max_vcpus(&self) -> u32 {
        255
    }

    fn capabilities(&self) -> Capabilities {
        let (qemu, vsock) = (host::qemu(), host::vsock());
        let lacks = match (&qemu, &vsock) {
            (None, _) => Some(no_qemu()),
            (_, None) => Some(no_vsock()),
            _ => None,
        };
        // What keeps every machine from starting is told before what only makes them slow.
        let (accelerators, accelerator_reason) = match lacks {
            Some(lacks) => (Vec::new(), Some(format!("{}; {}", lacks.message, lacks.remediation))),
            None => self.accelerators(None).unwrap_or_default(),
        };
        Capabilities {
            backend: self.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: qemu.as_deref().and_then(version_line),
            verbs: VERBS.to_vec(),
            accelerators,
            accelerator_reason,
            kernel_format: Some(if cfg!(target_arch = "x86_64") { KernelFormat::Elf } else { KernelFormat::Image }),
            max_vcpus: self.max_vcpus(),
            features: Features {
                kernel_formats: if cfg!(target_arch = "x86_64") {
                    vec![KernelFormat::Elf, KernelFormat::BzImage]
                } else {
                    Vec::new()
                },
                vsock: vsock.map(|vsock| match vsock {
                    Vsock::Kernel => VsockProvider::Kernel,
                    Vsock::Program(_) => VsockProvider::Program,
                }),
                ..Features::default()
            },
        }
    }

    fn check(&self, config: Option<&MachineConfig>) -> Vec<Check> {
        let mut checks = vec![check_qemu(), check_vsock()];
        checks.push(match self.kvm_broken() {
            None => check("Kvm", CheckStatus::Ok, "a virtual machine runs instructions".to_owned(), None),
            // Not the catalogue's words, which are for a machine that asks for KVM.
            Some(why) => Check {
                name: "Kvm".to_owned(),
                status: CheckStatus::Warning,
                message: why,
                remediation: Some(
                    "machines run translated (TCG), slower; to use KVM, mend what the message names".to_owned(),
                ),
            },
        });
        checks.push(match Groups::of_host().ready() {
            Ok(()) => check("ControlGroups", CheckStatus::Ok, "machines are bounded by control groups".to_owned(), None),
            Err(why) => Check {
                name: "ControlGroups".to_owned(),
                status: CheckStatus::Warning,
                message: format!("what QEMU takes of the host is not bounded: {why}"),
                remediation: Some(
                    "nothing, where the guests are trusted to that point; else run microagent as root on a host with control groups \
                     of version 2"
                        .to_owned(),
                ),
            },
        });
        if let Some(Err(error)) = config.map(|c| machine_type(c).and_then(|_| self.accelerators(asked(c)))) {
            checks.push(check("Config", CheckStatus::Failed, error.message, Some(error.code)));
        }
        checks
    }

    fn launches(&self, identity: &Identity, config: &MachineConfig) -> Result<Vec<Launch>, ErrorBody> {
        let machine = machine_type(config)?;
        let qemu = host::qemu().ok_or_else(no_qemu)?;
        let vsock = host::vsock().ok_or_else(no_vsock)?;
        let (accelerators, reason) = self.accelerators(asked(config))?;
        let cid = cid(identity);
        let khz = if accelerators.contains(&Accelerator::Tcg) { tsc_khz() } else { None };
        let tsc = khz.map(|khz| Tsc { khz, steady: tsc::is_steady() });
        let plan = |accelerator| Plan { uid: &identity.uid, config, machine, accelerator, tsc, vsock: &vsock, cid };
        let bounded = Groups::of_host().ready().is_ok();
        let launch = |accelerator| Launch {
            accelerator,
            accelerator_reason: reason.clone(),
            helper: match &vsock {
                Vsock::Kernel => None,
                Vsock::Program(path) => Some(Program {
                    path: path.to_string_lossy().into_owned(),
                    args: command::vsock_arguments(cid),
                    socket: Some(VHOST_SOCKET.to_owned()),
                    confined: None,
                }),
            },
            vmm: Program {
                path: qemu.to_string_lossy().into_owned(),
                args: command::arguments(&plan(accelerator)),
                socket: None,
                confined: None,
            },
            limits: bounded.then(|| limits(config, accelerator)),
            logger: None,
            metrics: None,
            notes: serde_json::Value::Null,
            kernel_vsock_cid: (vsock == Vsock::Kernel).then_some(cid),
            silence_ms: (accelerator == Accelerator::Kvm).then_some(KVM_SILENCE_MS),
        };
        Ok(accelerators.into_iter().map(launch).collect())
    }

    /// By signals, which a QEMU that its guest has taken over cannot refuse. Not by QMP: its `stop` also stops the vhost-user device,
    /// and vhost-device-vsock (0.3) gives up its work at the first byte of the host that it cannot place; the machine could never be
    /// reached again.
    fn set_paused(&self, vmm: ProcessId, paused: bool) -> Result<(), ErrorBody> {
        let changed = if paused { vmm.stop(STILL) } else { vmm.run_on() };
        changed.map_err(|e| {
            let doing = if paused { "paused" } else { "let run on" };
            ErrorBody::new(ErrorCode::VmmFailed, format!("QEMU, process {}, cannot be {doing}: {e}", vmm.pid))
        })
    }

    fn gave_up(&self, launch: &Launch, why: &str) {
        if launch.accelerator == Accelerator::Kvm {
            Memory { kvm_broken: Some(format!("KVM does not run this host's guests: {why}")), ..Memory::recall() }
                .keep();
        }
    }
}

/// What the programs of the machine may take of the host.
fn limits(config: &MachineConfig, accelerator: Accelerator) -> Limits {
    let code = if accelerator == Accelerator::Tcg { TRANSLATED_MIB } else { 0 };
    Limits {
        memory: config.memory_mib.saturating_add(OVERHEAD_MIB + code).saturating_mul(1 << 20),
        threads: config.vcpus.saturating_add(THREADS),
    }
}

fn asked(config: &MachineConfig) -> Option<Accelerator> {
    config.qemu.and_then(|q| q.accelerator)
}

/// `microvm` where nothing else is asked for: it starts fastest, and has the fewest devices.
fn machine_type(config: &MachineConfig) -> Result<QemuMachine, ErrorBody> {
    let unsupported = |message| Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
    if !cfg!(target_arch = "x86_64") {
        return unsupported("QEMU machines on hosts other than x86-64 are not supported yet");
    }
    if config.kernel.format == KernelFormat::Image {
        return unsupported("a kernel of format image is for arm64, this host is x86-64");
    }
    Ok(config.qemu.and_then(|q| q.machine).unwrap_or(QemuMachine::Microvm))
}

/// An address that no other machine of this host has: 30 bits of the boot's digest, past the reserved ones.
fn cid(identity: &Identity) -> u32 {
    let digest = Digest::of(format!("{}/{}", identity.uid, identity.boot_id).as_bytes());
    let [a, b, c, d, ..] = *digest.bytes();
    (u32::from_be_bytes([a, b, c, d]) & 0x3FFF_FFFF) | 0x4000_0000
}

/// Measured once in a boot of the host.
fn tsc_khz() -> Option<u64> {
    let memory = Memory::recall();
    memory.tsc_khz.or_else(|| {
        let tsc_khz = tsc::measure_khz();
        Memory { tsc_khz, ..memory }.keep();
        tsc_khz
    })
}

fn no_qemu() -> ErrorBody {
    let message = format!("{} is not in PATH, nor named by MICROAGENT_QEMU", host::EMULATOR);
    ErrorBody::new(ErrorCode::VmmNotFound, message)
}

fn no_vsock() -> ErrorBody {
    let message = format!("/dev/vhost-vsock cannot be used by this user, and {} is not found", host::VSOCK_PROGRAM);
    ErrorBody::new(ErrorCode::VsockNotFound, message)
}

fn check(name: &str, status: CheckStatus, message: String, code: Option<ErrorCode>) -> Check {
    let remediation = code.map(|c| c.remediation().to_owned());
    Check { name: name.to_owned(), status, message, remediation }
}

fn check_qemu() -> Check {
    let failed = |code, message| check("QemuBinary", CheckStatus::Failed, message, Some(code));
    let Some(path) = host::qemu() else {
        let remediation = format!("install QEMU; the package of Debian and Ubuntu is {}", host::PACKAGE);
        return Check { remediation: Some(remediation), ..failed(ErrorCode::VmmNotFound, no_qemu().message) };
    };
    let Some(line) = version_line(&path) else {
        return failed(ErrorCode::VmmUnsuitable, format!("{} does not tell its version", path.display()));
    };
    match host::version(&line) {
        Some(version) if version >= host::MIN_VERSION => {
            check("QemuBinary", CheckStatus::Ok, format!("{}: {line}", path.display()), None)
        }
        _ => {
            let (major, minor) = host::MIN_VERSION;
            failed(ErrorCode::VmmUnsuitable, format!("{}: {line}; {major}.{minor} is needed", path.display()))
        }
    }
}

fn check_vsock() -> Check {
    match host::vsock() {
        Some(Vsock::Kernel) => check("Vsock", CheckStatus::Ok, "/dev/vhost-vsock".to_owned(), None),
        Some(Vsock::Program(path)) => check("Vsock", CheckStatus::Ok, path.display().to_string(), None),
        None => check("Vsock", CheckStatus::Failed, no_vsock().message, Some(ErrorCode::VsockNotFound)),
    }
}
