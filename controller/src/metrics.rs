//! What the controller counts and measures, as OpenMetrics text.
//!
//! Labels say only what is in a closed set ([`label`]); every combination exists from the start. What stands still between
//! two scrapes costs nothing: the gauges of workspaces, queue and jobs are counted when they are asked for. `docs/metrics.md`
//! lists everything, and a test keeps it equal to [`Metrics::new`].

mod family;
pub mod label;
mod seen;

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_crds::{ConditionType, Phase, WorkspaceStatus};
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use self::{
    family::ByLabel,
    label::{Invalid, JobKind, JobState, Label as _, Outcome, Sight, SourceKind},
    seen::{Seen, Table},
};
use crate::{
    Record,
    journal::EventType,
    memory::{Failure, Stage},
    observed::{MachineSight, Observed},
    plan::Action,
    queue,
    source::HintReason,
    world::JobSight,
};

/// All metrics of one controller.
pub struct Metrics {
    registry: Registry,
    source: SourceKind,
    reconciles: ByLabel<(SourceKind, Outcome), Counter>,
    reconcile_duration: Histogram,
    active: Gauge,
    stage_duration: ByLabel<(Stage,), Histogram>,
    stage_failures: ByLabel<(Stage,), Counter>,
    ready_latency: Histogram,
    queue_depth: Gauge,
    queue_waiting: Gauge,
    machines: ByLabel<(Sight,), Gauge>,
    workspaces: ByLabel<(Phase,), Gauge>,
    relists: ByLabel<(HintReason,), Counter>,
    relist_duration: Histogram,
    invalid: ByLabel<(Invalid,), Gauge>,
    events: ByLabel<(EventType,), Counter>,
    jobs: ByLabel<(JobKind, JobState), Gauge>,
    seen: Table,
}

/// What a scrape counts in the moment it comes.
#[derive(Debug)]
pub struct Sample {
    /// The queue.
    pub queue: queue::Counts,
    /// The jobs that are under way.
    pub jobs: Vec<JobSight>,
}

/// What a pass knows once its plan is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The record that was planned for.
    pub before: &'a Record,
    /// The record with what is to be remembered.
    pub after: &'a Record,
    /// What was observed.
    pub observed: &'a Observed,
    /// The status before this pass.
    pub previous: &'a WorkspaceStatus,
    /// The status after it.
    pub status: &'a WorkspaceStatus,
    /// When.
    pub now: Timestamp,
}

impl Metrics {
    /// All of them, at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::of(SourceKind::Folder)
    }

    /// The same of a controller with this source.
    #[must_use]
    pub fn of(source: SourceKind) -> Self {
        let mut all = Registering(Registry::default());
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.0.register("microagent_build", "The version of the controller", version);
        let started = all.seconds(
            "process_start_time",
            "When the controller started, in seconds since 1970",
            Gauge::<f64, AtomicU64>::default(),
        );
        started.set(seconds_since_epoch(Timestamp::now()));
        Self {
            source,
            reconciles: all.one(
                "reconcile",
                "Passes over one workspace, by how they ended",
                ByLabel::new(Counter::default),
            ),
            reconcile_duration: all.seconds("reconcile_duration", "How long a pass took", buckets(0.001, 16)),
            active: all.one("reconcile_active", "Passes under way", Gauge::default()),
            stage_duration: all.seconds(
                "stage_duration",
                "How long a stage took that ended well",
                ByLabel::new(|| buckets(0.01, 16)),
            ),
            stage_failures: all.one("stage_failures", "Failures of a stage", ByLabel::new(Counter::default)),
            ready_latency: all.seconds(
                "ready_latency",
                "From the first sight of a manifest until its workspace was as asked for; the first time of generation 1 only",
                buckets(0.05, 16),
            ),
            queue_depth: all.one("queue_depth", "Workspaces that are due and wait for a pass", Gauge::default()),
            queue_waiting: all.one("queue_waiting", "Workspaces whose next pass is not due yet", Gauge::default()),
            machines: all.one(
                "machines",
                "Workspaces by the state of their machine, as the last pass saw it",
                ByLabel::new(Gauge::default),
            ),
            workspaces: all.one("workspaces", "Workspaces by phase", ByLabel::new(Gauge::default)),
            relists: all.one(
                "source_relist",
                "Listings of the folders, by what called for them",
                ByLabel::new(Counter::default),
            ),
            relist_duration: all.seconds(
                "source_relist_duration",
                "How long a listing of all folders took",
                buckets(0.001, 14),
            ),
            invalid: all.one(
                "source_invalid",
                "Manifest files that cannot be read, and workspaces whose manifest is not taken",
                ByLabel::new(Gauge::default),
            ),
            events: all.one("events", "Events told", ByLabel::new(Counter::default)),
            jobs: all.one("jobs", "Pulls, builds and installs under way", ByLabel::new(Gauge::default)),
            seen: Table::default(),
            registry: all.0,
        }
    }

    /// Everything as OpenMetrics text.
    #[must_use]
    pub fn render(&self, sample: &Sample) -> String {
        self.queue_depth.set(gauge(sample.queue.due));
        self.queue_waiting.set(gauge(sample.queue.waiting));
        let mut jobs = [[0; JobState::ALL.len()]; JobKind::ALL.len()];
        for job in &sample.jobs {
            jobs[job.kind.index()][job.state.index()] += 1;
        }
        for kind in JobKind::ALL {
            for state in JobState::ALL {
                self.jobs.get((*kind, *state)).set(jobs[kind.index()][state.index()]);
            }
        }
        let (mut machines, mut phases) = ([0; Sight::ALL.len()], [0; Phase::ALL.len()]);
        self.seen.each(|seen| {
            machines[seen.machine.index()] += 1;
            phases[seen.phase.index()] += 1;
        });
        for sight in Sight::ALL {
            self.machines.get((*sight,)).set(machines[sight.index()]);
        }
        for phase in Phase::ALL {
            self.workspaces.get((*phase,)).set(phases[phase.index()]);
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    /// A pass begins. It ends when what is given is dropped.
    pub fn begin_pass(&self) -> Pass<'_> {
        self.active.inc();
        Pass { metrics: self, began: Instant::now(), outcome: Outcome::Failed }
    }

    /// Notes what a pass found and decided, once that is remembered.
    pub fn planned(&self, pass: &Planned<'_>) {
        let Planned { before, after, observed, previous, status, now } = *pass;
        // All other stages fail in an action or in a job, and are counted there.
        if let Some(failure) = after.memory.failures.get(&Stage::Guest)
            && before.memory.failures.get(&Stage::Guest).map(attempt) != Some(attempt(failure))
        {
            self.failed(Stage::Guest);
        }
        if let MachineSight::Seen { machine, .. } = &observed.machine
            && status.is_true(ConditionType::Running)
            && !previous.is_true(ConditionType::Running)
        {
            self.spanned(Stage::Guest, machine.started_at, machine.guest.workload_started_at);
        }
        if let Some(halt) = &before.memory.halt
            && after.memory.counted_boot != before.memory.counted_boot
            && after.memory.counted_boot.as_deref() == Some(&halt.boot_id)
        {
            self.spanned(Stage::Halt, Some(halt.at), Some(now));
        }
        let known = self.seen.get(&before.uid);
        let ready = status.is_true(ConditionType::Ready);
        let was_ready = known.is_some_and(|seen| seen.was_ready) || previous.is_true(ConditionType::Ready);
        // A later generation, or a boot after the first, says nothing of how long a new workspace takes.
        if ready && !was_ready && before.generation == 1 && before.memory.counted_boot.is_none() {
            self.ready_latency.observe(seconds_between(before.created_at, now));
        }
        let seen = Seen {
            machine: Sight::from(&observed.machine),
            phase: status.phase.unwrap_or_default(),
            was_ready: was_ready || ready,
        };
        if known != Some(seen) {
            self.seen.note(&before.uid, seen);
        }
    }

    /// An action failed.
    pub fn failed(&self, stage: Stage) {
        self.stage_failures.get((stage,)).inc();
    }

    /// An action was done. Those that only begin something, or ask for it, are measured where it ends.
    pub fn acted(&self, action: &Action, took: Duration) {
        match action {
            Action::CreateDisks
            | Action::StartMachine(_)
            | Action::PauseMachine
            | Action::ResumeMachine
            | Action::QuarantineMachine
            | Action::KeepOutputs
            | Action::DeleteMachine
            | Action::RetainDisks
            | Action::RemoveDisks => {
                self.stage_duration.get((action.stage(),)).observe(took.as_secs_f64());
            }
            Action::ResolveImage
            | Action::BuildRootfs
            | Action::InstallKernel
            | Action::HaltMachine { .. }
            | Action::KillMachine
            | Action::WithdrawManifest
            | Action::Forget => {}
        }
    }

    /// The measure of a stage that runs outside passes.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> StageMeter {
        StageMeter {
            duration: self.stage_duration.get((stage,)).clone(),
            failures: self.stage_failures.get((stage,)).clone(),
        }
    }

    /// The workspace is gone.
    pub fn forget(&self, uid: &str) {
        self.seen.forget(uid);
    }

    /// The phase that the last pass gave a workspace.
    #[must_use]
    pub fn phase(&self, uid: &str) -> Option<Phase> {
        self.seen.get(uid).map(|seen| seen.phase)
    }

    /// An event was told.
    pub fn event(&self, type_: EventType) {
        self.events.get((type_,)).inc();
    }

    /// All folders were listed, and so much of them is not taken.
    pub fn relisted(&self, reason: HintReason, took: Duration, files: usize, workspaces: usize) {
        self.relists.get((reason,)).inc();
        self.relist_duration.observe(took.as_secs_f64());
        self.invalid.get((Invalid::File,)).set(gauge(files));
        self.refused(workspaces);
    }

    /// So many workspaces have a manifest that is not taken.
    pub fn refused(&self, workspaces: usize) {
        self.invalid.get((Invalid::Workspace,)).set(gauge(workspaces));
    }

    fn spanned(&self, stage: Stage, from: Option<Timestamp>, to: Option<Timestamp>) {
        if let (Some(from), Some(to)) = (from, to) {
            self.stage_duration.get((stage,)).observe(seconds_between(from, to));
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Measures one stage. Clones share the measure.
#[derive(Clone, Debug)]
pub struct StageMeter {
    duration: Histogram,
    failures: Counter,
}

impl StageMeter {
    /// The stage ended well.
    pub fn ended(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }

    /// It failed.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

/// A pass under way.
#[must_use = "the pass counts as ended as soon as this is dropped"]
pub struct Pass<'a> {
    metrics: &'a Metrics,
    began: Instant,
    /// How it ends. A pass that never says so has failed.
    pub outcome: Outcome,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.metrics.active.dec();
        self.metrics.reconcile_duration.observe(self.began.elapsed().as_secs_f64());
        self.metrics.reconciles.get((self.metrics.source, self.outcome)).inc();
    }
}

/// Which failure it is, of all that a workspace had.
fn attempt(failure: &Failure) -> (u32, Timestamp) {
    (failure.count, failure.next_attempt)
}

struct Registering(Registry);

impl Registering {
    fn one<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(format!("microagent_{name}"), help, metric.clone());
        metric
    }

    fn seconds<M: prometheus_client::registry::Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        let name = if name.starts_with("process_") { name.to_owned() } else { format!("microagent_{name}") };
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }
}

/// Buckets that double, from `first` seconds on: 16 from 1 ms end at 33 s, from 10 ms at 5 min.
fn buckets(first: f64, count: u16) -> Histogram {
    Histogram::new(exponential_buckets(first, 2.0, count))
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Never negative: the clock may have been set back.
fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

fn seconds_since_epoch(time: Timestamp) -> f64 {
    time.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}

#[cfg(test)]
mod tests;
