//! What the threads share: how far the machine has come, and who is to be told.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    time::{Duration, Instant},
};

use microagent_guest_protocol::EnvVar;

use crate::{
    children::{Child, Children},
    error::Error,
    root::Disks,
    successor::Successor,
};

/// What the first thread acts on.
pub(crate) enum Command {
    /// End the workload, then the machine.
    Shutdown {
        /// What the asker allows; the configuration's own when not told.
        grace: Option<Duration>,
    },
    /// Nothing runs any more; outputs are copied out yet.
    WorkloadEnded,
    /// There is nothing left to supervise.
    Finished,
}

/// How far the machine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// No configuration yet.
    Waiting,
    Configuring,
    /// Root, mounts and files are in place.
    Mounted,
    /// The session is over.
    Finished,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) children: Arc<Children>,
    /// When guest-init's first instruction ran.
    pub(crate) init_ms: u64,
    /// When the control port listened.
    pub(crate) listening_ms: u64,
    /// Where the session finds the connection that takes the place of its own.
    pub(crate) successor: Arc<Successor>,
    state: Mutex<State>,
    changed: Condvar,
    commands: Sender<Command>,
}

struct State {
    phase: Phase,
    stopping: bool,
    /// The workload, or the setup step that runs before it.
    current: Option<Arc<Child>>,
    /// The workload's environment, for execs.
    env: Vec<EnvVar>,
    grace: Duration,
    disks: Disks,
    execs: usize,
    next_exec: u64,
}

impl Machine {
    pub(crate) fn new(init_ms: u64, listening_ms: u64, commands: Sender<Command>) -> Self {
        let state = State {
            phase: Phase::Waiting,
            stopping: false,
            current: None,
            env: Vec::new(),
            grace: Duration::ZERO,
            disks: Disks::default(),
            execs: 0,
            next_exec: 0,
        };
        Self {
            children: Arc::default(),
            init_ms,
            listening_ms,
            successor: Arc::new(Successor::new()),
            state: Mutex::new(state),
            changed: Condvar::new(),
            commands,
        }
    }

    /// Tells the first thread.
    pub(crate) fn command(&self, command: Command) {
        // It receives for as long as the machine runs.
        let _ = self.commands.send(command);
    }

    /// Claims the one configuration of this boot. False when it was claimed before, or when the machine is to stop.
    pub(crate) fn begin_configuration(&self) -> bool {
        let mut state = self.lock();
        let free = state.phase == Phase::Waiting && !state.stopping;
        if free {
            state.phase = Phase::Configuring;
        }
        free
    }

    /// Whether there is a session.
    pub(crate) fn is_in_session(&self) -> bool {
        matches!(self.lock().phase, Phase::Configuring | Phase::Mounted)
    }

    /// Notes what the configuration says about the end, before anything runs.
    pub(crate) fn set_grace(&self, grace: Duration) {
        self.lock().grace = grace;
    }

    /// Takes what was mounted, also where nothing else comes of it: it is made clean at the end.
    pub(crate) fn set_disks(&self, disks: Disks) {
        self.lock().disks = disks;
    }

    /// The root is in place: execs may begin.
    pub(crate) fn mounted(&self, env: Vec<EnvVar>) {
        let mut state = self.lock();
        state.env = env;
        state.phase = Phase::Mounted;
        self.changed.notify_all();
    }

    /// The session is over.
    pub(crate) fn finished(&self) {
        self.lock().phase = Phase::Finished;
        self.changed.notify_all();
        self.command(Command::Finished);
    }

    /// Names the child that a shutdown has to end first; `None` when it has ended.
    pub(crate) fn set_current(&self, child: Option<Arc<Child>>) {
        let mut state = self.lock();
        if let Some(child) = child.as_ref().filter(|_| state.stopping) {
            // Started while the shutdown began.
            self.children.signal(child, libc::SIGTERM);
        }
        state.current = child;
    }

    /// Whether nothing further is to be started.
    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Whether the session is over, and the machine is about to power off.
    pub(crate) fn is_finished(&self) -> bool {
        self.lock().phase == Phase::Finished
    }

    /// Begins the shutdown: asks the workload to end. Returns the time that the configuration gives it, and whether there is
    /// a session to wait for.
    pub(crate) fn stop(&self) -> (Duration, bool) {
        let mut state = self.lock();
        state.stopping = true;
        if let Some(child) = &state.current {
            self.children.signal(child, libc::SIGTERM);
        }
        (state.grace, matches!(state.phase, Phase::Configuring | Phase::Mounted))
    }

    /// A place among the execs, of which a copy is one: a number of its own, and the environment that it may inherit. Waits while the configuration
    /// is being carried out.
    pub(crate) fn begin_exec(&self) -> Result<(u64, Vec<EnvVar>), Error> {
        let mut state = self.lock();
        while state.phase == Phase::Configuring {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.phase {
            Phase::Waiting => Err(Error::NotConfigured),
            Phase::Finished => Err(Error::ShuttingDown),
            Phase::Configuring | Phase::Mounted => {
                state.execs += 1;
                state.next_exec += 1;
                Ok((state.next_exec, state.env.clone()))
            }
        }
    }

    /// Gives the place back.
    pub(crate) fn end_exec(&self) {
        let mut state = self.lock();
        state.execs = state.execs.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Waits until all execs were answered, at most for `limit`.
    pub(crate) fn wait_for_execs(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while state.execs > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The mounted disks, for the end.
    pub(crate) fn take_disks(&self) -> Disks {
        std::mem::take(&mut self.lock().disks)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn machine() -> Machine {
        Machine::new(0, 0, mpsc::channel().0)
    }

    #[test]
    fn a_boot_is_configured_once_and_not_at_all_when_it_is_to_stop() {
        let m = machine();
        assert!(m.begin_configuration());
        assert!(!m.begin_configuration());
        let stopped = machine();
        assert!(!stopped.stop().1);
        assert!(!stopped.begin_configuration());
    }

    #[test]
    fn an_exec_is_refused_before_the_configuration_and_after_the_end() {
        let m = machine();
        assert_eq!(m.begin_exec().unwrap_err().category(), "NotConfigured");
        m.begin_configuration();
        m.mounted(Vec::new());
        assert_eq!(m.begin_exec().unwrap().0, 1);
        assert_eq!(m.begin_exec().unwrap().0, 2);
        m.finished();
        assert_eq!(m.begin_exec().unwrap_err().category(), "ShuttingDown");
    }

    #[test]
    fn an_exec_waits_while_the_configuration_is_carried_out() {
        let m = machine();
        m.begin_configuration();
        std::thread::scope(|scope| {
            let exec = scope.spawn(|| m.begin_exec().is_ok());
            m.mounted(Vec::new());
            assert!(exec.join().unwrap());
        });
        m.end_exec();
        m.wait_for_execs(Duration::from_secs(60));
    }
}
