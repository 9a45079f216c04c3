//! What every host-side crate of microagent shares: durable writes, bounded reads, file locks, digests, progress
//! and the identity of processes. Nothing here knows of workspaces, images or machines.

pub mod bounded;
mod causes;
#[cfg(target_os = "macos")]
pub mod darwin;
pub mod digest;
pub mod durable;
pub mod lock;
pub mod log;
pub mod process;
pub mod progress;

pub use causes::causes;
pub use digest::Digest;
pub use progress::{Progress, Silent};
