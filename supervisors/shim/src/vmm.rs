//! The programs of a machine as children of the shim.

#[cfg(target_os = "linux")]
#[path = "vmm/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "vmm/macos.rs"]
mod platform;

use std::{
    env, io,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};

use crate::backend::Program;

/// How long a program may take until its socket is there.
const READY: Duration = Duration::from_secs(10);

/// How often the socket is looked for: it appears within a few milliseconds, and nothing can be waited on before.
const LOOK: Duration = Duration::from_millis(1);

/// Starts a program that ends when this thread ends: call it from the main thread only. Its standard error is a pipe.
pub(crate) fn spawn(program: &Program, stdout: Stdio) -> Result<Child, ErrorBody> {
    let mut command = platform::command(program)?;
    // What the caller has in its environment, tokens among it, is not for programs that a guest may take over.
    command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    platform::end_with_parent(&mut command);
    command.spawn().map_err(|e| {
        let code = if e.kind() == io::ErrorKind::NotFound { ErrorCode::VmmNotFound } else { ErrorCode::Host };
        ErrorBody::new(code, format!("cannot run {}: {e}", program.path))
    })
}

fn plain(program: &Program) -> Command {
    let mut command = Command::new(&program.path);
    command.args(&program.args);
    command
}

/// Waits until a program's socket is there.
pub(crate) fn await_socket(child: &mut Child, program: &Program) -> Result<(), ErrorBody> {
    let Some(socket) = &program.socket else { return Ok(()) };
    let until = Instant::now() + READY;
    loop {
        if Path::new(socket).exists() {
            return Ok(());
        }
        let failed = |why: String| ErrorBody::new(ErrorCode::VmmFailed, format!("{} {why}", program.path));
        match child.try_wait() {
            Ok(Some(status)) => return Err(failed(format!("ended with {status} before it could be used"))),
            Ok(None) if Instant::now() > until => return Err(failed(format!("was not ready within {READY:?}"))),
            Ok(None) => thread::sleep(LOOK),
            Err(e) => return Err(failed(format!("cannot be waited for: {e}"))),
        }
    }
}

/// The identity of a child that is not reaped yet.
pub(crate) fn identity(child: &Child) -> Result<ProcessId, ErrorBody> {
    ProcessId::of(child.id()).map_err(|e| crate::dir::host("cannot look at a process", &e))
}
