//! System calls of macOS that have no safe form elsewhere.
#![allow(unsafe_code, reason = "libproc, sysctl and kqueue take pointers and bare descriptors")]

use std::{
    ffi::CStr,
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
};

use rustix::{
    event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent_timespec, kqueue},
    io::Errno,
    process::Pid,
};

/// The longest text of the kernel's that is asked for, in bytes: a UUID has 36 and a NUL.
const MAX_TEXT: usize = 128;

/// A text of the kernel's: sysctlbyname, sysctl(3).
pub(crate) fn sysctl_text(name: &CStr) -> io::Result<String> {
    let mut text = [0u8; MAX_TEXT];
    let mut length = text.len();
    // SAFETY: the name ends with NUL; the buffer and its length live through the call, which writes at most that many bytes.
    let failed =
        unsafe { libc::sysctlbyname(name.as_ptr(), text.as_mut_ptr().cast(), &raw mut length, ptr::null_mut(), 0) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    let text = text.get(..length).unwrap_or_default();
    let text = CStr::from_bytes_until_nul(text).map_err(io::Error::other)?;
    text.to_str().map(str::to_owned).map_err(io::Error::other)
}

/// What the kernel tells of a process that has not ended.
pub(crate) fn process_info(pid: Pid) -> rustix::io::Result<libc::proc_bsdinfo> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = size_of::<libc::proc_bsdinfo>() as libc::c_int;
    // SAFETY: the buffer has that many bytes and lives through the call.
    let wrote = unsafe {
        libc::proc_pidinfo(pid.as_raw_nonzero().get(), libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size)
    };
    if wrote < size {
        // What is cut short is of a process that ended meanwhile.
        return Err(io::Error::last_os_error()
            .raw_os_error()
            .filter(|_| wrote <= 0)
            .map_or(Errno::SRCH, Errno::from_raw_os_error));
    }
    // SAFETY: the structure is plain numbers, for which all bytes are valid, and the kernel wrote all of it.
    Ok(unsafe { info.assume_init() })
}

/// A queue that is readable once the process has ended.
pub(crate) fn exit_queue(pid: Pid) -> rustix::io::Result<OwnedFd> {
    let queue = kqueue()?;
    let exits = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
    watch(&queue, Event::new(exits, EventFlags::ADD, ptr::null_mut()))?;
    Ok(queue)
}

/// Waits until the other end of a socket takes no more and sends no more: poll(2) tells a half that is closed as the whole here.
///
/// # Errors
/// Those of the operating system.
pub fn wait_for_hang_up(socket: impl AsFd) -> io::Result<()> {
    let queue = kqueue()?;
    // Each change of the room for writing is told once, and so is its end.
    let writes = EventFilter::Write(socket.as_fd().as_raw_fd());
    watch(&queue, Event::new(writes, EventFlags::ADD | EventFlags::CLEAR, ptr::null_mut()))?;
    loop {
        let mut events = [MaybeUninit::<Event>::uninit()];
        // SAFETY: the socket that is watched is borrowed, and so open, through the call.
        match unsafe { kevent_timespec(&queue, &[], &mut events, None) } {
            Ok((events, _)) if events.iter().any(|event| event.flags().contains(EventFlags::EOF)) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn watch(queue: &OwnedFd, event: Event) -> rustix::io::Result<()> {
    let none: &mut [Event] = &mut [];
    // SAFETY: a descriptor in the event is borrowed by the caller, and nothing is kept behind it: closing it ends the watch.
    unsafe { kevent_timespec(queue, &[event], none, None) }.map(drop)
}
