//! The Firecracker supervisor. It tells what it finds; machines come with a later release.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use microagent_shim::{Backend, Launch};
use microagent_supervisor_protocol::{
    Capabilities, Check, CheckStatus, ErrorBody, ErrorCode, Identity, KernelFormat, MachineConfig, Verb,
};

const NOT_YET: &str = "backend Firecracker cannot start machines yet";

struct Firecracker;

impl Backend for Firecracker {
    fn name(&self) -> &'static str {
        "Firecracker"
    }

    fn verbs(&self) -> &[Verb] {
        &[Verb::Capabilities, Verb::Check]
    }

    fn max_vcpus(&self) -> u32 {
        32
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: self.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: vmm(),
            verbs: self.verbs().to_vec(),
            accelerators: Vec::new(),
            accelerator_reason: Some(NOT_YET.to_owned()),
            kernel_format: Some(KernelFormat::Elf),
            max_vcpus: self.max_vcpus(),
        }
    }

    fn check(&self, _config: Option<&MachineConfig>) -> Vec<Check> {
        let found = vmm().map_or_else(|| "no VMM found".to_owned(), |vmm| format!("found {vmm}"));
        vec![Check {
            name: self.name().to_owned(),
            status: CheckStatus::Failed,
            message: format!("not supported yet: {NOT_YET}; {found}"),
            remediation: Some("Use backend Qemu".to_owned()),
        }]
    }

    fn launches(&self, _identity: &Identity, _config: &MachineConfig) -> Result<Vec<Launch>, ErrorBody> {
        Err(ErrorBody::new(ErrorCode::UnsupportedVerb, NOT_YET))
    }

    fn gave_up(&self, _launch: &Launch, _why: &str) {}
}

/// The VMM on this host, with its version.
fn vmm() -> Option<String> {
    let path = env::var_os("MICROAGENT_FIRECRACKER")
        .map(PathBuf::from)
        .or_else(|| env::split_paths(&env::var_os("PATH")?).map(|d| d.join("firecracker")).find(|p| p.is_file()))?;
    let output = Command::new(&path).arg("--version").output().ok().filter(|o| o.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|l| l.trim().chars().take(200).collect())
}

fn main() -> ExitCode {
    microagent_shim::main(&Firecracker)
}
