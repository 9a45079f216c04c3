//! The health of the workload: a thread of its own probes it for as long as it runs, and says when the verdict changes.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use microagent_guest_protocol::{Event, Health, Process};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    children::{Children, STACK},
    clock,
    probe::{self, Outcome, Until, Waited},
};

/// The longest message of a verdict, in characters.
const MAX_MESSAGE: usize = 1024;

/// What the thread found and the host was not told yet.
pub(crate) struct Verdicts {
    /// Readable when there is something to tell.
    ready: OwnedFd,
    state: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// The last verdict that the host was told.
    healthy: Option<bool>,
    /// The newest one.
    new: Option<(bool, String, u64)>,
}

impl Verdicts {
    fn new() -> io::Result<Self> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { ready, state: Mutex::default() })
    }

    /// Becomes readable when [`Self::take`] should be called.
    pub(crate) fn ready(&self) -> &OwnedFd {
        &self.ready
    }

    /// The verdict to tell, where it is not the one that was told last.
    pub(crate) fn take(&self) -> Option<Event> {
        let _ = rustix::io::read(&self.ready, &mut [0; 8]);
        let mut state = self.lock();
        let (healthy, message, at_ms) = state.new.take().filter(|(healthy, ..)| state.healthy != Some(*healthy))?;
        state.healthy = Some(healthy);
        Some(Event::Health { healthy, message, at_ms })
    }

    fn put(&self, healthy: bool, message: &str) {
        self.lock().new = Some((healthy, message.chars().take(MAX_MESSAGE).collect(), clock::uptime_ms()));
        let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread. It ends with [`Prober::stop`], in the middle of a probe too.
pub(crate) struct Prober {
    verdicts: Arc<Verdicts>,
    /// Readable from the moment when the thread is to end.
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Prober {
    /// Begins to probe `workload`, which has just started.
    pub(crate) fn start(children: Arc<Children>, health: Health, workload: Process) -> io::Result<Self> {
        let verdicts = Arc::new(Verdicts::new()?);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (ours, stopping) = (Arc::clone(&verdicts), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || probe_forever(&children, &health, &workload, &ours, &stopping))?;
        Ok(Self { verdicts, stop, thread })
    }

    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// Ends the probe that runs, and waits for the end of the thread.
    pub(crate) fn stop(self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let _ = self.thread.join();
    }
}

fn probe_forever(children: &Children, health: &Health, workload: &Process, verdicts: &Verdicts, stop: &OwnedFd) {
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let mut streak = Streak::default();
    let mut next = Instant::now() + seconds(health.initial_delay_seconds);
    loop {
        if Until::new(next, stop).wait(&mut Vec::new()) == Waited::Stopped {
            return;
        }
        let begun = Instant::now();
        let until = Until::new(begun + seconds(health.timeout_seconds.max(1)), stop);
        let (success, message) = match probe::run(&health.probe, workload, children, &until) {
            Outcome::Success(message) => (true, message),
            Outcome::Failure(message) => (false, message),
            Outcome::Stopped => return,
        };
        if let Some(healthy) = streak.add(success, health) {
            verdicts.put(healthy, &message);
        }
        next = begun + seconds(health.period_seconds.max(1));
    }
}

/// How many probes in a row ended alike, and what that was found to mean.
#[derive(Default)]
struct Streak {
    success: bool,
    length: u32,
    verdict: Option<bool>,
}

impl Streak {
    /// Takes the outcome of a probe; gives the verdict where it changes.
    fn add(&mut self, success: bool, health: &Health) -> Option<bool> {
        self.length = if self.success == success { self.length.saturating_add(1) } else { 1 };
        self.success = success;
        let threshold = if success { health.success_threshold } else { health.failure_threshold };
        if self.length < threshold.max(1) || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_guest_protocol::Probe;
    use std::net::TcpListener;

    fn health(probe: Probe, success_threshold: u32, failure_threshold: u32) -> Health {
        Health {
            probe,
            initial_delay_seconds: 0,
            period_seconds: 1,
            timeout_seconds: 60,
            success_threshold,
            failure_threshold,
        }
    }

    fn tcp(port: u16) -> Probe {
        Probe::TcpSocket { host: None, port }
    }

    fn workload() -> Process {
        Process { argv: vec!["x".into()], env: Vec::new(), working_dir: None, user: None }
    }

    #[test]
    fn a_verdict_is_given_when_it_changes_and_only_after_as_many_probes_in_a_row_as_its_threshold() {
        let health = health(tcp(1), 2, 3);
        let verdicts = |outcomes: &str| -> String {
            let mut streak = Streak::default();
            let verdict = |c| match streak.add(c == '+', &health) {
                None => '.',
                Some(true) => 'H',
                Some(false) => 'U',
            };
            outcomes.chars().map(verdict).collect()
        };
        assert_eq!(verdicts("++++"), ".H..");
        assert_eq!(verdicts("-----"), "..U..");
        assert_eq!(verdicts("+-+--+---++"), "........U.H");
        assert_eq!(verdicts("++--+++---"), ".H.......U");
    }

    #[test]
    fn a_verdict_that_went_there_and_back_before_it_could_be_told_is_not_told() {
        let verdicts = Verdicts::new().unwrap();
        verdicts.put(true, "up");
        assert!(matches!(verdicts.take(), Some(Event::Health { healthy: true, .. })));
        verdicts.put(false, "down");
        verdicts.put(true, "up");
        assert_eq!(verdicts.take(), None);
        verdicts.put(false, &"x".repeat(2 * MAX_MESSAGE));
        let Some(Event::Health { healthy: false, message, .. }) = verdicts.take() else { panic!("not told") };
        assert_eq!(message.len(), MAX_MESSAGE);
    }

    #[test]
    fn the_thread_tells_a_verdict_and_ends_when_it_is_told_to_in_the_middle_of_a_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut health = health(tcp(listener.local_addr().unwrap().port()), 1, 1);
        health.period_seconds = 3600;
        let prober = Prober::start(Arc::default(), health, workload()).unwrap();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let until = Until::new(Instant::now() + Duration::from_secs(60), &stop);
        assert_eq!(until.wait_readable(prober.verdicts().ready()), Waited::Ready);
        assert!(matches!(prober.verdicts().take(), Some(Event::Health { healthy: true, .. })));
        prober.stop();
    }
}
