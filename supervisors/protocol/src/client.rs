//! Calling a supervisor: one process for each call, bounded in time and in output.

use std::{
    env,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use microagent_base::process::ending_of_child;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process_group},
};

use crate::{
    CallError, Capabilities, CapabilitiesRequest, Check, CheckRequest, Halt, HaltRequest, Machine, MachineConfig,
    MachineRequest, PROTOCOL, PrepareRequest, Request, Response, StartRequest, Target, Verb,
};

/// How much of a supervisor's standard error is kept: its end, in bytes.
const STDERR_TAIL: usize = 8 * 1024;

/// How much is read from a pipe at once, in bytes: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// An executable that drives a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervisor {
    path: PathBuf,
}

impl Supervisor {
    /// The supervisor at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The supervisor of a backend (`Qemu`, `Firecracker`, `AppleVf`). Looked for in the environment variable
    /// `MICROAGENT_SUPERVISOR_<BACKEND>` (such as `MICROAGENT_SUPERVISOR_APPLE_VF`), and then as
    /// `microagent-supervisor-<backend>` beside the running executable, in `../libexec/microagent` from there, and in `PATH`.
    ///
    /// # Errors
    /// [`CallError::NotFound`] with the places.
    pub fn find(backend: &str) -> Result<Self, CallError> {
        let exe = env::current_exe().ok();
        let folder = exe.as_deref().and_then(Path::parent);
        find_in(backend, |name| env::var_os(name).map(PathBuf::from), folder, env::var_os("PATH").as_deref())
    }

    /// The executable.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes one call and waits for the answer, at most `deadline`; the supervisor and its process group are then killed.
    /// An answer that is not `ok` is no error here. Blocks the thread.
    ///
    /// # Errors
    /// When no valid answer came.
    pub fn call(&self, request: &Request, deadline: Duration) -> Result<Response, CallError> {
        let verb = request.verb();
        let io = |source| CallError::Io { path: self.path.clone(), verb, source };
        let input = serde_json::to_vec(request).map_err(|e| io(e.into()))?;
        if input.len() > crate::MAX_BYTES {
            return Err(CallError::RequestTooLong { path: self.path.clone(), verb, bytes: input.len() });
        }
        self.ask(&input, verb, deadline)
    }

    /// Gives these bytes for a request, as [`Self::call`] does with one. `verb` is for what is told of a failure. This is for proving
    /// supervisors right or wrong.
    ///
    /// # Errors
    /// When no valid answer came.
    pub fn ask(&self, input: &[u8], verb: Verb, deadline: Duration) -> Result<Response, CallError> {
        let io = |source| CallError::Io { path: self.path.clone(), verb, source };
        let child = Command::new(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| CallError::Spawn { path: self.path.clone(), source })?;
        let mut running = Running { child, reaped: false };
        let said = running.exchange(input, deadline).map_err(io)?;
        let path = || self.path.clone();
        let stderr = said.stderr.text();
        match said.end {
            End::Deadline => Err(CallError::Deadline { path: path(), verb, deadline, stderr }),
            End::TooLong => Err(CallError::AnswerTooLong { path: path(), verb }),
            End::Exited(status) => {
                if said.stdout.is_empty() || status.signal().is_some() {
                    return Err(CallError::Ended { path: path(), verb, status, stderr });
                }
                let malformed = |why| CallError::Malformed { path: path(), verb, why, stderr: stderr.clone() };
                let response = decode(&said.stdout).map_err(|why| match why {
                    Undecodable::Protocol(found) => CallError::Protocol { path: path(), found },
                    Undecodable::Malformed(why) => malformed(why),
                })?;
                if response.ok != status.success() || response.ok != response.error.is_none() {
                    return Err(malformed(format!("it says ok={} and ended with {status}", response.ok)));
                }
                Ok(response)
            }
        }
    }

    /// What this supervisor and this host can do.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn capabilities(&self, deadline: Duration) -> Result<Capabilities, CallError> {
        let request = Request::Capabilities(CapabilitiesRequest { protocol: PROTOCOL.to_owned() });
        let response = self.accepted(&request, deadline)?;
        response.capabilities.ok_or_else(|| self.lacks(&request, "capabilities"))
    }

    /// Whether the host, and the machine if one is given, are as they should be.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn check(&self, config: Option<MachineConfig>, deadline: Duration) -> Result<Vec<Check>, CallError> {
        let request = Request::Check(CheckRequest { protocol: PROTOCOL.to_owned(), config });
        Ok(self.accepted(&request, deadline)?.checks)
    }

    /// Makes the machine's directory ready.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn prepare(&self, target: Target, config: MachineConfig, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Prepare(PrepareRequest { protocol: PROTOCOL.to_owned(), target, config }), deadline)
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn start(&self, request: StartRequest, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Start(Box::new(request)), deadline)
    }

    /// What is true of the machine.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn inspect(&self, target: Target, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Inspect(about(target)), deadline)
    }

    /// Makes the machine's CPUs stand still.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn pause(&self, target: Target, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Pause(about(target)), deadline)
    }

    /// Lets a paused or quarantined machine run on.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn resume(&self, target: Target, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Resume(about(target)), deadline)
    }

    /// Cuts the machine off from everything.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn quarantine(&self, target: Target, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Quarantine(about(target)), deadline)
    }

    /// Halts the machine. The deadline should leave room for the grace period and the 10 seconds after it.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn halt(&self, target: Target, halt: Halt, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Halt(HaltRequest { protocol: PROTOCOL.to_owned(), target, halt }), deadline)
    }

    /// Ends the machine at once.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn kill(&self, target: Target, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Kill(about(target)), deadline)
    }

    /// Ends the machine and removes what the supervisor made.
    ///
    /// # Errors
    /// When no answer came, or one that is not `ok`.
    pub fn delete(&self, target: Target, deadline: Duration) -> Result<Machine, CallError> {
        self.machine(&Request::Delete(about(target)), deadline)
    }

    fn machine(&self, request: &Request, deadline: Duration) -> Result<Machine, CallError> {
        self.accepted(request, deadline)?.machine.ok_or_else(|| self.lacks(request, "machine"))
    }

    fn accepted(&self, request: &Request, deadline: Duration) -> Result<Response, CallError> {
        let response = self.call(request, deadline)?;
        match response.error {
            Some(error) => Err(CallError::Refused {
                verb: request.verb(),
                error: Box::new(error),
                machine: response.machine.map(Box::new),
            }),
            None => Ok(response),
        }
    }

    fn lacks(&self, request: &Request, field: &str) -> CallError {
        CallError::Malformed {
            path: self.path.clone(),
            verb: request.verb(),
            why: format!("the field `{field}` is absent"),
            stderr: String::new(),
        }
    }
}

fn about(target: Target) -> MachineRequest {
    MachineRequest { protocol: PROTOCOL.to_owned(), target }
}

fn find_in(
    backend: &str,
    variable: impl Fn(&str) -> Option<PathBuf>,
    beside: Option<&Path>,
    path: Option<&std::ffi::OsStr>,
) -> Result<Supervisor, CallError> {
    let kebab = kebab(backend);
    let name = format!("microagent-supervisor-{kebab}");
    let asked = format!("MICROAGENT_SUPERVISOR_{}", kebab.to_uppercase().replace('-', "_"));
    if let Some(path) = variable(&asked).filter(|p| !p.as_os_str().is_empty()) {
        return Ok(Supervisor { path });
    }
    let near = beside.into_iter().flat_map(|d| [d.to_owned(), d.join("../libexec/microagent")]);
    let folders: Vec<PathBuf> = near.chain(path.into_iter().flat_map(env::split_paths)).collect();
    match folders.iter().map(|d| d.join(&name)).find(|p| p.is_file()) {
        Some(path) => Ok(Supervisor { path }),
        None => Err(CallError::NotFound { backend: backend.to_owned(), name, variable: asked }),
    }
}

/// `AppleVf` as `apple-vf`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

enum Undecodable {
    Protocol(String),
    Malformed(String),
}

fn decode(bytes: &[u8]) -> Result<Response, Undecodable> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        protocol: String,
    }
    match serde_json::from_slice::<Versioned>(bytes) {
        Ok(v) if v.protocol != PROTOCOL => Err(Undecodable::Protocol(v.protocol)),
        _ => serde_json::from_slice(bytes).map_err(|e| Undecodable::Malformed(e.to_string())),
    }
}

/// How an exchange ended.
enum End {
    Exited(ExitStatus),
    Deadline,
    TooLong,
}

struct Said {
    end: End,
    stdout: Vec<u8>,
    stderr: Tail,
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let extra = self.0.len().saturating_sub(STDERR_TAIL);
        self.0.drain(..extra);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

/// A supervisor under way; killed with its group when given up.
struct Running {
    child: Child,
    reaped: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            // The child is not reaped yet, so its group's id is nobody else's.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Running {
    /// Writes the request and reads what is said until the process ends. A grandchild that keeps the pipes open is not
    /// waited for.
    fn exchange(&mut self, input: &[u8], deadline: Duration) -> io::Result<Said> {
        let until = Instant::now() + deadline;
        let ended = ending_of_child(Pid::from_child(&self.child))?;
        let (mut stdin, mut stdout, mut stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        nonblocking(&stdin)?;
        nonblocking(&stdout)?;
        nonblocking(&stderr)?;
        let (mut left, mut out, mut tail) = (input, Vec::new(), Tail::default());
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Ok(Said { end: End::Deadline, stdout: out, stderr: tail });
            }
            let gone = match &ended {
                Some(ended) => wait(ended, stdin.as_ref(), stdout.as_ref(), stderr.as_ref(), remaining)?,
                None => true,
            };
            if let Some(pipe) = &mut stdin {
                // A supervisor may end without reading its request; its answer still counts.
                if left.is_empty() || !feed(pipe, &mut left)? {
                    stdin = None;
                }
            }
            drain(&mut stdout, |bytes| {
                out.extend_from_slice(bytes);
                out.len() <= crate::MAX_BYTES
            })?;
            drain(&mut stderr, |bytes| {
                tail.push(bytes);
                true
            })?;
            if out.len() > crate::MAX_BYTES {
                return Ok(Said { end: End::TooLong, stdout: Vec::new(), stderr: tail });
            }
            if gone {
                let status = self.child.wait()?;
                self.reaped = true;
                return Ok(Said { end: End::Exited(status), stdout: out, stderr: tail });
            }
        }
    }
}

fn nonblocking(pipe: &Option<impl AsFd>) -> io::Result<()> {
    if let Some(pipe) = pipe {
        fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Waits until something can be done; gives whether the process has ended.
fn wait(
    ended: &impl AsFd,
    stdin: Option<&impl AsFd>,
    stdout: Option<&impl AsFd>,
    stderr: Option<&impl AsFd>,
    remaining: Duration,
) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
    fds.extend(stdin.map(|p| PollFd::new(p, PollFlags::OUT)));
    fds.extend(stdout.map(|p| PollFd::new(p, PollFlags::IN)));
    fds.extend(stderr.map(|p| PollFd::new(p, PollFlags::IN)));
    let timeout = Timespec::try_from(remaining).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Writes what the pipe takes; gives whether more is to be written.
fn feed(pipe: &mut impl Write, left: &mut &[u8]) -> io::Result<bool> {
    while !left.is_empty() {
        match pipe.write(left) {
            Ok(n) => *left = &left[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Reads what is there, until `take` has enough; the pipe goes when its end is reached.
fn drain(pipe: &mut Option<impl Read>, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let Some(reader) = pipe else { return Ok(()) };
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => {
                *pipe = None;
                return Ok(());
            }
            Ok(n) if take(&chunk[..n]) => {}
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
