//! What the agent tells of its node: labels for the scheduler, annotations for programs and people.

use std::{fs, path::Path, time::Duration};

use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use microagent_base::causes;
use microagent_crds::kubernetes::{
    AGENT_LABEL, AGENT_MANAGER, BACKEND_LABEL, FACTS_ANNOTATION, GATE_ANNOTATION, GATE_CERTIFICATE_ANNOTATION,
    KVM_LABEL,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Paths, world::HostView};

/// How often the facts are looked at. They are written when they differ.
const INTERVAL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
/// Free room is told in steps of this, so that it is not told all the time.
const STEP_MIB: u64 = 4096;

/// Where the gate of the agent is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GateAddress {
    /// `https://ADDRESS:PORT`.
    pub(super) url: String,
    /// The digest of its certificate.
    pub(super) certificate: String,
}

/// The host, for people and for programs that choose among nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    agent_version: &'static str,
    architecture: &'static str,
    /// None while no machine could be started, and why.
    backend: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    kvm: bool,
    kernel: String,
    cpus: usize,
    memory_mib: u64,
    /// Rounded down to 4 GiB.
    memory_available_mib: u64,
    /// Of the file system of the state directory, rounded down to 4 GiB.
    disk_available_mib: u64,
}

impl Facts {
    /// May block for as long as a supervisor takes to say what it can do.
    fn of(host: &dyn HostView, paths: &Paths) -> Self {
        let (backend, problem) = match host.backend() {
            Ok(backend) => (Some(backend), None),
            Err(fault) => (None, Some(fault.message)),
        };
        let memory = |name: &str| memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), name);
        Self {
            agent_version: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
            backend,
            problem,
            kvm: opens(Path::new("/dev/kvm")),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory("MemTotal"),
            memory_available_mib: coarse(memory("MemAvailable")),
            disk_available_mib: coarse(disk_mib(&paths.state)),
        }
    }

    fn object(&self, node: &str, gate: Option<&GateAddress>) -> Value {
        let facts = serde_json::to_string(self).unwrap_or_default();
        let mut labels = json!({ AGENT_LABEL: "true", KVM_LABEL: self.kvm.to_string() });
        labels[BACKEND_LABEL] = self.backend.map_or(Value::from("None"), Value::from);
        let mut annotations = json!({ FACTS_ANNOTATION: facts });
        if let Some(gate) = gate {
            annotations[GATE_ANNOTATION] = gate.url.as_str().into();
            annotations[GATE_CERTIFICATE_ANNOTATION] = gate.certificate.as_str().into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node, "labels": labels, "annotations": annotations },
        })
    }
}

fn coarse(mib: u64) -> u64 {
    mib / STEP_MIB * STEP_MIB
}

/// A field of `/proc/meminfo`, whose numbers are KiB.
fn memory_mib(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn disk_mib(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize) >> 20)
}

/// Whether the agent may use the device. Whether guests run on it, the backend knows.
fn opens(device: &Path) -> bool {
    fs::OpenOptions::new().read(true).write(true).open(device).is_ok()
}

/// Keeps what is told of the node true, until it is dropped. A node that is not there yet is waited for.
pub(super) async fn tell(
    client: Client,
    node: String,
    host: std::sync::Arc<dyn HostView>,
    paths: Paths,
    gate: Option<GateAddress>,
) {
    let nodes: Api<KubeNode> = Api::all(client);
    let mut told: Option<Value> = None;
    let mut warned = false;
    loop {
        let (asked, at) = (host.clone(), paths.clone());
        if let Ok(facts) = tokio::task::spawn_blocking(move || Facts::of(&*asked, &at)).await {
            let object = facts.object(&node, gate.as_ref());
            if told.as_ref() != Some(&object) {
                let parameters = PatchParams::apply(AGENT_MANAGER).force();
                let patch = Patch::Apply(&object);
                let request = nodes.patch_metadata(&node, &parameters, &patch);
                match tokio::time::timeout(PATIENCE, request).await {
                    Ok(Ok(_)) => (told, warned) = (Some(object), false),
                    Ok(Err(error)) if !std::mem::replace(&mut warned, true) => {
                        tracing::warn!(
                            "what is true of node {node} cannot be told: {}; it is tried again",
                            causes(&error)
                        );
                    }
                    _ => {}
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_whole_name() {
        let meminfo = "MemTotal:       16384000 kB\nMemTotalOther:  1 kB\nMemAvailable:    8192000 kB\n";
        assert_eq!(memory_mib(meminfo, "MemTotal"), 16000);
        assert_eq!(memory_mib(meminfo, "MemAvailable"), 8000);
        assert_eq!(memory_mib(meminfo, "Mem"), 0);
        assert_eq!(memory_mib("MemTotal: much", "MemTotal"), 0);
        assert_eq!((coarse(4095), coarse(4096), coarse(9000)), (0, 4096, 8192));
    }
}
