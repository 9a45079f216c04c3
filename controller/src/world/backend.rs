//! Which supervisor is called, and how its errors become faults.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use microagent_base::durable;
use microagent_supervisor_protocol::{CallError, Capabilities, Supervisor};

use super::{
    choice::{self, Wanted},
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
/// The file in a machine's directory that names the backend which the machine was started with, and on a second line why not a better one.
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
    /// Why it is not one that would be better.
    pub(super) why: Option<String>,
    pub(super) supervisor: Supervisor,
    pub(super) capabilities: Capabilities,
}

impl Backends {
    /// The supervisor for a new machine. Blocks when its abilities are not known yet.
    pub(super) fn choose(&self, wanted: Wanted) -> Result<Chosen, Fault> {
        let asked: Vec<_> = wanted.names().iter().map(|name| (*name, self.capabilities(name))).collect();
        let candidates: Vec<_> =
            asked.iter().map(|(name, said)| (*name, said.as_ref().map_err(|fault| fault.message.as_str()))).collect();
        let (name, why) = choice::choose(wanted, &candidates).map_err(|reasons| Fault {
            code: "BackendUnavailable".to_owned(),
            message: format!("no backend can start this machine here; {reasons}; see `microagent doctor`"),
            retryable: false,
        })?;
        Ok(Chosen { name, why, supervisor: find(name)?, capabilities: self.capabilities(name)? })
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

/// The note of a machine's start, which [`read_note`] reads, and the supervisor that the machine was started with.
pub(super) fn of_machine(dir: &Path) -> Result<(String, Supervisor), Fault> {
    let path = dir.join(CHOICE);
    let note = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Started by nobody yet: only QEMU's supervisor leaves nothing behind without a record.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => "Qemu".to_owned(),
        Err(e) => return Err(host_error(format!("cannot read {}: {e}", path.display()))),
    };
    let supervisor = find(read_note(&note).0)?;
    Ok((note, supervisor))
}

/// The backend that a machine was started with, and why not with a better one.
pub(super) fn read_note(note: &str) -> (&str, Option<&str>) {
    let (name, why) = note.split_once('\n').unwrap_or((note, ""));
    (name.trim(), Some(why.trim()).filter(|why| !why.is_empty()))
}

/// Remembers with which backend a machine is started, before it is.
pub(super) fn remember(dir: &Path, chosen: &Chosen) -> Result<(), Fault> {
    let path = dir.join(CHOICE);
    let why = chosen.why.as_ref().map(|why| format!("{}\n", why.replace('\n', " "))).unwrap_or_default();
    let text = format!("{}\n{why}", chosen.name);
    if fs::read_to_string(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    disks::sweep(dir);
    durable::private_dir(dir).and_then(|()| durable::write(&path, text.as_bytes())).map_err(|e| host_fault(&e))
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
