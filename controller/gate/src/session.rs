//! A command in a guest, or a copy of files: the one request that passes, and then bytes both ways.

use std::{io, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use microagent_guest_protocol::{CONTROL_PORT, frame};
use microagent_supervisor_protocol::vsock;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::UnixStream,
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    answer::Refusal,
    first,
    machines::Found,
    route::{Route, Session},
};

/// How long the guest may take to accept a connection: long enough for a translated guest on a busy host.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the client may take to say what is to be done.
const FIRST: Duration = Duration::from_secs(10);
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

/// Carries the session. What the client asks for first must belong to it.
pub(crate) async fn carry(upgrade: OnUpgrade, guest: UnixStream, session: Session, found: Found) -> io::Result<()> {
    let mut client = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
    let first = match timeout(FIRST, first::read(&mut client, session, found)).await {
        Ok(read) => read?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    match first {
        Ok(request) => relay(client, guest, &message(&request)?).await,
        Err(why) => {
            client.write_all(&first::refusal(session, why)?).await?;
            client.shutdown().await
        }
    }
}

/// A frame of a message.
pub(crate) fn message(message: &impl serde::Serialize) -> io::Result<Vec<u8>> {
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
