//! A command in a guest: the one request that passes, and then bytes both ways.

use std::{io, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use microagent_guest_protocol::{
    CONTROL_PORT, Exec, ExecReply, Request,
    frame::{self, Frame, Kind},
};
use microagent_supervisor_protocol::vsock;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::UnixStream,
    task::spawn_blocking,
    time::timeout,
};

use crate::{answer::Refusal, machines::Found, route::Route};

/// How long the guest may take to accept a connection: long enough for a translated guest on a busy host.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the client may take to say what to run.
const FIRST: Duration = Duration::from_secs(10);
/// The longest first frame, in bytes. Linux gives a program at most 2 MiB of arguments and variables where stacks are as usual.
const MAX_FIRST: usize = 2 * 1024 * 1024;
/// How much is carried at once, in bytes: the most that a frame of the guest holds.
const CHUNK: usize = 64 * 1024;
/// How long a client may leave the end of what it was sent untaken.
const STALL: Duration = Duration::from_secs(3600);

/// A connection to the guest, before its client hears of success.
pub(crate) async fn connect(found: &Found, route: &Route) -> Result<UnixStream, Refusal> {
    let path = found.vsock.clone();
    let connected = spawn_blocking(move || {
        let stream = vsock::connect(&path, CONTROL_PORT, CONNECT)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    let stream = connected.await.map_err(|error| Refusal::internal(error.to_string()))?;
    stream.and_then(UnixStream::from_std).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Refusal::conflict(format!("{route} is not running: its phase is {}", found.phase.as_str()))
        }
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Refusal::timeout(format!("the guest of {route} does not answer"))
        }
        _ => Refusal::internal(format!("cannot reach the guest of {route}: {error}")),
    })
}

/// Carries the session. What the client asks for first must be an exec.
pub(crate) async fn carry(upgrade: OnUpgrade, guest: UnixStream, found: Found) -> io::Result<()> {
    let mut client = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
    let first = match timeout(FIRST, first_frame(&mut client)).await {
        Ok(read) => read?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let exec = match first {
        Ok(exec) => exec,
        Err(why) => {
            let reply = ExecReply::Failed { code: "RequestNotAllowed".to_owned(), message: why };
            client.write_all(&message(&reply)?).await?;
            return client.shutdown().await;
        }
    };
    relay(client, guest, &message(&Request::Exec(with_defaults(exec, found)))?).await
}

/// A user and a directory that are not named are the workload's, as with a command on the node itself.
fn with_defaults(mut exec: Exec, found: Found) -> Exec {
    exec.process.user = exec.process.user.or(found.user);
    exec.process.working_dir = exec.process.working_dir.or(found.working_dir);
    exec
}

/// The command to run, or why what came is not one.
async fn first_frame(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<Exec, String>> {
    let mut header = [0; 5];
    client.read_exact(&mut header).await?;
    let [kind, length @ ..] = header;
    let length = u32::from_be_bytes(length) as usize;
    if kind != Kind::Message as u8 {
        return Ok(Err(format!("the first frame must be a message; its kind is {kind}")));
    }
    if length > MAX_FIRST {
        return Ok(Err(format!("the first frame has {length} bytes, more than {MAX_FIRST}")));
    }
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await?;
    Ok(match (Frame { kind: Kind::Message, payload }).message() {
        Ok(Request::Exec(exec)) => Ok(exec),
        Ok(Request::Configure(_)) => {
            Err("a machine is configured by its own node only; the gate runs commands".to_owned())
        }
        Ok(Request::Shutdown { .. }) => {
            Err("a machine is shut down through its Workspace; the gate runs commands".to_owned())
        }
        Err(error) => Err(format!("the first frame is no request: {error}")),
    })
}

fn message(message: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    frame::write_message(&mut bytes, message)?;
    Ok(bytes)
}

/// Carries bytes both ways until the guest has closed, or the client has gone. A client that only has no more to say hears the rest.
async fn relay(client: impl AsyncRead + AsyncWrite, guest: UnixStream, first: &[u8]) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_guest, mut to_guest) = guest.into_split();
    to_guest.write_all(first).await?;
    let down = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            // A guest that breaks off has no more to say, as one that closes.
            let n = from_guest.read(&mut chunk).await.unwrap_or(0);
            if n == 0 {
                return timeout(STALL, to_client.shutdown()).await?;
            }
            to_client.write_all(&chunk[..n]).await?;
            to_client.flush().await?;
        }
    };
    let up = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = from_client.read(&mut chunk).await?;
            if n == 0 {
                // It may have closed before.
                let _ = to_guest.shutdown().await;
                return Ok(());
            }
            if to_guest.write_all(&chunk[..n]).await.is_err() {
                // The guest takes no more; its last words are on their way.
                return Ok(());
            }
        }
    };
    tokio::pin!(down);
    tokio::select! {
        ended = &mut down => ended,
        said = up => match said {
            Ok(()) => down.await,
            Err(gone) => Err(gone),
        },
    }
}
