//! Children on Linux, whose kernel ends them with their parent.
#![allow(unsafe_code, reason = "what a child does between fork and exec has no safe form")]

use std::{env, io, os::unix::process::CommandExt, process::Command};

use microagent_supervisor_protocol::ErrorBody;
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use crate::{backend::Program, confine::OUTER, dir::host};

/// The program, or what confines it.
pub(super) fn command(program: &Program) -> Result<Command, ErrorBody> {
    let Some(confined) = &program.confined else { return Ok(super::plain(program)) };
    let exe = env::current_exe().map_err(|e| host("cannot find this executable", &e))?;
    let confined = serde_json::to_string(confined).map_err(|e| host("cannot encode the confinement", &e.into()))?;
    let mut command = Command::new(exe);
    command.arg(OUTER).arg(confined).arg(&program.path).args(&program.args);
    Ok(command)
}

/// Has the kernel kill the program when this thread ends.
pub(super) fn end_with_parent(command: &mut Command) {
    let shim: Pid = getpid();
    // SAFETY: the closure only makes two system calls; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The shim may have ended before the line above: then nothing would end this child.
            if getppid() == Some(shim) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
}
