//! How the fake supervisor lies.

use jiff::{SignedDuration, Timestamp};
use microagent_supervisor_protocol::{Machine, MachineState, Verb};
use serde::{Deserialize, Serialize};

/// The lies of one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Lies(Vec<(String, Verb, Lie)>);

impl Lies {
    /// Nothing but the truth.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Also lies so when asked `verb` of the workspace `name` of the default namespace.
    #[must_use]
    pub fn and(mut self, name: &str, verb: Verb, lie: Lie) -> Self {
        self.0.push((format!("default/{name}"), verb, lie));
        self
    }

    pub(super) fn of(&self, verb: Verb, name: &str) -> Option<Lie> {
        self.0.iter().find(|(whose, when, _)| whose == name && *when == verb).map(|(.., lie)| *lie)
    }
}

/// One way to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lie {
    /// The first half of the answer, and a good end.
    CutShort,
    /// No answer, and a good end.
    Mute,
    /// `start` says that the machine runs, and starts none.
    NoMachine,
    /// It is done, and nobody is told.
    LostReply,
    /// The answer is about another UID.
    OtherUid,
    /// `ok`, and a bad end.
    OkButFails,
    /// More than the protocol allows.
    Flood,
    /// Never an answer, from it and from a child of it.
    Hang,
    /// `start` tells the truth, and a moment later the machine is gone without a record.
    DiesAfterStart,
    /// It has ended, and was another boot.
    OtherBoot,
    /// The machine was started long after it ended.
    OddTimes,
}

impl Lie {
    /// Makes a true answer a lie.
    pub(super) fn twist(self, machine: &mut Machine) {
        match self {
            Self::OtherUid => "somebody-else".clone_into(&mut machine.uid),
            Self::OtherBoot => {
                machine.state = MachineState::Exited;
                machine.owner = None;
                machine.guest.workload_exit = Some(microagent_supervisor_protocol::Exit::code(3));
                machine.guest.workload_finished_at = machine.guest.workload_started_at;
                if let Some(identity) = &mut machine.identity {
                    "00000000-0000-4000-8000-000000000000".clone_into(&mut identity.boot_id);
                }
            }
            Self::OddTimes => {
                let far = SignedDuration::from_hours(24 * 365 * 1000);
                machine.started_at = Timestamp::now().checked_add(far).ok();
                machine.guest.workload_started_at = machine.started_at;
                machine.finished_at = Timestamp::from_second(-10_000_000_000).ok();
                machine.guest.workload_finished_at = machine.finished_at;
                machine.active_at = machine.started_at;
            }
            _ => {}
        }
    }
}
