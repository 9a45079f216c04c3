//! Which supervisor is called, and how its errors become faults.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use microagent_base::durable;
use microagent_crds::Backend;
use microagent_supervisor_protocol::{CallError, Capabilities, Supervisor};

use super::{
    disks,
    fault::{host_error, host_fault},
};
use crate::memory::Fault;

/// How long a supervisor may take to say what it can do. It probes the hypervisor for that.
const CAPABILITIES_DEADLINE: Duration = Duration::from_secs(20);
/// How long a supervisor may take for a call that starts nothing and awaits nothing.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long `start` may take: it returns once the VMM runs, which includes one failed try of a hypervisor.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Other deadlines, in milliseconds: for tests of supervisors that hang.
const DEADLINE_VARIABLE: &str = "MICROAGENT_SUPERVISOR_DEADLINE_MS";
/// How long an answer holds. Hypervisors and VMMs come and go rarely.
const GOOD_FOR: Duration = Duration::from_secs(600);
/// How long a failure, or the answer that no machine can start, holds.
const BAD_FOR: Duration = Duration::from_secs(10);
/// The file in a machine's directory that names the backend which the machine was first started with.
const CHOICE: &str = "backend";

/// How long supervisors may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    pub(super) call: Duration,
    pub(super) start: Duration,
}

impl Deadlines {
    /// The usual ones, or those of the environment.
    pub(super) fn of_this_process() -> Self {
        let asked = std::env::var(DEADLINE_VARIABLE).ok().and_then(|text| text.parse().ok()).map(Duration::from_millis);
        Self { call: asked.unwrap_or(CALL_DEADLINE), start: asked.unwrap_or(START_DEADLINE) }
    }
}

/// The supervisors of this host and what they can do.
#[derive(Default)]
pub(super) struct Backends {
    known: Mutex<HashMap<&'static str, Answer>>,
}

/// What a supervisor said of itself, and when.
struct Answer {
    at: Instant,
    said: Result<Capabilities, Fault>,
}

/// A supervisor that can start machines.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) name: &'static str,
    pub(super) supervisor: Supervisor,
    pub(super) capabilities: Capabilities,
}

impl Backends {
    /// The supervisor for a new machine. Blocks when its abilities are not known yet.
    pub(super) fn choose(&self, wanted: Backend) -> Result<Chosen, Fault> {
        let candidates: &[&'static str] = match wanted {
            Backend::Auto if cfg!(target_os = "macos") => &["AppleVf", "Qemu"],
            Backend::Auto => &["Firecracker", "Qemu"],
            Backend::Firecracker => &["Firecracker"],
            Backend::Qemu => &["Qemu"],
            Backend::AppleVf => &["AppleVf"],
        };
        let mut reasons = Vec::new();
        for name in candidates {
            match self.capabilities(name) {
                Ok(capabilities) if !capabilities.accelerators.is_empty() => {
                    let supervisor = find(name)?;
                    return Ok(Chosen { name, supervisor, capabilities });
                }
                Ok(capabilities) => {
                    let why =
                        capabilities.accelerator_reason.unwrap_or_else(|| "it can start no machine here".to_owned());
                    reasons.push(format!("{name}: {why}"));
                }
                Err(fault) => reasons.push(format!("{name}: {}", fault.message)),
            }
        }
        Err(Fault {
            code: "BackendUnavailable".to_owned(),
            message: format!(
                "no backend can start a machine on this host; {}; see `microagent doctor`",
                reasons.join("; ")
            ),
            retryable: false,
        })
    }

    fn capabilities(&self, name: &'static str) -> Result<Capabilities, Fault> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Answer { at, said }) = lock().get(name) {
            let usable = said.as_ref().is_ok_and(|c| !c.accelerators.is_empty());
            if at.elapsed() < if usable { GOOD_FOR } else { BAD_FOR } {
                return said.clone();
            }
        }
        let said = find(name).and_then(|s| s.capabilities(CAPABILITIES_DEADLINE).map_err(|e| fault(&e)));
        lock().insert(name, Answer { at: Instant::now(), said: said.clone() });
        said
    }
}

/// The supervisor of the machine in this directory: the one it was started with.
pub(super) fn of_machine(dir: &Path) -> Result<(String, Supervisor), Fault> {
    let path = dir.join(CHOICE);
    match fs::read_to_string(&path) {
        Ok(name) => find(name.trim()).map(|supervisor| (name.trim().to_owned(), supervisor)),
        // Started by nobody yet: only QEMU's supervisor leaves nothing behind without a record.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => find("Qemu").map(|s| ("Qemu".to_owned(), s)),
        Err(e) => Err(host_error(format!("cannot read {}: {e}", path.display()))),
    }
}

/// Remembers with which backend a machine is started, before it is.
pub(super) fn remember(dir: &Path, name: &str) -> Result<(), Fault> {
    let path = dir.join(CHOICE);
    if fs::read_to_string(&path).is_ok_and(|known| known.trim() == name) {
        return Ok(());
    }
    disks::sweep(dir);
    durable::private_dir(dir)
        .and_then(|()| durable::write(&path, format!("{name}\n").as_bytes()))
        .map_err(|e| host_fault(&e))
}

fn find(name: &str) -> Result<Supervisor, Fault> {
    Supervisor::find(name).map_err(|e| fault(&e))
}

/// A failed call as a fault. A supervisor that is absent or speaks nonsense is for a person to mend.
pub(super) fn fault(error: &CallError) -> Fault {
    let code = match error.category() {
        code if code.starts_with("Supervisor") => "SupervisorFailed",
        code => code,
    };
    let message = match error {
        CallError::Refused { error, .. } => {
            let details = error.details.as_ref().map(|text| format!("; it said: {text}")).unwrap_or_default();
            format!("{}; {}{details}", error.message, error.remediation)
        }
        other => other.to_string(),
    };
    Fault { code: code.to_owned(), message, retryable: error.retryable() }
}
