//! The host at the other end of a connection: frames in, frames out, and never in anybody's way. What cannot be sent at once
//! waits in memory; whoever produces it looks at [`Peer::is_full`] first. A host that is gone swallows everything.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use microagent_guest_protocol::{
    Event,
    frame::{self, Frame, Kind, MAX_DATA},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt,
};

/// How much may wait to be sent before the producer is asked to pause, in bytes: four full frames.
const FULL: usize = 4 * MAX_DATA;

/// The longest frame that a host may send after its request, in bytes with its header. Inputs are far shorter than data.
const MAX_INPUT: usize = 5 + MAX_DATA;

/// How long the host may take not one byte before it counts as gone at the end of a connection.
pub(crate) const STALLED: Duration = Duration::from_secs(30);

/// How long the last bytes may take from the guest's kernel to the host once all was written.
const LINGER: Duration = Duration::from_secs(2);

/// One connection.
pub(crate) struct Peer {
    socket: Option<OwnedFd>,
    outbox: Vec<u8>,
    inbox: Vec<u8>,
}

impl Peer {
    /// From a connection whose first frame was read.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: Some(socket), outbox: Vec::new(), inbox: Vec::new() })
    }

    /// The socket, while the host is there.
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// Whether producers should wait.
    pub(crate) fn is_full(&self) -> bool {
        self.outbox.len() >= FULL
    }

    /// Whether something waits to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The host is gone, or broke the protocol.
    pub(crate) fn disconnect(&mut self) {
        self.socket = None;
        self.outbox = Vec::new();
        self.inbox = Vec::new();
    }

    /// Sends bytes of output, at most [`MAX_DATA`].
    pub(crate) fn data(&mut self, kind: Kind, bytes: &[u8]) {
        if self.socket.is_some() && frame::write(&mut self.outbox, kind, bytes).is_ok() {
            self.send();
        }
    }

    /// Sends a message.
    pub(crate) fn message(&mut self, message: &impl serde::Serialize) {
        if self.socket.is_some() && frame::write_message(&mut self.outbox, message).is_ok() {
            self.send();
        }
    }

    /// Sends an event.
    pub(crate) fn event(&mut self, event: &Event) {
        self.message(event);
    }

    /// Sends what can be sent without waiting.
    pub(crate) fn send(&mut self) {
        let mut sent = 0;
        while let Some(socket) = self.socket.as_ref().filter(|_| sent < self.outbox.len()) {
            match rustix::io::write(socket, &self.outbox[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return self.disconnect(),
            }
        }
        self.outbox.drain(..sent);
    }

    /// Waits until more may be sent; false when the host is gone, or has taken not one byte for 30 s and counts as gone.
    pub(crate) fn wait_for_room(&mut self) -> bool {
        while self.is_full() {
            let Some(socket) = self.socket.as_ref() else { break };
            match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timespec(STALLED))) {
                Ok(1..) => self.send(),
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => self.disconnect(),
            }
        }
        self.socket.is_some()
    }

    /// Takes in what has arrived; a host that closed or broke the protocol is disconnected. Returns whole frames.
    pub(crate) fn receive(&mut self) -> Vec<Frame> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let Some(socket) = self.socket.as_ref() else { return Vec::new() };
            match rustix::io::read(socket, &mut chunk) {
                Ok(0) => {
                    let frames = self.take_frames();
                    self.disconnect();
                    return frames;
                }
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return self.take_frames(),
                Err(_) => {
                    self.disconnect();
                    return Vec::new();
                }
            }
            // One round's worth; the rest stays in the kernel, so a fast host cannot fill the memory.
            if self.inbox.len() >= MAX_INPUT {
                return self.take_frames();
            }
        }
    }

    fn take_frames(&mut self) -> Vec<Frame> {
        match parse(&self.inbox) {
            Ok((frames, used)) => {
                self.inbox.drain(..used);
                frames
            }
            Err(_) => {
                self.disconnect();
                Vec::new()
            }
        }
    }

    /// Sends all that waits and closes, so that the host has it all even if the machine powers off next. Gives up on a host
    /// that takes nothing for 30 s.
    pub(crate) fn finish(mut self) {
        while self.has_output() {
            let Some(socket) = self.socket.as_ref() else { return };
            let mut waiting = [PollFd::new(socket, PollFlags::OUT)];
            match poll(&mut waiting, Some(&timespec(STALLED))) {
                Ok(0) => return,
                Ok(_) | Err(Errno::INTR) => self.send(),
                Err(_) => return,
            }
        }
        if let Some(socket) = self.socket.take() {
            // With this the close waits for the host's side to confirm that it has taken everything: the vsock driver sends
            // from a work queue, which a power-off would overtake.
            let _ = rustix::io::ioctl_fionbio(&socket, false);
            let _ = sockopt::set_socket_linger(&socket, Some(LINGER));
        }
    }
}

/// The whole frames at the start of `bytes`, and how many bytes they take.
fn parse(bytes: &[u8]) -> io::Result<(Vec<Frame>, usize)> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(length) = rest.get(1..5).and_then(|l| l.try_into().ok()).map(u32::from_be_bytes)
            && length as usize > MAX_DATA
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut reader = rest;
        match frame::read(&mut reader.by_ref()) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => break,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
        rest = reader;
    }
    Ok((frames, bytes.len() - rest.len()))
}

/// A timeout as poll(2) takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// What to wait for on the host's socket.
pub(crate) fn poll_peer(peer: &Peer, read: bool, also: PollFlags) -> Option<PollFd<'_>> {
    let mut flags = also;
    flags.set(PollFlags::IN, read);
    flags.set(PollFlags::OUT, peer.has_output());
    peer.socket().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream};

    #[test]
    fn frames_are_taken_whole_and_the_rest_waits() {
        let mut wire = Vec::new();
        frame::write(&mut wire, Kind::Stdin, b"one").unwrap();
        frame::write(&mut wire, Kind::Stdin, b"").unwrap();
        let whole = wire.len();
        frame::write(&mut wire, Kind::Stdin, b"three").unwrap();
        for cut in whole..wire.len() {
            let (frames, used) = parse(&wire[..cut]).unwrap();
            assert_eq!((frames.len(), used), (2, whole));
        }
    }

    #[test]
    fn a_frame_too_long_for_an_input_is_refused_by_its_header() {
        assert!(parse(&[0, 0, 2, 0, 0]).is_err());
        assert!(parse(&[1, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn a_host_that_closes_swallows_what_follows() {
        let (host, guest) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(guest.into()).unwrap();
        drop(host);
        assert!(peer.receive().is_empty());
        assert!(peer.socket().is_none());
        peer.data(Kind::Stdout, b"lost");
        assert!(!peer.has_output());
        peer.finish();
    }

    #[test]
    fn output_waits_for_a_slow_host_and_arrives_whole() {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(guest.into()).unwrap();
        let mut count = 0;
        while !peer.is_full() {
            peer.data(Kind::Stdout, &[7; MAX_DATA]);
            count += 1;
        }
        host.write_all(b"").unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = 0;
            while let Some(frame) = frame::read(&mut host).unwrap() {
                bytes += frame.payload.len();
            }
            bytes
        });
        peer.finish();
        assert_eq!(reader.join().unwrap(), count * MAX_DATA);
    }
}
