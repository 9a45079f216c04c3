//! The Firecracker supervisor: microVMs by KVM, in a jail where it may make one.

mod api;
mod backend;
mod checks;
mod configure;
mod disks;
mod host;
mod jail;
mod kernel;
mod kernel_args;
mod plan;
mod power;
mod request;
mod snapshot;

use std::process::ExitCode;

fn main() -> ExitCode {
    microagent_shim::main(&backend::Firecracker::new())
}
