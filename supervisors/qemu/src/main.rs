//! The QEMU supervisor: `microvm` and `q35` machines, with KVM where it works and QEMU's translator elsewhere.

mod backend;
mod command;
mod host;
mod kernel_args;
mod tsc;

use std::process::ExitCode;

fn main() -> ExitCode {
    microagent_shim::main(&backend::Qemu::new())
}
