//! The guest, as far as a test plays it.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread::{self, JoinHandle},
};

use microagent_guest_protocol::{Request, frame};

use crate::Cluster;

/// Serves one connection: takes the handshake and the request, and then does as `then` says.
pub(crate) fn serve<T: Send + 'static>(
    cluster: &Cluster,
    then: impl FnOnce(UnixStream, Request) -> T + Send + 'static,
) -> JoinHandle<T> {
    let listener = UnixListener::bind(cluster.path("vsock.sock")).unwrap();
    thread::spawn(move || {
        let mut wire = listener.accept().unwrap().0;
        let mut line = String::new();
        // Unbuffered: what follows the line is the request.
        BufReader::with_capacity(1, wire.try_clone().unwrap()).read_line(&mut line).unwrap();
        wire.write_all(b"OK 5\n").unwrap();
        let request = frame::read_message(&mut wire).unwrap();
        then(wire, request)
    })
}
