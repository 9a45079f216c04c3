//! A connection to a guest: on this host, or through the gate of another.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use microagent_guest_protocol::CONTROL_PORT;
use microagent_supervisor_protocol::vsock;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio_util::io::SyncIoBridge;

/// How long the guest may take to accept a connection: long enough for a translated guest on a busy host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Both ways of a connection over which the guest's protocol is spoken. Each is used by a thread that may wait.
pub(crate) struct Wire {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) writer: Box<dyn Write + Send>,
}

impl Wire {
    /// Connects to a guest of this host. Blocks the thread meanwhile.
    ///
    /// # Errors
    /// As [`vsock::connect`].
    pub(crate) fn local(socket: &Path) -> io::Result<Self> {
        let stream = vsock::connect(socket, CONTROL_PORT, CONNECT_TIMEOUT)?;
        Ok(Self { reader: Box::new(stream.try_clone()?), writer: Box::new(stream) })
    }

    /// A connection that was made already. To be called in the runtime that carries it.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (reader, writer) = split(stream);
        Self { reader: Box::new(SyncIoBridge::new(reader)), writer: Box::new(SyncIoBridge::new(writer)) }
    }
}
