//! Programs that give up the user they were started as.
//!
//! The kernel ends what the shim started when the shim ends, however it ends; but a program that changes its user, as Firecracker's
//! jailer does, is forgotten by that rule (prctl(2), `PR_SET_PDEATHSIG`). Such a program runs in a pid namespace of its own: when the
//! first process of a namespace ends, the kernel ends all others in it, whoever they are. Between the shim and the program stand two
//! processes of this executable:
//!
//! ```text
//! shim ── outer: ended by the kernel with the shim; makes the namespaces; its end is that of the program
//!           └── inner: process 1 of the pid namespace; ends when the outer one does, which it hears at once by a socket
//!                 └── program
//! ```
//!
//! Nothing here polls, and nothing has to run for the end to come. The mount namespace makes files visible to the program in places
//! where nobody else sees them, and is gone with it.
#![allow(unsafe_code, reason = "a new namespace could be wrong for descriptors that are shared; none are here")]

use std::{
    env,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Stdio},
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount},
    process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde::{Deserialize, Serialize};

/// What a program sees that changes its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confined {
    /// Files that are made visible at other places.
    pub binds: Vec<Bind>,
}

/// A file that is made visible at another place, for one program and what it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The file.
    pub from: PathBuf,
    /// The place, a file below the machine's directory.
    pub to: PathBuf,
    /// Nobody can write to it there, whatever its mode.
    pub read_only: bool,
}

/// The arguments of this executable that make it the outer process of a program.
pub(crate) const OUTER: &str = "confine";
/// The same for the inner one.
pub(crate) const INNER: &str = "confine-inner";

/// The outer process of the program that `args` are.
pub(crate) fn outer(confined: &str, args: &[String]) -> ExitCode {
    match surround(confined, args) {
        Ok(status) => become_like(status),
        Err(e) => {
            eprintln!("cannot confine {}: {e}", args.first().map_or("", String::as_str));
            ExitCode::FAILURE
        }
    }
}

fn surround(confined: &str, args: &[String]) -> io::Result<ExitStatus> {
    let confined: Confined = serde_json::from_str(confined)?;
    // SAFETY: this process has one thread, and shares no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) }?;
    // What is mounted here from now on must not be seen outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for bind in &confined.binds {
        let failed = |e: rustix::io::Errno| {
            let (from, to) = (bind.from.display(), bind.to.display());
            io::Error::new(io::Error::from(e).kind(), format!("{from} cannot be shown at {to}: {e}"))
        };
        mount_bind(&bind.from, &bind.to).map_err(failed)?;
        if bind.read_only {
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            mount_remount(&bind.to, flags, c"").map_err(failed)?;
        }
    }
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut inner =
        Command::new(env::current_exe()?).arg(INNER).args(args).stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    let status = inner.wait()?;
    let mut raw = [0; 4];
    match ours.read_exact(&mut raw) {
        Ok(()) => Ok(ExitStatus::from_raw(i32::from_ne_bytes(raw))),
        // It could not run the program, or was killed itself.
        Err(_) => Ok(status),
    }
}

/// The inner process of the program that `args` are.
pub(crate) fn inner(args: &[String]) -> ExitCode {
    let run = || -> io::Result<()> {
        let mut outer = UnixStream::from(rustix::io::dup(rustix::stdio::stdin())?);
        let mut ear = outer.try_clone()?;
        thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            // Nothing is ever said: this returns when the outer process has ended.
            let _ = ear.read(&mut [0]);
            std::process::exit(1);
        })?;
        let [path, args @ ..] = args else { return Err(io::ErrorKind::InvalidInput.into()) };
        let status = Command::new(path).args(args).stdin(Stdio::null()).status()?;
        outer.write_all(&status.into_raw().to_ne_bytes())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cannot run {}: {e}", args.first().map_or("", String::as_str));
            ExitCode::FAILURE
        }
    }
}

/// Ends this process as the program ended, so that its parent sees no difference.
fn become_like(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // The program left its core already, where cores are kept.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = kill_process(getpid(), signal);
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
