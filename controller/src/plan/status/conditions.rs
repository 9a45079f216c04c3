//! What each condition tells, computed together from what is known now.

use std::borrow::Cow;

use microagent_crds::{ConditionStatus, ConditionType, Reason};
use microagent_supervisor_protocol::{Accelerator, Machine, MachineState};

use crate::{
    memory::{Failure, Fault, Stage},
    observed::{MachineSight, Work},
    plan::{
        Input, Notes,
        decide::{Decision, Standing},
        end,
    },
};

/// Status, reason and message of a condition.
pub(super) type Told<'a> = (ConditionStatus, Reason, Cow<'a, str>);

/// All conditions, in the order of [`ConditionType::OF_HOST`].
pub(super) fn told<'a>(
    input: &Input<'a>,
    memory: &'a Notes<'_>,
    decision: &'a Decision,
    running: Option<&'a Machine>,
) -> [(ConditionType, Told<'a>); ConditionType::OF_HOST.len()] {
    let observed = input.observed;
    let stalled = stalled(input, memory, decision);
    let ready = ready(input, memory, decision, &stalled);
    let reconciling = reconciling(input, memory, decision, &ready, &stalled);
    [
        (ConditionType::ImageResolved, image(input, memory)),
        (
            ConditionType::RootfsBuilt,
            work(input, memory, Stage::Rootfs, &observed.rootfs, |_| "the root disk is made".into()),
        ),
        (
            ConditionType::KernelInstalled,
            work(input, memory, Stage::Kernel, &observed.kernel, |k| format!("Linux {}", k.version).into()),
        ),
        (ConditionType::MachineStarted, machine_started(input, memory, decision, running)),
        (ConditionType::GuestReady, guest_ready(running)),
        (ConditionType::SetupComplete, setup_complete(input, memory, running)),
        (ConditionType::Running, workload(memory, decision, running)),
        (ConditionType::Healthy, healthy(input, running)),
        (ConditionType::RestartRequired, restart_required(decision)),
        (ConditionType::Reconciling, reconciling),
        (ConditionType::Stalled, stalled),
        (ConditionType::Ready, ready),
    ]
}

fn yes<'a>(reason: Reason, message: impl Into<Cow<'a, str>>) -> Told<'a> {
    (ConditionStatus::True, reason, message.into())
}

fn no<'a>(reason: Reason, message: impl Into<Cow<'a, str>>) -> Told<'a> {
    (ConditionStatus::False, reason, message.into())
}

fn unknown<'a>(reason: Reason, message: impl Into<Cow<'a, str>>) -> Told<'a> {
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
            Stage::Power => Reason::PowerFailed,
            Stage::Halt => Reason::HaltFailed,
            Stage::Outputs => Reason::OutputsFailed,
            Stage::Delete => Reason::CleanupFailed,
        },
        known => known,
    }
}

/// A fault as a condition tells it. A code that is not the reason itself stands before the message.
fn failed(stage: Stage, fault: &Fault) -> Told<'_> {
    let reason = reason(stage, fault);
    if reason.as_str() == fault.code {
        no(reason, fault.message.as_str())
    } else {
        no(reason, format!("{}: {}", fault.code, fault.message))
    }
}

/// The failure of a stage at the present generation.
fn failure<'a>(input: &Input<'_>, memory: &'a Notes<'_>, stage: Stage) -> Option<&'a Failure> {
    memory.failures.get(&stage).filter(|failure| failure.generation == input.record.generation)
}

/// A stage whose work runs outside the pass.
fn work<'a, T>(
    input: &Input<'a>,
    memory: &'a Notes<'_>,
    stage: Stage,
    work: &'a Work<T>,
    tell: impl Fn(&T) -> Cow<'static, str>,
) -> Told<'a> {
    let (done, doing, begins) = match stage {
        Stage::Image => (Reason::ImageResolved, Reason::PullingImage, "the image is looked for"),
        Stage::Rootfs => (Reason::RootfsBuilt, Reason::BuildingRootfs, "the root disk is being made"),
        _ => (Reason::KernelInstalled, Reason::InstallingKernel, "the kernel is looked for"),
    };
    match work {
        Work::Ready(facts) => yes(done, tell(facts)),
        Work::Queued => no(Reason::Queued, "other pulls, builds and installs come first"),
        Work::Running { message } if message.is_empty() => no(doing, begins),
        Work::Running { message } => no(doing, message.as_str()),
        Work::Failed(fault) => failed(stage, fault),
        Work::Absent => match failure(input, memory, stage) {
            Some(failure) => failed(stage, &failure.fault),
            None if stage == Stage::Rootfs && !input.observed.image.is_ready() => {
                unknown(Reason::Waiting, "the image comes first")
            }
            None => unknown(Reason::Pending, "nothing was done yet"),
        },
    }
}

fn image<'a>(input: &Input<'a>, memory: &'a Notes<'_>) -> Told<'a> {
    let tell = |image: &crate::observed::ImageFacts| Cow::Owned([&image.reference, " is ", &image.digest].concat());
    work(input, memory, Stage::Image, &input.observed.image, tell)
}

fn machine_started<'a>(
    input: &Input<'_>,
    memory: &'a Notes<'_>,
    decision: &'a Decision,
    running: Option<&'a Machine>,
) -> Told<'a> {
    if let Some(machine) = running {
        let by = match machine.accelerator {
            Some(Accelerator::Kvm) => "the machine runs under KVM",
            Some(Accelerator::Tcg) => "the machine runs under TCG",
            Some(Accelerator::Hvf) => "the machine runs under HVF",
            None => "the machine runs",
        };
        // The whole story is in `microagent doctor`.
        let translated = machine.accelerator_reason.as_deref().and_then(|why| why.split(':').next());
        let mut message = Cow::Borrowed(by);
        for why in [translated, why_this_backend(input)].into_iter().flatten() {
            message = format!("{message} ({why})").into();
        }
        return yes(Reason::MachineStarted, message);
    }
    if let Standing::Blind(fault) = &decision.standing {
        return unknown(reason(Stage::Start, fault), fault.message.as_str());
    }
    for stage in [Stage::Disks, Stage::Start, Stage::Guest] {
        if let Some(failure) = failure(input, memory, stage) {
            return failed(stage, &failure.fault);
        }
    }
    match &decision.standing {
        Standing::Making(Stage::Start) => no(Reason::StartingMachine, "the machine is being started"),
        Standing::Making(_) | Standing::Retrying(..) => no(Reason::Waiting, "what the machine is made of comes first"),
        Standing::BackingOff => no(Reason::BackingOff, "the machine is started again later"),
        _ => no(Reason::NotRunning, "no machine is to run"),
    }
}

/// Why the machine is not on a backend that would be better.
fn why_this_backend<'a>(input: &Input<'a>) -> Option<&'a str> {
    match &input.observed.machine {
        MachineSight::Seen { why, .. } => why.as_deref(),
        _ => None,
    }
}

fn guest_ready(running: Option<&Machine>) -> Told<'static> {
    match running {
        Some(machine) if machine.guest.ready => yes(Reason::GuestReady, "the guest has its configuration"),
        Some(_) => no(Reason::WaitingForGuest, "the guest boots"),
        None => no(Reason::NotRunning, "no machine runs"),
    }
}

fn setup_complete<'a>(input: &Input<'_>, memory: &'a Notes<'_>, running: Option<&Machine>) -> Told<'a> {
    let steps = &input.record.workspace.spec.setup;
    if let Some(failure) = memory.failures.get(&Stage::Guest).filter(|f| f.fault.code == "SetupFailed") {
        return no(Reason::SetupFailed, failure.fault.message.as_str());
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
            no(Reason::RunningSetup, format!("command {} of {} runs", index.saturating_add(1), steps.len()))
        }
        _ => no(Reason::Waiting, "setup runs when the guest is ready"),
    }
}

fn workload<'a>(memory: &'a Notes<'_>, decision: &Decision, running: Option<&Machine>) -> Told<'a> {
    if let Some(machine) = running {
        let guest = &machine.guest;
        return match (guest.workload_started_at, guest.workload_exit) {
            (_, Some(exit)) => no(Reason::NotRunning, format!("the workload {}", end::describe(exit))),
            (Some(_), None) if machine.state == MachineState::Paused => {
                no(Reason::Paused, "the machine's CPUs stand still")
            }
            (Some(_), None) => yes(Reason::Running, "the workload runs"),
            (None, None) if !guest.ready => no(Reason::Waiting, "the guest boots"),
            (None, None) => no(Reason::StartingWorkload, "the workload starts when the guest is set up"),
        };
    }
    let last = memory.result.as_ref().and_then(|result| result.message.as_deref());
    match &decision.standing {
        Standing::BackingOff => no(Reason::BackingOff, last.unwrap_or("the workload is started again later")),
        _ => no(Reason::NotRunning, last.unwrap_or("no machine runs")),
    }
}

fn healthy<'a>(input: &Input<'_>, running: Option<&'a Machine>) -> Told<'a> {
    let guest = running.map(|machine| &machine.guest).filter(|guest| guest.workload_started_at.is_some());
    match guest.filter(|guest| guest.workload_finished_at.is_none()) {
        None => no(Reason::NotRunning, "no workload runs"),
        Some(_) if input.record.workspace.spec.health.is_none() => {
            yes(Reason::Healthy, "the workload runs, and no probe is declared")
        }
        Some(guest) => match &guest.health {
            None => unknown(Reason::HealthUnknown, "the probe has not given its first verdict yet"),
            Some(health) if health.healthy => yes(Reason::Healthy, "the probe succeeds"),
            Some(health) => no(Reason::Unhealthy, health.message.as_str()),
        },
    }
}

const OUTDATED: &str = "the machine runs an older spec; `microagent restart`, or a new value of the annotation \
                        microagent.dev/restart, starts it anew from the present one";

fn restart_required(decision: &Decision) -> Told<'static> {
    match decision.standing {
        Standing::Outdated => yes(Reason::SpecChanged, OUTDATED),
        _ => no(Reason::UpToDate, "no machine runs an older spec"),
    }
}

/// The failure that only a person can end. It is tried again from time to time all the same, and holds until its stage has
/// succeeded, not only until the next try.
pub(super) fn holds_up<'a>(
    input: &Input<'_>,
    memory: &'a Notes<'_>,
    decision: &'a Decision,
) -> Option<(Stage, &'a Fault)> {
    let final_one = |(stage, fault): (Stage, &'a Fault)| (!fault.retryable).then_some((stage, fault));
    match &decision.standing {
        Standing::Blind(fault) => final_one((Stage::Start, fault)),
        Standing::Making(_)
        | Standing::Starting
        | Standing::Ending
        | Standing::Keeping
        | Standing::Switching
        | Standing::Retrying(..) => memory
            .failures
            .iter()
            .filter(|(_, failure)| failure.generation == input.record.generation)
            .find_map(|(stage, failure)| final_one((*stage, &failure.fault))),
        _ => None,
    }
}

/// Whether a person must act.
fn stalled<'a>(input: &Input<'a>, memory: &'a Notes<'_>, decision: &'a Decision) -> Told<'a> {
    if let Some(problem) = input.record.problem.as_ref().filter(|_| input.record.deleted_at.is_none()) {
        let reason = match Reason::from_code(&problem.code) {
            Reason::Unknown => Reason::InvalidManifest,
            known => known,
        };
        return yes(reason, problem.message.as_str());
    }
    if let Some((stage, fault)) = holds_up(input, memory, decision) {
        let (_, reason, message) = failed(stage, fault);
        return yes(reason, message);
    }
    if decision.overdue {
        let seconds = input.record.workspace.spec.lifecycle.progress_deadline_seconds.unwrap_or(0);
        let message = format!(
            "the workspace is not ready after the {seconds} s of spec.lifecycle.progressDeadlineSeconds; it is still tried; \
             `microagent describe {}` tells what is awaited",
            input.record.key.name
        );
        return yes(Reason::ProgressDeadlineExceeded, message);
    }
    match &decision.standing {
        Standing::Failed => yes(Reason::WorkloadFailed, failed_message(input)),
        Standing::Outdated => yes(Reason::SpecChanged, OUTDATED),
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
fn ready<'a>(input: &Input<'a>, memory: &'a Notes<'_>, decision: &'a Decision, stalled: &Told<'a>) -> Told<'a> {
    if let (ConditionStatus::True, reason, message) = stalled {
        if decision.standing == Standing::Failed && *reason == Reason::WorkloadFailed {
            let last = memory.result.as_ref().and_then(|r| r.message.as_deref());
            return no(workload_reason(memory), last.map_or_else(|| message.clone(), Cow::Borrowed));
        }
        return no(*reason, message.clone());
    }
    match &decision.standing {
        Standing::Running => yes(Reason::Running, "the workload runs"),
        Standing::Paused => yes(Reason::Paused, "the machine's CPUs stand still, as asked for"),
        Standing::Quarantined => yes(Reason::Quarantined, "the machine runs cut off from everything, as asked for"),
        Standing::Halted => yes(Reason::Halted, "no machine runs, as asked for"),
        Standing::Idle => {
            yes(Reason::Idle, "the machine was halted because nothing used it; `microagent restart` starts it again")
        }
        Standing::Succeeded => yes(Reason::Succeeded, "the workload exited with code 0 and is not run again"),
        Standing::Expired => {
            let expired = memory.expired.as_ref().map_or("its end has come", |expired| expired.message.as_str());
            yes(Reason::Expired, expired)
        }
        Standing::Outdated => no(Reason::SpecChanged, "the machine runs an older spec"),
        Standing::Failed => no(workload_reason(memory), failed_message(input)),
        Standing::Terminating => no(Reason::Terminating, "the workspace is being removed"),
        Standing::Halting => no(Reason::Halting, "the machine is asked to end"),
        Standing::Restarting => no(Reason::Restarting, "the machine is asked to end, and is started anew then"),
        Standing::Switching => no(Reason::Progressing, "the machine is being paused, resumed or cut off"),
        Standing::BackingOff => {
            let last = memory.result.as_ref().and_then(|r| r.message.as_deref()).unwrap_or("the workload ended");
            no(Reason::BackingOff, format!("{last}; it is started again later"))
        }
        Standing::Unreserved => {
            no(Reason::ReservationLost, input.record.unreserved.as_deref().unwrap_or("no room is reserved for it"))
        }
        Standing::Ending => no(Reason::Halting, "the workload has ended, and the machine powers off"),
        Standing::Keeping => no(Reason::Halting, "the machine has ended, and its outputs are being kept"),
        Standing::Starting => no(Reason::StartingWorkload, "the machine is on its way up"),
        Standing::Probing => no(Reason::HealthUnknown, "the probe has not given its first verdict yet"),
        Standing::Making(stage) => making(input, memory, *stage),
        Standing::Retrying(stage, fault) => failed(*stage, fault),
        Standing::Blind(fault) => unknown(reason(Stage::Start, fault), fault.message.as_str()),
    }
}

/// Why a workload that ended badly did.
fn workload_reason(memory: &Notes<'_>) -> Reason {
    let out_of_memory = memory.result.as_ref().is_some_and(|result| result.oom_killed);
    if out_of_memory { Reason::OutOfMemory } else { Reason::WorkloadFailed }
}

/// The stage that is awaited tells best what is awaited.
fn making<'a>(input: &Input<'a>, memory: &'a Notes<'_>, stage: Stage) -> Told<'a> {
    let observed = input.observed;
    let (_, reason, message) = match stage {
        Stage::Image => image(input, memory),
        Stage::Rootfs => work(input, memory, stage, &observed.rootfs, |_| Cow::Borrowed("")),
        Stage::Kernel => work(input, memory, stage, &observed.kernel, |_| Cow::Borrowed("")),
        Stage::Disks => no(Reason::StartingMachine, "the disks are being made"),
        _ => no(Reason::StartingMachine, "the machine is being started"),
    };
    no(reason, message)
}

fn reconciling<'a>(
    input: &Input<'_>,
    memory: &Notes<'_>,
    decision: &Decision,
    ready: &Told<'a>,
    stalled: &Told<'_>,
) -> Told<'a> {
    if holds_up(input, memory, decision).is_some() || decision.overdue {
        return no(Reason::Settled, "nothing will change by itself, but it is tried again from time to time");
    }
    if decision.standing.is_settled() {
        return no(Reason::Settled, "nothing is left to do");
    }
    // What a person must mend and what goes on beside it: the first is told.
    if stalled.0 == ConditionStatus::True {
        return no(Reason::Settled, "a person must act first");
    }
    yes(Reason::Progressing, ready.2.clone())
}
