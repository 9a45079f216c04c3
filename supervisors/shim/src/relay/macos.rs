//! Hanging up as macOS tells of it, kqueue(2).

use std::os::unix::net::UnixStream;

/// Waits until neither side of the stream can send any more.
pub(super) fn wait_for_hang_up(stream: &UnixStream) {
    // Without it the connection ends as soon as the client has no more to say.
    let _ = microagent_base::darwin::wait_for_hang_up(stream);
}
