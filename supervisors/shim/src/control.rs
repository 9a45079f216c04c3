//! The shim's own socket: how `halt`, `kill`, `pause`, `resume` and `quarantine` reach it. A wish is one line of JSON; the answer is
//! the line `ok`, or one of JSON with the error.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Duration,
};

use microagent_supervisor_protocol::{ErrorBody, Snapshot, vsock};
use serde::{Deserialize, Serialize};

use crate::run::Signal;

/// How long either side waits for the other: a VMM that does not answer takes 5 seconds of it.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a snapshot may take: a machine's memory is written to a disk, and flushed.
const WRITING: Duration = Duration::from_secs(600);

/// The longest wish, in bytes: one has a path.
const MAX_WISH: u64 = 16 * 1024;

/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// What came of a wish, once it is recorded.
pub(crate) type Answer = Result<(), ErrorBody>;

/// Why a wish was not fulfilled.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The shim says why.
    Told(Box<ErrorBody>),
    /// There is no shim, or it does not answer.
    Deaf(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Deaf(error)
    }
}

/// What the shim can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Wish {
    /// End within this many seconds.
    Halt {
        /// The workload's grace period.
        grace_seconds: u32,
    },
    /// End now.
    Kill,
    /// Stand still.
    Pause,
    /// Run, connected.
    Resume,
    /// Run, cut off.
    Quarantine,
    /// Be written down.
    Snapshot(Snapshot),
}

impl Wish {
    /// How long the shim may take for it.
    fn patience(&self) -> Duration {
        if matches!(self, Self::Snapshot(_)) { WRITING } else { PATIENCE }
    }
}

/// Tells the shim; returns when it has recorded the wish.
pub(crate) fn tell(socket: &Path, wish: Wish) -> Result<(), Refusal> {
    let mut stream = vsock::connect_within(socket, PATIENCE)?;
    stream.set_read_timeout(Some(wish.patience()))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&wish).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer)?;
    if answer == "ok\n" {
        return Ok(());
    }
    Err(Refusal::Told(serde_json::from_str(&answer).map_err(io::Error::from)?))
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
    let wish: Wish = serde_json::from_str(&line)?;
    let patience = wish.patience();
    let (recorded, wait) = sync_channel(1);
    signals.send(Signal::Wish(wish, recorded)).map_err(io::Error::other)?;
    match wait.recv_timeout(patience).map_err(io::Error::other)? {
        Ok(()) => stream.write_all(b"ok\n"),
        Err(error) => {
            let mut line = serde_json::to_vec(&error)?;
            line.push(b'\n');
            stream.write_all(&line)
        }
    }
}
