//! Processes as Linux tells of them: `/proc`, proc(5), and pidfd_open(2).

use std::{fs, io, os::fd::OwnedFd, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{BootId, Look};

/// What reading a file of a thread that has just ended gives.
const SEARCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// The boot that the host is in: `/proc/sys/kernel/random/boot_id`, random(4).
pub(super) fn boot() -> io::Result<BootId> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")?.parse().map_err(io::Error::other)
}

/// The process that has this id now.
pub(super) fn look(pid: Pid) -> io::Result<Look> {
    let (start_time, state) = stat(Path::new(&format!("/proc/{pid}/stat")))?;
    Ok(Look { start_time, ended: matches!(state, 'Z' | 'X') })
}

/// Whether every thread was stopped by a signal.
pub(super) fn is_stopped(pid: Pid) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match stat(&thread?.path().join("stat")) {
            Ok((_, 'T')) => {}
            // A thread that ended meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(SEARCH) => {}
            Ok(_) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// A descriptor that is readable once the process has ended.
pub(super) fn ending(pid: Pid) -> rustix::io::Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty())
}

/// Signals the process that the descriptor is of.
pub(super) fn signal(ending: &OwnedFd, _pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    pidfd_send_signal(ending, signal)
}

/// Start time, in clock ticks since the host booted, and state letter.
fn stat(file: &Path) -> io::Result<(u64, char)> {
    let text = fs::read_to_string(file)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is malformed", file.display()));
    // The command name may contain blanks and parentheses; fields are counted from its last parenthesis.
    let (_, rest) = text.rsplit_once(") ").ok_or_else(malformed)?;
    let mut fields = rest.split(' ');
    let state = fields.next().and_then(|s| s.chars().next()).ok_or_else(malformed)?;
    let start = fields.nth(18).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
    Ok((start, state))
}
