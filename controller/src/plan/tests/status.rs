//! What the status tells on the way, and where a life stands.

use microagent_crds::Backend;

use super::*;

fn running<T>(message: &str) -> Work<T> {
    Work::Running { message: message.to_owned() }
}

#[test]
fn each_stage_tells_what_it_waits_for_what_it_does_and_what_came_of_it() {
    use ConditionType::{ImageResolved, KernelInstalled, MachineStarted, Ready, RootfsBuilt};
    let mut life = Life::new(RunPolicy::Always);
    assert_eq!(life.tells(ImageResolved), "Unknown Pending: nothing was done yet");
    assert_eq!(life.tells(RootfsBuilt), "Unknown Waiting: the image comes first");
    assert_eq!(life.tells(KernelInstalled), "Unknown Pending: nothing was done yet");
    assert_eq!(life.tells(MachineStarted), "False Waiting: what the machine is made of comes first");

    (life.observed.image, life.observed.kernel) = (running(""), running("unpacking"));
    assert_eq!(life.tells(ImageResolved), "False PullingImage: the image is looked for");
    assert_eq!(life.tells(KernelInstalled), "False InstallingKernel: unpacking");
    assert_eq!(life.tells(Ready), "False PullingImage: the image is looked for");

    life.observed.image = Work::Queued;
    life.act(&Action::ResolveImage);
    assert_eq!(life.tells(RootfsBuilt), "Unknown Pending: nothing was done yet");
    assert_eq!(life.tells(Ready), "False Pending: nothing was done yet", "what is made next is told");
    life.observed.rootfs = running("layer 1 of 2");
    assert_eq!(life.tells(RootfsBuilt), "False BuildingRootfs: layer 1 of 2");
    assert_eq!(life.tells(Ready), "False InstallingKernel: unpacking", "of two the first is told");
    life.act(&Action::InstallKernel);
    assert_eq!(life.tells(KernelInstalled), "True KernelInstalled: Linux 6.1");
    assert_eq!(life.tells(Ready), "False BuildingRootfs: layer 1 of 2");
    life.act(&Action::BuildRootfs);
    assert_eq!(life.tells(Ready), "False StartingMachine: the disks are being made");
    life.act(&Action::CreateDisks);
    assert_eq!(life.tells(MachineStarted), "False StartingMachine: the machine is being started");
    assert_eq!(life.tells(Ready), "False StartingMachine: the machine is being started");
}

#[test]
fn a_guest_tells_how_far_it_has_come() {
    use ConditionType::{GuestReady, Healthy, MachineStarted, Running, SetupComplete};
    let steps = ["a", "b"].map(|run| microagent_crds::SetupStep { run: run.to_owned() });
    let mut life = Life::running(RunPolicy::Always, |spec| spec.setup = steps.to_vec());
    life.record.memory.setup_complete = false;
    life.machine().guest = Machine::bare("", MachineState::Running).guest;
    assert_eq!(life.tells(GuestReady), "False WaitingForGuest: the guest boots");
    assert_eq!(life.tells(SetupComplete), "False Waiting: setup runs when the guest is ready");
    assert_eq!(life.tells(Running), "False Waiting: the guest boots");
    life.machine().guest.ready = true;
    life.machine().guest.setup_index = Some(1);
    assert_eq!(life.tells(GuestReady), "True GuestReady: the guest has its configuration");
    assert_eq!(life.tells(SetupComplete), "False RunningSetup: command 2 of 2 runs");
    assert_eq!(life.tells(Running), "False StartingWorkload: the workload starts when the guest is set up");
    assert_eq!(life.tells(Healthy), "False NotRunning: no workload runs");
    let now = life.now;
    life.machine().guest.setup_complete = true;
    life.machine().guest.workload_started_at = Some(now);
    assert_eq!(life.tells(SetupComplete), "True SetupComplete: 2 of 2 commands have run");
    assert_eq!(life.tells(Healthy), "True Healthy: the workload runs, and no probe is declared");
    life.end(Some(Exit::code(1)));
    assert_eq!(life.tells(MachineStarted), "False BackingOff: the machine is started again later");
    assert_eq!(life.tells(GuestReady), "False NotRunning: no machine runs");
}

#[test]
fn a_fault_is_told_by_its_own_reason_or_by_that_of_its_stage_with_its_code() {
    let mut life = Life::new(RunPolicy::Always);
    life.observed.image = Work::Failed(fault("ImageNotFound", true));
    life.observed.kernel = Work::Failed(fault("Odd", true));
    assert_eq!(life.tells(ConditionType::ImageResolved), "False ImageNotFound: it broke");
    assert_eq!(life.tells(ConditionType::KernelInstalled), "False KernelInstallFailed: Odd: it broke");
}

#[test]
fn only_setup_that_failed_is_told_as_such() {
    for (code, complete) in [("SetupFailed", false), ("UserNotFound", true)] {
        let mut life = Life::running(RunPolicy::Always, |_| {});
        life.machine().guest.workload_started_at = None;
        life.fails(Stage::Guest, fault(code, true));
        assert_eq!(life.look().status.is_true(ConditionType::SetupComplete), complete, "{code}");
    }
}

#[test]
fn what_nobody_can_see_stalls_when_only_a_person_can_mend_it() {
    for retryable in [true, false] {
        let mut life = Life::running(RunPolicy::Always, |_| {});
        life.observed.machine = MachineSight::Unknown(fault("BackendUnavailable", retryable));
        let status = life.look().status;
        assert_eq!(status.is_true(ConditionType::Stalled), !retryable);
        assert_eq!(status.is_true(ConditionType::Reconciling), retryable);
        assert_eq!(status.phase, Some(if retryable { Phase::Unknown } else { Phase::Failed }));
    }
}

#[test]
fn a_machine_of_an_older_spec_is_a_persons_to_restart() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.args = vec!["new".to_owned()]);
    assert!(life.tells(ConditionType::Stalled).starts_with("True SpecChanged: the machine runs an older spec"));
}

#[test]
fn what_ended_badly_for_good_is_told_with_its_end_and_what_to_do() {
    let mut life = Life::running(RunPolicy::Once, |_| {});
    life.end(Some(Exit { oom_killed: true, ..Exit::code(137) }));
    let ready = life.tells(ConditionType::Ready);
    assert_eq!(ready, "False OutOfMemory: the workload exited with code 137 (the guest ran out of memory)");
    let stalled = life.tells(ConditionType::Stalled);
    assert!(stalled.starts_with("True WorkloadFailed: the workload ended badly") && stalled.contains("logs web`"));
    // A manifest that is broken besides is what is told first.
    let (code, message) = ("InvalidManifest".to_owned(), "line 3".to_owned());
    life.record.problem = Some(crate::Problem { code, message });
    assert_eq!(life.tells(ConditionType::Ready), "False InvalidManifest: line 3");
}

#[test]
fn a_way_that_takes_too_long_is_not_told_to_go_on_by_itself() {
    let mut life = Life::new(RunPolicy::Always);
    life.record.workspace_mut().spec.lifecycle.progress_deadline_seconds = Some(60);
    life.observed.kernel = Work::Running { message: String::new() };
    life.settle(0);
    life.after(60);
    let status = life.look().status;
    let reconciling = status.condition(ConditionType::Reconciling).unwrap();
    assert!(reconciling.message.starts_with("nothing will change by itself"), "{}", reconciling.message);
}

#[test]
fn a_workspace_whose_end_has_come_tells_how_its_workload_ended() {
    for (policy, exit, phase) in [
        (RunPolicy::Once, 0, Phase::Succeeded),
        (RunPolicy::Once, 1, Phase::Failed),
        (RunPolicy::Always, 1, Phase::Halted),
    ] {
        let mut life = Life::running(policy, |_| {});
        life.end(Some(Exit::code(exit)));
        life.settle(0);
        let now = life.now;
        life.record.workspace_mut().spec.lifecycle.expires_at = Some(microagent_crds::Time(now));
        life.settle(0);
        assert_eq!(life.reason(ConditionType::Ready), Reason::Expired);
        assert_eq!(life.status.phase, Some(phase), "{policy:?} {exit}");
    }
}

#[test]
fn the_next_start_is_told_while_it_is_awaited() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.end(Some(Exit::code(1)));
    life.settle(0);
    let told = |life: &Life| life.look().status.restarts.unwrap().next_attempt.map(|time| time.0);
    assert_eq!(told(&life), Some(life.look().wake));
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    assert_eq!(told(&life), None);
}

#[test]
fn the_backend_is_the_one_that_answered_last() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    assert_eq!(life.status.backend, Some(Backend::Qemu));
    for (name, told) in [
        ("Firecracker", Backend::Firecracker),
        ("AppleVf", Backend::AppleVf),
        ("of another version", Backend::AppleVf),
        ("Qemu", Backend::Qemu),
    ] {
        let MachineSight::Seen { backend, .. } = &mut life.observed.machine else { panic!() };
        name.clone_into(backend);
        life.settle(0);
        assert_eq!(life.status.backend, Some(told), "{name}");
    }
}

#[test]
fn a_figure_that_changes_is_published() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    for (stage, ms) in [("boot", 5), ("boot", 6), ("other", 6)] {
        life.machine().timings = BTreeMap::from([(stage.to_owned(), ms)]);
        life.settle(0);
        assert_eq!(life.status.timings.get(&format!("machine.{stage}")), Some(&ms), "{stage} {ms}");
    }
    for (version, digest) in [("6.1", "b"), ("6.2", "b")] {
        life.observed.kernel =
            Work::Ready(KernelFacts { version: version.to_owned(), digest: digest.to_owned(), took_ms: None });
        life.settle(0);
        let told = life.status.kernel.clone().unwrap();
        assert_eq!((told.version.as_str(), told.digest.as_str()), (version, digest));
    }
}
