//! The whole controller as JSON, for bug reports. Names, UIDs, codes and times; nothing that stood in a manifest beside the names,
//! so no messages of problems either: they quote manifests.

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::{Admin, health::Folder};
use crate::{
    Record,
    memory::{Failure, Stage},
    metrics::label::Label as _,
    queue,
    world::JobSight,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    version: &'static str,
    started_at: Timestamp,
    uptime_seconds: u64,
    heartbeat_age_seconds: f64,
    folders: Vec<Folder>,
    queue: Queue,
    jobs: Vec<Job>,
    workspaces: Vec<Workspace>,
    /// Names whose manifests were never good.
    rejected: Vec<Refused>,
    /// Names whose records cannot be read.
    unreadable: Vec<Refused>,
}

#[derive(Serialize)]
struct Queue {
    due: usize,
    waiting: usize,
    working: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    kind: &'static str,
    state: &'static str,
    wanted_by: usize,
    progress: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Workspace {
    key: String,
    uid: String,
    generation: i64,
    /// As the last pass had it; none before the first.
    phase: Option<&'static str>,
    created_at: Timestamp,
    deleted_at: Option<Timestamp>,
    /// The code of what is wrong with its manifest as it is now.
    problem: Option<String>,
    boot: Option<String>,
    failures: Vec<Failed>,
    restarts: u32,
    next_restart: Option<Timestamp>,
    halt_asked_at: Option<Timestamp>,
    /// When it is looked at next; none while it is being looked at.
    next_pass_in_seconds: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    stage: Stage,
    code: String,
    count: u32,
    next_attempt: Timestamp,
}

#[derive(Serialize)]
struct Refused {
    key: String,
    code: String,
}

pub(super) fn render(admin: &Admin) -> serde_json::Result<String> {
    let times = admin.queue.times();
    let now = Instant::now();
    let workspace = |record: &Record| Workspace {
        key: record.key.to_string(),
        uid: record.uid.clone(),
        generation: record.generation,
        phase: admin.metrics.phase(&record.uid).map(|phase| phase.as_str()),
        created_at: record.created_at,
        deleted_at: record.deleted_at,
        problem: record.problem.as_ref().map(|problem| problem.code.clone()),
        boot: record.memory.boot.as_ref().map(|boot| boot.id.clone()),
        failures: record.memory.failures.iter().map(Failed::from).collect(),
        restarts: record.memory.restarts.count,
        next_restart: record.memory.restarts.next_attempt,
        halt_asked_at: record.memory.halt.as_ref().map(|halt| halt.at),
        next_pass_in_seconds: times.get(&record.key).map(|at| at.saturating_duration_since(now).as_secs_f64()),
    };
    let refused =
        |(key, problem): (&crate::Key, &crate::Problem)| Refused { key: key.to_string(), code: problem.code.clone() };
    let (mut workspaces, mut rejected, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    admin.roster.show(&mut |records, never_good| {
        workspaces = records.iter().map(workspace).collect();
        rejected = never_good.iter().map(refused).collect();
        unreadable = records.unreadable().iter().map(refused).collect();
    });
    let state = State {
        version: env!("CARGO_PKG_VERSION"),
        started_at: admin.started.0,
        uptime_seconds: admin.started.1.elapsed().as_secs(),
        heartbeat_age_seconds: admin.health.heartbeat.age().as_secs_f64(),
        folders: admin.health.folders(),
        queue: Queue::from(admin.queue.counts()),
        jobs: admin.host.jobs().into_iter().map(Job::from).collect(),
        workspaces,
        rejected,
        unreadable,
    };
    serde_json::to_string_pretty(&state).map(|text| text + "\n")
}

impl From<queue::Counts> for Queue {
    fn from(counts: queue::Counts) -> Self {
        let queue::Counts { due, waiting, working } = counts;
        Self { due, waiting, working }
    }
}

impl From<JobSight> for Job {
    fn from(job: JobSight) -> Self {
        let JobSight { kind, state, wanted_by, progress } = job;
        Self { kind: kind.as_str(), state: state.as_str(), wanted_by, progress }
    }
}

impl From<(&Stage, &Failure)> for Failed {
    fn from((stage, failure): (&Stage, &Failure)) -> Self {
        Self {
            stage: *stage,
            code: failure.fault.code.clone(),
            count: failure.count,
            next_attempt: failure.next_attempt,
        }
    }
}
