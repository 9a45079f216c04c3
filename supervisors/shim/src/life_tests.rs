use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn life(setup_steps: u32) -> Life {
    let expected = Expected { setup_steps, probed: true, outputs: Vec::new() };
    Life::new(Machine::bare("u", MachineState::Starting), expected)
}

fn told(setup_steps: u32, events: Vec<Event>) -> Result<Life, String> {
    let mut life = life(setup_steps);
    events.into_iter().try_for_each(|e| life.tell(e, NOW))?;
    Ok(life)
}

fn configured() -> Event {
    Event::Configured { init_ms: 1, listening_ms: 2, at_ms: 3 }
}

fn mounted() -> Event {
    Event::Mounted { at_ms: 4 }
}

fn setup(index: u32, code: u8) -> [Event; 2] {
    [Event::SetupStarted { index, at_ms: 5 }, Event::SetupFinished { index, exit: Exit::code(code), at_ms: 6 }]
}

fn workload() -> Event {
    Event::WorkloadStarted { pid: 9, at_ms: 7 }
}

fn exited(code: u8) -> Event {
    Event::WorkloadExited { exit: Exit::code(code), at_ms: 8 }
}

fn end(success: bool) -> VmmEnd {
    VmmEnd {
        success,
        status: "exit status: 1".to_owned(),
        stderr: "no such device".to_owned(),
        console: "boot".to_owned(),
    }
}

#[test]
fn a_whole_life_is_recorded_and_is_no_failure() {
    let [a, b] = setup(1, 0);
    let mut life = told(2, vec![configured(), mounted(), a, b, workload(), exited(7)]).unwrap();
    assert_eq!(life.machine.state, MachineState::Running);
    life.end(&end(true), NOW);
    let guest = &life.machine.guest;
    assert!(guest.ready && guest.setup_complete);
    assert_eq!(guest.workload_exit, Some(Exit::code(7)));
    assert_eq!((life.machine.state, &life.machine.failure), (MachineState::Exited, &None));
}

#[test]
fn a_failed_setup_command_is_the_end() {
    let [a, b] = setup(0, 3);
    let mut life = told(2, vec![configured(), mounted(), a, b]).unwrap();
    assert!(life.tell(workload(), NOW).is_err());
    life.end(&end(true), NOW);
    let guest = &life.machine.guest;
    assert_eq!((guest.setup_failure, guest.setup_index, guest.setup_complete), (Some(Exit::code(3)), Some(0), false));
    assert_eq!(life.machine.failure, None);
}

#[test]
fn what_comes_out_of_order_is_refused() {
    let both = Exit { code: Some(1), signal: Some(9), oom_killed: false };
    let [a, b] = setup(0, 0);
    for events in [
        vec![mounted()],
        vec![configured(), configured()],
        vec![configured(), workload()],
        vec![configured(), mounted(), exited(0)],
        vec![configured(), mounted(), a.clone(), workload()],
        vec![configured(), mounted(), a.clone(), b.clone(), a],
        vec![configured(), mounted(), b],
        vec![configured(), mounted(), Event::SetupStarted { index: 1, at_ms: 0 }],
        vec![configured(), mounted(), workload(), exited(0), exited(0)],
        vec![configured(), mounted(), workload(), Event::WorkloadExited { exit: both, at_ms: 0 }],
    ] {
        assert!(told(1, events.clone()).is_err(), "{events:?}");
    }
}

fn health(healthy: bool) -> Event {
    Event::Health { healthy, message: "HTTP status 200\n".to_owned(), at_ms: 8 }
}

#[test]
fn health_is_told_while_the_workload_runs_and_when_it_changes() {
    let before = [configured(), mounted(), workload()];
    let with = |more: &[Event]| told(0, [&before[..], more].concat());
    let life = with(&[health(false), health(true)]).unwrap();
    let found = life.machine.guest.health.unwrap();
    assert_eq!((found.healthy, found.message.as_str()), (true, "HTTP status 200 "));
    let long = Event::Health { healthy: true, message: "\u{1b}".repeat(100_000), at_ms: 1 };
    assert_eq!(with(&[long]).unwrap().machine.guest.health.unwrap().message, " ".repeat(MAX_MESSAGE));
    assert!(with(&[health(true), health(true)]).is_err());
    assert!(with(&[exited(0), health(true)]).is_err());
    assert!(told(0, vec![configured(), mounted(), health(true)]).is_err());
    let mut unprobed = Life::new(Machine::bare("u", MachineState::Starting), Expected::default());
    before.into_iter().for_each(|event| unprobed.tell(event, NOW).unwrap());
    assert!(unprobed.tell(health(true), NOW).is_err());
}

#[test]
fn what_is_told_of_pausing_depends_on_how_far_the_guest_has_come() {
    let refused = |life: Life| life.check_runs().map_err(|e| e.code) == Err(ErrorCode::MachineNotRunning);
    assert!(refused(life(0)));
    assert!(!refused(told(0, vec![configured()]).unwrap()));
    assert!(!refused(told(0, vec![configured(), mounted(), workload()]).unwrap()));
    assert!(refused(told(0, vec![configured(), mounted(), workload(), exited(0)]).unwrap()));
    let mut halting = told(0, vec![configured()]).unwrap();
    halting.wish_end();
    assert!(refused(halting));
    let mut paused = told(0, vec![configured()]).unwrap();
    paused.machine.state = MachineState::Paused;
    assert!(!refused(paused));
}

/// A life with outputs `a` and `b`, to the end of its workload.
fn with_outputs() -> Life {
    let expected = Expected { outputs: vec!["a".to_owned(), "b".to_owned()], ..Expected::default() };
    let mut life = Life::new(Machine::bare("u", MachineState::Starting), expected);
    for event in [configured(), mounted(), workload()] {
        life.tell(event, NOW).unwrap();
    }
    assert!(life.tell(started("a"), NOW).is_err(), "not before the end of the workload");
    life.tell(exited(0), NOW).unwrap();
    life
}

fn started(name: &str) -> Event {
    Event::OutputStarted { name: name.to_owned() }
}

fn artifact(name: &str) -> Artifact {
    let path = Some(format!("/m/{name}.tar").into());
    Artifact { name: name.to_owned(), path, bytes: Some(1), digest: None, error: None }
}

#[test]
fn outputs_come_after_the_workload_in_their_order_and_then_the_guest_is_done() {
    let mut life = with_outputs();
    assert!(life.is_copying() && !life.is_done());
    assert!(life.tell(started("b"), NOW).is_err());
    assert!(life.output(artifact("a")).is_err(), "it has not begun");
    for name in ["a", "b"] {
        life.tell(started(name), NOW).unwrap();
        assert!(life.tell(started(name), NOW).is_err());
        assert!(life.output(artifact("c")).is_err());
        let failed = Event::Failed { code: "X".to_owned(), message: String::new(), at_ms: 9 };
        assert!(life.tell(failed, NOW).is_err(), "its workload ended well");
        life.output(artifact(name)).unwrap();
    }
    assert!(life.is_done());
    assert!(life.tell(started("a"), NOW).is_err() && life.output(artifact("a")).is_err());
    life.end(&end(true), NOW);
    assert_eq!((life.machine.artifacts, life.machine.failure), (vec![artifact("a"), artifact("b")], None));
}

#[test]
fn outputs_that_do_not_come_are_errors_of_theirs_and_no_failure_of_the_machine() {
    let errors = |life: &Life| life.machine.artifacts.iter().map(|a| a.error.is_some()).collect::<Vec<_>>();
    let mut cut = with_outputs();
    cut.tell(started("a"), NOW).unwrap();
    cut.output(artifact("a")).unwrap();
    cut.end(&end(false), NOW);
    assert_eq!((errors(&cut), cut.machine.failure), (vec![false, true], None));
    // What arrives after it was given up is taken.
    let mut late = with_outputs();
    late.tell(started("a"), NOW).unwrap();
    late.abandon_outputs("too slow");
    assert_eq!(errors(&late), [true, true]);
    late.output(artifact("a")).unwrap();
    late.tell(started("b"), NOW).unwrap();
    assert_eq!(errors(&late), [false, true]);
    // A workload that never ended has none.
    let mut killed = with_outputs();
    killed.stage = Stage::Workload;
    killed.wish_end();
    killed.end(&end(false), NOW);
    assert!(killed.machine.artifacts.is_empty());
}

#[test]
fn the_guests_words_are_bounded_and_cleaned() {
    let failed = Event::Failed { code: "no\ncode".to_owned(), message: "\u{1b}[2J".repeat(10_000), at_ms: 1 };
    let life = told(0, vec![configured(), failed]).unwrap();
    let failure = life.machine.guest.failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.message.chars().count()), ("GuestFailure", MAX_MESSAGE));
    assert!(!failure.message.contains('\u{1b}'));
}

#[test]
fn an_end_that_nobody_wished_has_its_cause() {
    let cause = |mut life: Life, success| {
        life.end(&end(success), NOW);
        life.machine.failure.map(|f| (f.code, f.retryable))
    };
    assert_eq!(cause(life(0), false), Some((ErrorCode::VmmFailed, true)));
    assert_eq!(cause(told(0, vec![configured()]).unwrap(), true), Some((ErrorCode::GuestProtocol, true)));
    assert_eq!(cause(life(0), true), Some((ErrorCode::VmmFailed, true)));
    let mut panicked = life(0);
    panicked.panicked("Kernel panic - not syncing".to_owned());
    assert_eq!(cause(panicked, true), Some((ErrorCode::GuestPanic, true)));
    let mut halted = told(0, vec![configured(), mounted()]).unwrap();
    halted.wish_end();
    assert_eq!(cause(halted, false), None);
    let mut late = life(0);
    late.fail(ErrorCode::GuestTimeout, "late", "");
    assert_eq!(cause(late, false), Some((ErrorCode::GuestTimeout, true)));
}

#[test]
fn a_guest_init_that_gives_up_is_quoted() {
    let mut life = life(0);
    let console =
        "[    0.4] PCI: none\nmicroagent: cannot listen: no vsock. Powering off\n[    2.0] reboot: Power down\n";
    life.end(&VmmEnd { console: console.to_owned(), ..end(true) }, NOW);
    let failure = life.machine.failure.unwrap();
    assert_eq!((failure.code, failure.retryable), (ErrorCode::GuestFailed, false));
    assert_eq!(failure.message, "guest-init gave up: cannot listen: no vsock");
}

#[test]
fn the_vmms_last_words_are_in_the_details() {
    let mut life = life(0);
    life.end(&end(false), NOW);
    assert_eq!(life.machine.failure.unwrap().details.unwrap(), "no such device");
}
