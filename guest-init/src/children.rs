//! Every child of PID 1: those it started, and the orphans that the kernel hands to it.
//!
//! One thread reaps. It first only *looks* for an ended child, and reaps it under the lock that also spans every start: so a
//! child that ends at once is registered before it is reaped, and a process id is signalled only while it is still ours.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    process::Command,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use microagent_guest_protocol::Exit;
use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Pid, WaitOptions, WaitStatus, waitpid},
};

use crate::sys;

/// The stack of each thread, in bytes. The deepest thing on one is serde_json, which bounds its own recursion to 128.
pub(crate) const STACK: usize = 256 * 1024;

/// All children.
#[derive(Default)]
pub(crate) struct Children {
    family: Mutex<Family>,
    changed: Condvar,
}

#[derive(Default)]
struct Family {
    tracked: BTreeMap<i32, Arc<Child>>,
    /// How many were ever started: tells the reaper whether to look again.
    started: u64,
    /// Whether there is no child at all, as far as the reaper knows.
    childless: bool,
    /// Nothing is started any more.
    closed: bool,
}

/// A child that somebody waits for.
pub(crate) struct Child {
    pid: Pid,
    exit: Mutex<Option<Exit>>,
    ended: OwnedFd,
}

impl Child {
    /// Its process id, which is also that of its process group and session.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when it has ended.
    pub(crate) fn ended(&self) -> &OwnedFd {
        &self.ended
    }

    /// How it ended, once it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Children {
    /// Starts `command`, which must make itself the leader of a session. `None` once [`Self::close`] was called.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Option<Arc<Child>>> {
        let ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut family = self.lock();
        if family.closed {
            return Ok(None);
        }
        // When the program cannot be executed std reaps the process itself; the lock keeps the reaper from it.
        let pid = Pid::from_child(&command.spawn()?);
        let child = Arc::new(Child { pid, exit: Mutex::new(None), ended });
        family.tracked.insert(pid.as_raw_nonzero().get(), Arc::clone(&child));
        family.started += 1;
        family.childless = false;
        self.changed.notify_all();
        Ok(Some(child))
    }

    /// Sends a signal to the process group of `child`, if that has not ended.
    pub(crate) fn signal(&self, child: &Child, signal: i32) {
        let pid = child.pid.as_raw_nonzero().get();
        let family = self.lock();
        if family.tracked.contains_key(&pid) {
            sys::signal_group(pid, signal);
        }
    }

    /// Nothing is started from now on.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    /// Waits until there is no process left, at most for `limit`. Tells whether that is so.
    pub(crate) fn wait_until_none(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut family = self.lock();
        while !family.childless && family.started > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            family = self.changed.wait_timeout(family, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn reap_forever(&self) {
        loop {
            let started = self.lock().started;
            match sys::peek_ended_child() {
                Ok(pid) => self.reap(pid),
                // No child: then no process can become one either, until something is started.
                Err(_) => {
                    let mut family = self.lock();
                    while family.started == started {
                        if !family.childless {
                            family.childless = true;
                            self.changed.notify_all();
                        }
                        family = self.changed.wait(family).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    fn reap(&self, pid: i32) {
        let mut family = self.lock();
        let Some(Ok(Some((_, status)))) = Pid::from_raw(pid).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG)) else {
            return;
        };
        if let Some(child) = family.tracked.remove(&pid) {
            *child.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit_of(status));
            let _ = rustix::io::write(&child.ended, &1u64.to_ne_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Family> {
        self.family.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that reaps.
pub(crate) fn start_reaper(children: &Arc<Children>) -> io::Result<()> {
    let children = Arc::clone(children);
    std::thread::Builder::new().stack_size(STACK).spawn(move || children.reap_forever()).map(drop)
}

fn exit_of(status: WaitStatus) -> Exit {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status.terminating_signal() {
        Some(signal) => Exit { code: None, signal: Some(byte(signal)), oom_killed: false },
        None => Exit::code(status.exit_status().map_or(u8::MAX, byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn run(children: &Children, script: &str) -> Exit {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let child = children.start(&mut command).unwrap().unwrap();
        poll(&mut [PollFd::new(child.ended(), PollFlags::IN)], None).unwrap();
        child.exit().unwrap()
    }

    // One test, because waiting for any child is the business of the whole process.
    #[test]
    fn children_are_told_apart_however_fast_they_end_and_none_starts_after_the_close() {
        let children = Arc::new(Children::default());
        start_reaper(&children).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let children = &children;
                scope.spawn(move || {
                    for round in 0..25 {
                        let code = thread * 50 + round;
                        assert_eq!(run(children, &format!("exit {code}")), Exit::code(code));
                        assert!(children.start(&mut Command::new("/nonexistent")).is_err());
                    }
                });
            }
        });
        assert_eq!(run(&children, "kill -9 $$").signal, Some(9));
        assert!(children.wait_until_none(Duration::from_secs(60)));
        children.close();
        assert!(children.start(&mut Command::new("/bin/true")).unwrap().is_none());
    }
}
