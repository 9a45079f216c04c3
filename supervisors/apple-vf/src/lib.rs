//! Machines by Apple's Virtualization.framework.
//!
//! The framework runs a machine inside of the process that asked for it. So the VMM is this executable itself, started by the shim as
//! `<exe> vm` in the machine's directory:
//!
//! ```text
//! shim ── vm: asks the framework for the machine, serves guest.sock, prints the console; ends with the shim
//!          └─ vm.sock: the shim tells it what the machine is, and to pause, resume and press the power button
//! ```
//!
//! All calls of the framework are behind the trait [`Framework`]. What is on this side of it is the same on every system, and is tested
//! where there is no framework.

mod backend;
mod control;
mod kernel;
mod kernel_args;
mod vm;

pub mod framework;
pub mod machine;

#[cfg(not(target_os = "macos"))]
#[path = "absent.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "vz/mod.rs"]
mod platform;

use std::{env, process::ExitCode};

pub use framework::Framework;
pub use platform::host;

/// The argument that makes this executable the VMM of one machine.
const VM: &str = "vm";

/// The `main` of a supervisor whose machines are this framework's.
#[must_use]
pub fn main(framework: &'static dyn Framework) -> ExitCode {
    let mut args = env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == VM) && args.next().is_none() {
        return vm::main(framework);
    }
    microagent_shim::main(&backend::AppleVf::new(framework))
}
