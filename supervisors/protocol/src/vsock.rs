//! Reaching a guest's vsock port through the machine's Unix socket.
//!
//! The host writes `CONNECT <port>\n`, the VMM answers `OK <number>\n`, and from there on the stream is the guest's. This is
//! Firecracker's handshake; every backend here speaks it.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// The longest path of a Unix socket on Linux, in bytes without the closing NUL: unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// The longest answer to `CONNECT`, in bytes: `OK `, a 32-bit number, and the line's end, with room.
const MAX_ANSWER: usize = 32;

/// Connects to a port of the guest. `timeout` bounds each step of the handshake; the stream it gives has no timeouts.
///
/// # Errors
/// Those of the socket; `ConnectionRefused` when nothing listens on the port; `TimedOut` or `WouldBlock` when the guest does
/// not answer; `InvalidData` for an answer outside the handshake.
pub fn connect(socket: &Path, port: u32, timeout: Duration) -> io::Result<UnixStream> {
    let mut stream = connect_within(socket, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    // One byte at a time: what follows the line is already the guest's.
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        if answer.len() == MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to CONNECT is too long"));
        }
        match stream.read(&mut byte) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens on the guest's port"));
            }
            Ok(_) => answer.push(byte[0]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens on the guest's port"));
            }
            Err(e) => return Err(e),
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to CONNECT is not OK"));
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// Connects to a Unix socket whose path may be longer than an address can hold.
///
/// # Errors
/// Those of the operating system.
pub fn connect_unix(socket: &Path) -> io::Result<UnixStream> {
    let (path, _folder) = short_path(socket)?;
    UnixStream::connect(path)
}

/// As [`connect_unix`], but gives up after `timeout`: a server that does not accept lets those who connect wait for ever.
///
/// # Errors
/// Those of the operating system; `WouldBlock` when the time is over.
pub fn connect_within(socket: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let (path, _folder) = short_path(socket)?;
    let address = SocketAddrUnix::new(path)?;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(timeout))?;
    rustix::net::connect(&stream, &address)?;
    set_socket_timeout(&stream, Timeout::Send, None)?;
    Ok(stream.into())
}

/// A path to the same file that fits into a socket's address, good for as long as the returned folder is kept open.
///
/// # Errors
/// Those of opening the folder.
pub fn short_path(socket: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((socket.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((path, Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead, os::unix::net::UnixListener, thread};

    fn answering(path: &Path, answer: &'static [u8]) -> thread::JoinHandle<String> {
        let (short, _folder) = short_path(path).unwrap();
        let listener = UnixListener::bind(short).unwrap();
        thread::spawn(move || {
            let mut peer = listener.accept().unwrap().0;
            let mut line = String::new();
            io::BufReader::new(peer.try_clone().unwrap()).read_line(&mut line).unwrap();
            peer.write_all(answer).unwrap();
            line
        })
    }

    #[test]
    fn the_handshake_leaves_what_the_guest_says_unread_even_below_a_very_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let socket = deep.join("vsock.sock");
        let peer = answering(&socket, b"OK 1073741824\nhello");
        let mut stream = connect(&socket, 1024, Duration::from_secs(10)).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!((peer.join().unwrap().as_str(), rest.as_str()), ("CONNECT 1024\n", "hello"));
    }

    #[test]
    fn a_server_that_does_not_accept_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock.sock");
        let address = SocketAddrUnix::new(&socket).unwrap();
        let server = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&server, &address).unwrap();
        rustix::net::listen(&server, 0).unwrap();
        let _waits = connect_within(&socket, Duration::from_secs(60)).unwrap();
        let refused = connect_within(&socket, Duration::from_millis(10)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_closed_port_and_a_babbling_peer_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        for (answer, kind) in [
            (&b""[..], io::ErrorKind::ConnectionRefused),
            (&b"NO\n"[..], io::ErrorKind::InvalidData),
            (&[b'O'; 100][..], io::ErrorKind::InvalidData),
        ] {
            let socket = dir.path().join(format!("{}.sock", answer.len()));
            let peer = answering(&socket, answer);
            assert_eq!(connect(&socket, 1, Duration::from_secs(10)).unwrap_err().kind(), kind);
            peer.join().unwrap();
        }
    }
}
