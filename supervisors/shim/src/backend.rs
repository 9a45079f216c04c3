//! What a backend adds to the shared parts.

use microagent_supervisor_protocol::{Accelerator, Capabilities, Check, ErrorBody, Identity, MachineConfig, Verb};
use serde::{Deserialize, Serialize};

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

    /// Makes the CPUs of the machine whose directory is the working directory stand still, or lets them run on; returns once it is
    /// so. That it is so already is no error. Called by the shim, whose one machine waits for it: it must return within 5 seconds.
    ///
    /// # Errors
    /// When the VMM did not do it, or did not say so. It is then called again until it says so.
    fn set_paused(&self, paused: bool) -> Result<(), ErrorBody>;

    /// Told when a launch showed no sign of life and one after it did, so that later starts need not wait for it.
    fn gave_up(&self, launch: &Launch, why: &str);
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
    /// The guest's vsock address, where the host's kernel serves vsock. Otherwise the helper serves it, by the `CONNECT <port>`
    /// handshake on [`crate::GUEST_SOCKET`].
    pub kernel_vsock_cid: Option<u32>,
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
}
