//! The calls, carried out on a machine's directory.

use std::{
    env,
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use microagent_base::{
    lock::{FileLock, LockError},
    process::ProcessId,
};
use microagent_supervisor_protocol::{
    Console, ConsoleRequest, ErrorBody, ErrorCode, HaltRequest, Machine, MachineState, PrepareRequest, Response,
    SnapshotRequest, StartRequest, Target, Verb,
};

use crate::{
    activity,
    backend::Backend,
    config,
    control::{self, Refusal, Wish},
    dir::{ACTIVITY, CONTROL_SOCKET, MachineDir, SHIM_LOCK, SHIM_LOG, host},
    end_of_log,
    handover::Boot,
    record::Record,
};

/// How long a shim that was killed, or was told to kill its machine, may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// How long after the grace period a halt waits: the shim ends the machine 70 seconds after it where there are outputs, takes what is
/// on its way for 30 more, and then records.
const HALT_SLACK: Duration = Duration::from_secs(105);

/// The longest grace period, in seconds: the protocol's word.
const MAX_GRACE: u32 = 3600;

/// The longest answer of a shim, in bytes: a machine and its last words.
const MAX_ANSWER: u64 = 1024 * 1024;

pub(crate) fn prepare(backend: &impl Backend, request: &PrepareRequest) -> Result<Machine, ErrorBody> {
    let dir = open(&request.target)?;
    config::machine(&request.config, backend)?;
    dir.make()?;
    let _lock = dir.lock()?;
    let machine = observe(&dir, &request.target)?;
    Ok(if machine.state == MachineState::Absent {
        Machine { state: MachineState::Prepared, ..machine }
    } else {
        machine
    })
}

pub(crate) fn start(backend: &impl Backend, request: StartRequest) -> Result<Machine, ErrorBody> {
    let dir = open(&request.target)?;
    request.identity.check(&request.target)?;
    dir.make()?;
    let _lock = dir.lock()?;
    let machine = observe(&dir, &request.target)?;
    if let Some(found) = &machine.identity {
        if found.boot_id == request.identity.boot_id {
            return Ok(machine);
        }
        if machine.state != MachineState::Exited {
            let message = format!("{} runs as boot {}", found.name, found.boot_id);
            return Err(ErrorBody::new(ErrorCode::MachineRunning, message));
        }
    }
    config::machine(&request.config, backend)?;
    if request.restore.is_some() && !backend.verbs().contains(&Verb::Snapshot) {
        let message = format!("backend {} has no snapshots to start from", backend.name());
        return Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
    }
    config::guest(&request.guest)?;
    // A shim records the end of its machine a moment before its own.
    if let Some(record) = Record::load(&dir)? {
        record.shim.wait_gone(GONE).map_err(|e| host("cannot wait for the last shim", &e))?;
    }
    let launches = backend.launches(&request.identity, &request.config)?;
    launch(
        &dir,
        &Boot {
            machine_dir: dir.path().to_owned(),
            identity: request.identity,
            config: request.config,
            guest: Box::new(request.guest),
            launches,
            restore: request.restore,
        },
    )
}

/// Starts a shim and waits until it has the VMM running.
fn launch(dir: &MachineDir, boot: &Boot) -> Result<Machine, ErrorBody> {
    let exe = env::current_exe().map_err(|e| host("cannot find this executable", &e))?;
    let log = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join(SHIM_LOG))
        .map_err(|e| host("cannot make shim.log", &e))?;
    let mut shim = Command::new(exe)
        .arg("shim")
        .arg(dir.path())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| host("cannot start the shim", &e))?;
    let encoded = serde_json::to_vec(boot).map_err(|e| host("cannot encode the machine", &e.into()))?;
    // A shim that ends before it has read all says why on its other pipe.
    let written = shim.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(&encoded));
    let mut answer = Vec::new();
    if let Some(pipe) = shim.stdout.take() {
        pipe.take(MAX_ANSWER).read_to_end(&mut answer).map_err(|e| host("cannot hear the shim", &e))?;
    }
    let Ok(response) = serde_json::from_slice::<Response>(&answer) else {
        let said = std::fs::read_to_string(dir.join(SHIM_LOG)).unwrap_or_default();
        let why = written.err().map_or(String::new(), |e| format!(" ({e})"));
        let message = format!("the shim ended before its machine ran{why}");
        return Err(ErrorBody::new(ErrorCode::Host, message).with_details(said.trim()));
    };
    match (response.error, response.machine) {
        (Some(error), _) => {
            // It has nothing left to do but to end, and whoever is told that there is no machine must find none.
            if let Ok(shim) = ProcessId::of(shim.id()) {
                shim.wait_gone(GONE).map_err(|e| host("cannot wait for the shim", &e))?;
            }
            Err(error)
        }
        (None, Some(machine)) => Ok(machine),
        (None, None) => Err(ErrorBody::new(ErrorCode::Host, "the shim did not tell its machine")),
    }
}

pub(crate) fn inspect(target: &Target) -> Result<Machine, ErrorBody> {
    let dir = open(target)?;
    let mut machine = observe(&dir, target)?;
    machine.active_at =
        machine.started_at.and_then(|started| activity::last(&dir.join(ACTIVITY), started, Timestamp::now()));
    Ok(machine)
}

/// The machine, and the end of its console log.
pub(crate) fn console(request: &ConsoleRequest) -> Result<(Machine, Console), ErrorBody> {
    let dir = open(&request.target)?;
    Ok((observe(&dir, &request.target)?, end_of_log::console(&dir, request)?))
}

/// Makes a snapshot of the machine.
pub(crate) fn snapshot(request: &SnapshotRequest) -> Result<Machine, ErrorBody> {
    change(&request.target, Wish::Snapshot(request.snapshot.clone()))
}

/// Pauses, resumes, quarantines or writes down the machine.
pub(crate) fn change(target: &Target, wish: Wish) -> Result<Machine, ErrorBody> {
    let dir = open(target)?;
    let machine = observe(&dir, target)?;
    if !matches!(machine.state, MachineState::Running | MachineState::Paused | MachineState::Quarantined) {
        return Err(ErrorBody::new(ErrorCode::MachineNotRunning, format!("the machine is {:?}", machine.state)));
    }
    match control::tell(&dir.join(CONTROL_SOCKET), wish) {
        Ok(()) => observe(&dir, target),
        Err(Refusal::Told(error)) => Err(*error),
        Err(Refusal::Deaf(e)) => match observe(&dir, target)?.state {
            MachineState::Exited => {
                Err(ErrorBody::new(ErrorCode::MachineNotRunning, "the machine ended before it could be told"))
            }
            _ => Err(host("the shim does not answer", &e)),
        },
    }
}

pub(crate) fn halt(request: &HaltRequest) -> Result<Machine, ErrorBody> {
    let grace_seconds = request.halt.grace_seconds;
    if grace_seconds > MAX_GRACE {
        let message = format!("a grace period of {grace_seconds} s: at most {MAX_GRACE} s can be had");
        return Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
    }
    let patience = Duration::from_secs(u64::from(grace_seconds)) + HALT_SLACK;
    stop(&request.target, Wish::Halt { grace_seconds }, (!request.halt.no_wait).then_some(patience))
}

pub(crate) fn kill(target: &Target) -> Result<Machine, ErrorBody> {
    stop(target, Wish::Kill, Some(GONE))
}

pub(crate) fn delete(target: &Target) -> Result<Machine, ErrorBody> {
    let dir = open(target)?;
    let Some(_lock) = dir.lock()? else { return Ok(Machine::bare(&target.uid, MachineState::Absent)) };
    kill(target)?;
    end_unrecorded(&dir)?;
    crate::cgroup::Groups::of_host().remove(&target.uid)?;
    dir.clean()?;
    Ok(Machine::bare(&target.uid, MachineState::Absent))
}

/// Ends the machine as wished and waits for its shim; `patience` is for that.
fn stop(target: &Target, wish: Wish, patience: Option<Duration>) -> Result<Machine, ErrorBody> {
    let dir = open(target)?;
    observe(&dir, target)?;
    // It may have ended since that look.
    let Some(record) = Record::load(&dir)?.filter(|r| !r.has_ended()) else { return observe(&dir, target) };
    let told = control::tell(&dir.join(CONTROL_SOCKET), wish);
    let gone = match (told, patience) {
        (Ok(()), None) => return observe(&dir, target),
        (Ok(()), Some(patience)) => record.shim.wait_gone(patience),
        // It may be at its own end; otherwise it does not listen and has to be killed.
        (Err(_), _) => record.shim.wait_gone(Duration::from_secs(1)),
    };
    if !gone.map_err(|e| host("cannot wait for the shim", &e))? {
        end(&record)?;
        if let Some(record) = Record::load(&dir)?.filter(|r| !r.has_ended()) {
            record.lost(true).save(&dir)?;
        }
    }
    observe(&dir, target)
}

/// Kills everything that a record names. The kernel kills what the shim started when the shim ends.
fn end(record: &Record) -> Result<(), ErrorBody> {
    for process in [Some(record.shim), record.vmm, record.helper].into_iter().flatten() {
        end_process(process)?;
    }
    Ok(())
}

fn end_process(process: ProcessId) -> Result<(), ErrorBody> {
    let failed = |e| host(&format!("cannot end process {}", process.pid), &e);
    process.signal(rustix::process::Signal::KILL).map_err(failed)?;
    if process.wait_gone(GONE).map_err(failed)? {
        return Ok(());
    }
    Err(ErrorBody::new(ErrorCode::Host, format!("process {} does not end although it was killed", process.pid)))
}

/// Ends a shim that has written no record yet because its `start` was killed.
fn end_unrecorded(dir: &MachineDir) -> Result<(), ErrorBody> {
    let path = dir.join(SHIM_LOCK);
    if !path.exists() {
        return Ok(());
    }
    match FileLock::try_exclusive(&path) {
        Ok(_lock) => Ok(()),
        Err(LockError::Held { holder: Some(pid), .. }) => match ProcessId::of(pid) {
            Ok(shim) => end_process(shim),
            Err(_) => Ok(()),
        },
        Err(e) => Err(ErrorBody::new(ErrorCode::MachineBusy, e.to_string())),
    }
}

/// What is true. A record whose shim is gone is set right, and what is left of the machine is ended.
fn observe(dir: &MachineDir, target: &Target) -> Result<Machine, ErrorBody> {
    let Some(record) = Record::load(dir)? else { return Ok(Machine::bare(&target.uid, MachineState::Absent)) };
    if record.machine.uid != target.uid {
        let message = format!("{} belongs to {}, not to {}", dir.path().display(), record.machine.uid, target.uid);
        return Err(ErrorBody::new(ErrorCode::IdentityMismatch, message));
    }
    if record.has_ended() || record.shim.is_alive() {
        return Ok(record.machine);
    }
    // It may have written its last record between the two looks.
    let record = match Record::load(dir)? {
        Some(record) if !record.has_ended() => record,
        Some(record) => return Ok(record.machine),
        None => return Ok(Machine::bare(&target.uid, MachineState::Absent)),
    };
    end(&record)?;
    let record = record.lost(false);
    record.save(dir)?;
    Ok(record.machine)
}

fn open(target: &Target) -> Result<MachineDir, ErrorBody> {
    target.check()?;
    MachineDir::new(&target.machine_dir)
}
