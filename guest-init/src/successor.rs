//! The connection that takes the place of a session's when the machine went on from a snapshot.

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::peer::timespec;

/// A new connection, and how many events the host has heard on those before.
pub(crate) struct Arrival {
    pub(crate) socket: OwnedFd,
    pub(crate) seen: u64,
}

/// Where the control port leaves it for the session.
pub(crate) struct Successor {
    arrival: Mutex<Option<Arrival>>,
    /// Readable while there is one. Without it, which needs a guest without memory, the session looks when it wakes for another reason.
    ready: Option<OwnedFd>,
}

impl Successor {
    pub(crate) fn new() -> Self {
        Self { arrival: Mutex::default(), ready: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok() }
    }

    /// Leaves a connection. One that was not taken is closed.
    pub(crate) fn offer(&self, arrival: Arrival) {
        let mut slot = self.lock();
        *slot = Some(arrival);
        if let Some(ready) = &self.ready {
            let _ = rustix::io::write(ready, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the connection that was left last.
    pub(crate) fn take(&self) -> Option<Arrival> {
        let mut slot = self.lock();
        if let Some(ready) = &self.ready {
            let _ = rustix::io::read(ready, &mut [0; 8]);
        }
        slot.take()
    }

    /// What to wait for.
    pub(crate) fn poll(&self) -> Option<PollFd<'_>> {
        self.ready.as_ref().map(|ready| PollFd::new(ready, PollFlags::IN))
    }

    /// Waits for one, at most for so long.
    pub(crate) fn wait(&self, limit: Duration) {
        if let Some(ready) = self.poll() {
            let _ = poll(&mut [ready], Some(&timespec(limit)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arrival>> {
        self.arrival.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
