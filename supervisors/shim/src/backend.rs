//! What a backend adds to the shared parts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{
    Accelerator, Capabilities, Check, ErrorBody, ErrorCode, Identity, MachineConfig, Snapshot, SnapshotKind, Verb,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
#[cfg(target_os = "linux")]
pub use crate::confine::Confined;

/// No program can be confined here.
#[cfg(not(target_os = "linux"))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confined {}

/// The verbs that the shim carries out for every backend: all but `snapshot`, which takes a backend that can.
pub const VERBS: [Verb; 13] = [
    Verb::Capabilities,
    Verb::Check,
    Verb::Prepare,
    Verb::Start,
    Verb::Inspect,
    Verb::Pause,
    Verb::Resume,
    Verb::Quarantine,
    Verb::Halt,
    Verb::Kill,
    Verb::Console,
    Verb::Delete,
    Verb::Gc,
];

/// One way to run machines.
pub trait Backend: Sync {
    /// The backend's name: `Qemu`, `Firecracker`, `AppleVf`.
    fn name(&self) -> &'static str;

    /// The verbs that work. Others are refused before the backend is asked.
    fn verbs(&self) -> &[Verb];

    /// The most virtual CPUs of one machine.
    fn max_vcpus(&self) -> u32;

    /// What works here. May take its time: the other calls do not wait for it.
    fn capabilities(&self) -> Capabilities;

    /// Looks at the host and, where one is given, at what a machine asks for.
    fn check(&self, config: Option<&MachineConfig>) -> Vec<Check>;

    /// How to start the machine: the best way first, the others for when it shows no sign of life. Paths of sockets in it are
    /// relative: every program runs in the machine's directory.
    ///
    /// # Errors
    /// When there is no way on this host.
    fn launches(&self, identity: &Identity, config: &MachineConfig) -> Result<Vec<Launch>, ErrorBody>;

    /// Makes the machine's directory ready for the launch. Called by the shim, in the machine's directory, before any program is started.
    ///
    /// # Errors
    /// When it cannot be made ready; `start` answers so.
    fn prepare(&self, _launch: &Launch, _config: &MachineConfig) -> Result<(), ErrorBody> {
        Ok(())
    }

    /// Tells a VMM that has just been started what its machine is, where its arguments do not. Called by the shim, in the machine's
    /// directory, once the VMM's socket is there and before `start` answers.
    ///
    /// # Errors
    /// When the VMM does not take it. The VMM is then ended, nothing is recorded, and `start` answers so.
    fn configure(&self, _launch: &Launch, _config: &MachineConfig) -> Result<(), ErrorBody> {
        Ok(())
    }

    /// What of the VMM and its machine must be the same where a machine goes on from a snapshot; what holds for every backend (the
    /// host's CPU and kernel, the machine's size, its disks) is added.
    ///
    /// # Errors
    /// When it cannot be known.
    fn snapshot_facts(&self, _launch: &Launch, _config: &MachineConfig) -> Result<BTreeMap<String, String>, ErrorBody> {
        Ok(BTreeMap::new())
    }

    /// Whether the snapshot could be made, before the machine stands still for it.
    ///
    /// # Errors
    /// Why not.
    fn check_snapshot(&self, _config: &MachineConfig, _wanted: &Snapshot) -> Result<(), ErrorBody> {
        Err(no_snapshots(self.name()))
    }

    /// Writes memory and devices of the machine, which stands still, to files in the directory, which is empty. Called by the shim, in
    /// the machine's directory. The machine stands still afterwards too.
    ///
    /// # Errors
    /// When they cannot be written. The machine stands still then too; its guest's connections may be lost.
    fn snapshot(
        &self,
        _launch: &Launch,
        _config: &MachineConfig,
        _vmm: ProcessId,
        _dir: &Path,
        _kind: SnapshotKind,
    ) -> Result<(), ErrorBody> {
        Err(no_snapshots(self.name()))
    }

    /// As [`Self::prepare`], and after it, for a machine that goes on from a snapshot: the directories of a full one, and of the changes
    /// since, in their order.
    ///
    /// # Errors
    /// When it cannot be made ready; `start` answers so.
    fn prepare_restore(&self, _launch: &Launch, _config: &MachineConfig, _chain: &[PathBuf]) -> Result<(), ErrorBody> {
        Err(no_snapshots(self.name()))
    }

    /// In the place of [`Self::configure`]: has the VMM go on from there. The machine runs afterwards.
    ///
    /// # Errors
    /// As those of [`Self::configure`].
    fn restore(&self, _launch: &Launch, _config: &MachineConfig, _chain: &[PathBuf]) -> Result<(), ErrorBody> {
        Err(no_snapshots(self.name()))
    }

    /// Asks the guest's kernel to end by whatever means the machine has, when guest-init could not be asked. That there is none is no
    /// error; the machine is ended when its grace period is over in any case.
    fn press_power_button(&self) {}

    /// Makes the CPUs of the machine that this VMM runs stand still, or lets them run on; returns once it is so. That it is so
    /// already is no error. Called by the shim, in the machine's directory; its one machine waits for it, so it must return within 5
    /// seconds.
    ///
    /// # Errors
    /// When the VMM did not do it, or did not say so. It is then called again, as the machine's record says, until it does.
    fn set_paused(&self, vmm: ProcessId, paused: bool) -> Result<(), ErrorBody>;

    /// Told when a launch showed no sign of life and one after it did, so that later starts need not wait for it.
    fn gave_up(&self, launch: &Launch, why: &str);
}

fn no_snapshots(backend: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::UnsupportedVerb, format!("backend {backend} has no snapshots"))
}

/// One way to start one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// What will run the guest's instructions.
    pub accelerator: Accelerator,
    /// Why it is not the fastest there is.
    pub accelerator_reason: Option<String>,
    /// A program that the VMM needs, started before it: the one that serves vsock.
    pub helper: Option<Program>,
    /// The VMM. Its standard output is the serial console.
    pub vmm: Program,
    /// What helper and VMM may take of the host together, where the shim is to put them into a control group.
    pub limits: Option<Limits>,
    /// A pipe below the machine's directory, made by [`Backend::prepare`], on which the VMM logs. It goes to the VMM's log.
    pub logger: Option<String>,
    /// Another pipe, on which the VMM tells its metrics. The last line is kept in the file [`crate::METRICS`].
    pub metrics: Option<String>,
    /// The guest's vsock address, where the host's kernel serves vsock. Otherwise the helper serves it, by the `CONNECT <port>`
    /// handshake on [`crate::GUEST_SOCKET`].
    pub kernel_vsock_cid: Option<u32>,
    /// What the backend has to know of this launch when it prepares and configures it; the shim only carries it.
    pub notes: serde_json::Value,
    /// How long the console may stay silent before the next launch is tried, in milliseconds. Nothing is tried when absent.
    pub silence_ms: Option<u64>,
}

/// A program to run in the machine's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The executable.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// A Unix socket that is there once the program can be used.
    pub socket: Option<String>,
    /// How it is confined, where it changes its user: Linux alone.
    pub confined: Option<Confined>,
}
