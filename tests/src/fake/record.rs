//! The record of a fake machine: `machine.json` in its directory, replaced by a rename at every change.

use std::{fs, fs::File, path::Path};

use jiff::Timestamp;
use microagent_base::{durable, process::ProcessId};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, Machine, MachineState};
use rustix::fs::{FlockOperation, flock};

const RECORD: &str = "machine.json";
/// Stands for a socket that must not be left behind.
pub(super) const SOCKET: &str = "vsock.sock";

/// Held while a machine's directory is changed. The lock is on the directory itself.
pub(super) struct DirLock(#[expect(dead_code, reason = "the lock goes with the file")] File);

pub(super) fn lock(dir: &Path, operation: FlockOperation) -> Result<DirLock, ErrorBody> {
    let folder = File::open(dir).map_err(|e| host(&e))?;
    match flock(&folder, operation) {
        Ok(()) => Ok(DirLock(folder)),
        Err(e) => Err(ErrorBody::new(ErrorCode::MachineBusy, e.to_string())),
    }
}

pub(super) fn load(dir: &Path) -> Result<Option<Machine>, ErrorBody> {
    durable::read_json(&dir.join(RECORD)).map_err(|e| host(&e))
}

pub(super) fn save(dir: &Path, machine: &Machine) -> Result<(), ErrorBody> {
    let path = dir.join(RECORD);
    durable::encode(&path, machine).and_then(|bytes| durable::replace(&path, &bytes)).map_err(|e| host(&e))
}

/// Removes everything that fake machines make.
pub(super) fn clean(dir: &Path) -> Result<(), ErrorBody> {
    for entry in fs::read_dir(dir).map_err(|e| host(&e))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == RECORD || name == SOCKET || name.starts_with(durable::TEMPORARY_PREFIX) {
            durable::remove_file(&entry.path()).map_err(|e| host(&e))?;
        }
    }
    Ok(())
}

/// The machine as it is now. One whose process is gone without a word has ended, and that is then written.
pub(super) fn observe(dir: &Path, uid: &str) -> Result<Machine, ErrorBody> {
    let Some(machine) = load(dir)? else { return Ok(Machine::bare(uid, MachineState::Absent)) };
    if machine.uid != uid {
        let message = format!("{} belongs to {}, not to {uid}", dir.display(), machine.uid);
        return Err(ErrorBody::new(ErrorCode::IdentityMismatch, message));
    }
    if !is_lost(&machine) {
        return Ok(machine);
    }
    // It may have written its end between the two looks.
    let Some(mut machine) = load(dir)? else { return Ok(Machine::bare(uid, MachineState::Absent)) };
    if is_lost(&machine) {
        end(dir, &mut machine)?;
        machine.failure = Some(ErrorBody::new(ErrorCode::ShimLost, "the machine ended without a record"));
        save(dir, &machine)?;
    }
    Ok(machine)
}

/// Makes it an ended machine; not written yet.
pub(super) fn end(dir: &Path, machine: &mut Machine) -> Result<(), ErrorBody> {
    machine.state = MachineState::Exited;
    machine.vsock = None;
    machine.finished_at = Some(Timestamp::now());
    durable::remove_file(&dir.join(SOCKET)).map_err(|e| host(&e))
}

/// The process that is the machine.
pub(super) fn process(machine: &Machine) -> Option<ProcessId> {
    machine.owner.map(|owner| ProcessId { pid: owner.pid, start_time: owner.start_time, boot: None })
}

fn is_lost(machine: &Machine) -> bool {
    machine.state != MachineState::Exited && process(machine).is_some_and(|process| !process.is_alive())
}

pub(super) fn host(error: &dyn std::fmt::Display) -> ErrorBody {
    ErrorBody::new(ErrorCode::Host, error.to_string())
}
