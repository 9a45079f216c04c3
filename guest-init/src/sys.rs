//! The system calls that no library in use makes safely. Everything unsafe of guest-init is in this file.

use std::{
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr,
};

/// Signals that ask PID 1 for a shutdown: from `kill 1`, Ctrl-Alt-Del, and power supplies.
const SHUTDOWN_SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGPWR];

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn shutdown_signals() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain data, made valid by `sigemptyset`; the calls only write to it.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SHUTDOWN_SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Blocks the signals that [`wait_for_signal`] waits for. Called before the first thread starts, which inherits it.
pub(crate) fn block_signals() {
    let set = shutdown_signals();
    // SAFETY: the set is valid; no old mask is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
}

/// Waits until PID 1 is asked to shut down, and returns the signal.
pub(crate) fn wait_for_signal() -> i32 {
    let set = shutdown_signals();
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of their types.
        if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
            return signal;
        }
    }
}

/// Gives the kernel's random numbers this seed, and has them made from it at once: random(4).
pub(crate) fn reseed(seed: &[u8]) -> io::Result<()> {
    // Numbers: include/uapi/linux/random.h.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    const BYTES: usize = 32;
    /// `struct rand_pool_info` with room for the seed.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; BYTES],
    }
    let mut pool = Pool { bits: 0, size: BYTES as libc::c_int, bytes: [0; BYTES] };
    let taken = seed.len().min(BYTES);
    pool.bytes[..taken].copy_from_slice(&seed[..taken]);
    pool.bits = 8 * taken as libc::c_int;
    let device = std::fs::OpenOptions::new().write(true).open("/dev/random")?;
    // SAFETY: the request reads a rand_pool_info and as many bytes behind it as it says, which are there.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) })?;
    // SAFETY: the request takes no argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) }).map(drop)
}

/// Waits until any child has ended and returns its process id without reaping it. `ECHILD` when there is no child.
pub(crate) fn peek_ended_child() -> io::Result<i32> {
    loop {
        // SAFETY: `siginfo_t` is plain data; the kernel fills it; `si_pid` is valid for what waitid returns.
        let result = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            checked(libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOWAIT)).map(|_| info.si_pid())
        };
        match result {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Sends a signal, by any number, to the process group of a leader that the caller knows to be a child not yet reaped.
pub(crate) fn signal_group(leader: i32, signal: i32) {
    if leader > 1 {
        // SAFETY: no memory is involved; the number cannot be 0 or -1 after the negation.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// Sends SIGKILL to every process but this one.
pub(crate) fn kill_everything() {
    // SAFETY: no memory is involved. Guarded: from any other process than PID 1 it would hit the host's user.
    if std::process::id() == 1 {
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Listens on a vsock port, for any peer.
pub(crate) fn vsock_listen(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: the new descriptor is owned by nobody else; the address is a valid `sockaddr_vm` of the length given.
    unsafe {
        let fd = checked(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_vm = mem::zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = libc::VMADDR_CID_ANY;
        address.svm_port = port;
        let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        checked(libc::bind(fd, ptr::from_ref(&address).cast(), length))?;
        checked(libc::listen(fd, 64))?;
        Ok(socket)
    }
}

/// Accepts one connection; with it, whether it comes from the host. A process of the guest can connect too.
pub(crate) fn vsock_accept(listener: &OwnedFd) -> io::Result<(OwnedFd, bool)> {
    // SAFETY: address and length are live and of the right type; the new descriptor is owned by nobody else.
    unsafe {
        let mut address: libc::sockaddr_vm = mem::zeroed();
        let mut length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        let fd = checked(libc::accept4(
            listener.as_raw_fd(),
            ptr::from_mut(&mut address).cast(),
            &mut length,
            libc::SOCK_CLOEXEC,
        ))?;
        Ok((OwnedFd::from_raw_fd(fd), address.svm_cid == libc::VMADDR_CID_HOST))
    }
}

/// Brings up `lo`, which also gives it its addresses.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: `ifreq` is plain data with a name that ends in NUL; the socket lives until after the calls.
    unsafe {
        let fd = checked(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request))?;
    }
    Ok(())
}

/// What a child does to itself between fork and exec.
pub(crate) struct ChildSide {
    /// `cgroup.procs` of the cgroup to join, if there is one.
    pub(crate) cgroup: Option<OwnedFd>,
    pub(crate) uid: rustix::fs::Uid,
    pub(crate) gid: rustix::fs::Gid,
    pub(crate) groups: Vec<rustix::fs::Gid>,
    /// Standard input is a terminal to be taken as the controlling one.
    pub(crate) terminal: bool,
}

/// Makes `command` go through `side` before it executes the program.
pub(crate) fn before_exec(command: &mut Command, side: ChildSide) {
    // SAFETY: `ChildSide::enter` makes only plain system calls on values made before the fork: no allocation, no lock.
    unsafe { command.pre_exec(move || side.enter()) };
}

impl ChildSide {
    fn enter(&self) -> io::Result<()> {
        use rustix::{fs, io::write, process, thread};
        // SAFETY: the set is plain data, made valid by `sigemptyset`; both calls may be made between fork and exec.
        unsafe {
            // Otherwise the program would start with the shutdown signals of PID 1 blocked.
            let mut none = mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        }
        process::setsid()?;
        if self.terminal {
            process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some(procs) = &self.cgroup {
            write(procs.as_fd(), b"0")?;
        }
        // PID 1 is exempt from the OOM killer; its children are not. Without /proc there is nothing to undo.
        if let Ok(file) = fs::open(c"/proc/self/oom_score_adj", fs::OFlags::WRONLY, fs::Mode::empty()) {
            write(&file, b"0")?;
        }
        // The calls of this thread alone: the child has no other, and needs none of libc's signalling between threads.
        thread::set_thread_groups(&self.groups)?;
        thread::set_thread_gid(self.gid)?;
        thread::set_thread_uid(self.uid)?;
        Ok(())
    }
}
