//! What a start is made of, and what one start leaves to the next.

use super::*;
use crate::memory::{HaltCause, PinnedImage};

#[test]
fn a_workspace_stays_on_the_digest_of_its_reference_until_it_names_another() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    let Work::Ready(image) = life.observed.image.clone() else { panic!() };
    let pinned = PinnedImage { reference: image.reference, digest: image.digest.clone() };
    assert_eq!(life.record.memory.image, Some(pinned));
    assert_eq!(life.status.image.as_ref().unwrap().digest, image.digest);
    // The image is no longer on the host when the machine is to start again.
    life.end(None);
    life.observed.machine = MachineSight::None;
    life.observed.image = Work::Absent;
    let look = life.look();
    assert_eq!((look.next, look.memory.image), (Some(Action::ResolveImage), life.record.memory.image.clone()));
    life.edit(|spec| spec.image = "registry.example/other:1".to_owned());
    let look = life.look();
    assert_eq!((look.next, look.memory.image, look.status.image), (Some(Action::ResolveImage), None, None));
    life.settle(0);
    assert_eq!(life.record.memory.image.as_ref().unwrap().reference, "registry.example/other:1");
}

#[test]
fn the_count_of_restarts_is_of_the_whole_life() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.end(Some(Exit::code(1)));
    life.settle(1);
    life.annotate("one");
    life.settle(0);
    assert_eq!((life.boots, life.record.memory.restarts.count, life.record.memory.restarts.in_a_row), (3, 1, 0));
}

#[test]
fn a_restart_of_a_machine_that_is_ending_already_waits_for_that_end() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.record.memory = life.look().memory;
    let asked = life.record.memory.halt.clone().unwrap();
    life.machine().state = MachineState::Halting;
    life.edit(|spec| spec.run_policy = RunPolicy::Always);
    life.after(10);
    life.annotate("one");
    let look = life.look();
    assert_eq!(look.next, None);
    let halt = look.memory.halt.clone().unwrap();
    assert_eq!((halt.at, halt.cause), (asked.at, HaltCause::Restart));
}

#[test]
fn what_expires_leaves_nothing_to_a_life_after_it() {
    for began in [true, false] {
        let mut life = Life::new(RunPolicy::Always);
        life.settle(0);
        if !began {
            // Asked for, and never come about.
            life.observed.machine = MachineSight::None;
            life.record.memory.setup_complete = false;
        }
        let now = life.now;
        life.edit(|spec| spec.lifecycle.expires_at = Some(microagent_crds::Time(now)));
        life.settle(2);
        assert_eq!(life.reason(ConditionType::Ready), Reason::Expired);
        let memory = &life.record.memory;
        assert_eq!((&memory.boot, &memory.halt, memory.setup_complete), (&None, &None, false), "{began}");
    }
}
