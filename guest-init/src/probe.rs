//! One probe: a command, a TCP connection, or an HTTP request. Each ends at its deadline, or when it is told to stop, and leaves no
//! process behind.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use microagent_guest_protocol::{Probe, Process};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    children::Children,
    error::Error,
    http,
    peer::timespec,
    process::{self, Input, Role, Running},
    tcp,
};

/// How much of what a command printed last goes into the message, in bytes.
const MAX_OUTPUT: usize = 1024;

/// How long a killed command may take to be gone: only a hung disk holds it longer.
const KILLED: Duration = Duration::from_secs(5);

/// What came of a probe, with words for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success(String),
    Failure(String),
    /// Nobody wants to know any more.
    Stopped,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Ready,
    Late,
    Stopped,
}

/// How long a probe may take: until a time, or until a descriptor becomes readable.
pub(crate) struct Until<'a> {
    deadline: Instant,
    stop: &'a OwnedFd,
}

impl<'a> Until<'a> {
    pub(crate) fn new(deadline: Instant, stop: &'a OwnedFd) -> Self {
        Self { deadline, stop }
    }

    /// The same, but no longer than `limit` from now.
    pub(crate) fn at_most(&self, limit: Duration) -> Self {
        Self { deadline: self.deadline.min(Instant::now() + limit), stop: self.stop }
    }

    /// Waits for one of `fds`.
    pub(crate) fn wait<'f>(&self, fds: &mut Vec<PollFd<'f>>) -> Waited
    where
        'a: 'f,
    {
        fds.push(PollFd::new(self.stop, PollFlags::IN));
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match poll(fds, Some(&timespec(left))) {
                Err(Errno::INTR) => {}
                Err(_) => return Waited::Late,
                Ok(_) if fds.last().is_some_and(|stop| !stop.revents().is_empty()) => return Waited::Stopped,
                Ok(0) => return Waited::Late,
                Ok(_) => return Waited::Ready,
            }
        }
    }

    pub(crate) fn wait_readable(&self, fd: &OwnedFd) -> Waited {
        self.wait(&mut vec![PollFd::new(fd, PollFlags::IN)])
    }

    pub(crate) fn wait_writable(&self, fd: &OwnedFd) -> Waited {
        self.wait(&mut vec![PollFd::new(fd, PollFlags::OUT)])
    }
}

/// Makes one probe of `workload`.
pub(crate) fn run(probe: &Probe, workload: &Process, children: &Children, until: &Until<'_>) -> Outcome {
    match probe {
        Probe::Exec { command } => exec(command, workload, children, until),
        Probe::TcpSocket { host, port } => {
            let host = host.as_deref().unwrap_or(tcp::LOCAL);
            match tcp::connect(host, *port, until) {
                Ok(_) => Outcome::Success(format!("{} takes connections", tcp::authority(host, *port))),
                Err(failure) => failure.outcome(),
            }
        }
        Probe::HttpGet { host, port, path, headers } => {
            let host = host.as_deref().unwrap_or(tcp::LOCAL);
            match http::get(host, *port, path, headers, until) {
                Ok(status) if (200..400).contains(&status) => Outcome::Success(format!("HTTP status {status}")),
                Ok(status) => Outcome::Failure(format!("HTTP status {status}")),
                Err(failure) => failure.outcome(),
            }
        }
    }
}

/// What is wrong with a probe before it is made.
pub(crate) fn check(probe: &Probe) -> Result<(), Error> {
    let invalid =
        |problem: &str| Err(Error::InvalidConfig { field: "health.probe".to_owned(), problem: problem.to_owned() });
    let (host, port) = match probe {
        Probe::Exec { command } if command.is_empty() => return invalid("a command without a program"),
        Probe::Exec { .. } => return Ok(()),
        Probe::TcpSocket { host, port } => (host, port),
        Probe::HttpGet { host, port, path, headers } => {
            if !http::is_path(path) {
                return invalid("a path that does not begin with / or is not printable ASCII without blanks");
            }
            if !headers.iter().all(|(name, value)| http::is_header(name, value)) {
                return invalid("a header whose name is no token or whose value has control characters");
            }
            (host, port)
        }
    };
    if host.as_deref().is_some_and(|host| host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic())) {
        return invalid("a host that is no name and no address");
    }
    if *port == 0 { invalid("port 0") } else { Ok(()) }
}

fn exec(command: &[String], workload: &Process, children: &Children, until: &Until<'_>) -> Outcome {
    let process = Process { argv: command.to_vec(), ..workload.clone() };
    let running = match process::start(children, &process, Role::Exec, "probe", Input::Nothing) {
        Ok(running) => running,
        Err(Error::ShuttingDown) => return Outcome::Stopped,
        Err(e) => return Outcome::Failure(e.to_string()),
    };
    let Running { child, cgroup, mut outputs, .. } = running;
    let mut said = Vec::new();
    let waited = loop {
        if child.exit().is_some() {
            break Waited::Ready;
        }
        let mut fds = vec![PollFd::new(child.ended(), PollFlags::IN)];
        fds.extend(outputs.iter().map(|(_, fd)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let waited = until.wait(&mut fds);
        drop(fds);
        if waited != Waited::Ready {
            break waited;
        }
        outputs.retain(|(_, fd)| read(fd, &mut said));
    };
    let exit = child.exit();
    // All of it: what it left in the background too, and what made itself another group.
    children.signal(&child, libc::SIGKILL);
    cgroup.kill();
    let never = Instant::now() + KILLED;
    while child.exit().is_none() && Instant::now() < never {
        let _ = poll(&mut [PollFd::new(child.ended(), PollFlags::IN)], Some(&timespec(KILLED)));
    }
    outputs.retain(|(_, fd)| read(fd, &mut said));
    let said = String::from_utf8_lossy(&said);
    let said = said.trim();
    let with = |what: String| if said.is_empty() { what } else { format!("{what}: {said}") };
    match (waited, exit) {
        (Waited::Stopped, _) => Outcome::Stopped,
        (_, Some(exit)) if exit.success() => Outcome::Success(with("the command exited with 0".to_owned())),
        (_, Some(exit)) => Outcome::Failure(with(match exit.signal {
            Some(signal) => format!("the command was ended by signal {signal}"),
            None => format!("the command exited with {}", exit.shell_code()),
        })),
        (_, None) => Outcome::Failure(with("the command was killed at its timeout".to_owned())),
    }
}

/// Takes what has been written, of which the end is kept; false at its end. A round at a time: an endless writer must not keep us.
fn read(fd: &OwnedFd, said: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match rustix::io::read(fd, &mut chunk) {
        Ok(0) => false,
        Ok(n) => {
            said.extend_from_slice(&chunk[..n]);
            said.drain(..said.len().saturating_sub(MAX_OUTPUT));
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    pub(crate) fn stop() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    pub(crate) fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_wait_ends_with_the_first_of_readiness_deadline_and_stop() {
        let (stop, ready) = (stop(), stop());
        assert_eq!(Until::new(Instant::now(), &stop).wait_readable(&ready), Waited::Late);
        rustix::io::write(&ready, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(Until::new(soon(), &stop).wait_readable(&ready), Waited::Ready);
        rustix::io::write(&stop, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(Until::new(soon(), &stop).wait_readable(&ready), Waited::Stopped);
    }

    #[test]
    fn a_probe_that_could_smuggle_lines_or_names_nothing_is_refused() {
        let get = |host: Option<&str>, path: &str, header: (&str, &str)| Probe::HttpGet {
            host: host.map(str::to_owned),
            port: 80,
            path: path.to_owned(),
            headers: vec![(header.0.to_owned(), header.1.to_owned())],
        };
        let good = ("X-Probe", "a b");
        assert!(check(&get(Some("::1"), "/health?full=1", good)).is_ok());
        for bad in [
            get(Some("a\r\nb"), "/", good),
            get(Some(""), "/", good),
            get(None, "health", good),
            get(None, "/ HTTP/1.1\r\nHost: x", good),
            get(None, "/", ("X Probe", "a")),
            get(None, "/", ("X-Probe", "a\r\nEvil: b")),
            Probe::Exec { command: Vec::new() },
            Probe::TcpSocket { host: None, port: 0 },
        ] {
            assert_eq!(check(&bad).unwrap_err().category(), "InvalidConfig", "{bad:?}");
        }
    }
}
