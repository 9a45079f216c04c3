//! The control port: one thread a connection, one request a connection.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use microagent_guest_protocol::{Request, ShutdownReply, VERSION, frame};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::{
    children::STACK,
    clock, console, copy,
    error::Error,
    exec,
    machine::{Command, Machine},
    peer::Peer,
    session,
    successor::Arrival,
    sys,
};

/// How many connections there may be at once. Each costs a thread and up to some 2 MiB of buffers.
const MAX_CONNECTIONS: usize = 64;

/// How long a new connection may stay silent before or within its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Starts to accept connections.
pub(crate) fn start(machine: &Arc<Machine>, listener: OwnedFd) -> io::Result<()> {
    let machine = Arc::clone(machine);
    thread::Builder::new().stack_size(STACK).spawn(move || accept_forever(&machine, &listener)).map(drop)
}

fn accept_forever(machine: &Arc<Machine>, listener: &OwnedFd) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        match sys::vsock_accept(listener) {
            // Only the host may command; a process of the guest that connects is not told why it is dropped.
            Ok((_, false)) => {}
            Ok((socket, true)) => {
                if connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                    connections.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (machine, count) = (Arc::clone(machine), Arc::clone(&connections));
                let serving = thread::Builder::new().stack_size(STACK).spawn(move || {
                    serve(&machine, socket);
                    count.fetch_sub(1, Ordering::Relaxed);
                });
                if serving.is_err() {
                    connections.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                console::say(&format!("cannot accept a connection: {e}"));
                // Want of memory or descriptors passes; without the pause the loop would keep the processor from it.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn serve(machine: &Machine, socket: OwnedFd) {
    let _ = set_socket_timeout(&socket, Timeout::Recv, Some(REQUEST_LIMIT));
    let mut reader = File::from(socket);
    let Ok(Some(first)) = frame::read(&mut reader) else { return };
    let socket = OwnedFd::from(reader);
    match first.message() {
        Ok(Request::Exec(exec)) => exec::run(machine, socket, exec),
        Ok(Request::CopyOut(request)) => copy::out(machine, socket, &request),
        Ok(Request::CopyIn(request)) => copy::into(machine, socket, request),
        Ok(Request::Shutdown { grace_seconds }) => {
            let Ok(mut peer) = Peer::new(socket) else { return };
            peer.message(&ShutdownReply::ShuttingDown);
            peer.finish();
            machine.command(Command::Shutdown { grace: Some(session::grace(grace_seconds)) });
        }
        Ok(Request::Configure(config)) if machine.begin_configuration() => {
            drop(first);
            if let Ok(peer) = Peer::of_session(socket, Arc::clone(&machine.successor)) {
                session::run(machine, peer, &config);
            }
            machine.finished();
        }
        Ok(Request::Resumed { realtime_ns, seed, seen }) if machine.is_in_session() => {
            if let Err(e) = clock::set_realtime(realtime_ns) {
                console::say(&format!("cannot set the clock after the snapshot: {e}"));
            }
            if let Err(e) = sys::reseed(&seed) {
                console::say(&format!("cannot refresh the random numbers after the snapshot: {e}"));
            }
            machine.successor.offer(Arrival { socket, seen });
        }
        // A second configuration, and a snapshot of a machine without one.
        Ok(Request::Configure(_) | Request::Resumed { .. }) => {}
        Err(problem) => {
            if let Some(error) = undecodable_configuration(&first.payload, &problem)
                && machine.begin_configuration()
            {
                if let Ok(mut peer) = Peer::new(socket) {
                    session::fail(&mut peer, &error);
                    peer.finish();
                }
                machine.finished();
            }
        }
    }
}

/// Why a request that does not decode is refused, when it was meant to be a configuration. One of another version is most
/// likely of another shape too: then the version is what has to be told.
fn undecodable_configuration(payload: &[u8], problem: &io::Error) -> Option<Error> {
    let request: serde_json::Value = serde_json::from_slice(payload).ok()?;
    if request.get("request")?.as_str()? != "configure" {
        return None;
    }
    let theirs = request.get("version").and_then(serde_json::Value::as_u64).and_then(|v| u32::try_from(v).ok());
    Some(match theirs.filter(|theirs| *theirs != VERSION) {
        Some(theirs) => Error::VersionMismatch { theirs, ours: VERSION },
        None => Error::InvalidConfig { field: "JSON".to_owned(), problem: format!("not understood: {problem}") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_another_version_is_told_by_its_version_and_not_by_its_first_unknown_field() {
        let problem = io::Error::other("unknown field");
        let code = |json: &str| undecodable_configuration(json.as_bytes(), &problem).map(|e| e.category());
        assert_eq!(code(r#"{"request":"configure","version":2,"new":true}"#), Some("VersionMismatch"));
        assert_eq!(code(r#"{"request":"configure","version":1,"new":true}"#), Some("InvalidConfig"));
        assert_eq!(code(r#"{"request":"exec"}"#), None);
        assert_eq!(code("{"), None);
    }
}
