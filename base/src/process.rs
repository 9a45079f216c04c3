//! Processes told apart by id *and* start time: an id alone is used again by the kernel.

use std::{fs, io, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// A process that once was, and perhaps still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since the host booted: field 22 of `/proc/PID/stat`, proc(5).
    pub start_time: u64,
}

impl ProcessId {
    /// The identity of the process that has this id now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let (start_time, _) = stat(pid)?;
        Ok(Self { pid, start_time })
    }

    /// The identity of this process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether this very process runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(stat(self.pid), Ok((start, state)) if start == self.start_time && state != 'Z' && state != 'X')
    }

    /// Sends a signal to this very process, never to another that got its id. Gives `false` when it is gone.
    ///
    /// # Errors
    /// What the operating system refused, such as a lack of permission.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(fd) = self.pidfd()? else { return Ok(false) };
        match pidfd_send_signal(fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until the process is gone, at most `timeout`. Gives whether it is gone. Needs not be its parent.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn wait_gone(&self, timeout: Duration) -> io::Result<bool> {
        let Some(fd) = self.pidfd()? else { return Ok(true) };
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(!self.is_alive()),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn pidfd(&self) -> io::Result<Option<std::os::fd::OwnedFd>> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // The descriptor is of whatever has the id now; only a look after opening it tells which that is.
            Ok(fd) => Ok(self.is_alive().then_some(fd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Start time and state letter of a process.
fn stat(pid: u32) -> io::Result<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is malformed"));
    // The command name may contain blanks and parentheses; fields are counted from its last parenthesis.
    let (_, rest) = text.rsplit_once(") ").ok_or_else(malformed)?;
    let mut fields = rest.split(' ');
    let state = fields.next().and_then(|s| s.chars().next()).ok_or_else(malformed)?;
    let start = fields.nth(18).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
    Ok((start, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_id_and_start_time() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        let reused = ProcessId { start_time: own.start_time + 1, ..own };
        assert!(!reused.is_alive());
        assert!(!reused.signal(Signal::KILL).unwrap(), "a reused id must not be signalled");
    }

    #[test]
    fn a_killed_child_is_seen_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(!id.wait_gone(Duration::from_millis(1)).unwrap());
        assert!(id.signal(Signal::KILL).unwrap());
        assert!(id.wait_gone(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(!id.is_alive());
    }
}
