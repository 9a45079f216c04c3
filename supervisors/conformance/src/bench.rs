//! One machine under test.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{
    Capabilities, ErrorBody, ErrorCode, Halt, HaltRequest, Identity, Machine, MachineConfig, MachineRequest,
    MachineState, PROTOCOL, PrepareRequest, Request, Response, StartRequest, Supervisor, Target, Verb,
};
use tempfile::TempDir;

use crate::{
    Parts,
    check::{Trouble, own, require},
    processes,
};

/// How long one call may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How soon the end of a machine must show once its processes were killed, and how soon they must all be gone. The protocol's word is a
/// second; the rest is for a busy host.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Between two looks at what nothing tells of.
const LOOK: Duration = Duration::from_millis(20);

/// One machine under test: a UID and a directory of its own. Whatever a check leaves of it is ended when this is dropped.
pub(crate) struct Bench<'a> {
    pub(crate) supervisor: &'a Supervisor,
    pub(crate) capabilities: Option<&'a Capabilities>,
    parts: &'a dyn Parts,
    home: TempDir,
    pub(crate) uid: String,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        supervisor: &'a Supervisor,
        parts: &'a dyn Parts,
        capabilities: Option<&'a Capabilities>,
    ) -> Result<Self, Trouble> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("conformance-{}-{number}", std::process::id());
        let home =
            tempfile::Builder::new().prefix("mac-").tempdir().map_err(|e| own("has no temporary directory", &e))?;
        std::fs::create_dir(home.path().join("parts")).map_err(|e| own("cannot make a directory", &e))?;
        Ok(Self { supervisor, capabilities, parts, home, uid })
    }

    /// The directory of this check. Nothing of it is the supervisor's but [`Self::dir`].
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The machine's directory. It is not there before the supervisor makes it.
    pub(crate) fn dir(&self) -> PathBuf {
        self.home().join("m")
    }

    pub(crate) fn target(&self) -> Target {
        Target { uid: self.uid.clone(), machine_dir: self.dir() }
    }

    /// Skips the check where the supervisor does not have one of these verbs.
    pub(crate) fn needs(&self, verbs: &[Verb]) -> Result<(), Trouble> {
        let had = &self.known()?.verbs;
        match verbs.iter().find(|verb| !had.contains(verb)) {
            Some(verb) => Err(Trouble::Skipped(format!("it does not have the verb {}", verb.as_str()))),
            None => Ok(()),
        }
    }

    /// Skips the check where the host cannot start machines.
    pub(crate) fn needs_machines(&self) -> Result<(), Trouble> {
        let known = self.known()?;
        self.needs(&Verb::REQUIRED)?;
        if known.accelerators.is_empty() {
            let why = known.accelerator_reason.as_deref().unwrap_or("it does not say why");
            return Err(Trouble::Skipped(format!("it can start no machine on this host: {why}")));
        }
        Ok(())
    }

    pub(crate) fn known(&self) -> Result<&'a Capabilities, Trouble> {
        self.capabilities.ok_or_else(|| Trouble::Failed("it does not answer `capabilities`".to_owned()))
    }

    pub(crate) fn config(&self) -> Result<MachineConfig, Trouble> {
        self.parts.config(&self.home().join("parts")).map_err(|e| own("cannot make a machine's files", &e))
    }

    pub(crate) fn start_request(&self, boot_id: &str) -> Result<StartRequest, Trouble> {
        Ok(StartRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            identity: Identity {
                uid: self.uid.clone(),
                name: "conformance/machine".to_owned(),
                generation: 1,
                boot_id: boot_id.to_owned(),
            },
            config: self.config()?,
            guest: self.parts.guest(boot_id),
            restore: None,
        })
    }

    pub(crate) fn about(&self) -> MachineRequest {
        MachineRequest { protocol: PROTOCOL.to_owned(), target: self.target() }
    }

    /// The request of a verb about this machine, where it needs nothing further.
    pub(crate) fn plain(&self, verb: Verb) -> Request {
        let about = self.about();
        match verb {
            Verb::Pause => Request::Pause(about),
            Verb::Resume => Request::Resume(about),
            Verb::Quarantine => Request::Quarantine(about),
            Verb::Halt => self.halt_request(1, false),
            Verb::Kill => Request::Kill(about),
            Verb::Delete => Request::Delete(about),
            _ => Request::Inspect(about),
        }
    }

    pub(crate) fn halt_request(&self, grace_seconds: u32, no_wait: bool) -> Request {
        let halt = Halt { grace_seconds, no_wait };
        Request::Halt(HaltRequest { protocol: PROTOCOL.to_owned(), target: self.target(), halt })
    }

    pub(crate) fn prepare_request(&self) -> Result<Request, Trouble> {
        Ok(Request::Prepare(PrepareRequest {
            protocol: PROTOCOL.to_owned(),
            target: self.target(),
            config: self.config()?,
        }))
    }

    /// Makes a call; whether the answer is `ok` is not judged.
    pub(crate) fn call(&self, request: &Request) -> Result<Response, Trouble> {
        let response = self.supervisor.call(request, PATIENCE)?;
        if let (Some(machine), Some(target)) = (&response.machine, request.target()) {
            sound(machine, &target.uid)?;
        }
        Ok(response)
    }

    /// Makes a call that must be `ok` and tell of the machine.
    pub(crate) fn machine(&self, request: &Request) -> Result<Machine, Trouble> {
        let verb = request.verb().as_str();
        let response = self.call(request)?;
        match (response.error, response.machine) {
            (Some(error), _) => Err(Trouble::Failed(format!("`{verb}` failed: {error}"))),
            (None, Some(machine)) => Ok(machine),
            (None, None) => Err(Trouble::Failed(format!("the answer to `{verb}` does not tell the machine"))),
        }
    }

    /// Makes a call that must be refused for one of these causes.
    pub(crate) fn refused(&self, request: &Request, causes: &[ErrorCode]) -> Result<Response, Trouble> {
        let response = self.call(request)?;
        check_refusal(request.verb().as_str(), response.error.as_ref(), causes)?;
        Ok(response)
    }

    /// Gives these bytes for a request, which must be refused for one of these causes.
    pub(crate) fn refused_bytes(&self, what: &str, bytes: &[u8], causes: &[ErrorCode]) -> Result<(), Trouble> {
        let response = self.supervisor.ask(bytes, Verb::Inspect, PATIENCE)?;
        check_refusal(what, response.error.as_ref(), causes)
    }

    pub(crate) fn inspect(&self) -> Result<Machine, Trouble> {
        self.machine(&Request::Inspect(self.about()))
    }

    /// Starts the machine; gives what `start` told.
    pub(crate) fn start(&self, boot_id: &str) -> Result<Machine, Trouble> {
        self.needs_machines()?;
        self.machine(&Request::Start(Box::new(self.start_request(boot_id)?)))
    }

    /// Starts the machine and waits until its guest has its configuration.
    pub(crate) fn running(&self, boot_id: &str) -> Result<Machine, Trouble> {
        self.start(boot_id)?;
        self.ready()
    }

    /// Waits until the guest has its configuration, as long as the machine's own configuration lets it take.
    pub(crate) fn ready(&self) -> Result<Machine, Trouble> {
        let patience = Duration::from_millis(self.config()?.boot_timeout_ms) + SOON;
        self.until(patience, "its guest is ready", |m| m.state == MachineState::Running && m.guest.ready)
    }

    /// Looks until it is so.
    pub(crate) fn until(
        &self,
        patience: Duration,
        what: &str,
        so: impl Fn(&Machine) -> bool,
    ) -> Result<Machine, Trouble> {
        let until = Instant::now() + patience;
        loop {
            let machine = self.inspect()?;
            if so(&machine) {
                return Ok(machine);
            }
            if machine.state == MachineState::Exited {
                let why = machine.failure.map_or_else(|| "without a failure".to_owned(), |f| f.to_string());
                return Err(Trouble::Failed(format!("the machine ended before {what}: {why}")));
            }
            require(Instant::now() < until, || {
                format!("within {patience:?} it was not so that {what}: the machine is {:?}", machine.state)
            })?;
            thread::sleep(LOOK);
        }
    }

    /// The processes of the machine.
    pub(crate) fn processes(&self) -> Result<Vec<ProcessId>, Trouble> {
        processes::of(&self.dir(), &self.uid).map_err(|e| own("cannot look at the processes", &e))
    }

    /// Waits until no process of the machine is left.
    pub(crate) fn gone(&self, after: &str) -> Result<(), Trouble> {
        let until = Instant::now() + SOON;
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            let pids: Vec<_> = left.iter().map(|process| process.pid).collect();
            require(Instant::now() < until, || format!("processes of the machine are left after {after}: {pids:?}"))?;
            thread::sleep(LOOK);
        }
    }

    /// Deletes the machine, after which nothing of it may be left.
    pub(crate) fn leave(&self) -> Result<(), Trouble> {
        if !self.dir().exists() || self.needs(&Verb::REQUIRED).is_err() {
            return Ok(());
        }
        let machine = self.machine(&Request::Delete(self.about()))?;
        require(machine.state == MachineState::Absent, || {
            format!("after `delete` the machine is {:?}, not absent", machine.state)
        })?;
        self.gone("`delete`")?;
        let left = entries(&self.dir())?;
        require(left.is_empty(), || format!("`delete` left in the machine's directory: {left:?}"))
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // A check that failed may have left anything; what is killed here was told, or will never be asked for.
        if self.dir().exists() {
            let _ = self.supervisor.call(&Request::Delete(self.about()), PATIENCE);
        }
        for process in processes::of(&self.dir(), &self.uid).unwrap_or_default() {
            let _ = processes::kill(process);
        }
    }
}

/// The names in a directory; none when it is absent.
pub(crate) fn entries(dir: &Path) -> Result<Vec<String>, Trouble> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            let mut names: Vec<_> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            Ok(names)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(own("cannot list the machine's directory", &e)),
    }
}

fn check_refusal(what: &str, error: Option<&ErrorBody>, causes: &[ErrorCode]) -> Result<(), Trouble> {
    let names = || causes.iter().map(|cause| cause.as_str()).collect::<Vec<_>>().join(" or ");
    let Some(error) = error else {
        return Err(Trouble::Failed(format!("{what} is answered with ok, not with {}", names())));
    };
    require(causes.contains(&error.code), || format!("{what} is answered with {error}, not with {}", names()))?;
    require(!error.message.is_empty() && !error.remediation.is_empty(), || {
        format!("the error {} does not say what is wrong and what to do", error.code)
    })
}

/// What is true of every machine that is told.
fn sound(machine: &Machine, uid: &str) -> Result<(), Trouble> {
    use MachineState::{Absent, Exited, Prepared};
    let state = machine.state;
    require(machine.uid == uid, || format!("it tells of the machine {}, not of {uid}", machine.uid))?;
    let over = matches!(state, Absent | Prepared | Exited);
    require(matches!(state, Absent | Prepared) || machine.identity.is_some(), || {
        format!("a machine that is {state:?} is told without its identity")
    })?;
    require(!over || (machine.owner.is_none() && machine.vsock.is_none()), || {
        format!("a machine that is {state:?} is told with an owner or a vsock socket")
    })?;
    require(over || machine.owner.is_some(), || format!("a machine that is {state:?} is told without its owner"))?;
    require(state != Exited || machine.finished_at.is_some(), || {
        "a machine that has ended is told without the time".to_owned()
    })?;
    require(state == Exited || machine.finished_at.is_none(), || {
        format!("a machine that is {state:?} is told with the time of its end")
    })
}

/// The owner of a machine that runs, as a process.
pub(crate) fn owner(machine: &Machine) -> Result<ProcessId, Trouble> {
    let owner = machine.owner.ok_or_else(|| Trouble::Failed("the machine is told without its owner".to_owned()))?;
    let process = ProcessId { pid: owner.pid, start_time: owner.start_time, boot: None };
    require(process.is_alive(), || {
        format!("the owner, process {} started at tick {}, does not live", owner.pid, owner.start_time)
    })?;
    Ok(process)
}
