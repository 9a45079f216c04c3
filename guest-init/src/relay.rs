//! One loop per running command: output to the host, input from the host, until the command has ended and all of its output
//! is on the way.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use microagent_guest_protocol::{
    ExecInput, Exit,
    frame::{Frame, Kind, MAX_DATA},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    children::Child,
    health::Verdicts,
    peer::{Peer, STALLED, poll_peer, timespec},
};

/// How much standard input may wait for a command that does not read, in bytes. Until then signals and resizes behind it
/// still get through.
const MAX_PENDING: usize = 1024 * 1024;

/// How long to wait for the end of output after the command and all that held its output were ended. The end comes at once
/// unless a process hangs in the kernel.
const DRAIN: Duration = Duration::from_secs(5);

/// A running command and its ends of the pipes, all non-blocking.
pub(crate) struct Relay<'a> {
    pub(crate) peer: &'a mut Peer,
    pub(crate) child: &'a Child,
    /// What the host's standard input goes to, and whether it is expected at all.
    pub(crate) input: Option<OwnedFd>,
    /// Where output comes from, and as what it is sent.
    pub(crate) outputs: Vec<(Kind, OwnedFd)>,
    /// What is to be told beside the output, while the command runs.
    pub(crate) verdicts: Option<&'a Verdicts>,
    /// Whether the host may send anything. When it may, its departure is reported to the handler.
    pub(crate) interactive: bool,
    /// Whether output is read to its end after the command has ended, or only as far as it has been written: a command's
    /// background children may hold its output open for ever.
    pub(crate) to_the_end: bool,
}

/// What the host did besides sending standard input.
pub(crate) enum HostAct {
    /// An input other than data.
    Input(ExecInput),
    /// It went away.
    Left,
}

enum Taken {
    Data,
    Nothing,
    End,
}

impl Relay<'_> {
    /// Runs until the end. `on_exit` is called once when the command has ended, before the rest of its output is read.
    pub(crate) fn run(mut self, mut act: impl FnMut(HostAct), on_exit: impl FnOnce()) -> Exit {
        let mut on_exit = Some(on_exit);
        let mut pending: Vec<u8> = Vec::new();
        let mut input_ends = false;
        let mut left = false;
        let mut drain_until = None;
        let mut buffer = vec![0; MAX_DATA];
        loop {
            if let Some(exit) = self.child.exit() {
                if let Some(on_exit) = on_exit.take() {
                    on_exit();
                    self.input = None;
                    drain_until = Some(Instant::now() + DRAIN);
                }
                if self.outputs.is_empty() {
                    return exit;
                }
            }
            self.wait(&pending, drain_until);
            self.peer.adopt();

            self.peer.send();
            if let Some(verdict) = self.verdicts.filter(|_| drain_until.is_none()).and_then(Verdicts::take) {
                self.peer.event(&verdict);
            }
            if self.interactive && pending.len() < MAX_PENDING {
                for frame in self.peer.receive() {
                    self.take_frame(frame, &mut pending, &mut input_ends, &mut act);
                }
            }
            if self.interactive && !left && self.peer.socket().is_none() {
                left = true;
                self.input = None;
                act(HostAct::Left);
            }
            self.feed(&mut pending, input_ends);
            let progress = self.take_outputs(&mut buffer, drain_until.is_some());
            match drain_until {
                Some(_) if progress || self.peer.is_full() => drain_until = Some(Instant::now() + DRAIN),
                Some(deadline) if Instant::now() >= deadline => self.outputs.clear(),
                _ => {}
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self, pending: &[u8], drain_until: Option<Instant>) {
        let read = self.interactive && pending.len() < MAX_PENDING;
        let full = self.peer.is_full();
        let mut waiting = Vec::with_capacity(7);
        // While its input is not read, a host that leaves shows only in this way.
        let departure = if self.interactive && !read { PollFlags::RDHUP } else { PollFlags::empty() };
        let host = poll_peer(self.peer, read, departure);
        let has_host = host.is_some();
        waiting.extend(host);
        if drain_until.is_none() {
            waiting.push(PollFd::new(self.child.ended(), PollFlags::IN));
        }
        if let Some(input) = self.input.as_ref().filter(|_| !pending.is_empty()) {
            waiting.push(PollFd::new(input, PollFlags::OUT));
        }
        waiting.extend(self.peer.successor().and_then(|successor| successor.poll()));
        if let Some(verdicts) = self.verdicts.filter(|_| drain_until.is_none()) {
            waiting.push(PollFd::new(verdicts.ready(), PollFlags::IN));
        }
        if !full {
            waiting.extend(self.outputs.iter().map(|(_, fd)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        }
        let timeout = match drain_until {
            None => None,
            Some(_) if full => Some(STALLED),
            // Output that is only read as far as it goes is not waited for.
            Some(_) if !self.to_the_end => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
        };
        let ready = poll(&mut waiting, timeout.map(timespec).as_ref());
        let gone = PollFlags::ERR | PollFlags::HUP | departure;
        let host_gone = has_host && waiting.first().is_some_and(|host| host.revents().intersects(gone));
        drop(waiting);
        // Where the host may send, what it sent last is read first; the read then finds that it is gone.
        if (host_gone && !read) || (drain_until.is_some() && full && ready == Ok(0)) {
            self.peer.disconnect();
        }
    }

    /// Takes one piece of each output; tells whether there was any.
    fn take_outputs(&mut self, buffer: &mut [u8], ended: bool) -> bool {
        let mut progress = false;
        let mut index = 0;
        while index < self.outputs.len() && !self.peer.is_full() {
            match self.take(index, buffer) {
                Taken::Data => {
                    progress = true;
                    index += 1;
                }
                Taken::Nothing if !ended || self.to_the_end => index += 1,
                Taken::Nothing | Taken::End => drop(self.outputs.remove(index)),
            }
        }
        progress
    }

    fn take_frame(
        &mut self,
        frame: Frame,
        pending: &mut Vec<u8>,
        input_ends: &mut bool,
        act: &mut impl FnMut(HostAct),
    ) {
        match frame.kind {
            Kind::Stdin if self.input.is_none() => {}
            Kind::Stdin if *input_ends => self.peer.disconnect(),
            Kind::Stdin if frame.payload.is_empty() => *input_ends = true,
            Kind::Stdin => pending.extend_from_slice(&frame.payload),
            _ => match frame.message() {
                Ok(input) => act(HostAct::Input(input)),
                Err(_) => self.peer.disconnect(),
            },
        }
    }

    /// Passes on what standard input takes, and closes it after the last byte.
    fn feed(&mut self, pending: &mut Vec<u8>, input_ends: bool) {
        let Some(input) = &self.input else { return pending.clear() };
        let mut written = 0;
        let mut closed = false;
        while written < pending.len() && !closed {
            match rustix::io::write(input, &pending[written..]) {
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The command closed it: what follows has no reader.
                Err(_) => closed = true,
            }
        }
        pending.drain(..written);
        if closed || (input_ends && pending.is_empty()) {
            self.input = None;
            pending.clear();
        }
    }

    fn take(&mut self, index: usize, buffer: &mut [u8]) -> Taken {
        let Some((kind, fd)) = self.outputs.get(index) else { return Taken::End };
        match rustix::io::read(fd, &mut *buffer) {
            // A terminal whose other side is closed gives EIO at its end.
            Ok(0) | Err(Errno::IO) => Taken::End,
            Ok(n) => {
                self.peer.data(*kind, &buffer[..n]);
                Taken::Data
            }
            Err(Errno::AGAIN | Errno::INTR) => Taken::Nothing,
            Err(_) => Taken::End,
        }
    }
}
