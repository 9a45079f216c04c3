//! The shim's own socket: how `halt` and `kill` reach it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Duration,
};

use microagent_supervisor_protocol::vsock;
use serde::{Deserialize, Serialize};

use crate::run::Signal;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest wish, in bytes.
const MAX_WISH: u64 = 256;

/// What the shim can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Wish {
    /// End within this many seconds.
    Halt {
        /// The workload's grace period.
        grace_seconds: u32,
    },
    /// End now.
    Kill,
}

/// Tells the shim; returns when it has recorded the wish.
pub(crate) fn tell(socket: &Path, wish: Wish) -> io::Result<()> {
    let mut stream = vsock::connect_unix(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&wish)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    if &answer == b"ok\n" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Serves the socket for as long as the process lives.
pub(crate) fn serve(socket: &Path, signals: SyncSender<Signal>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve_one(&stream, &signals);
        }
    })?;
    Ok(())
}

fn serve_one(mut stream: &UnixStream, signals: &SyncSender<Signal>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_WISH)).read_line(&mut line)?;
    let wish = serde_json::from_str(&line)?;
    let (recorded, wait) = sync_channel(1);
    signals.send(Signal::Wish(wish, recorded)).map_err(io::Error::other)?;
    wait.recv_timeout(PATIENCE).map_err(io::Error::other)?;
    stream.write_all(b"ok\n")
}
