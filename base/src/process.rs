//! Processes told apart by id, start time *and* boot of the host: the kernel uses an id again, and after a reboot it may give the
//! same id at the same tick.

#[cfg(target_os = "linux")]
#[path = "process/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "process/macos.rs"]
mod platform;

use std::{
    fmt, io,
    os::fd::OwnedFd,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal},
};
use serde::{Deserialize, Serialize};

/// How often it is looked whether a process stands still: it does within a millisecond, and nothing can be waited on before.
const STILL_LOOK: Duration = Duration::from_millis(1);

/// What the kernel tells of a process.
struct Look {
    /// See [`ProcessId::start_time`].
    start_time: u64,
    /// It has ended, and was not waited for yet.
    ended: bool,
}

/// A process that once was, and perhaps still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since the host booted: field 22 of `/proc/PID/stat`, proc(5). On macOS, in microseconds since
    /// 1970.
    pub start_time: u64,
    /// The boot of the host that it lived in. Without one, as in what was written before this was kept, the present boot is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
}

/// One boot of the host, by 128 bits that its kernel draws at each: `/proc/sys/kernel/random/boot_id`, random(4), or
/// `kern.bootsessionuuid` on macOS. Its text is 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId([u8; 16]);

/// A text that is not a [`BootId`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a boot id of 32 hexadecimal digits")]
pub struct ParseBootIdError(String);

impl BootId {
    /// The boot that the host is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        platform::boot()
    }
}

impl FromStr for BootId {
    type Err = ParseBootIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseBootIdError(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for BootId {
    type Error = ParseBootIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> Self {
        hex::encode(boot.0)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(*self))
    }
}

impl ProcessId {
    /// The identity of the process that has this id now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let start_time = platform::look(to_pid(pid).ok_or(io::ErrorKind::NotFound)?)?.start_time;
        Ok(Self { pid, start_time, boot: Some(BootId::current()?) })
    }

    /// The identity of this process.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether this very process runs. A zombie does not, nor does one of another boot of the host.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        if self.boot.is_some_and(|boot| !BootId::current().is_ok_and(|now| now == boot)) {
            return false;
        }
        let look = to_pid(self.pid).map(platform::look);
        matches!(look, Some(Ok(look)) if look.start_time == self.start_time && !look.ended)
    }

    /// Whether every thread of this very process was stopped by a signal. What a disk holds up stops later.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub fn is_stopped(&self) -> io::Result<bool> {
        match to_pid(self.pid) {
            Some(pid) if self.is_alive() => platform::is_stopped(pid),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Makes every thread of this very process stand still, by a signal that it cannot refuse. Returns once it is so.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `TimedOut` when it does not stand still in time, and what the operating system refused.
    pub fn stop(&self, patience: Duration) -> io::Result<()> {
        self.tell(Signal::STOP)?;
        let until = Instant::now() + patience;
        while !self.is_stopped()? {
            if Instant::now() > until {
                let message = format!("it does not stand still within {patience:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            thread::sleep(STILL_LOOK);
        }
        Ok(())
    }

    /// Lets this very process run on after [`Self::stop`].
    ///
    /// # Errors
    /// `NotFound` when it is gone, and what the operating system refused.
    pub fn run_on(&self) -> io::Result<()> {
        self.tell(Signal::CONT)
    }

    fn tell(&self, signal: Signal) -> io::Result<()> {
        if self.signal(signal)? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "it has ended")) }
    }

    /// Sends a signal to this very process, never to another that got its id. Gives `false` when it is gone. macOS, which has no
    /// handles of processes, only lets this be looked at in the moment before.
    ///
    /// # Errors
    /// What the operating system refused, such as a lack of permission.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let (Some(fd), Some(pid)) = (self.pidfd()?, to_pid(self.pid)) else { return Ok(false) };
        match platform::signal(&fd, pid, signal) {
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

    /// A handle of this very process, which is readable once it has ended: pidfd_open(2), or a kqueue(2) on macOS. `None` when it is
    /// gone.
    ///
    /// # Errors
    /// What the operating system refused, such as one more open file.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = to_pid(self.pid) else { return Ok(None) };
        match platform::ending(pid) {
            // The descriptor is of whatever has the id now; only a look after opening it tells which that is.
            Ok(fd) => Ok(self.is_alive().then_some(fd)),
            // Nobody has the id, or a thread of another process has it by now: NOENT says the latter since Linux 6.14, INVAL before.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// A descriptor that is readable once this child, which nobody has waited for yet, has ended. `None` when it has ended already and the
/// system gives none for that.
///
/// # Errors
/// What the operating system refused, such as one more open file.
pub fn ending_of_child(child: Pid) -> io::Result<Option<OwnedFd>> {
    match platform::ending(child) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn an_id_that_a_thread_of_another_process_has_by_now_is_gone() {
        let (told, id) = std::sync::mpsc::channel();
        let (_end, wait) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            told.send(rustix::thread::gettid()).unwrap();
            let _ = wait.recv();
        });
        let thread = u32::try_from(id.recv().unwrap().as_raw_nonzero().get()).unwrap();
        let gone = ProcessId { pid: thread, start_time: 1, boot: None };
        assert!(!gone.signal(Signal::KILL).unwrap());
        assert!(gone.wait_gone(Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn a_process_is_known_by_id_and_start_time() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        let reused = ProcessId { start_time: own.start_time + 1, ..own };
        assert!(!reused.is_alive());
        assert!(!reused.signal(Signal::KILL).unwrap(), "a reused id must not be signalled");
    }

    #[test]
    fn a_process_of_an_earlier_boot_of_the_host_is_gone_whoever_has_its_id_and_start_time_now() {
        let own = ProcessId::own().unwrap();
        let earlier = ProcessId { boot: Some("00000000-0000-0000-0000-000000000001".parse().unwrap()), ..own };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(Signal::KILL).unwrap(), "a process of this boot must not be signalled");
        assert!(earlier.wait_gone(Duration::ZERO).unwrap());
    }

    #[test]
    fn an_id_that_was_written_without_a_boot_still_counts() {
        let own = ProcessId::own().unwrap();
        let text = format!(r#"{{"pid":{},"startTime":{}}}"#, own.pid, own.start_time);
        assert!(serde_json::from_str::<ProcessId>(&text).unwrap().is_alive());
        let again: ProcessId = serde_json::from_str(&serde_json::to_string(&own).unwrap()).unwrap();
        assert_eq!(again, own);
        assert!("0123".parse::<BootId>().is_err() && "x".repeat(32).parse::<BootId>().is_err());
    }

    #[test]
    fn a_process_stands_still_and_runs_on_as_it_is_told() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(!id.is_stopped().unwrap());
        for _ in 0..2 {
            id.stop(Duration::from_secs(10)).unwrap();
            assert!(id.is_stopped().unwrap() && id.is_alive());
        }
        id.run_on().unwrap();
        assert!(!id.is_stopped().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        for gone in [id.is_stopped().map(drop), id.stop(Duration::from_secs(10)), id.run_on()] {
            assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
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
