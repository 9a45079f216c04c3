//! The framework as a backend.

use std::{env, path::Path, sync::OnceLock, time::Duration};

use microagent_base::process::ProcessId;
use microagent_shim::{Backend, Launch, Program, VERBS, VSOCK_SOCKET};
use microagent_supervisor_protocol::{
    Accelerator, Capabilities, Check, CheckStatus, ErrorBody, ErrorCode, Features, Identity, MachineConfig, Verb,
    VsockProvider, vsock,
};
use serde::Deserialize;

use crate::{
    VM,
    control::{self, Request, SOCKET},
    framework::{Finding, Framework, Host},
    kernel,
    machine::Machine,
};

/// How long the framework may take to start a machine: it starts them one after the other.
const START: Duration = Duration::from_secs(40);

/// How long the VMM may take for what the shim waits for; its own bound is shorter.
const CHANGE: Duration = Duration::from_secs(4);

/// The framework on this host.
pub(crate) struct AppleVf {
    framework: &'static dyn Framework,
    host: OnceLock<Host>,
}

impl AppleVf {
    pub(crate) fn new(framework: &'static dyn Framework) -> Self {
        Self { framework, host: OnceLock::new() }
    }

    fn host(&self) -> &Host {
        self.host.get_or_init(|| self.framework.host())
    }
}

impl Backend for AppleVf {
    fn name(&self) -> &'static str {
        "AppleVf"
    }

    fn verbs(&self) -> &[Verb] {
        // The framework has no snapshots of Linux guests.
        &VERBS
    }

    fn max_vcpus(&self) -> u32 {
        self.host().max_vcpus
    }

    fn capabilities(&self) -> Capabilities {
        let lacks = self.host().suits().err();
        Capabilities {
            backend: self.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: self.host().vmm.clone(),
            verbs: VERBS.to_vec(),
            accelerators: if lacks.is_none() { vec![Accelerator::Hvf] } else { Vec::new() },
            accelerator_reason: lacks.map(|lacks| format!("{}; {}", lacks.message, lacks.remediation)),
            kernel_format: Some(kernel::FORMAT),
            max_vcpus: self.max_vcpus(),
            features: Features {
                kernel_formats: vec![kernel::FORMAT],
                vsock: Some(VsockProvider::Vmm),
                ..Features::default()
            },
        }
    }

    fn check(&self, config: Option<&MachineConfig>) -> Vec<Check> {
        let mut checks: Vec<Check> = self.host().findings.iter().map(check).collect();
        let refused = config.and_then(|config| Machine::plan(config, self.host()).err());
        checks.extend(refused.map(|error| failed("Config", &error)));
        checks
    }

    fn launches(&self, _identity: &Identity, config: &MachineConfig) -> Result<Vec<Launch>, ErrorBody> {
        self.host().suits()?;
        let machine = Machine::plan(config, self.host())?;
        let exe = env::current_exe().map_err(|e| host_error("cannot find this executable", &e))?;
        Ok(vec![Launch {
            accelerator: Accelerator::Hvf,
            accelerator_reason: None,
            helper: None,
            vmm: Program {
                path: exe.to_string_lossy().into_owned(),
                args: vec![VM.to_owned()],
                socket: Some(SOCKET.to_owned()),
                confined: None,
            },
            limits: None,
            logger: None,
            metrics: None,
            kernel_vsock_cid: None,
            notes: serde_json::to_value(&machine).map_err(|e| host_error("cannot encode the machine", &e))?,
            silence_ms: None,
        }])
    }

    fn prepare(&self, _launch: &Launch, _config: &MachineConfig) -> Result<(), ErrorBody> {
        let here = env::current_dir().map_err(|e| host_error("cannot tell the machine's directory", &e))?;
        // Clients reach it by its absolute path.
        match vsock::short_path(&here.join(VSOCK_SOCKET)) {
            Err(e) if e.kind() == std::io::ErrorKind::InvalidFilename => {
                Err(ErrorBody::new(ErrorCode::PathTooLong, e.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn configure(&self, launch: &Launch, _config: &MachineConfig) -> Result<(), ErrorBody> {
        let machine = Machine::deserialize(&launch.notes)
            .map_err(|e| host_error("the shim was started by another supervisor", &e))?;
        let owner = ProcessId::own().map_err(|e| host_error("cannot look at a process", &e))?;
        control::ask(Path::new(SOCKET), &Request::Boot { owner, machine }, START)
    }

    fn press_power_button(&self) {
        if let Err(e) = control::ask(Path::new(SOCKET), &Request::PressPowerButton, CHANGE) {
            eprintln!("the power button cannot be pressed: {e}");
        }
    }

    fn set_paused(&self, _vmm: ProcessId, paused: bool) -> Result<(), ErrorBody> {
        control::ask(Path::new(SOCKET), if paused { &Request::Pause } else { &Request::Resume }, CHANGE)
    }

    /// There is one way to launch.
    fn gave_up(&self, _launch: &Launch, _why: &str) {}
}

fn check(finding: &Finding) -> Check {
    match &finding.found {
        Ok(message) => Check {
            name: finding.name.to_owned(),
            status: CheckStatus::Ok,
            message: message.clone(),
            remediation: None,
        },
        Err(error) => failed(finding.name, error),
    }
}

fn failed(name: &str, error: &ErrorBody) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Failed,
        message: error.message.clone(),
        remediation: Some(error.remediation.clone()),
    }
}

fn host_error(what: &str, error: &dyn std::fmt::Display) -> ErrorBody {
    ErrorBody::new(ErrorCode::Host, format!("{what}: {error}"))
}
