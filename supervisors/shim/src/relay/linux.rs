//! Hanging up as Linux tells of it, poll(2).

use std::os::unix::net::UnixStream;

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// Waits until neither side of the stream can send any more.
pub(super) fn wait_for_hang_up(stream: &UnixStream) {
    while let Err(Errno::INTR) = poll(&mut [PollFd::new(stream, PollFlags::empty())], None) {}
}
