//! The machine's record on disk.

use jiff::Timestamp;
use microagent_base::{durable, process::ProcessId};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, Machine, MachineState};
use serde::{Deserialize, Serialize};

use crate::dir::{MACHINE_RECORD, MachineDir, durable_error};

/// What `machine.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The version of this form: 1.
    pub format: u32,
    /// The machine as the shim knew it when it wrote this. Only `inspect` knows whether the shim still lives.
    pub machine: Machine,
    /// SHA-256 of the machine's configuration.
    pub config_digest: String,
    /// The shim.
    pub shim: ProcessId,
    /// The VMM of the present launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<ProcessId>,
    /// The program that serves vsock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<ProcessId>,
}

/// The version of [`Record`]'s form.
pub(crate) const FORMAT: u32 = 1;

impl Record {
    pub(crate) fn load(dir: &MachineDir) -> Result<Option<Self>, ErrorBody> {
        durable::read_json(&dir.join(MACHINE_RECORD)).map_err(|e| durable_error(&e))
    }

    pub(crate) fn save(&self, dir: &MachineDir) -> Result<(), ErrorBody> {
        durable::write_json(&dir.join(MACHINE_RECORD), self).map_err(|e| durable_error(&e))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.machine.state == MachineState::Exited
    }

    /// The machine as it is when its shim is gone without having said so.
    pub(crate) fn lost(mut self, wished: bool) -> Self {
        self.machine.state = MachineState::Exited;
        self.machine.vsock = None;
        self.machine.owner = None;
        self.machine.finished_at = Some(Timestamp::now());
        if !wished {
            let message =
                format!("the shim, process {}, ended without a record; its machine ended with it", self.shim.pid);
            self.machine.failure = Some(ErrorBody::new(ErrorCode::ShimLost, message));
        }
        self
    }
}
