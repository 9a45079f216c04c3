//! The status, computed as a whole each pass from what is known now. Nothing is carried over but the times at which conditions
//! changed and the timings of stages that are past.

mod conditions;

use std::collections::BTreeMap;

use jiff::Timestamp;
use microagent_crds::{
    Backend, Condition, ConditionType, Phase, RunResult, Time, WorkspaceStatus,
    status::{Artifact, ImageStatus, KernelStatus, Restarts},
};
use microagent_supervisor_protocol::Machine;

use self::conditions::{Told, holds_up};
use super::{
    Input, Notes,
    decide::{Decision, Standing, is_alive},
};
use crate::{
    memory::Stage,
    observed::{KernelFacts, MachineSight},
};

/// The status after this decision, when it differs from what was published last.
pub(super) fn status(input: &Input<'_>, memory: &Notes<'_>, decision: &Decision) -> Option<WorkspaceStatus> {
    let view = View::of(input, memory, decision);
    (!view.is(input.previous)).then(|| view.status(input))
}

/// The status, borrowed from what it is about: told apart from the last one before anything is copied.
struct View<'a> {
    phase: Phase,
    generation: i64,
    running_generation: Option<i64>,
    told: [(ConditionType, Told<'a>); ConditionType::OF_HOST.len()],
    digest: Option<&'a str>,
    kernel: Option<&'a KernelFacts>,
    backend: Option<Backend>,
    node: Option<&'a str>,
    boot_id: Option<&'a str>,
    restarts: Option<Restarts>,
    result: Option<&'a RunResult>,
    artifacts: &'a [Artifact],
    took: [(&'static str, Option<u64>); 3],
    /// The prefix of the stages' names, and the stages.
    timings: [(&'static str, Option<&'a BTreeMap<String, u64>>); 3],
}

impl<'a> View<'a> {
    fn of(input: &Input<'a>, memory: &'a Notes<'_>, decision: &'a Decision) -> Self {
        let observed = input.observed;
        let (backend, machine, own) = match &observed.machine {
            MachineSight::Seen { backend, machine, timings, .. } => (Some(backend), Some(&**machine), Some(timings)),
            _ => (None, None, None),
        };
        let running = machine.filter(|machine| is_alive(machine));
        let alive_boot = memory.boot.as_ref().filter(|_| running.is_some());
        let pinned = memory.image.as_ref().filter(|pinned| pinned.reference == input.record.workspace.spec.image);
        let next_attempt = memory.restarts.next_attempt.filter(|_| decision.standing == Standing::BackingOff);
        Self {
            phase: phase(input, memory, decision),
            generation: input.record.generation,
            running_generation: alive_boot.map(|boot| boot.generation),
            told: conditions::told(input, memory, decision, running),
            digest: pinned.map(|pinned| pinned.digest.as_str()),
            kernel: observed.kernel.ready(),
            backend: backend.and_then(|name| backend_of(name)).or(input.previous.backend),
            node: input.record.workspace.spec.node_name.as_deref(),
            boot_id: alive_boot.map(|boot| boot.id.as_str()),
            restarts: (memory.restarts.count > 0).then(|| Restarts {
                count: memory.restarts.count,
                last_exit: memory.result.as_ref().and_then(|result| result.finished_at.clone()),
                next_attempt: next_attempt.map(Time),
            }),
            result: memory.result.as_ref(),
            artifacts: &memory.artifacts,
            took: [
                ("image", observed.image.ready().and_then(|facts| facts.took_ms)),
                ("rootfs", observed.rootfs.ready().and_then(|facts| facts.took_ms)),
                ("kernel", observed.kernel.ready().and_then(|facts| facts.took_ms)),
            ],
            timings: [
                ("", own.filter(|_| machine.is_some())),
                ("machine.", machine.map(|machine: &Machine| &machine.timings)),
                ("guest.", machine.map(|machine| &machine.guest.timings)),
            ],
        }
    }

    /// Whether nothing differs.
    fn is(&self, status: &WorkspaceStatus) -> bool {
        let kernel = status.kernel.as_ref();
        status.phase == Some(self.phase)
            && status.observed_generation == Some(self.generation)
            && status.running_generation == self.running_generation
            && hosts(status).count() == self.told.len()
            && hosts(status).zip(&self.told).all(|(known, (type_, told))| {
                known.type_ == *type_
                    && known.observed_generation == Some(self.generation)
                    && (known.status, known.reason, known.message.as_str()) == (told.0, told.1, &told.2)
            })
            && status.image.as_ref().map(|image| image.digest.as_str()) == self.digest
            && self.kernel.is_none_or(|k| kernel.is_some_and(|s| s.version == k.version && s.digest == k.digest))
            && status.backend == self.backend
            && status.node_name.as_deref() == self.node
            && status.boot_id.as_deref() == self.boot_id
            && status.restarts == self.restarts
            && status.result.as_ref() == self.result
            && status.artifacts == self.artifacts
            && status.ports.is_empty()
            && self.took.iter().all(|(name, ms)| ms.is_none_or(|ms| status.timings.get(*name) == Some(&ms)))
            && self.timings.iter().all(|(prefix, stages)| {
                stages.is_none_or(|stages| {
                    stages.iter().all(|(name, ms)| {
                        status.timings.iter().any(|(key, known)| known == ms && key.strip_prefix(prefix) == Some(name))
                    })
                })
            })
    }

    fn status(self, input: &Input<'_>) -> WorkspaceStatus {
        let previous = input.previous;
        let generation = self.generation;
        let conditions =
            self.told.into_iter().map(|(type_, told)| condition(previous, type_, told, generation, input.now));
        // A stage that this controller did not go through keeps its figure.
        let mut timings = previous.timings.clone();
        timings.extend(self.took.iter().filter_map(|(name, ms)| Some(((*name).to_owned(), (*ms)?))));
        for (prefix, stages) in self.timings {
            timings.extend(stages.into_iter().flatten().map(|(name, ms)| (format!("{prefix}{name}"), *ms)));
        }
        WorkspaceStatus {
            phase: Some(self.phase),
            observed_generation: Some(generation),
            running_generation: self.running_generation,
            conditions: conditions.collect(),
            image: self.digest.map(|digest| ImageStatus { digest: digest.to_owned() }),
            kernel: match self.kernel {
                Some(kernel) => Some(KernelStatus { version: kernel.version.clone(), digest: kernel.digest.clone() }),
                None => previous.kernel.clone(),
            },
            backend: self.backend,
            node_name: self.node.map(str::to_owned),
            boot_id: self.boot_id.map(str::to_owned),
            restarts: self.restarts,
            result: self.result.cloned(),
            artifacts: self.artifacts.to_vec(),
            ports: Vec::new(),
            timings,
        }
    }
}

/// The conditions of a status that are told here. In a cluster there may be another one, which is not touched.
fn hosts(status: &WorkspaceStatus) -> impl Iterator<Item = &Condition> {
    status.conditions.iter().filter(|condition| ConditionType::OF_HOST.contains(&condition.type_))
}

/// One condition; its time moves only when its status does.
fn condition(
    previous: &WorkspaceStatus,
    type_: ConditionType,
    (status, reason, message): Told<'_>,
    generation: i64,
    now: Timestamp,
) -> Condition {
    // Kubernetes keeps times of whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let last_transition_time =
        previous.condition(type_).filter(|p| p.status == status).map_or(Time(now), |p| p.last_transition_time.clone());
    let (message, observed_generation) = (message.into_owned(), Some(generation));
    Condition { type_, status, reason, message, observed_generation, last_transition_time }
}

fn backend_of(name: &str) -> Option<Backend> {
    match name {
        "Firecracker" => Some(Backend::Firecracker),
        "Qemu" => Some(Backend::Qemu),
        "AppleVf" => Some(Backend::AppleVf),
        _ => None,
    }
}

/// Where the workspace is, for people.
fn phase(input: &Input<'_>, memory: &Notes<'_>, decision: &Decision) -> Phase {
    if holds_up(input, memory, decision).is_some() || decision.overdue {
        return Phase::Failed;
    }
    match &decision.standing {
        Standing::Terminating => Phase::Terminating,
        Standing::Making(Stage::Image | Stage::Rootfs | Stage::Kernel) => Phase::Building,
        Standing::Making(_) | Standing::Starting | Standing::Probing | Standing::BackingOff | Standing::Restarting => {
            Phase::Starting
        }
        Standing::Running | Standing::Outdated | Standing::Switching => Phase::Running,
        Standing::Paused => Phase::Paused,
        Standing::Quarantined => Phase::Quarantined,
        Standing::Halting | Standing::Ending | Standing::Keeping => Phase::Halting,
        Standing::Halted | Standing::Idle => Phase::Halted,
        Standing::Succeeded => Phase::Succeeded,
        Standing::Failed => Phase::Failed,
        Standing::Expired => match &memory.result {
            Some(result) if result.succeeded() => Phase::Succeeded,
            Some(_) if memory.finished.is_some() => Phase::Failed,
            _ => Phase::Halted,
        },
        Standing::Retrying(..) | Standing::Unreserved => Phase::Pending,
        Standing::Blind(_) => Phase::Unknown,
    }
}
