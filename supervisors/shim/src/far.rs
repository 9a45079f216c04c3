//! The way to the guest's vsock ports, which only the shim goes.

#[cfg(target_os = "linux")]
#[path = "far/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "far/macos.rs"]
mod platform;

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use microagent_supervisor_protocol::vsock;

use crate::{backend::Launch, dir::GUEST_SOCKET, socket};

/// How long a guest may take for one handshake: it runs already when it is tried, but may be translated on a busy host.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many connections may wait for a late answer: each keeps a thread and a descriptor.
const MAX_UNANSWERED: usize = 64;

/// The stack of a thread that only waits, in bytes.
const STACK: usize = 64 * 1024;

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
            Self::Kernel(cid) => platform::dial(cid, port),
            Self::Program => ask(Path::new(GUEST_SOCKET), port, HANDSHAKE),
        }
    }
}

/// How many connections wait for an answer that was given up.
static UNANSWERED: AtomicUsize = AtomicUsize::new(0);

/// A connection by the program. It is never closed before its answer came, however late: vhost-device-vsock (0.3) ends its work when it
/// cannot deliver an answer, and nothing could reach the guest any more.
fn ask(path: &Path, port: u32, patience: Duration) -> io::Result<UnixStream> {
    if UNANSWERED.load(Ordering::Relaxed) >= MAX_UNANSWERED {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the guest answers no connection"));
    }
    let stream = socket::connect(path, patience)?;
    stream.set_read_timeout(Some(patience))?;
    (&stream).write_all(format!("CONNECT {port}\n").as_bytes())?;
    let answer = vsock::await_answer(&stream);
    stream.set_read_timeout(None)?;
    match answer {
        Ok(()) => Ok(stream),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            UNANSWERED.fetch_add(1, Ordering::Relaxed);
            let waits = thread::Builder::new().name("unanswered".to_owned()).stack_size(STACK).spawn(move || {
                let _ = vsock::await_answer(&stream);
                UNANSWERED.fetch_sub(1, Ordering::Relaxed);
            });
            if waits.is_err() {
                UNANSWERED.fetch_sub(1, Ordering::Relaxed);
            }
            Err(io::ErrorKind::TimedOut.into())
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::net::UnixListener};

    #[test]
    fn a_connection_that_is_given_up_stays_open_until_its_late_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(GUEST_SOCKET);
        let listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(ask(&socket, 1024, Duration::from_millis(20)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut program = listener.accept().unwrap().0;
        let mut line = [0; 13];
        program.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"CONNECT 1024\n");
        program.set_nonblocking(true).unwrap();
        assert_eq!(program.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it is open");
        program.set_nonblocking(false).unwrap();
        program.write_all(b"OK 5\n").unwrap();
        assert_eq!(program.read(&mut [0]).unwrap(), 0, "it is closed after its answer");
    }
}
