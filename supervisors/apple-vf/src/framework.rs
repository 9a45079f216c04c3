//! What is asked of Virtualization.framework.

use std::{io, ops::RangeInclusive, os::unix::net::UnixStream, sync::mpsc::Sender};

use microagent_supervisor_protocol::ErrorBody;

use crate::machine::Machine;

/// The framework, or what stands in for it.
pub trait Framework: Sync {
    /// What the host has.
    fn host(&self) -> Host;

    /// Makes a machine, which is `Stopped`. `told` hears once of its end, unless it is ended by [`VirtualMachine::stop`].
    ///
    /// # Errors
    /// When the framework refuses the machine.
    fn create(&self, machine: &Machine, told: Sender<End>) -> Result<Box<dyn VirtualMachine>, ErrorBody>;
}

/// One machine. Every call returns when the framework has answered it, at most a few seconds later, and may come from any thread. What
/// the framework does not allow in the machine's state is refused in its words.
pub trait VirtualMachine: Send + Sync {
    /// What it does now.
    fn state(&self) -> State;

    /// `Stopped` → `Running`.
    ///
    /// # Errors
    /// Why it did not start, in the framework's words.
    fn start(&self) -> Result<(), String>;

    /// `Running` → `Paused`.
    ///
    /// # Errors
    /// Why it does not stand still.
    fn pause(&self) -> Result<(), String>;

    /// `Paused` → `Running`.
    ///
    /// # Errors
    /// Why it does not run on.
    fn resume(&self) -> Result<(), String>;

    /// Presses the power button: whether the guest minds is its own affair.
    ///
    /// # Errors
    /// Why it could not be pressed.
    fn request_stop(&self) -> Result<(), String>;

    /// Ends the machine at once.
    ///
    /// # Errors
    /// Why it did not end.
    fn stop(&self) -> Result<(), String>;

    /// A connection to a vsock port of the guest.
    ///
    /// # Errors
    /// `ConnectionRefused` when nothing listens there, `TimedOut` when the guest does not answer.
    fn connect(&self, port: u32) -> io::Result<UnixStream>;
}

/// What a machine does, as `VZVirtualMachineState` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not started, or has ended.
    Stopped,
    /// Its CPUs run.
    Running,
    /// Its CPUs stand still.
    Paused,
    /// It ended by a fault of the framework.
    Failed,
    /// It is about to run, or to stand still.
    Changing,
    /// It is about to end.
    Stopping,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off.
    GuestStopped,
    /// The framework ended it; why, in its words.
    Failed(String),
}

/// What a host has.
#[derive(Clone, Debug)]
pub struct Host {
    /// The framework with the version of the system that it is part of; absent when there is none.
    pub vmm: Option<String>,
    /// What was looked at. Machines can be started when nothing is lacking.
    pub findings: Vec<Finding>,
    /// The most virtual CPUs of one machine.
    pub max_vcpus: u32,
    /// The least and the most memory of one machine, in MiB.
    pub memory_mib: RangeInclusive<u64>,
}

impl Host {
    /// The first thing that is lacking.
    ///
    /// # Errors
    /// When there is one.
    pub fn suits(&self) -> Result<(), ErrorBody> {
        self.findings.iter().find_map(|finding| finding.found.clone().err()).map_or(Ok(()), Err)
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What, in CamelCase.
    pub name: &'static str,
    /// What was found, or what is lacking.
    pub found: Result<String, ErrorBody>,
}
