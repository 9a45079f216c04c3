//! The Firecracker supervisor. It tells what it finds; machines come with a later release.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use microagent_shim::Planned;
use microagent_supervisor_protocol::KernelFormat;

fn main() -> ExitCode {
    microagent_shim::main(&Planned { name: "Firecracker", kernel_format: KernelFormat::Elf, vmm })
}

/// The VMM on this host, with its version.
fn vmm() -> Option<String> {
    let path = env::var_os("MICROAGENT_FIRECRACKER")
        .map(PathBuf::from)
        .or_else(|| env::split_paths(&env::var_os("PATH")?).map(|d| d.join("firecracker")).find(|p| p.is_file()))?;
    let output = Command::new(&path).arg("--version").output().ok().filter(|o| o.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|l| l.trim().chars().take(200).collect())
}
