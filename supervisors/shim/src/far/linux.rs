//! Vsock as the kernel of a Linux host carries it, vsock(7).
#![allow(unsafe_code, reason = "rustix has no AF_VSOCK addresses")]

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// A connection by the kernel, which gives up after two seconds. Given as a `UnixStream`, which only reads, writes and shuts down
/// the descriptor.
pub(super) fn dial(cid: u32, port: u32) -> io::Result<UnixStream> {
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
