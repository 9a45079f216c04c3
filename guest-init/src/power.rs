//! The end of the machine.

use std::{
    io,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use microagent_guest_protocol::OUTPUT_SECONDS;
use rustix::system::{RebootCommand, reboot};

use crate::{
    children::STACK,
    console,
    machine::{Command, Machine},
    root, sys,
};

/// How long the session may take from SIGKILL to its last event. The host's own limit has to be longer.
const LAST_EVENT: Duration = Duration::from_secs(10);

/// How long outputs are copied when the machine is shut down.
const OUTPUTS: Duration = Duration::from_secs(OUTPUT_SECONDS as u64);

/// How long killed processes may take to be gone: only a hung disk holds them longer.
const LAST_PROCESS: Duration = Duration::from_secs(2);

/// How long the execs that were ended may take to be answered.
const LAST_REPLY: Duration = Duration::from_secs(3);

/// The word of the kernel's command line that a VMM gives whose machines have no power switch: they end by a restart, which the VMM
/// takes for the end.
const RESTART_WORD: &str = "microagent.off=restart";

/// Makes SIGTERM, SIGINT and SIGPWR to PID 1 shutdowns, and Ctrl+Alt+Del too: the kernel sends SIGINT for it once it is told not to
/// restart at once.
pub(crate) fn start_signal_watch(machine: &Arc<Machine>) -> io::Result<()> {
    if let Err(e) = reboot(RebootCommand::CadOff) {
        console::say(&format!("Ctrl+Alt+Del still restarts at once: {e}"));
    }
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
    wait_for_the_session(machine, inbox);
    machine.children.close();
    sys::kill_everything();
    machine.wait_for_execs(LAST_REPLY);
    machine.children.wait_until_none(LAST_PROCESS);
    root::make_clean(&machine.take_disks());
    off()
}

/// How far the session has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Outputs are copied out yet.
    WorkloadEnded,
    Finished,
}

/// Waits until the session is over. Once the machine is told to stop, each part of it has its limit.
fn wait_for_the_session(machine: &Machine, inbox: &Receiver<Command>) {
    let mut step = None;
    let grace = loop {
        match inbox.recv() {
            Ok(Command::WorkloadEnded) => step = Some(Step::WorkloadEnded),
            Ok(Command::Shutdown { grace }) => break grace,
            Ok(Command::Finished) | Err(_) => return,
        }
    };
    let (configured, in_session) = machine.stop();
    if !in_session {
        return;
    }
    let step = step.or_else(|| next(inbox, grace.unwrap_or(configured))).or_else(|| {
        machine.children.close();
        sys::kill_everything();
        next(inbox, LAST_EVENT)
    });
    if step == Some(Step::WorkloadEnded) {
        next(inbox, OUTPUTS + LAST_EVENT);
    }
}

/// The session's next step, if it comes within `limit`. Further shutdowns change nothing.
fn next(inbox: &Receiver<Command>, limit: Duration) -> Option<Step> {
    let deadline = Instant::now() + limit;
    loop {
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Command::Finished) => return Some(Step::Finished),
            Ok(Command::WorkloadEnded) => return Some(Step::WorkloadEnded),
            Ok(Command::Shutdown { .. }) => {}
            Err(_) => return None,
        }
    }
}

/// Powers off. What is not on the disks by now is lost.
pub(crate) fn off() -> ! {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let command = if ends_by_restart(&line) { RebootCommand::Restart } else { RebootCommand::PowerOff };
    loop {
        if let Err(e) = reboot(command) {
            console::say(&format!("cannot power off: {e}"));
        }
        // Not reached where there is a power switch; PID 1 must not end where there is none.
        thread::park();
    }
}

fn ends_by_restart(command_line: &str) -> bool {
    command_line.split_whitespace().any(|word| word == RESTART_WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A machine in its session, which was told these commands.
    fn ends(commands: Vec<Command>) {
        let (sender, inbox) = mpsc::channel();
        let machine = Machine::new(0, 0, sender);
        machine.begin_configuration();
        machine.mounted(Vec::new());
        commands.into_iter().for_each(|command| machine.command(command));
        wait_for_the_session(&machine, &inbox);
    }

    #[test]
    fn only_a_vmm_without_a_power_switch_has_its_machines_restarted() {
        assert!(ends_by_restart("console=ttyS0 microagent.off=restart reboot=k\n"));
        assert!(!ends_by_restart("console=ttyS0 panic=-1 x.microagent.off=restart\n"));
    }

    // Each would wait for an hour if it took the wrong word for the last one.
    #[test]
    fn the_session_is_over_with_its_outputs_whatever_came_in_between() {
        let shutdown = || Command::Shutdown { grace: Some(Duration::from_secs(3600)) };
        ends(vec![Command::WorkloadEnded, Command::Finished]);
        ends(vec![shutdown(), Command::Finished]);
        ends(vec![shutdown(), shutdown(), Command::WorkloadEnded, shutdown(), Command::Finished]);
        ends(vec![Command::WorkloadEnded, shutdown(), Command::Finished]);
    }

    #[test]
    fn a_machine_without_a_session_is_not_waited_for() {
        let (sender, inbox) = mpsc::channel();
        let machine = Machine::new(0, 0, sender);
        machine.command(Command::Shutdown { grace: Some(Duration::from_secs(3600)) });
        wait_for_the_session(&machine, &inbox);
    }
}
