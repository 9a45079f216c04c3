//! A guest, played: behind the socket with the `CONNECT` handshake.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use tokio::task::{JoinHandle, spawn_blocking};

/// Serves one connection as `then` says, once the handshake is done.
pub(crate) fn serve<T: Send + 'static>(
    path: &Path,
    then: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    let listener = UnixListener::bind(path).unwrap();
    spawn_blocking(move || {
        let mut wire = listener.accept().unwrap().0;
        let mut line = String::new();
        // Unbuffered: what follows the line is the request.
        BufReader::with_capacity(1, wire.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "CONNECT 1024\n");
        wire.write_all(b"OK 5\n").unwrap();
        then(wire)
    })
}
