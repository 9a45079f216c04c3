//! The Apple Virtualization supervisor.

use std::process::ExitCode;

fn main() -> ExitCode {
    microagent_supervisor_apple_vf::main(microagent_supervisor_apple_vf::host())
}
