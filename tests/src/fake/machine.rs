//! A fake machine: a process in a session of its own, which owns its record until it ends.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{ErrorBody, Exit, Machine, MachineState, Owner};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{
    FakeDir,
    record::{SOCKET, end, host, lock, save},
};

/// What a machine is told when it is started.
#[derive(Serialize, Deserialize)]
pub(super) struct Birth {
    pub(super) machine: Machine,
    pub(super) workload: Vec<String>,
    /// It is to end without a record.
    pub(super) dies: bool,
}

/// Said on standard output once the record says that the machine runs.
pub(super) const UP: &[u8] = b"up\n";

pub(super) fn main(dir: &Path) -> ExitCode {
    match live(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::stdout().write_all(error.message.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn live(dir: &Path) -> Result<(), ErrorBody> {
    rustix::process::setsid().map_err(|e| host(&e))?;
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(|e| host(&e))?;
    let Birth { mut machine, workload, dies } = serde_json::from_slice(&text).map_err(|e| host(&e))?;
    let boot_id = machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
    if let Some(fake) = FakeDir::from_env() {
        fake.booted(&machine.uid, boot_id);
    }
    let own = ProcessId::own().map_err(|e| host(&e))?;
    let _ = std::fs::remove_file(dir.join(SOCKET));
    let _socket = UnixListener::bind(dir.join(SOCKET)).map_err(|e| host(&e))?;
    run(&mut machine, Some(Owner { pid: own.pid, start_time: own.start_time }));
    machine.vsock = Some(dir.join(SOCKET));
    save(dir, &machine)?;
    io::stdout().write_all(UP).and_then(|()| io::stdout().flush()).map_err(|e| host(&e))?;
    if dies {
        return Ok(());
    }
    match workload.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["exit", code, ms] => {
            std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
            let _lock = lock(dir, FlockOperation::LockExclusive)?;
            machine.guest.workload_exit = Some(Exit::code(code.parse().unwrap_or(0)));
            machine.guest.workload_finished_at = Some(Timestamp::now());
            end(dir, &mut machine)?;
            save(dir, &machine)
        }
        _ => loop {
            std::thread::park();
        },
    }
}

/// Makes it a machine whose workload runs.
pub(super) fn run(machine: &mut Machine, owner: Option<Owner>) {
    let now = Timestamp::now();
    machine.state = MachineState::Running;
    machine.owner = owner;
    machine.started_at = Some(now);
    machine.guest.ready = true;
    machine.guest.setup_complete = true;
    machine.guest.workload_started_at = Some(now);
}
