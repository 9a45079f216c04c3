//! The Apple Virtualization supervisor. It tells what it finds; machines come with a later release.

use std::process::ExitCode;

use microagent_shim::Planned;
use microagent_supervisor_protocol::KernelFormat;

fn main() -> ExitCode {
    microagent_shim::main(&Planned { name: "AppleVf", kernel_format: KernelFormat::Image, vmm })
}

/// Virtualization.framework is a part of macOS, not a program that could be found.
fn vmm() -> Option<String> {
    cfg!(target_os = "macos").then(|| "Virtualization.framework".to_owned())
}
