//! What the gate must know of the machines on this node.

use std::path::PathBuf;

use microagent_crds::Phase;

/// The machines of this node.
pub trait Machines: Send + Sync + 'static {
    /// The machine of a workspace that this node has. It is asked anew for each request, and while a log is followed some times a
    /// second: the answer comes from memory.
    fn find(&self, namespace: &str, name: &str) -> Option<Found>;
}

/// What is known of a machine, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The UID of its workspace. Another one under the same name is another machine, and ends the reading of a log.
    pub uid: String,
    /// The phase that was published last. All of a workload's output must be in its log before `Succeeded`, `Failed` or `Halted` is
    /// told here, as following it ends then.
    pub phase: Phase,
    /// The output of setup and workload, in the CRI log format.
    pub workload_log: PathBuf,
    /// The serial console.
    pub console_log: PathBuf,
    /// The socket that leads to the guest's vsock ports. It is there while the machine runs.
    pub vsock: PathBuf,
    /// The user whom a command has that names none: the workload's.
    pub user: Option<String>,
    /// The working directory of a command that names none: the workload's.
    pub working_dir: Option<String>,
}

impl Found {
    /// Whether nothing more will be written.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed | Phase::Halted)
    }
}
