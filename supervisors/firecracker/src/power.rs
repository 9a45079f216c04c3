//! Standing still, running on, and the power button.

use std::{fs, io, path::Path, time::Duration};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};

use crate::{
    api::Api,
    host::{self, GOOD_PAUSE},
    plan::API_SOCKET,
    request::{FirecrackerVersion, InstanceInfo, Vm, VmState},
};

/// How long one request may take while the machine waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a stopped process may take to stand still: a thread stops when its disk has answered.
const STILL: Duration = Duration::from_secs(2);

/// The most processes between the shim's child and the VMM.
const MAX_DEPTH: usize = 4;

/// Makes the CPUs stand still or run.
///
/// By the API where that leaves the guest reachable. Firecracker before 1.17 never again delivers what the host sends by vsock once it
/// has let its guest run on, and there the process is stopped and continued as a whole: the API stands still with it, and so it is
/// looked at first whether it is stopped.
pub(crate) fn set_paused(vmm: ProcessId, paused: bool) -> Result<(), ErrorBody> {
    let failed = |why: String| {
        let doing = if paused { "paused" } else { "let run on" };
        ErrorBody::new(ErrorCode::VmmFailed, format!("Firecracker, process {}, cannot be {doing}: {why}", vmm.pid))
    };
    let process = innermost(vmm).map_err(|e| failed(e.to_string()))?;
    if process.is_stopped().map_err(|e| failed(e.to_string()))? {
        return if paused { Ok(()) } else { process.run_on().map_err(|e| failed(e.to_string())) };
    }
    let mut api = Api::connect(Path::new(API_SOCKET)).map_err(|e| failed(e.to_string()))?;
    let version: FirecrackerVersion = api.get("/version", PATIENCE).map_err(|e| failed(e.to_string()))?;
    if host::version(&version.firecracker_version).is_some_and(|version| version >= GOOD_PAUSE) {
        let state = if paused { VmState::Paused } else { VmState::Resumed };
        return api.patch("/vm", &Vm { state }, PATIENCE).map_err(|e| failed(e.to_string()));
    }
    // A snapshot stops it by the API, and makes the guest ready for what follows.
    let info: InstanceInfo = api.get("/", PATIENCE).map_err(|e| failed(e.to_string()))?;
    match (info.state.as_str(), paused) {
        ("Paused", true) | ("Running", false) => return Ok(()),
        ("Paused", false) => {
            return api.patch("/vm", &Vm { state: VmState::Resumed }, PATIENCE).map_err(|e| failed(e.to_string()));
        }
        _ => {}
    }
    process.stop(STILL).map_err(|e| failed(e.to_string()))
}

/// Makes the CPUs stand still by the API, as a snapshot needs it, however they were stopped.
pub(crate) fn stand_still(vmm: ProcessId) -> Result<(), ErrorBody> {
    let failed = |why: String| ErrorBody::new(ErrorCode::VmmFailed, format!("Firecracker cannot be paused: {why}"));
    let process = innermost(vmm).map_err(|e| failed(e.to_string()))?;
    if process.is_stopped().map_err(|e| failed(e.to_string()))? {
        process.run_on().map_err(|e| failed(e.to_string()))?;
    }
    let mut api = Api::connect(Path::new(API_SOCKET)).map_err(|e| failed(e.to_string()))?;
    api.patch("/vm", &Vm { state: VmState::Paused }, PATIENCE).map_err(|e| failed(e.to_string()))
}

/// The VMM itself: the shim's child, or the last of the line where the child only confines it. A VMM has no children.
fn innermost(child: ProcessId) -> io::Result<ProcessId> {
    let mut process = child;
    for _ in 0..MAX_DEPTH {
        let pid = process.pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        match children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
            Some(pid) => process = ProcessId::of(pid)?,
            None => break,
        }
    }
    // A process whose id was read may be another by now; the shim's child, whose identity is known, was not while it lives.
    if child.is_alive() { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Presses Ctrl+Alt+Del, for which guest-init shuts down.
#[cfg(target_arch = "x86_64")]
pub(crate) fn press_button() {
    use crate::{configure::act, request::Action};
    let pressed =
        Api::connect(Path::new(API_SOCKET)).and_then(|mut api| act(&mut api, Action::SendCtrlAltDel, PATIENCE));
    if let Err(e) = pressed {
        eprintln!("Ctrl+Alt+Del cannot be pressed: {e}");
    }
}

/// Machines of this architecture have no keyboard.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn press_button() {}
