//! The `CONNECT <port>` handshake served by the shim itself, where the host's kernel carries vsock (`/dev/vhost-vsock`).
#![allow(unsafe_code, reason = "rustix has no AF_VSOCK addresses")]

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// The longest `CONNECT` line, in bytes: the word, a 32-bit number, and the line's end, with room.
const MAX_LINE: usize = 32;

/// How long a client may take to say where it wants to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections are carried at once.
const MAX_CONNECTIONS: usize = 256;

/// Serves the socket for as long as the process lives.
pub(crate) fn serve(socket: &Path, cid: u32) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let open = Arc::new(AtomicUsize::new(0));
    thread::Builder::new().name("vsock".to_owned()).spawn(move || {
        for client in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let counted = Arc::clone(&open);
            let carried = thread::Builder::new().name("vsock".to_owned()).spawn(move || {
                let _ = carry(&client, |port| dial(cid, port));
                counted.fetch_sub(1, Ordering::Relaxed);
            });
            if carried.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })?;
    Ok(())
}

/// Reads where the client wants to go, goes there, and copies both ways until both are done.
fn carry(client: &UnixStream, dial: impl Fn(u32) -> io::Result<UnixStream>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let port = asked_port(&mut &*client)?;
    let guest = dial(port)?;
    client.set_read_timeout(None)?;
    (&mut &*client).write_all(format!("OK {port}\n").as_bytes())?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &guest));
        copy(&guest, client);
    });
    Ok(())
}

fn copy(from: &UnixStream, to: &UnixStream) {
    let _ = io::copy(&mut &*from, &mut &*to);
    let _ = to.shutdown(Shutdown::Write);
}

fn asked_port(client: &mut impl Read) -> io::Result<u32> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let port = std::str::from_utf8(&line).ok().and_then(|l| l.strip_prefix("CONNECT ")?.trim_end().parse().ok());
    port.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A connection to a guest's port. Given as a `UnixStream`, which only reads, writes and shuts down the descriptor.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_led_to_the_port_it_asked_for_and_bytes_go_both_ways() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (far, mut guest) = UnixStream::pair().unwrap();
        let far = std::sync::Mutex::new(Some(far));
        thread::scope(|scope| {
            scope.spawn(|| {
                carry(&ours, |port| {
                    assert_eq!(port, 1024);
                    Ok(far.lock().unwrap().take().unwrap())
                })
                .unwrap();
            });
            client.write_all(b"CONNECT 1024\nhello").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut heard = String::new();
            guest.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "hello");
            guest.write_all(b"there").unwrap();
            guest.shutdown(Shutdown::Both).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "OK 1024\nthere");
        });
    }

    #[test]
    fn what_is_no_connect_line_is_refused() {
        for line in ["CONNECT x\n", "CONNECT 99999999999\n", "GET / HTTP/1.1 and so on and so forth\n", "CONNECT 1"] {
            assert!(asked_port(&mut line.as_bytes()).is_err(), "{line}");
        }
    }
}
