//! The end of the machine.

use std::{
    io,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use rustix::system::{RebootCommand, reboot};

use crate::{
    children::STACK,
    console,
    machine::{Command, Machine},
    root, sys,
};

/// How long the session may take from SIGKILL to its last event. The host's own limit has to be longer.
const LAST_EVENT: Duration = Duration::from_secs(10);

/// How long killed processes may take to be gone: only a hung disk holds them longer.
const LAST_PROCESS: Duration = Duration::from_secs(2);

/// How long the execs that were ended may take to be answered.
const LAST_REPLY: Duration = Duration::from_secs(3);

/// Makes SIGTERM, SIGINT and SIGPWR to PID 1 shutdowns.
pub(crate) fn start_signal_watch(machine: &Arc<Machine>) -> io::Result<()> {
    let machine = Arc::clone(machine);
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || {
            loop {
                sys::wait_for_signal();
                machine.command(Command::Shutdown { grace: None });
            }
        })
        .map(drop)
}

/// Waits until the machine has nothing left to do or is told to stop, and ends it.
pub(crate) fn wait_for_the_end(machine: &Machine, inbox: &Receiver<Command>) -> ! {
    if let Ok(Command::Shutdown { grace }) = inbox.recv() {
        let (configured, in_session) = machine.stop();
        if in_session && !finishes(inbox, grace.unwrap_or(configured)) {
            machine.children.close();
            sys::kill_everything();
            finishes(inbox, LAST_EVENT);
        }
    }
    machine.children.close();
    sys::kill_everything();
    machine.wait_for_execs(LAST_REPLY);
    machine.children.wait_until_none(LAST_PROCESS);
    root::make_clean(&machine.take_disks());
    off()
}

/// Whether the session ends within `limit`. Further shutdowns change nothing.
fn finishes(inbox: &Receiver<Command>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Command::Finished) => return true,
            Ok(Command::Shutdown { .. }) => {}
            Err(_) => return false,
        }
    }
}

/// Powers off. What is not on the disks by now is lost.
pub(crate) fn off() -> ! {
    loop {
        if let Err(e) = reboot(RebootCommand::PowerOff) {
            console::say(&format!("cannot power off: {e}"));
        }
        // Not reached where there is a power switch; PID 1 must not end where there is none.
        thread::park();
    }
}
