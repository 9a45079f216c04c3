//! Making a process of the guest from what the host asked for.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use microagent_guest_protocol::{EnvVar, Process, Terminal, frame::Kind};
use rustix::{
    fs::{Gid, Uid, fchown},
    io::ioctl_fionbio,
    process::{Resource, Rlimit, setrlimit},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    cgroup::Cgroup,
    children::{Child, Children},
    error::Error,
    program,
    sys::{ChildSide, before_exec},
    user::Database,
};

/// What a process is for. Decides the codes of its failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Workload,
    Setup,
    Exec,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload => "the workload",
            Self::Setup => "the setup",
            Self::Exec => "the command",
        })
    }
}

/// Where standard input comes from.
pub(crate) enum Input {
    Nothing,
    Host,
    /// All three standard streams are one terminal.
    Terminal(Terminal),
}

/// A process that runs, with our ends of its streams (non-blocking).
pub(crate) struct Running {
    pub(crate) child: Arc<Child>,
    pub(crate) cgroup: Cgroup,
    pub(crate) input: Option<OwnedFd>,
    pub(crate) outputs: Vec<(Kind, OwnedFd)>,
    /// The terminal, for its size.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Limits that all children inherit.
pub(crate) fn prepare_self() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // What systemd gives: select(2) users are safe below 1024, all others may raise it as far as engines need.
    let files = Rlimit { current: Some(1024), maximum: Some(524_288) };
    let _ = setrlimit(Resource::Nofile, files);
}

/// Starts `process` in its own session and the control group `cgroup`.
pub(crate) fn start(
    children: &Children,
    process: &Process,
    role: Role,
    cgroup: &str,
    input: Input,
) -> Result<Running, Error> {
    let identity = Database::load().identity(process.user.as_deref())?;
    let directory = working_directory(process.working_dir.as_deref().unwrap_or("/"))?;
    let env = environment(&process.env, &identity.home, matches!(input, Input::Terminal(_)));
    let path = env.iter().rfind(|v| v.name == "PATH").map_or(program::DEFAULT_PATH, |v| v.value.as_str());
    let name = process.argv.first().map(String::as_str).unwrap_or_default();
    let file = program::find(name, path, &directory, role)?;

    let cgroup = Cgroup::create(cgroup);
    let mut command = Command::new(&file);
    command.arg0(name).args(process.argv.iter().skip(1)).current_dir(&directory);
    command.env_clear().envs(env.iter().map(|v| (&v.name, &v.value)));
    let failed = |source: io::Error| Error::StartFailed { role, program: file.display().to_string(), source };
    let streams = Streams::open(input, Uid::from_raw(identity.uid)).map_err(failed)?;
    command.stdin(streams.theirs.0).stdout(streams.theirs.1).stderr(streams.theirs.2);
    let side = ChildSide {
        cgroup: cgroup.procs(),
        uid: Uid::from_raw(identity.uid),
        gid: Gid::from_raw(identity.gid),
        groups: identity.groups.iter().map(|g| Gid::from_raw(*g)).collect(),
        terminal: streams.terminal.is_some(),
    };
    before_exec(&mut command, side);
    let started = children.start(&mut command);
    // Our copies of its ends go with the command: from here on, it alone keeps its output open.
    drop(command);
    let child = started.map_err(|e| program::refusal(file, role, identity.uid, e))?.ok_or(Error::ShuttingDown)?;
    Ok(Running { child, cgroup, input: streams.input, outputs: streams.outputs, terminal: streams.terminal })
}

/// `own`, and of `base` what `own` lacks.
pub(crate) fn merge(own: &[EnvVar], base: &[EnvVar]) -> Vec<EnvVar> {
    let lacking = base.iter().filter(|b| own.iter().all(|o| o.name != b.name));
    lacking.chain(own).cloned().collect()
}

fn environment(env: &[EnvVar], home: &str, terminal: bool) -> Vec<EnvVar> {
    let mut defaults = vec![("PATH", program::DEFAULT_PATH), ("HOME", home)];
    if terminal {
        defaults.push(("TERM", "xterm"));
    }
    let defaults: Vec<_> =
        defaults.into_iter().map(|(name, value)| EnvVar { name: name.to_owned(), value: value.to_owned() }).collect();
    merge(env, &defaults)
}

fn working_directory(path: &str) -> Result<PathBuf, Error> {
    let path = Path::new(path);
    let failed = |source| Error::WorkingDirectoryFailed { path: path.to_owned(), source };
    match fs::create_dir_all(path) {
        Ok(()) => Ok(path.to_owned()),
        Err(source) => Err(failed(source)),
    }
}

struct Streams {
    theirs: (Stdio, Stdio, Stdio),
    input: Option<OwnedFd>,
    outputs: Vec<(Kind, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

impl Streams {
    fn open(input: Input, owner: Uid) -> io::Result<Self> {
        if let Input::Terminal(size) = input {
            return Self::open_terminal(size, owner);
        }
        let (stdin, input) = match input {
            Input::Host => {
                let (theirs, ours) = pipe(owner)?;
                ioctl_fionbio(&ours, true)?;
                (Stdio::from(theirs), Some(ours))
            }
            _ => (Stdio::null(), None),
        };
        let mut outputs = Vec::new();
        let mut output = |kind| {
            let (ours, theirs) = pipe(owner)?;
            ioctl_fionbio(&ours, true)?;
            outputs.push((kind, ours));
            io::Result::Ok(Stdio::from(theirs))
        };
        let theirs = (stdin, output(Kind::Stdout)?, output(Kind::Stderr)?);
        Ok(Self { theirs, input, outputs, terminal: None })
    }

    fn open_terminal(size: Terminal, owner: Uid) -> io::Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&ours)?;
        let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        set_size(&ours, size)?;
        fchown(&theirs, Some(owner), None)?;
        ioctl_fionbio(&ours, true)?;
        Ok(Self {
            input: Some(ours.try_clone()?),
            outputs: vec![(Kind::Stdout, ours.try_clone()?)],
            terminal: Some(ours),
            theirs: (theirs.try_clone()?.into(), theirs.try_clone()?.into(), theirs.into()),
        })
    }
}

/// Gives a terminal a new size; its foreground group gets SIGWINCH.
pub(crate) fn set_size(terminal: impl AsFd, size: Terminal) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// A pipe that its user may also open by name, as in `echo > /dev/stderr`.
fn pipe(owner: Uid) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    fchown(&read, Some(owner), None)?;
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str) -> EnvVar {
        EnvVar { name: name.into(), value: value.into() }
    }

    #[test]
    fn home_and_path_are_given_only_where_they_lack() {
        let env = environment(&[var("PATH", "/opt"), var("A", "1")], "/home/agent", false);
        assert_eq!(env, [var("HOME", "/home/agent"), var("PATH", "/opt"), var("A", "1")]);
        let env = environment(&[var("HOME", "/x")], "/root", true);
        assert_eq!(env, [var("PATH", program::DEFAULT_PATH), var("TERM", "xterm"), var("HOME", "/x")]);
    }

    #[test]
    fn an_exec_takes_from_the_workload_what_it_does_not_set_itself() {
        let merged = merge(&[var("A", "mine")], &[var("A", "base"), var("B", "base")]);
        assert_eq!(merged, [var("B", "base"), var("A", "mine")]);
    }
}
