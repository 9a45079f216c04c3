//! The way to the guest's vsock ports, which only the shim goes.
#![allow(unsafe_code, reason = "rustix has no AF_VSOCK addresses")]

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use microagent_supervisor_protocol::vsock;

use crate::{backend::Launch, dir::GUEST_SOCKET};

/// How long a guest may take for one handshake: it runs already when it is tried, but may be translated on a busy host.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What carries vsock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Far {
    /// The host's kernel (`/dev/vhost-vsock`); the guest has this address.
    Kernel(u32),
    /// The helper program, by its own Unix socket in the machine's directory.
    Program,
}

impl Far {
    pub(crate) fn of(launch: &Launch) -> Self {
        launch.kernel_vsock_cid.map_or(Self::Program, Self::Kernel)
    }

    /// A connection to a port of the guest. Bounded in time.
    pub(crate) fn connect(self, port: u32) -> io::Result<UnixStream> {
        match self {
            Self::Kernel(cid) => dial(cid, port),
            Self::Program => vsock::connect(Path::new(GUEST_SOCKET), port, HANDSHAKE),
        }
    }
}

/// A connection by the kernel, which gives up after two seconds. Given as a `UnixStream`, which only reads, writes and shuts down
/// the descriptor.
fn dial(cid: u32, port: u32) -> io::Result<UnixStream> {
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the pointer is to a sockaddr_vm of that length, which lives through the call.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if connected < 0 { Err(io::Error::last_os_error()) } else { Ok(socket.into()) }
}
