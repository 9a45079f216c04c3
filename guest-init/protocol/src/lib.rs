//! The wire between the host and guest-init.
//!
//! Guest-init listens on one vsock port, [`CONTROL_PORT`]; the host connects, the guest never does. Each
//! connection carries one [`Request`] as its first frame, and then the frames that belong to it:
//!
//! | request | host → guest | guest → host |
//! |---|---|---|
//! | [`Request::Configure`] | nothing more | [`Event`]s, the output of setup and workload, and outputs, until power-off |
//! | [`Request::Exec`] | [`ExecInput`]s and standard input | output, then one [`ExecReply`] |
//! | [`Request::CopyOut`] | nothing more | a tar archive, then one [`CopyReply`] |
//! | [`Request::CopyIn`] | a tar archive | one [`CopyReply`] |
//! | [`Request::Shutdown`] | nothing more | one [`ShutdownReply`] |
//! | [`Request::Resumed`] | nothing more | [`Event::Resumed`], and then what `Configure` is answered with, from there on |
//!
//! `Configure` is accepted once in the life of a boot; all other requests wait for it, but `Resumed`, which is refused without it. A peer that sends what
//! is not in this table is disconnected. Frames are in [`frame`].

mod config;
mod copy;
mod exec;
pub mod frame;
mod secret;
mod session;

pub use config::{Config, Directory, EnvVar, File, Health, Mount, Output, Probe, Process, Root, SetupStep};
pub use copy::{CopyIn, CopyOut, CopyReply, CopyWhat, FileName};
pub use exec::{Exec, ExecInput, ExecReply, Terminal};
pub use secret::{MAX_SECRET_BYTES, Secret, SecretBytes, SecretPlace};
pub use session::{Event, Exit, Request, ShutdownReply};

/// The version both sides must share. Sent with [`Config`]; guest-init refuses any other.
pub const VERSION: u32 = 1;

/// How long a guest that is shut down copies outputs, at most, from the end of its workload, in seconds. Then it powers off.
pub const OUTPUT_SECONDS: u32 = 60;

/// The vsock port on which guest-init listens.
pub const CONTROL_PORT: u32 = 1024;

/// What guest-init prints on the console, on a line of its own, once [`CONTROL_PORT`] listens. The host connects when it
/// sees the line: readiness is an event, not a poll. A line that the guest forges costs the host one failed connection.
pub const LISTENING_LINE: &str = "microagent: guest-init listening";
