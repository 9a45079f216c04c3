//! What is told of a life.

use super::*;
use crate::journal::EventType::{self, Normal, Warning};

impl Life {
    /// Passes until nothing is done any more, and gives what they told.
    fn told(&mut self) -> Vec<(EventType, Reason)> {
        let mut told = Vec::new();
        for _ in 0..50 {
            told.extend(self.look().events.iter().map(|event| (event.type_, event.reason)));
            if !self.pass() || self.done.last() == Some(&"forget") {
                return told;
            }
        }
        panic!("it does not come to rest: {told:?}");
    }
}

#[test]
fn a_start_is_told_stage_by_stage_each_once() {
    use Reason::{GuestReady, ImageResolved, KernelInstalled, MachineStarted, RootfsBuilt, Running, StartingMachine};
    let stages = [ImageResolved, KernelInstalled, RootfsBuilt, StartingMachine, MachineStarted, GuestReady, Running];
    assert_eq!(Life::new(RunPolicy::Always).told(), stages.map(|reason| (Normal, reason)));
}

#[test]
fn the_verdicts_of_a_probe_are_told_and_waiting_for_the_first_is_not() {
    let mut life = Life::new(RunPolicy::Always);
    probed(&mut life.record.workspace_mut().spec);
    assert!(life.told().ends_with(&[(Normal, Reason::GuestReady), (Normal, Reason::Running)]));
    life.health(true);
    assert_eq!(life.told(), [(Normal, Reason::Healthy), (Normal, Reason::Running)]);
    life.health(false);
    assert_eq!(life.told()[0], (Warning, Reason::Unhealthy));
}

#[test]
fn progress_within_a_stage_is_not_told_again_and_its_failure_is() {
    let mut life = Life::new(RunPolicy::Always);
    life.observed.kernel = Work::Running { message: String::new() };
    life.observed.image = Work::Running { message: "1 of 2 MiB".to_owned() };
    assert_eq!(life.told(), [(Normal, Reason::PullingImage), (Normal, Reason::InstallingKernel)]);
    life.observed.image = Work::Running { message: "2 of 2 MiB".to_owned() };
    assert_eq!(life.told(), []);
    life.observed.image = Work::Failed(fault("ImageNotFound", false));
    assert_eq!(life.told(), [(Warning, Reason::ImageNotFound)]);
}

#[test]
fn that_a_person_must_act_is_a_warning() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.args = vec!["new".to_owned()]);
    assert_eq!(life.told(), [(Warning, Reason::SpecChanged)]);

    let mut life = Life::running(RunPolicy::Once, |_| {});
    life.end(Some(Exit { oom_killed: true, ..Exit::code(137) }));
    assert_eq!(life.told(), [(Warning, Reason::WorkloadFailed)]);
}

#[test]
fn ends_that_were_asked_for_are_told_as_they_begin_and_when_they_are_done() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.annotate("one");
    assert_eq!(life.told()[0], (Normal, Reason::Restarting));
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    assert_eq!(life.told(), [(Normal, Reason::Halting), (Normal, Reason::Halted)]);
    life.record.deleted_at = Some(life.now);
    assert_eq!(life.told(), [(Normal, Reason::Terminating)]);
}

#[test]
fn a_workload_that_ends_and_starts_again_is_told_once_each() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.end(Some(Exit::code(3)));
    assert_eq!(life.told(), [(Normal, Reason::BackingOff)]);
}
