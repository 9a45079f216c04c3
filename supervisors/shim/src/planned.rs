//! A backend that is not built yet: it says so, and what it found on the host.

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{
    Capabilities, Check, CheckStatus, ErrorBody, ErrorCode, Features, Identity, KernelFormat, MachineConfig, Verb,
};

use crate::{Backend, Launch};

/// A backend of which only `capabilities` and `check` work.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// The backend's name.
    pub name: &'static str,
    /// The form of kernel that it will boot.
    pub kernel_format: KernelFormat,
    /// Finds the VMM on this host, with its version.
    pub vmm: fn() -> Option<String>,
}

impl Planned {
    fn not_yet(&self) -> String {
        format!("backend {} is not supported yet", self.name)
    }
}

impl Backend for Planned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn verbs(&self) -> &[Verb] {
        &[Verb::Capabilities, Verb::Check]
    }

    fn max_vcpus(&self) -> u32 {
        0
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: self.name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: (self.vmm)(),
            verbs: self.verbs().to_vec(),
            accelerators: Vec::new(),
            accelerator_reason: Some(self.not_yet()),
            kernel_format: Some(self.kernel_format),
            max_vcpus: self.max_vcpus(),
            features: Features::default(),
        }
    }

    fn check(&self, _config: Option<&MachineConfig>) -> Vec<Check> {
        let found = (self.vmm)().map_or_else(|| "no VMM was found".to_owned(), |vmm| format!("found {vmm}"));
        vec![Check {
            name: self.name.to_owned(),
            status: CheckStatus::Failed,
            message: format!("{}; {found}", self.not_yet()),
            remediation: Some("use backend Qemu".to_owned()),
        }]
    }

    fn launches(&self, _identity: &Identity, _config: &MachineConfig) -> Result<Vec<Launch>, ErrorBody> {
        Err(ErrorBody::new(ErrorCode::UnsupportedVerb, self.not_yet()))
    }

    fn set_paused(&self, _vmm: ProcessId, _paused: bool) -> Result<(), ErrorBody> {
        Err(ErrorBody::new(ErrorCode::UnsupportedVerb, self.not_yet()))
    }

    fn gave_up(&self, _launch: &Launch, _why: &str) {}
}
