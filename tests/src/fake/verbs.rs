//! What the fake supervisor does when it is asked.

use std::{
    env,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use microagent_base::durable;
use microagent_supervisor_protocol::{
    Accelerator, Capabilities, ErrorBody, ErrorCode, Exit, Features, KernelFormat, Machine, MachineState, Owner,
    Request, Response, StartRequest, Verb,
};
use rustix::{fs::FlockOperation, process::Signal};

use super::{
    INSTANT_VARIABLE, Lie,
    machine::{Birth, UP, run},
    record::{clean, end, host, load, lock, observe, process, save},
};

/// How long a machine that was killed may take to be gone, on a busy host.
const GONE: Duration = Duration::from_secs(10);

pub(super) fn carry_out(request: Request, lie: Option<Lie>) -> Result<Response, ErrorBody> {
    if let Some(target) = request.target() {
        target.check()?;
    }
    let verb = request.verb();
    let machine = match request {
        Request::Capabilities(_) => return Ok(Response { capabilities: Some(capabilities()), ..Response::ok() }),
        Request::Check(_) => return Ok(Response::ok()),
        Request::Prepare(r) => {
            durable::private_dir(&r.target.machine_dir).map_err(|e| host(&e))?;
            let machine = observe(&r.target.machine_dir, &r.target.uid)?;
            let absent = machine.state == MachineState::Absent;
            if absent { Machine { state: MachineState::Prepared, ..machine } } else { machine }
        }
        Request::Start(r) => start(*r, lie)?,
        Request::Inspect(r) => observe(&r.target.machine_dir, &r.target.uid)?,
        Request::Pause(r) => change(&r.target.machine_dir, &r.target.uid, MachineState::Paused)?,
        Request::Resume(r) => change(&r.target.machine_dir, &r.target.uid, MachineState::Running)?,
        Request::Quarantine(r) => change(&r.target.machine_dir, &r.target.uid, MachineState::Quarantined)?,
        Request::Halt(r) => stop(&r.target.machine_dir, &r.target.uid, Signal::TERM)?,
        Request::Kill(r) => stop(&r.target.machine_dir, &r.target.uid, Signal::KILL)?,
        Request::Delete(r) => {
            let dir = &r.target.machine_dir;
            if dir.exists() {
                stop(dir, &r.target.uid, Signal::KILL)?;
                clean(dir)?;
            }
            Machine::bare(&r.target.uid, MachineState::Absent)
        }
        Request::Snapshot(_) | Request::Console(_) | Request::Gc(_) => {
            let message = format!("the fake supervisor does not have the verb {}", verb.as_str());
            return Err(ErrorBody::new(ErrorCode::UnsupportedVerb, message));
        }
    };
    Ok(Response::machine(machine))
}

fn capabilities() -> Capabilities {
    use Verb::{Capabilities as Can, Check, Delete, Halt, Inspect, Kill, Pause, Prepare, Quarantine, Resume, Start};
    Capabilities {
        backend: "Qemu".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        vmm: Some("none: its machines are processes".to_owned()),
        verbs: vec![Can, Check, Prepare, Start, Inspect, Pause, Resume, Quarantine, Halt, Kill, Delete],
        accelerators: vec![Accelerator::Tcg],
        accelerator_reason: None,
        kernel_format: Some(KernelFormat::Elf),
        max_vcpus: 255,
        features: Features { kernel_formats: vec![KernelFormat::Elf], ..Features::default() },
    }
}

fn start(request: StartRequest, lie: Option<Lie>) -> Result<Machine, ErrorBody> {
    let dir = &request.target.machine_dir;
    request.identity.check(&request.target)?;
    durable::private_dir(dir).map_err(|e| host(&e))?;
    let _lock = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
    let found = observe(dir, &request.target.uid)?;
    if let Some(identity) = &found.identity {
        if identity.boot_id == request.identity.boot_id {
            return Ok(found);
        }
        if found.state != MachineState::Exited {
            let message = format!("{} runs as boot {}", identity.name, identity.boot_id);
            return Err(ErrorBody::new(ErrorCode::MachineRunning, message));
        }
    }
    // A machine records its end a moment before its own.
    if let Some(last) = process(&found).filter(|_| env::var_os(INSTANT_VARIABLE).is_none()) {
        last.wait_gone(GONE).map_err(|e| host(&e))?;
    }
    let mut machine = Machine::bare(&request.target.uid, MachineState::Starting);
    machine.identity = Some(request.identity);
    machine.accelerator = Some(Accelerator::Tcg);
    if lie == Some(Lie::NoMachine) {
        run(&mut machine, None);
        return Ok(machine);
    }
    if let Ok(owner) = env::var(INSTANT_VARIABLE) {
        run(&mut machine, owner_of(&owner));
        save(dir, &machine)?;
        return Ok(machine);
    }
    let dies = lie == Some(Lie::DiesAfterStart);
    launch(dir, &Birth { machine, workload: request.guest.workload.argv, dies })
}

/// Starts the process that is the machine, and waits until its record says so.
fn launch(dir: &Path, birth: &Birth) -> Result<Machine, ErrorBody> {
    let exe = env::current_exe().map_err(|e| host(&e))?;
    let mut child = Command::new(exe)
        .args(["machine", &birth.machine.uid])
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| host(&e))?;
    let text = serde_json::to_vec(birth).map_err(|e| host(&e))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text).map_err(|e| host(&e))?;
    }
    let mut said = vec![0; UP.len()];
    let mut stdout = child.stdout.take().ok_or_else(|| host(&"no pipe"))?;
    match stdout.read_exact(&mut said) {
        Ok(()) if said == UP => load(dir)?.ok_or_else(|| host(&"the machine left no record")),
        _ => Err(host(&format!("the machine ended before it ran: {}", String::from_utf8_lossy(&said)))),
    }
}

fn change(dir: &Path, uid: &str, state: MachineState) -> Result<Machine, ErrorBody> {
    let none = || ErrorBody::new(ErrorCode::MachineNotRunning, format!("no machine runs in {}", dir.display()));
    if !dir.exists() {
        return Err(none());
    }
    let _lock = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
    let mut machine = observe(dir, uid)?;
    if matches!(machine.state, MachineState::Absent | MachineState::Exited) {
        return Err(none());
    }
    machine.state = state;
    save(dir, &machine)?;
    Ok(machine)
}

/// Ends the machine by this signal. What a signal ended has no end of its workload but that signal.
fn stop(dir: &Path, uid: &str, signal: Signal) -> Result<Machine, ErrorBody> {
    if !dir.exists() {
        return Ok(Machine::bare(uid, MachineState::Absent));
    }
    let _lock = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
    let mut machine = observe(dir, uid)?;
    if matches!(machine.state, MachineState::Absent | MachineState::Exited) {
        return Ok(machine);
    }
    if let Some(owner) = process(&machine).filter(|_| env::var_os(INSTANT_VARIABLE).is_none()) {
        owner.signal(signal).map_err(|e| host(&e))?;
        if !owner.wait_gone(GONE).map_err(|e| host(&e))? {
            return Err(host(&format!("process {} does not end", owner.pid)));
        }
    }
    if signal == Signal::TERM {
        machine.guest.workload_exit = Some(Exit { code: None, signal: Some(15), oom_killed: false });
        machine.guest.workload_finished_at = Some(jiff::Timestamp::now());
    }
    end(dir, &mut machine)?;
    save(dir, &machine)?;
    Ok(machine)
}

fn owner_of(text: &str) -> Option<Owner> {
    let (pid, start_time) = text.split_once(' ')?;
    Some(Owner { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}
