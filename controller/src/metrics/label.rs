//! What a label may say: closed sets only. A name, a UID or an image reference as a label would make a time series for each
//! workspace that ever was, and would tell them to whoever may scrape.

use std::fmt;

use microagent_crds::Phase;
use microagent_supervisor_protocol::MachineState;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

use crate::{journal::EventType, memory::Stage, observed::MachineSight, source::HintReason};

/// A closed set of label values.
pub trait Label: Copy + fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// All values, each at its own index.
    const ALL: &'static [Self];
    /// Where in `ALL` it stands.
    fn index(self) -> usize;
    /// How it is written.
    fn as_str(self) -> &'static str;
}

/// Makes an enum a label. The list must be the whole enum, in its order: the compiler checks both.
macro_rules! label {
    ($type:ty, $name:literal, $($variant:ident => $text:literal),+ $(,)?) => {
        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        const _: () = {
            let mut index = 0;
            while index < <$type as Label>::ALL.len() {
                assert!(<$type as Label>::ALL[index] as usize == index);
                index += 1;
            }
        };
    };
}

/// Where manifests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A watched folder.
    Folder,
    /// The API server of a cluster.
    Kubernetes,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as it should be.
    Settled,
    /// Something was done.
    Acted,
    /// Something is under way, and nothing was to be done.
    Awaiting,
    /// Something could not be done.
    Failed,
    /// What is desired changed meanwhile: nothing was done.
    Superseded,
    /// The workspace is gone.
    Gone,
}

/// What the last pass saw of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// As the supervisor says.
    Absent,
    /// As the supervisor says.
    Prepared,
    /// As the supervisor says.
    Starting,
    /// As the supervisor says.
    Running,
    /// As the supervisor says.
    Paused,
    /// As the supervisor says.
    Quarantined,
    /// As the supervisor says.
    Halting,
    /// As the supervisor says.
    Exited,
    /// Nobody knows.
    Unknown,
}

impl From<&MachineSight> for Sight {
    fn from(sight: &MachineSight) -> Self {
        match sight {
            MachineSight::None => Self::Absent,
            MachineSight::Unknown(_) => Self::Unknown,
            MachineSight::Seen { machine, .. } => match machine.state {
                MachineState::Absent => Self::Absent,
                MachineState::Prepared => Self::Prepared,
                MachineState::Starting => Self::Starting,
                MachineState::Running => Self::Running,
                MachineState::Paused => Self::Paused,
                MachineState::Quarantined => Self::Quarantined,
                MachineState::Halting => Self::Halting,
                MachineState::Exited => Self::Exited,
            },
        }
    }
}

/// Long work that workspaces share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// An image is pulled.
    Pull,
    /// A root disk is built.
    Build,
    /// A kernel is installed.
    Install,
}

/// How such work stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits for a free slot.
    Queued,
    /// It is being done.
    Running,
}

/// What a manifest problem is a problem of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A file from which not even a name could be had.
    File,
    /// A workspace whose manifest, as it is now, is not taken.
    Workspace,
}

label!(SourceKind, "source", Folder => "folder", Kubernetes => "kubernetes");
label!(Outcome, "result",
    Settled => "settled", Acted => "acted", Awaiting => "awaiting",
    Failed => "failed", Superseded => "superseded", Gone => "gone",
);
label!(Sight, "state",
    Absent => "absent", Prepared => "prepared", Starting => "starting", Running => "running", Paused => "paused",
    Quarantined => "quarantined", Halting => "halting", Exited => "exited", Unknown => "unknown",
);
label!(JobKind, "kind", Pull => "pull", Build => "build", Install => "install");
label!(JobState, "state", Queued => "queued", Running => "running");
label!(Invalid, "what", File => "file", Workspace => "workspace");
label!(EventType, "type", Normal => "normal", Warning => "warning");
label!(HintReason, "reason",
    Ticker => "ticker", Changed => "changed", Folder => "folder", Overflow => "overflow",
);
label!(Stage, "stage",
    Image => "image", Rootfs => "rootfs", Kernel => "kernel", Disks => "disks",
    Start => "start", Guest => "guest", Power => "power", Halt => "halt", Outputs => "outputs", Delete => "delete",
);
label!(Phase, "phase",
    Pending => "pending", Building => "building", Starting => "starting", Running => "running", Halting => "halting",
    Halted => "halted", Succeeded => "succeeded", Failed => "failed", Terminating => "terminating", Paused => "paused",
    Quarantined => "quarantined", Unknown => "unknown",
);

/// One or two labels, each of a closed set.
pub trait Labels: Copy + fmt::Debug + Send + Sync + 'static {
    /// Every combination, each at its own index.
    fn all() -> Vec<Self>;
    /// Where in [`Labels::all`] it stands.
    fn index(self) -> usize;
    /// Writes names and values.
    ///
    /// # Errors
    /// Those of the writer.
    fn write(self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result;
}

impl<A: Label> Labels for (A,) {
    fn all() -> Vec<Self> {
        A::ALL.iter().map(|a| (*a,)).collect()
    }

    fn index(self) -> usize {
        self.0.index()
    }

    fn write(self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        (A::NAME, self.0.as_str()).encode(encoder.encode_label())
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn all() -> Vec<Self> {
        A::ALL.iter().flat_map(|a| B::ALL.iter().map(|b| (*a, *b))).collect()
    }

    fn index(self) -> usize {
        self.0.index() * B::ALL.len() + self.1.index()
    }

    fn write(self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        (A::NAME, self.0.as_str()).encode(encoder.encode_label())?;
        (B::NAME, self.1.as_str()).encode(encoder.encode_label())
    }
}

/// Labels as the encoder wants them.
#[derive(Debug)]
pub(super) struct Encoded<L>(pub(super) L);

impl<L: Labels> EncodeLabelSet for Encoded<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.write(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_stands_at_its_own_index() {
        let all = <(JobKind, JobState)>::all();
        assert_eq!(all.len(), 6);
        assert!(all.iter().enumerate().all(|(at, labels)| labels.index() == at));
    }
}
