//! The host at the other end of a connection: frames in, frames out, and never in anybody's way. What cannot be sent at once
//! waits in memory; whoever produces it looks at [`Peer::is_full`] first. A host that is gone swallows everything.

use std::{
    collections::VecDeque,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
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

use crate::{clock, successor::Successor};

/// How much may wait to be sent before the producer is asked to pause, in bytes: four full frames.
const FULL: usize = 4 * MAX_DATA;

/// The longest frame that a host may send after its request, in bytes with its header. Inputs are far shorter than data.
const MAX_INPUT: usize = 5 + MAX_DATA;

/// How long the host may take not one byte before it counts as gone at the end of a connection.
pub(crate) const STALLED: Duration = Duration::from_secs(30);

/// How long the last bytes may take from the guest's kernel to the host once all was written.
const LINGER: Duration = Duration::from_secs(2);

/// How many events are kept to be told again. More than can be on their way when a snapshot is made: the host reads them at once.
const KEPT: usize = 256;

/// How long a session that has ended, and whose host is gone, waits for the host to come again: a snapshot may have been made in this
/// very moment.
const AGAIN: Duration = Duration::from_secs(10);

/// One connection.
pub(crate) struct Peer {
    socket: Option<OwnedFd>,
    outbox: Vec<u8>,
    inbox: Vec<u8>,
    session: Option<Session>,
}

/// What the connection of a session has beyond others: it can be replaced.
struct Session {
    successor: Arc<Successor>,
    /// The last events, as frames.
    events: VecDeque<Vec<u8>>,
    /// How many there were before them.
    before: u64,
}

impl Peer {
    /// From a connection whose first frame was read.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: Some(socket), outbox: Vec::new(), inbox: Vec::new(), session: None })
    }

    /// The same for the connection of a session.
    pub(crate) fn of_session(socket: OwnedFd, successor: Arc<Successor>) -> io::Result<Self> {
        let session = Some(Session { successor, events: VecDeque::new(), before: 0 });
        Ok(Self { session, ..Self::new(socket)? })
    }

    /// Where the connection comes from that replaces this one, for a session's.
    pub(crate) fn successor(&self) -> Option<&Arc<Successor>> {
        self.session.as_ref().map(|session| &session.successor)
    }

    /// Goes on with the connection that replaces this one, if there is one: tells again what the host has not heard.
    pub(crate) fn adopt(&mut self) {
        let Some(session) = &self.session else { return };
        let Some(arrival) = session.successor.take() else { return };
        let known = usize::try_from(arrival.seen.saturating_sub(session.before)).unwrap_or(usize::MAX);
        let missed: Vec<u8> = session.events.iter().skip(known).flatten().copied().collect();
        self.disconnect();
        if rustix::io::ioctl_fionbio(&arrival.socket, true).is_ok() {
            self.socket = Some(arrival.socket);
            self.message(&Event::Resumed { at_ms: clock::uptime_ms() });
            self.outbox.extend(missed);
            self.send();
        }
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
        let mut bytes = Vec::new();
        if frame::write_message(&mut bytes, event).is_err() {
            return;
        }
        if self.socket.is_some() {
            self.outbox.extend_from_slice(&bytes);
        }
        if let Some(session) = &mut self.session {
            session.events.push_back(bytes);
            if session.events.len() > KEPT {
                session.events.pop_front();
                session.before += 1;
            }
        }
        self.send();
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
        if let (None, Some(session)) = (&self.socket, &self.session) {
            session.successor.wait(AGAIN);
        }
        self.adopt();
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
    use crate::successor::Arrival;
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
    fn a_host_that_comes_again_is_told_what_it_has_not_heard() {
        let successor = Arc::new(Successor::new());
        let (host, guest) = UnixStream::pair().unwrap();
        let mut peer = Peer::of_session(guest.into(), Arc::clone(&successor)).unwrap();
        let mounted = |at_ms| Event::Mounted { at_ms };
        (0..3).for_each(|n| peer.event(&mounted(n)));
        drop(host);
        peer.disconnect();
        peer.data(Kind::Stdout, b"lost");
        peer.event(&mounted(3));
        let (mut host, guest) = UnixStream::pair().unwrap();
        // The first was heard.
        successor.offer(Arrival { socket: guest.into(), seen: 1 });
        peer.event(&mounted(4));
        peer.finish();
        let mut heard = Vec::new();
        while let Ok(Some(frame)) = frame::read(&mut host) {
            heard.push(frame.message::<Event>().unwrap());
        }
        assert!(matches!(heard.remove(0), Event::Resumed { .. }));
        assert_eq!(heard, [1, 2, 3, 4].map(mounted));
    }

    #[test]
    fn only_the_last_events_are_kept() {
        let successor = Arc::new(Successor::new());
        let mut peer = Peer::of_session(UnixStream::pair().unwrap().1.into(), Arc::clone(&successor)).unwrap();
        peer.disconnect();
        (0..1000).for_each(|at_ms| peer.event(&Event::Mounted { at_ms }));
        let (mut host, guest) = UnixStream::pair().unwrap();
        successor.offer(Arrival { socket: guest.into(), seen: 998 });
        peer.finish();
        let heard: Vec<Event> =
            std::iter::from_fn(|| frame::read(&mut host).unwrap()).map(|f| f.message().unwrap()).collect();
        assert_eq!(heard[1..], [Event::Mounted { at_ms: 998 }, Event::Mounted { at_ms: 999 }]);
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
