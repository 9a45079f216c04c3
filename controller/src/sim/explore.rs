//! Every state that a workspace can come to by a few things that happen to it: from each, left alone, it comes to a state that stays,
//! and what is told of it there is true.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use jiff::SignedDuration;
use microagent_crds::{ConditionStatus, ConditionType, PowerState, RunPolicy, WorkspaceSpec};
use microagent_supervisor_protocol::{Exit, MachineState};

use super::{Sim, State, host::fault, host::is_alive, key, spec};
use crate::{memory::Stage, reconcile::Again};

/// How many things happen at most, beside what the controller does and time; `MICROAGENT_SIM_EVENTS` sets another number.
const EVENTS: usize = 3;

/// Something that happens.
type Event = (&'static str, fn(&Sim));

fn edit(sim: &Sim, change: impl FnOnce(&mut WorkspaceSpec)) {
    let known = sim.state().records.get(&key("w")).map(|record| record.workspace.spec.clone());
    let mut wanted = known.unwrap_or_else(|| spec(|_| {}));
    change(&mut wanted);
    sim.apply("w", &wanted);
}

fn on_machine(sim: &Sim, happen: impl FnOnce(&mut State, &str)) {
    let mut state = sim.state();
    let uid = state.records.uid(&key("w"));
    happen(&mut state, &uid);
    if state.records.get(&key("w")).is_some() {
        state.wake(&key("w"));
    }
}

const ALL_EVENTS: &[Event] = &[
    ("declared, or as at first", |sim| sim.apply("w", &spec(|_| {}))),
    ("deleted", |sim| sim.delete("w")),
    ("Always", |sim| edit(sim, |spec| spec.run_policy = RunPolicy::Always)),
    ("OnFailure", |sim| edit(sim, |spec| spec.run_policy = RunPolicy::OnFailure)),
    ("Once", |sim| edit(sim, |spec| spec.run_policy = RunPolicy::Once)),
    ("Halted", |sim| edit(sim, |spec| spec.run_policy = RunPolicy::Halted)),
    ("Paused", |sim| edit(sim, |spec| spec.power_state = PowerState::Paused)),
    ("Quarantined", |sim| edit(sim, |spec| spec.power_state = PowerState::Quarantined)),
    ("another machine", |sim| edit(sim, |spec| spec.args = vec!["b".to_owned()])),
    ("a time to live", |sim| edit(sim, |spec| spec.lifecycle.ttl_seconds_after_finished = Some(30))),
    ("an idle timeout", |sim| edit(sim, |spec| spec.lifecycle.idle_timeout_seconds = Some(60))),
    ("a restart", |sim| on_machine(sim, |state, uid| drop(state.host.requests.insert(uid.to_owned(), "t".to_owned())))),
    ("the workload exits well", |sim| {
        on_machine(sim, |state, uid| state.host.exit(uid, Some(Exit::code(0)), state.now));
    }),
    ("the workload fails", |sim| on_machine(sim, |state, uid| state.host.exit(uid, Some(Exit::code(1)), state.now))),
    ("the machine is lost", |sim| on_machine(sim, |state, uid| state.host.lose(uid, state.now))),
    ("the controller is killed", Sim::restart_controller),
    ("the probe fails", |sim| on_machine(sim, |state, uid| state.host.health(uid, false))),
    ("a probe", |sim| edit(sim, |spec| spec.health = Some(super::scenarios::probe()))),
    ("the next pull fails", |sim| {
        sim.state().host.broken.insert(Stage::Image, fault("RegistryUnreachable", true));
    }),
    ("the next build fails for good", |sim| {
        sim.state().host.broken.insert(Stage::Rootfs, fault("LayerCorrupt", false));
    }),
    ("a kernel is not to be had", |sim| {
        sim.state().host.broken.insert(Stage::Kernel, fault("KernelNotFound", false));
    }),
    ("supervisors fall silent", |sim| sim.state().host.blind = true),
    ("machines turn stubborn", |sim| sim.state().host.stubborn = true),
    ("machines have outputs", |sim| sim.state().host.outputs = true),
    ("an hour passes unseen", |sim| {
        sim.state().now += SignedDuration::from_hours(1);
        on_machine(sim, |_, _| {});
    }),
    ("the clock is set back", |sim| {
        sim.state().set_clock(SignedDuration::from_hours(-1));
        on_machine(sim, |_, _| {});
    }),
];

/// One thing that the controller or time does; nothing when all is still.
fn go_on(state: &State) -> Option<State> {
    let sim = Sim::from(state.clone());
    let now = state.now;
    let due = state.wakes.iter().find(|(_, again)| match again {
        Again::Now => true,
        Again::At(at) => *at <= now,
        Again::Never => false,
    });
    match due.map(|(key, _)| key.clone()) {
        Some(key) => match sim.pass(&key) {
            Some(Again::Never) => drop(sim.state().wakes.remove(&key)),
            Some(again) => drop(sim.state().wakes.insert(key, again)),
            None => sim.restart_controller(),
        },
        None if sim.move_on() => {}
        None => return None,
    }
    let mut next = sim.state().clone();
    next.trace.clear();
    Some(next)
}

fn hash(state: &State, events: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (state.nature(), events).hash(&mut hasher);
    hasher.finish()
}

/// What holds of every state in which a pass has just ended.
fn check_told(state: &State) {
    let Some(status) = state.records.status(&key("w")) else { return };
    let told = |type_| status.condition(type_).map(|condition| condition.status);
    let is = |type_| told(type_) == Some(ConditionStatus::True);
    assert!(status.conditions.is_empty() || status.conditions.len() == ConditionType::OF_HOST.len());
    assert!(!(is(ConditionType::Stalled) && is(ConditionType::Reconciling)), "{status:#?}");
    assert!(!(is(ConditionType::Ready) && is(ConditionType::Reconciling)), "{status:#?}");
    assert!(!(is(ConditionType::Ready) && is(ConditionType::Stalled)), "{status:#?}");
}

/// What holds of a state that stays.
fn check_settled(state: &State) {
    let story = || format!("{:#?}\n{}", state.records.get(&key("w")), state.nature());
    let Some(record) = state.records.get(&key("w")) else {
        let shape = state.shape();
        assert_eq!(shape, Sim::new_shape(&shape), "something is left behind");
        return;
    };
    assert!(record.deleted_at.is_none(), "a deletion has come to an end\n{}", story());
    let status = state.records.status(&key("w")).unwrap();
    assert_eq!(status.observed_generation, Some(record.generation), "{}", story());
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(record.generation)), "{}", story());
    assert_eq!(told(state, ConditionType::Reconciling), ConditionStatus::False, "{}", story());
    let spec = &record.workspace.spec;
    let machine = state.host.machines.get(&record.uid).map(|vm| &vm.machine).filter(|machine| is_alive(machine));
    let memory = &record.memory;
    match machine.map(|machine| machine.state) {
        Some(found) => {
            let wanted = match spec.power_state {
                PowerState::Running => MachineState::Running,
                PowerState::Paused => MachineState::Paused,
                PowerState::Quarantined => MachineState::Quarantined,
            };
            assert_eq!(found, wanted, "{}", story());
            assert!(spec.run_policy != RunPolicy::Halted && memory.expired.is_none(), "{}", story());
        }
        None => {
            let over = memory.finished.is_some() && spec.run_policy != RunPolicy::Always;
            let rests =
                spec.run_policy == RunPolicy::Halted || over || memory.idle.is_some() || memory.expired.is_some();
            assert!(rests, "a machine is wanted, and none runs\n{}", story());
        }
    }
    // Ready and Stalled tell the whole: in the state that was asked for, or a person must act.
    let (ready, stalled) = (told(state, ConditionType::Ready), told(state, ConditionType::Stalled));
    assert!((ready == ConditionStatus::True) != (stalled == ConditionStatus::True), "{}", story());
}

fn told(state: &State, type_: ConditionType) -> ConditionStatus {
    let status = state.records.status(&key("w"));
    status.and_then(|status| status.condition(type_)).map_or(ConditionStatus::Unknown, |condition| condition.status)
}

#[test]
fn from_every_state_that_can_be_reached_the_way_leads_to_one_that_stays() {
    let most = std::env::var("MICROAGENT_SIM_EVENTS").ok().and_then(|most| most.parse().ok()).unwrap_or(EVENTS);
    let mut seen = HashSet::new();
    let mut ways: VecDeque<(State, usize, String)> = VecDeque::new();
    // From where it is known that the way leads to rest.
    let mut at_rest: HashSet<u64> = HashSet::new();
    let (mut rests, mut longest) = (0, 0);
    let first = Sim::new();
    first.apply("w", &spec(|_| {}));
    ways.push_back((first.state().clone(), 0, String::new()));
    while let Some((state, events, way)) = ways.pop_front() {
        if !seen.insert(hash(&state, events)) {
            continue;
        }
        check_told(&state);
        let mut calm = state.clone();
        calm.host.blind = false;
        let mut path = Vec::new();
        loop {
            let here = hash(&calm, 0);
            if at_rest.contains(&here) {
                break;
            }
            assert!(!path.contains(&here), "it goes in circles after {way}:\n{}", calm.nature());
            path.push(here);
            assert!(path.len() < 400, "it finds no rest after {way}:\n{}", calm.nature());
            match go_on(&calm) {
                Some(next) => calm = next,
                None => {
                    rests += 1;
                    check_settled(&calm);
                    stays(&calm, &way);
                    break;
                }
            }
        }
        longest = longest.max(path.len());
        at_rest.extend(path);
        if let Some(next) = go_on(&state) {
            ways.push_back((next, events, way.clone()));
        }
        if events < most {
            for (name, happen) in ALL_EVENTS {
                let sim = Sim::from(state.clone());
                happen(&sim);
                let next = sim.state().clone();
                ways.push_back((next, events + 1, format!("{way}, {name}")));
            }
        }
    }
    println!("{most} events: {} states, {rests} of them at rest, the longest way {longest} steps", seen.len());
    assert!(most < 2 || seen.len() > 5000, "{}", seen.len());
}

/// A state at rest plans nothing, writes nothing and tells nothing when it is looked at in time.
fn stays(state: &State, way: &str) {
    let sim = Sim::from(state.clone());
    let (writes, effects) = (state.records.writes, state.effects);
    for looks in 1..=3 {
        let keys: Vec<_> = state.records.keys().collect();
        for key in &keys {
            let Some(Again::At(at)) = sim.pass(key) else { panic!("not at rest after {way}\n{}", sim.story()) };
            assert!(at > sim.state().now, "after {way}");
            sim.state().now = at;
        }
        let now = sim.state();
        let told = (now.records.writes, now.effects);
        drop(now);
        assert_eq!(told, (writes, effects + looks * keys.len()), "after {way}\n{}", sim.story());
    }
}

impl Sim {
    /// The shape of a world without a workspace, but for what outlives it.
    fn new_shape(like: &super::shape::Shape) -> super::shape::Shape {
        Self::new().state().shape().keeping_of(like)
    }
}
