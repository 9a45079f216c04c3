//! Processes as macOS tells of them: proc_pidinfo (libproc.h), sysctl(3), and kqueue(2).

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use super::{BootId, Look};
use crate::darwin;

/// The session of the host's kernel: `kern.bootsessionuuid`, which each boot draws anew.
pub(super) fn boot() -> io::Result<BootId> {
    darwin::sysctl_text(c"kern.bootsessionuuid")?.parse().map_err(io::Error::other)
}

/// The process that has this id now. Its start time is in microseconds of the host's clock.
pub(super) fn look(pid: Pid) -> io::Result<Look> {
    let info = info(pid)?;
    Ok(Look {
        start_time: info.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(info.pbi_start_tvusec),
        ended: info.pbi_status == libc::SZOMB,
    })
}

/// Whether the process was stopped by a signal.
pub(super) fn is_stopped(pid: Pid) -> io::Result<bool> {
    Ok(info(pid)?.pbi_status == libc::SSTOP)
}

/// A descriptor that is readable once the process has ended. A process that has ended and was not waited for counts as gone.
pub(super) fn ending(pid: Pid) -> rustix::io::Result<OwnedFd> {
    darwin::exit_queue(pid)
}

/// Signals the process that has the id. Between the last look at who that is and this lies the time of a few system calls: there is no
/// signal to a descriptor here.
pub(super) fn signal(_ending: &OwnedFd, pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    kill_process(pid, signal)
}

fn info(pid: Pid) -> io::Result<libc::proc_bsdinfo> {
    darwin::process_info(pid).map_err(|e| match e {
        Errno::SRCH => io::ErrorKind::NotFound.into(),
        e => e.into(),
    })
}
