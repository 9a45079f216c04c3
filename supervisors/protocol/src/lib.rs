//! The supervisor protocol, version 1: how microagent drives a backend.
//!
//! A supervisor is an executable. It reads one JSON [`Request`] from standard input, until end of file, and writes one
//! JSON [`Response`] to standard output; what it has to say to people goes to standard error. It exits with 0 if and only
//! if the response says `ok`. It keeps nothing in memory between calls: all it knows is in the machine's directory.
//!
//! Machines are told apart by the workspace's UID, one directory each, and by the boot id of each start. Every verb may be
//! called twice: the second call finds the work done and says so. That holds for `pause`, `resume` and `quarantine` from any of the
//! states `Running`, `Paused` and `Quarantined`, each of which leads to each other one; in all other states these three are refused
//! with `MachineNotRunning` and change nothing. `halt`, `kill` and `delete` work in every state: a machine that is paused is let run
//! on for its halt, and stays cut off if it was quarantined.

mod call_error;
mod client;
mod error;
mod machine;
mod options;
mod request;
mod response;
mod schema;
pub mod server;
mod snapshot;
pub mod vsock;

pub use call_error::CallError;
pub use client::Supervisor;
pub use error::{ErrorBody, ErrorCode};
pub use machine::{Accelerator, Artifact, ErrorText, Exit, GuestStatus, Health, Machine, MachineState, Owner};
pub use options::{AppleVfOptions, DiskCache, FirecrackerDisk, FirecrackerOptions, IoEngine, QemuMachine, QemuOptions};
pub use request::{
    CapabilitiesRequest, CheckRequest, ConsoleRequest, Disk, GcRequest, Halt, HaltRequest, Identity, Kernel,
    KernelFormat, MachineConfig, MachineRequest, OUTPUT_BYTES, PrepareRequest, Request, SnapshotRequest, StartRequest,
    Target, Verb,
};
pub use response::{Capabilities, Check, CheckStatus, Console, Features, NetworkMode, Response, VsockProvider};
pub use schema::schema;
pub use snapshot::{Restore, Snapshot, SnapshotKind};

/// The version string of every request and response.
pub const PROTOCOL: &str = "supervisor.microagent.dev/v1";

/// The longest request or response, in bytes. Requests carry the guest's files in base64.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The most that `console` gives, in bytes.
pub const MAX_CONSOLE: u32 = 1024 * 1024;
