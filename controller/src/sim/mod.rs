//! A simulated host: the real reconciler on machines, disks, jobs, records and a clock that are values. Whole lives of workspaces run
//! in microseconds, every effect can be disturbed, and the controller can be killed at each.
//!
//! What is simulated keeps the promises of the real parts and no more: a supervisor starts a boot once, refuses another while one runs,
//! and finds the work done when it is asked twice; records and status are whole or as before; jobs are lost with the controller.

mod explore;
mod fault;
mod host;
mod scenarios;
mod shape;
mod store;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use jiff::{SignedDuration, Timestamp};
use microagent_crds::{Workspace, WorkspaceSpec};

use self::{fault::Disturbance, host::Host, store::Records};
use crate::{
    Key,
    metrics::Metrics,
    queue::Queue,
    reconcile::{Again, Reconciler},
};

/// How many passes in a row one workspace may take without waiting for anything: the longest way has some fifteen.
const PASSES: usize = 60;
/// How often time may have to move until everything is settled.
const MOVES: usize = 400;
/// A workspace that is not to be looked at again for longer than this is settled.
const SETTLED: SignedDuration = SignedDuration::from_secs(200);

/// Nobody reads them, so all lives share them: making them takes longer than many a life.
static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(Arc::default);

/// All that there is, as one value.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) now: Timestamp,
    pub(crate) host: Host,
    pub(crate) records: Records,
    /// How many effects there were.
    pub(crate) effects: usize,
    /// How many of them changed something on the host.
    pub(crate) acts: usize,
    /// What they were.
    pub(crate) trace: Vec<String>,
    /// What is to go wrong, and at which effect.
    pub(crate) disturbances: Vec<(usize, Disturbance)>,
    /// The controller was killed in the middle of a pass.
    pub(crate) crashed: bool,
    /// When each workspace is to be looked at.
    wakes: BTreeMap<Key, Again>,
}

/// The simulated world, shared by all parts of the reconciler.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

impl World {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// A controller and its world.
pub(crate) struct Sim {
    reconciler: Reconciler<World, World, World, World>,
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// A spec that is changed so from the plainest one.
pub(crate) fn spec(change: impl FnOnce(&mut WorkspaceSpec)) -> WorkspaceSpec {
    let mut spec = WorkspaceSpec::new("registry.example/web:1");
    spec.lifecycle.termination_grace_period_seconds = 5;
    change(&mut spec);
    spec
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self::from(State {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            host: Host::default(),
            records: Records::default(),
            effects: 0,
            acts: 0,
            trace: Vec::new(),
            disturbances: Vec::new(),
            crashed: false,
            wakes: BTreeMap::new(),
        })
    }

    /// As [`Sim::new`], with what is to go wrong.
    pub(crate) fn disturbed(disturbances: &[(usize, Disturbance)]) -> Self {
        let sim = Self::new();
        sim.state().disturbances = disturbances.to_vec();
        sim
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.reconciler.world.state()
    }

    /// Declares a workspace, or changes what is declared.
    pub(crate) fn apply(&self, name: &str, spec: &WorkspaceSpec) {
        self.apply_object(Workspace::new(name, spec.clone()));
    }

    pub(crate) fn apply_object(&self, workspace: Workspace) {
        let mut state = self.state();
        let key = key(workspace.metadata.name.as_deref().unwrap());
        let now = state.now;
        state.records.declare(&key, workspace, now);
        state.wake(&key);
    }

    /// Takes back what is declared.
    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.state();
        let now = state.now;
        state.records.withdraw(&key(name), now);
        state.wake(&key(name));
    }

    /// Kills the controller, where it does not lie dead already, and starts it again: what was in its memory is gone.
    pub(crate) fn restart_controller(&self) {
        let mut state = self.state();
        state.crashed = false;
        state.host.jobs.clear();
        state.wakes = state.records.keys().map(|key| (key, Again::Now)).collect();
    }

    /// One pass; `None` when the controller was killed in it.
    pub(crate) fn pass(&self, key: &Key) -> Option<Again> {
        let mut pass = pin!(self.reconciler.try_pass(key));
        match pass.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(again)) => Some(again),
            // As the real loop does when the store is broken.
            Poll::Ready(Err(_)) if !self.state().crashed => {
                let now = self.state().now;
                Some(Again::At(now + SignedDuration::from_secs(5)))
            }
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    /// Passes over all that are due, until all wait. The controller is started again when it is killed.
    pub(crate) fn work(&self) {
        for _ in 0..PASSES {
            let now = self.state().now;
            let is_due = |again: &Again| match again {
                Again::Now => true,
                Again::At(at) => *at <= now,
                Again::Never => false,
            };
            let due: Vec<Key> =
                self.state().wakes.iter().filter(|(_, again)| is_due(again)).map(|(k, _)| k.clone()).collect();
            if due.is_empty() {
                return;
            }
            for key in due {
                match self.pass(&key) {
                    Some(again) => drop(self.state().wakes.insert(key, again)),
                    None => self.restart_controller(),
                }
            }
        }
        panic!("it does not come to rest:\n{}", self.story());
    }

    /// Moves the clock to the next thing that happens, or that is to be looked at; gives whether anything lies ahead before the
    /// workspaces' routine looks.
    pub(crate) fn move_on(&self) -> bool {
        let mut state = self.state();
        let now = state.now;
        let wakes = state.wakes.values().filter_map(|again| match again {
            Again::At(at) if at.duration_since(now) < SETTLED => Some(*at),
            _ => None,
        });
        let Some(next) = wakes.chain(state.host.next()).min() else { return false };
        state.now = next.max(now);
        let now = state.now;
        let woken = state.host.come_to(now);
        let woken: Vec<Key> = state.records.keys().filter(|key| woken.contains(&state.records.uid(key))).collect();
        woken.iter().for_each(|key| state.wake(key));
        true
    }

    /// Works and moves on until everything is settled, and a routine look finds nothing that was missed.
    pub(crate) fn settle(&self) {
        for _ in 0..MOVES {
            self.work();
            if self.move_on() {
                continue;
            }
            let before = self.state().changes();
            let keys: Vec<Key> = self.state().records.keys().collect();
            keys.iter().for_each(|key| self.state().wake(key));
            self.work();
            if self.state().changes() == before && !self.move_on() {
                return;
            }
        }
        panic!("it does not settle:\n{}", self.story());
    }

    /// What happened, for the one who reads a failed test.
    pub(crate) fn story(&self) -> String {
        let state = self.state();
        let last = state.trace.len().saturating_sub(60);
        format!("{}\nwakes {:?} now {}", state.trace[last..].join("\n"), state.wakes, state.now)
    }
}

impl From<State> for Sim {
    fn from(state: State) -> Self {
        let world = World(Arc::new(Mutex::new(state)));
        let [sink, desired, journal] = [(); 3].map(|()| world.clone());
        Self { reconciler: Reconciler { world, sink, desired, journal, queue: Queue::new(), metrics: METRICS.clone() } }
    }
}

impl State {
    /// Sets the clock. What is to happen happens in its time all the same.
    pub(crate) fn set_clock(&mut self, by: SignedDuration) {
        self.now += by;
        self.host.set_clock(by);
        for again in self.wakes.values_mut() {
            if let Again::At(at) = again {
                *at += by;
            }
        }
    }

    /// How much was changed, on the host and in what is remembered and told.
    pub(crate) fn changes(&self) -> (usize, usize) {
        (self.acts, self.records.writes)
    }

    /// Something happened to this workspace.
    pub(crate) fn wake(&mut self, key: &Key) {
        self.wakes.insert(key.clone(), Again::Now);
    }
}
