//! Reaching a guest's vsock port through the machine's Unix socket.
//!
//! The host writes `CONNECT <port>\n`, the VMM answers `OK <number>\n`, and from there on the stream is the guest's. This is
//! Firecracker's handshake; every backend here speaks it.

#[cfg(target_os = "linux")]
#[path = "vsock/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "vsock/macos.rs"]
mod platform;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

pub use platform::{MAX_SOCKET_PATH, connect_within, short_path};

/// The longest answer to `CONNECT`, in bytes: `OK `, a 32-bit number, and the line's end, with room.
const MAX_ANSWER: usize = 32;

/// Connects to a port of the guest. `timeout` bounds each step of the handshake; the stream it gives has no timeouts.
///
/// # Errors
/// Those of the socket; `ConnectionRefused` when nothing listens on the port; `TimedOut` or `WouldBlock` when the guest does
/// not answer; `InvalidData` for an answer outside the handshake.
pub fn connect(socket: &Path, port: u32, timeout: Duration) -> io::Result<UnixStream> {
    let stream = connect_within(socket, timeout)?;
    // One that closes each connection at once may have done so by now.
    stream.set_read_timeout(Some(timeout)).map_err(refused)?;
    stream.set_write_timeout(Some(timeout)).map_err(refused)?;
    (&stream).write_all(format!("CONNECT {port}\n").as_bytes()).map_err(refused)?;
    await_answer(&stream)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// Reads the answer to `CONNECT`, which was sent.
///
/// # Errors
/// As [`connect`].
pub fn await_answer(mut stream: &UnixStream) -> io::Result<()> {
    // One byte at a time: what follows the line is already the guest's.
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        if answer.len() == MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to CONNECT is too long"));
        }
        match stream.read(&mut byte) {
            Ok(0) => return Err(refused(io::ErrorKind::ConnectionReset.into())),
            Ok(_) => answer.push(byte[0]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(refused(e)),
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to CONNECT is not OK"));
    }
    Ok(())
}

/// A connection that was closed without an answer is one that was refused.
fn refused(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {}
        _ if platform::tells_of_hang_up(&error) => {}
        _ => return error,
    }
    io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens on the guest's port")
}

/// Connects to a Unix socket whose path may be longer than an address can hold, where the system has a way to that.
///
/// # Errors
/// Those of the operating system.
pub fn connect_unix(socket: &Path) -> io::Result<UnixStream> {
    let (path, _folder) = short_path(socket)?;
    UnixStream::connect(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
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
    fn a_server_that_closes_at_once_refuses_whenever_that_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let closing = thread::spawn(move || (0..100).for_each(|_| drop(listener.accept().unwrap())));
        for _ in 0..100 {
            let error = connect(&socket, 1, Duration::from_secs(10)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        closing.join().unwrap();
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
