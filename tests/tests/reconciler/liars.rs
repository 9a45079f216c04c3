//! A supervisor that lies: the workspace says so, nothing else is hurt, no second machine is made, and all is well once it tells
//! the truth again.

use std::fs;

use microagent_supervisor_protocol::Verb;
use microagent_tests::{
    fake::{Lie, Lies},
    host::Host,
};
use serde_json::{Value, json};

use crate::until;

/// Short, so that a supervisor that hangs is given up soon; long enough for one that answers on a busy host.
const DEADLINE_MS: &str = "5000";

/// A host with a workspace that is lied about and one that is not.
struct Scene {
    host: Host,
    bystander: Value,
}

impl Scene {
    fn new() -> Self {
        let mut host = Host::with_fake_machines();
        host.start_controller_with(|command| {
            command.env("MICROAGENT_SUPERVISOR_DEADLINE_MS", DEADLINE_MS);
        });
        host.drop_file("bystander.yaml", &host.fake_manifest("bystander", &json!({})));
        host.wait("bystander", "Ready");
        let bystander = host.object("bystander")["status"]["bootId"].clone();
        Self { host, bystander }
    }

    fn lie(&self, verb: Verb, lie: Lie) {
        self.host.fake().lie_so(&Lies::none().and("liar", verb, lie)).expect("a script");
    }

    fn drop_liar(&self) {
        self.host.drop_file("liar.yaml", &self.host.fake_manifest("liar", &json!({})));
    }

    /// The liar's machine seems to have news.
    fn nudge(&self) {
        let dir = self.host.state().join("machines").join(self.uid("liar")).join("vm");
        let (new, old) = (dir.join(".tmp-new"), dir.join(".tmp-nudge"));
        fs::write(&new, "").and_then(|()| fs::rename(new, old)).expect("the machine's directory");
    }

    fn uid(&self, name: &str) -> String {
        self.host.object(name)["metadata"]["uid"].as_str().expect("a uid").to_owned()
    }

    fn boots_of_liar(&self) -> Vec<String> {
        let uid = self.uid("liar");
        self.host.fake().boots().into_iter().filter(|boot| boot.uid == uid).map(|boot| boot.boot_id).collect()
    }

    /// A running workspace, lied about when it is looked at, until its conditions say these words for this reason.
    fn lied_about(lie: Lie, words: &[&str]) {
        let scene = Self::new();
        scene.drop_liar();
        scene.host.wait("liar", "Ready");
        scene.lie(Verb::Inspect, lie);
        scene.nudge();
        let _ = scene.host.told("liar", "MachineStarted=Unknown", "SupervisorFailed", words);
        scene.truth(1);
    }

    /// The truth is told again, and all is well with so many boots of the liar in all.
    fn truth(&self, boots: usize) {
        self.host.fake().lie_so(&Lies::none()).expect("a script");
        self.nudge();
        self.host.wait("liar", "Ready");
        let booted = self.boots_of_liar();
        assert_eq!(booted.len(), boots, "{booted:?}");
        assert_eq!(self.host.object("liar")["status"]["bootId"], Value::from(booted[boots - 1].as_str()));
        let machines = self.host.processes(&self.uid("liar"));
        assert_eq!(machines.len(), 1, "{machines:?}");
        assert_eq!(self.host.object("bystander")["status"]["bootId"], self.bystander);
        assert_eq!(self.host.processes(&self.uid("bystander")).len(), 1);
        let boots = self.host.fake().boots();
        assert_eq!(boots.iter().filter(|boot| boot.uid == self.uid("bystander")).count(), 1);
        fs::remove_file(self.host.folder().join("liar.yaml")).expect("its manifest");
        self.host.wait_deleted("liar");
    }
}

#[test]
fn a_look_that_is_cut_short_is_told_and_costs_no_machine() {
    Scene::lied_about(Lie::CutShort, &["Inspect", "protocol does not allow"]);
}

#[test]
fn a_supervisor_that_says_nothing_is_told_and_costs_no_machine() {
    Scene::lied_about(Lie::Mute, &["Inspect", "before it answered"]);
}

#[test]
fn an_answer_about_another_machine_is_told_and_costs_no_machine() {
    Scene::lied_about(Lie::OtherUid, &["somebody-else"]);
}

#[test]
fn a_supervisor_that_contradicts_itself_is_told_and_costs_no_machine() {
    Scene::lied_about(Lie::OkButFails, &["ok=true"]);
}

#[test]
fn an_answer_without_an_end_is_given_up_told_and_costs_no_machine() {
    Scene::lied_about(Lie::Flood, &["more than"]);
}

#[test]
fn a_supervisor_that_hangs_is_killed_with_its_children_and_told() {
    let scene = Scene::new();
    scene.drop_liar();
    scene.host.wait("liar", "Ready");
    scene.lie(Verb::Inspect, Lie::Hang);
    scene.nudge();
    let _ = scene.host.told("liar", "MachineStarted=Unknown", "SupervisorFailed", &["did not answer"]);
    scene.truth(1);
    let hung = scene.host.fake().hanging();
    assert!(hung.len() >= 2, "the supervisor and its child: {hung:?}");
    until("what hung is gone", || hung.iter().all(|process| !process.is_alive()));
}

#[test]
fn a_start_whose_answer_is_lost_cut_short_or_contradicts_itself_is_adopted_and_not_doubled() {
    let scene = Scene::new();
    for lie in [Lie::LostReply, Lie::CutShort, Lie::OkButFails, Lie::OtherUid, Lie::Mute] {
        scene.lie(Verb::Start, lie);
        scene.drop_liar();
        // The supervisor that is mute starts nothing; the others start what they do not tell.
        until("the supervisor is asked to start it", || {
            let object = fs::read_to_string(scene.host.state().join("status/default/liar.json"));
            let uid = object.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            uid.and_then(|object| object["metadata"]["uid"].as_str().map(str::to_owned))
                .is_some_and(|uid| !scene.host.fake().calls(Verb::Start, &uid).is_empty())
        });
        if lie != Lie::Mute {
            scene.host.wait("liar", "Ready");
        }
        scene.truth(1);
    }
}

#[test]
fn a_machine_that_was_never_made_is_made_once_the_truth_is_told() {
    let scene = Scene::new();
    scene.lie(Verb::Start, Lie::NoMachine);
    scene.drop_liar();
    let words = ["said that it started", "there is no machine"];
    let _ = scene.host.told("liar", "MachineStarted=Unknown", "SupervisorFailed", &words);
    assert_eq!(scene.boots_of_liar(), Vec::<String>::new());
    assert_ne!(scene.host.conditions("liar")["Ready"].0, "True");
    scene.truth(1);
}

#[test]
fn a_machine_that_dies_after_it_ran_is_told_and_started_again_as_another_boot() {
    let scene = Scene::new();
    scene.lie(Verb::Start, Lie::DiesAfterStart);
    scene.drop_liar();
    scene.host.wait("liar", "Ready=False");
    until("it has died twice", || scene.boots_of_liar().len() >= 2);
    let object = scene.host.object("liar");
    assert!(object["status"]["restarts"]["count"].as_u64().is_some_and(|count| count >= 1), "{object:#}");
    scene.host.fake().lie_so(&Lies::none()).expect("a script");
    scene.host.wait("liar", "Ready");
    let mut boots = scene.boots_of_liar();
    let count = boots.len();
    scene.truth(count);
    boots.sort();
    boots.dedup();
    assert_eq!(boots.len(), count, "no boot id is used twice");
}

#[test]
fn the_end_of_a_boot_that_never_was_starts_no_second_machine() {
    let scene = Scene::new();
    scene.drop_liar();
    scene.host.wait("liar", "Ready");
    scene.lie(Verb::Inspect, Lie::OtherBoot);
    scene.nudge();
    let words = ["said that it started", "00000000-0000-4000-8000-000000000000"];
    let _ = scene.host.told("liar", "MachineStarted=Unknown", "SupervisorFailed", &words);
    scene.truth(1);
}

#[test]
fn times_that_cannot_be_stop_nobody() {
    let scene = Scene::new();
    scene.drop_liar();
    scene.host.wait("liar", "Ready");
    scene.lie(Verb::Inspect, Lie::OddTimes);
    scene.nudge();
    scene.host.wait("liar", "Ready=False");
    scene.truth(1);
}
