//! Streams of bytes in frames, for those who read and write and wait.

use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use microagent_guest_protocol::frame::{Kind, MAX_DATA};
use rustix::{
    event::{PollFlags, poll},
    io::Errno,
};

use crate::peer::{Peer, poll_peer, timespec};

/// How long a wait for the host may last before it is asked again whether anybody still wants what it sends.
const LOOK: Duration = Duration::from_millis(500);

/// How long a host that was told of a failure may go on sending.
const HEARD_OUT: Duration = Duration::from_secs(10);

/// A tar archive on its way to the host. Waits for a slow host; fails when it is gone.
pub(crate) struct ToHost<'a> {
    peer: &'a mut Peer,
    buffer: Vec<u8>,
}

impl<'a> ToHost<'a> {
    pub(crate) fn new(peer: &'a mut Peer) -> Self {
        Self { peer, buffer: Vec::with_capacity(MAX_DATA) }
    }
}

impl Write for ToHost<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MAX_DATA - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == MAX_DATA {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.peer.data(Kind::Output, &self.buffer);
            self.buffer.clear();
        }
        if self.peer.wait_for_room() { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

/// What the host sends, up to its end. The end is an empty frame: a host that only goes is an error.
pub(crate) struct FromHost<'a, F> {
    peer: &'a mut Peer,
    /// Whether nobody wants it any more.
    is_over: F,
    /// What came and was not read yet, and how far it was read.
    chunks: std::vec::IntoIter<Vec<u8>>,
    chunk: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl<'a, F: Fn() -> bool> FromHost<'a, F> {
    pub(crate) fn new(peer: &'a mut Peer, is_over: F) -> Self {
        Self { peer, is_over, chunks: Vec::new().into_iter(), chunk: io::Cursor::default(), ended: false }
    }

    /// Waits for frames of the host.
    fn receive(&mut self) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the host is gone");
        let mut host = [poll_peer(self.peer, true, PollFlags::empty()).ok_or_else(gone)?];
        match poll(&mut host, Some(&timespec(LOOK))) {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let mut chunks = Vec::new();
        for frame in self.peer.receive() {
            if frame.kind != Kind::Stdin || self.ended {
                self.peer.disconnect();
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the host broke the protocol"));
            }
            self.ended = frame.payload.is_empty();
            chunks.push(frame.payload);
        }
        self.chunks = chunks.into_iter();
        Ok(())
    }
}

impl<F: Fn() -> bool> Read for FromHost<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            if (self.is_over)() {
                return Err(io::Error::other("the machine is shutting down"));
            }
            match self.chunks.next() {
                Some(chunk) => self.chunk = io::Cursor::new(chunk),
                None if self.ended => return Ok(0),
                None => self.receive()?,
            }
        }
    }
}

/// Takes and forgets what the host still sends, until it has read the reply that waits for it and goes: a connection that is closed before
/// takes the reply along.
pub(crate) fn hear_out(peer: &mut Peer) {
    let deadline = Instant::now() + HEARD_OUT;
    while let Some(host) = poll_peer(peer, true, PollFlags::empty()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let _ = poll(&mut [host], Some(&timespec(left)));
        peer.send();
        // To go, and to end what it sends, is both an end.
        if peer.receive().last().is_some_and(|frame| frame.payload.is_empty()) && !peer.has_output() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_guest_protocol::frame;
    use std::{os::unix::net::UnixStream, thread};

    fn read(send: impl FnOnce(&mut UnixStream) + Send + 'static, is_over: bool) -> io::Result<Vec<u8>> {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(guest.into()).unwrap();
        let sender = thread::spawn(move || {
            send(&mut host);
            host
        });
        let mut bytes = Vec::new();
        let read = FromHost::new(&mut peer, || is_over).read_to_end(&mut bytes);
        drop(peer);
        sender.join().unwrap();
        read.map(|_| bytes)
    }

    fn stdin(host: &mut UnixStream, bytes: &[u8]) {
        let _ = frame::write(host, Kind::Stdin, bytes);
    }

    #[test]
    fn what_the_host_sends_is_read_whole_up_to_its_end() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let got = read(
            move |host| {
                sent.chunks(MAX_DATA - 7).for_each(|chunk| stdin(host, chunk));
                stdin(host, b"");
            },
            false,
        );
        assert!(got.unwrap() == expected);
    }

    #[test]
    fn a_host_that_goes_or_says_something_else_or_goes_on_is_an_error() {
        let gone = read(
            |host| {
                stdin(host, b"part");
                host.shutdown(std::net::Shutdown::Both).unwrap();
            },
            false,
        );
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let other = read(|host| frame::write(host, Kind::Stdout, b"x").unwrap(), false);
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let more = read(|host| frame::write(&mut Twice(host), Kind::Stdin, b"").unwrap(), false);
        assert_eq!(more.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// Sends all twice at once.
    struct Twice<'a>(&'a mut UnixStream);

    impl Write for Twice<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write_all(&bytes.repeat(2))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_host_that_sends_on_gets_its_reply_before_it_is_cut_off() {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(guest.into()).unwrap();
        let mut answers = host.try_clone().unwrap();
        let sender = thread::spawn(move || while frame::write(&mut host, Kind::Stdin, &[7; MAX_DATA]).is_ok() {});
        let reader = thread::spawn(move || {
            let reply = frame::read_message::<String>(&mut answers);
            answers.shutdown(std::net::Shutdown::Both).unwrap();
            reply
        });
        peer.message(&"no");
        hear_out(&mut peer);
        peer.finish();
        assert_eq!(reader.join().unwrap().unwrap(), "no");
        sender.join().unwrap();
    }

    #[test]
    fn a_machine_that_ends_waits_for_no_host() {
        assert!(read(|_| {}, true).unwrap_err().to_string().contains("shutting down"));
    }
}
