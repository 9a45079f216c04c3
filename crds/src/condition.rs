//! Conditions: the shape is that of `k8s.io/apimachinery`'s `metav1.Condition`, with typed names.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// One thing that is so, is not so, or cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// `True`, `False` or `Unknown`.
    pub status: ConditionStatus,
    /// Why, as one word for programs. The reasons are listed in `docs/reasons.md`.
    pub reason: Reason,
    /// Why, for people: what, where, why, and what to do.
    #[serde(default)]
    pub message: String,
    /// The generation of the spec that the condition is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Time,
}

impl Condition {
    /// Whether the status is `True`.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }

    /// Whether everything but the time is the same: then there is nothing new to write.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.type_ == other.type_
            && self.status == other.status
            && self.reason == other.reason
            && self.message == other.message
            && self.observed_generation == other.observed_generation
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    #[default]
    Unknown,
}

impl ConditionStatus {
    /// The name in `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

macro_rules! condition_types {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a condition is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum ConditionType { $($(#[doc = $doc])+ $name,)+ }

        impl ConditionType {
            /// Every type, in the order in which conditions are shown: that of a start, the summary last.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name in `conditions[].type`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// What it means when the condition is `True`.
            #[must_use]
            pub fn doc(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

condition_types! {
    /// A node has room for the workspace and keeps it (Kubernetes only).
    Scheduled,
    /// The image's digest is known and its layers are on the host.
    ImageResolved,
    /// The root disk is made.
    RootfsBuilt,
    /// The kernel and its initramfs are on the host and verified.
    KernelInstalled,
    /// A machine runs.
    MachineStarted,
    /// The guest answers and has its configuration.
    GuestReady,
    /// Every setup command has run.
    SetupComplete,
    /// The workload runs.
    Running,
    /// The health probe succeeds.
    Healthy,
    /// The running machine was made from an older spec; `microagent restart`, or another text of the annotation
    /// `microagent.dev/restart`, starts it anew.
    RestartRequired,
    /// The controller is on its way to what was asked for.
    Reconciling,
    /// A person must act: nothing will change by itself.
    Stalled,
    /// The workspace is in the state that was asked for.
    Ready,
}

impl ConditionType {
    /// Those that the controller of the host tells, in the same order: `Scheduled` is told by placement alone.
    pub const OF_HOST: &[Self] = match Self::ALL {
        [Self::Scheduled, rest @ ..] => rest,
        all => all,
    };
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ConditionType {
    type Err = String;

    /// Reads a name as users type it: `kubectl wait` does not care for case either.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|one| one.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|one| one.as_str()).collect();
            format!("{text:?} is not a condition; the conditions are {}", known.join(", "))
        })
    }
}
