//! The status: every condition, computed together each pass from what is known now. Nothing is carried over but the times at
//! which conditions changed and the timings of stages that are past.

use jiff::Timestamp;
use microagent_crds::{
    Backend, Condition, ConditionStatus, ConditionType, Phase, Reason, Time, WorkspaceStatus,
    status::{ImageStatus, KernelStatus, Restarts},
};
use microagent_supervisor_protocol::Machine;

use super::{
    Input,
    decide::{Decision, Standing, is_alive},
    end,
};
use crate::{
    memory::{Fault, Memory, Stage},
    observed::{MachineSight, Work},
};

type Told = (ConditionStatus, Reason, String);

/// The status after this decision.
pub(super) fn status(input: &Input<'_>, memory: &Memory, decision: &Decision) -> WorkspaceStatus {
    let observed = input.observed;
    let spec = &input.record.workspace.spec;
    let (backend, machine) = match &observed.machine {
        MachineSight::Seen { backend, machine, .. } => (Some(backend), Some(&**machine)),
        _ => (None, None),
    };
    let running = machine.filter(|machine| is_alive(machine));
    let ready = ready(input, memory, decision);
    let told = [
        (ConditionType::ImageResolved, image(input, memory)),
        (
            ConditionType::RootfsBuilt,
            work(input, memory, Stage::Rootfs, &observed.rootfs, |_| "the root disk is made".to_owned()),
        ),
        (
            ConditionType::KernelInstalled,
            work(input, memory, Stage::Kernel, &observed.kernel, |k| format!("Linux {}", k.version)),
        ),
        (ConditionType::MachineStarted, machine_started(input, memory, decision, running)),
        (ConditionType::GuestReady, guest_ready(running)),
        (ConditionType::SetupComplete, setup_complete(input, memory, running)),
        (ConditionType::Running, workload(memory, decision, running)),
        (ConditionType::RestartRequired, restart_required(decision)),
        (ConditionType::Reconciling, reconciling(input, memory, decision, &ready)),
        (ConditionType::Stalled, stalled(input, memory, decision)),
        (ConditionType::Ready, ready),
    ];
    let generation = input.record.generation;
    let conditions: Vec<Condition> =
        told.into_iter().map(|(type_, told)| condition(input.previous, type_, told, generation, input.now)).collect();
    let alive_boot = memory.boot.as_ref().filter(|_| running.is_some());
    WorkspaceStatus {
        phase: Some(if holds_up(input, memory, decision).is_some() { Phase::Failed } else { phase(decision) }),
        observed_generation: Some(generation),
        running_generation: alive_boot.map(|boot| boot.generation),
        conditions,
        image: memory
            .image
            .as_ref()
            .filter(|pinned| pinned.reference == spec.image)
            .map(|pinned| ImageStatus { digest: pinned.digest.clone() }),
        kernel: match observed.kernel.ready() {
            Some(kernel) => Some(KernelStatus { version: kernel.version.clone(), digest: kernel.digest.clone() }),
            None => input.previous.kernel.clone(),
        },
        backend: backend
            .and_then(|name| serde_json::from_value::<Backend>(name.clone().into()).ok())
            .or(input.previous.backend),
        node_name: None,
        boot_id: alive_boot.map(|boot| boot.id.clone()),
        restarts: (memory.restarts.count > 0).then(|| Restarts {
            count: memory.restarts.count,
            last_exit: memory.result.as_ref().and_then(|result| result.finished_at.clone()),
            next_attempt: memory.restarts.next_attempt.filter(|at| *at > input.now).map(Time),
        }),
        result: memory.result.clone(),
        artifacts: Vec::new(),
        ports: Vec::new(),
        timings: timings(input, machine),
    }
}

/// One condition; its time moves only when its status does.
fn condition(
    previous: &WorkspaceStatus,
    type_: ConditionType,
    (status, reason, message): Told,
    generation: i64,
    now: Timestamp,
) -> Condition {
    // Kubernetes keeps times of whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let last_transition_time =
        previous.condition(type_).filter(|p| p.status == status).map_or(Time(now), |p| p.last_transition_time.clone());
    Condition { type_, status, reason, message, observed_generation: Some(generation), last_transition_time }
}

fn yes(reason: Reason, message: impl Into<String>) -> Told {
    (ConditionStatus::True, reason, message.into())
}

fn no(reason: Reason, message: impl Into<String>) -> Told {
    (ConditionStatus::False, reason, message.into())
}

fn unknown(reason: Reason, message: impl Into<String>) -> Told {
    (ConditionStatus::Unknown, reason, message.into())
}

/// The reason of a fault: its own code where that is one, else that of the stage.
fn reason(stage: Stage, fault: &Fault) -> Reason {
    match Reason::from_code(&fault.code) {
        Reason::Unknown => match stage {
            Stage::Image => Reason::ImagePullFailed,
            Stage::Rootfs => Reason::RootfsBuildFailed,
            Stage::Kernel => Reason::KernelInstallFailed,
            Stage::Disks => Reason::HostError,
            Stage::Start => Reason::StartFailed,
            Stage::Guest => Reason::GuestFailed,
            Stage::Halt => Reason::HaltFailed,
            Stage::Delete => Reason::CleanupFailed,
        },
        known => known,
    }
}

/// A fault as a condition tells it. A code that is not the reason itself stands before the message.
fn failed(stage: Stage, fault: &Fault) -> Told {
    let reason = reason(stage, fault);
    let message = if reason.as_str() == fault.code {
        fault.message.clone()
    } else {
        format!("{}: {}", fault.code, fault.message)
    };
    no(reason, message)
}

/// A stage whose work runs outside the pass.
fn work<T>(input: &Input<'_>, memory: &Memory, stage: Stage, work: &Work<T>, tell: impl Fn(&T) -> String) -> Told {
    let (done, doing, begins) = match stage {
        Stage::Image => (Reason::ImageResolved, Reason::PullingImage, "the image is looked for"),
        Stage::Rootfs => (Reason::RootfsBuilt, Reason::BuildingRootfs, "the root disk is being made"),
        _ => (Reason::KernelInstalled, Reason::InstallingKernel, "the kernel is looked for"),
    };
    match work {
        Work::Ready(facts) => yes(done, tell(facts)),
        Work::Queued => no(Reason::Queued, "other pulls, builds and installs come first"),
        Work::Running { message } if message.is_empty() => no(doing, begins),
        Work::Running { message } => no(doing, message.clone()),
        Work::Failed(fault) => failed(stage, fault),
        Work::Absent => {
            match memory.failure.as_ref().filter(|f| f.stage == stage && f.generation == input.record.generation) {
                Some(failure) => failed(stage, &failure.fault),
                None if stage == Stage::Rootfs && !input.observed.image.is_ready() => {
                    unknown(Reason::Waiting, "the image comes first")
                }
                None => unknown(Reason::Pending, "nothing was done yet"),
            }
        }
    }
}

fn image(input: &Input<'_>, memory: &Memory) -> Told {
    work(input, memory, Stage::Image, &input.observed.image, |image| format!("{} is {}", image.reference, image.digest))
}

fn machine_started(input: &Input<'_>, memory: &Memory, decision: &Decision, running: Option<&Machine>) -> Told {
    if let Some(machine) = running {
        let by = machine.accelerator.map_or("its VMM", |a| match a {
            microagent_supervisor_protocol::Accelerator::Kvm => "KVM",
            microagent_supervisor_protocol::Accelerator::Tcg => "TCG",
            microagent_supervisor_protocol::Accelerator::Hvf => "HVF",
        });
        // The whole story is in `microagent doctor`.
        let why = machine.accelerator_reason.as_deref().and_then(|why| why.split(':').next());
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        return yes(Reason::MachineStarted, format!("the machine runs under {by}{why}"));
    }
    if let Standing::Blind(fault) = &decision.standing {
        return unknown(reason(Stage::Start, fault), fault.message.clone());
    }
    let failure = memory.failure.as_ref().filter(|f| f.generation == input.record.generation);
    match failure {
        Some(failure) if matches!(failure.stage, Stage::Start | Stage::Guest | Stage::Disks) => {
            failed(failure.stage, &failure.fault)
        }
        _ => match &decision.standing {
            Standing::Making(Stage::Start) => no(Reason::StartingMachine, "the machine is being started"),
            Standing::Making(_) | Standing::Retrying(_) => {
                no(Reason::Waiting, "what the machine is made of comes first")
            }
            Standing::BackingOff => no(Reason::BackingOff, "the machine is started again later"),
            _ => no(Reason::NotRunning, "no machine is to run"),
        },
    }
}

fn guest_ready(running: Option<&Machine>) -> Told {
    match running {
        Some(machine) if machine.guest.ready => yes(Reason::GuestReady, "the guest has its configuration"),
        Some(_) => no(Reason::WaitingForGuest, "the guest boots"),
        None => no(Reason::NotRunning, "no machine runs"),
    }
}

fn setup_complete(input: &Input<'_>, memory: &Memory, running: Option<&Machine>) -> Told {
    let steps = &input.record.workspace.spec.setup;
    if let Some(failure) = memory.failure.as_ref().filter(|f| f.fault.code == "SetupFailed") {
        return no(Reason::SetupFailed, failure.fault.message.clone());
    }
    if steps.is_empty() {
        return yes(Reason::NoSetup, "there are no setup commands");
    }
    if memory.setup_complete {
        return yes(Reason::SetupComplete, format!("{} of {} commands have run", steps.len(), steps.len()));
    }
    match running {
        Some(machine) if machine.guest.ready => {
            let index = machine.guest.setup_index.unwrap_or(0);
            no(Reason::RunningSetup, format!("command {} of {} runs", index + 1, steps.len()))
        }
        _ => no(Reason::Waiting, "setup runs when the guest is ready"),
    }
}

fn workload(memory: &Memory, decision: &Decision, running: Option<&Machine>) -> Told {
    if let Some(machine) = running {
        let guest = &machine.guest;
        return match (guest.workload_started_at, guest.workload_exit) {
            (Some(_), None) => yes(Reason::Running, "the workload runs"),
            (_, Some(exit)) => no(Reason::NotRunning, format!("the workload {}", end::describe(exit))),
            (None, None) if !guest.ready => no(Reason::Waiting, "the guest boots"),
            (None, None) => no(Reason::StartingWorkload, "the workload starts when the guest is set up"),
        };
    }
    let last = memory.result.as_ref().and_then(|result| result.message.clone());
    match &decision.standing {
        Standing::BackingOff => {
            no(Reason::BackingOff, last.unwrap_or_else(|| "the workload is started again later".to_owned()))
        }
        _ => no(Reason::NotRunning, last.unwrap_or_else(|| "no machine runs".to_owned())),
    }
}

fn restart_required(decision: &Decision) -> Told {
    match decision.standing {
        Standing::Outdated => yes(
            Reason::SpecChanged,
            "the machine runs an older spec; halt the workspace (spec.runPolicy: Halted) and start it again to apply the new one",
        ),
        _ => no(Reason::UpToDate, "no machine runs an older spec"),
    }
}

/// The failure that only a person can end. It is tried again from time to time all the same, and holds until its stage has
/// succeeded, not only until the next try.
fn holds_up<'a>(input: &Input<'_>, memory: &'a Memory, decision: &'a Decision) -> Option<(Stage, &'a Fault)> {
    let known = memory.failure.as_ref().filter(|failure| failure.generation == input.record.generation);
    let (stage, fault) = match (&decision.standing, known) {
        (Standing::Retrying(fault) | Standing::Blind(fault), _) => (known.map_or(Stage::Start, |f| f.stage), fault),
        (Standing::Making(_) | Standing::Starting | Standing::Ending, Some(known)) => (known.stage, &known.fault),
        _ => return None,
    };
    (!fault.retryable).then_some((stage, fault))
}

/// Whether a person must act.
fn stalled(input: &Input<'_>, memory: &Memory, decision: &Decision) -> Told {
    if let Some(problem) = input.record.problem.as_ref().filter(|_| input.record.deleted_at.is_none()) {
        let reason = match Reason::from_code(&problem.code) {
            Reason::Unknown => Reason::InvalidManifest,
            known => known,
        };
        return yes(reason, problem.message.clone());
    }
    if let Some((stage, fault)) = holds_up(input, memory, decision) {
        let (_, reason, message) = failed(stage, fault);
        return yes(reason, message);
    }
    match &decision.standing {
        Standing::Failed => yes(Reason::WorkloadFailed, failed_message(input)),
        Standing::Outdated => yes(Reason::SpecChanged, restart_required(decision).2),
        _ => no(Reason::Settled, "nobody has to act"),
    }
}

fn failed_message(input: &Input<'_>) -> String {
    let name = &input.record.key.name;
    format!(
        "the workload ended badly and is not run again; read `microagent logs {name}`, and change the spec or delete the workspace"
    )
}

/// Whether the workspace is in the state that was asked for.
fn ready(input: &Input<'_>, memory: &Memory, decision: &Decision) -> Told {
    if let (ConditionStatus::True, reason, message) = stalled(input, memory, decision) {
        if decision.standing == Standing::Failed {
            let message = memory.result.as_ref().and_then(|r| r.message.clone()).unwrap_or(message);
            return no(workload_reason(memory), message);
        }
        return no(reason, message);
    }
    match &decision.standing {
        Standing::Running => yes(Reason::Running, "the workload runs"),
        Standing::Halted => yes(Reason::Halted, "no machine runs, as asked for"),
        Standing::Succeeded => yes(Reason::Succeeded, "the workload exited with code 0 and is not run again"),
        Standing::Outdated => no(Reason::SpecChanged, "the machine runs an older spec"),
        Standing::Failed => no(workload_reason(memory), failed_message(input)),
        Standing::Terminating => no(Reason::Terminating, "the workspace is being removed"),
        Standing::Halting => no(Reason::Halting, "the machine is asked to end"),
        Standing::BackingOff => {
            let last = memory.result.as_ref().and_then(|r| r.message.clone()).unwrap_or_default();
            no(Reason::BackingOff, format!("{last}; it is started again later"))
        }
        Standing::Ending => no(Reason::Halting, "the workload has ended, and the machine powers off"),
        Standing::Starting => no(Reason::StartingWorkload, "the machine is on its way up"),
        Standing::Making(stage) => making(input, memory, *stage),
        Standing::Retrying(fault) => {
            let stage = memory.failure.as_ref().map_or(Stage::Start, |failure| failure.stage);
            failed(stage, fault)
        }
        Standing::Blind(fault) => unknown(reason(Stage::Start, fault), fault.message.clone()),
    }
}

/// Why a workload that ended badly did.
fn workload_reason(memory: &Memory) -> Reason {
    let out_of_memory = memory.result.as_ref().is_some_and(|result| result.oom_killed);
    if out_of_memory { Reason::OutOfMemory } else { Reason::WorkloadFailed }
}

/// The stage that is awaited tells best what is awaited.
fn making(input: &Input<'_>, memory: &Memory, stage: Stage) -> Told {
    let observed = input.observed;
    let (_, reason, message) = match stage {
        Stage::Image => image(input, memory),
        Stage::Rootfs => work(input, memory, stage, &observed.rootfs, |_| String::new()),
        Stage::Kernel => work(input, memory, stage, &observed.kernel, |_| String::new()),
        Stage::Disks => no(Reason::StartingMachine, "the disks are being made"),
        _ => no(Reason::StartingMachine, "the machine is being started"),
    };
    no(reason, message)
}

fn reconciling(input: &Input<'_>, memory: &Memory, decision: &Decision, ready: &Told) -> Told {
    if holds_up(input, memory, decision).is_some() {
        return no(Reason::Settled, "nothing will change by itself, but it is tried again from time to time");
    }
    match &decision.standing {
        Standing::Running | Standing::Outdated | Standing::Halted | Standing::Succeeded | Standing::Failed => {
            no(Reason::Settled, "nothing is left to do")
        }
        _ => yes(Reason::Progressing, ready.2.clone()),
    }
}

/// Where the workspace is, for people.
fn phase(decision: &Decision) -> Phase {
    match &decision.standing {
        Standing::Terminating => Phase::Terminating,
        Standing::Making(Stage::Image | Stage::Rootfs | Stage::Kernel) => Phase::Building,
        Standing::Making(_) | Standing::Starting | Standing::BackingOff => Phase::Starting,
        Standing::Running | Standing::Outdated => Phase::Running,
        Standing::Halting | Standing::Ending => Phase::Halting,
        Standing::Halted => Phase::Halted,
        Standing::Succeeded => Phase::Succeeded,
        Standing::Failed => Phase::Failed,
        Standing::Retrying(_) => Phase::Pending,
        Standing::Blind(_) => Phase::Unknown,
    }
}

/// The stages of the last start. A stage that this controller did not go through keeps its figure.
fn timings(input: &Input<'_>, machine: Option<&Machine>) -> std::collections::BTreeMap<String, u64> {
    let observed = input.observed;
    let mut timings = input.previous.timings.clone();
    let mut put = |name: &str, ms: Option<u64>| {
        if let Some(ms) = ms {
            timings.insert(name.to_owned(), ms);
        }
    };
    put("image", observed.image.ready().and_then(|facts| facts.took_ms));
    put("rootfs", observed.rootfs.ready().and_then(|facts| facts.took_ms));
    put("kernel", observed.kernel.ready().and_then(|facts| facts.took_ms));
    if let (MachineSight::Seen { timings: own, .. }, Some(machine)) = (&observed.machine, machine) {
        own.iter().for_each(|(name, ms)| put(name, Some(*ms)));
        machine.timings.iter().for_each(|(name, ms)| put(&format!("machine.{name}"), Some(*ms)));
        machine.guest.timings.iter().for_each(|(name, ms)| put(&format!("guest.{name}"), Some(*ms)));
    }
    timings
}
