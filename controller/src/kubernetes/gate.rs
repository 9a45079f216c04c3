//! The machines of this node, as its gate knows them.

use std::sync::{Arc, Mutex};

use microagent_crds::Phase;
use microagent_gate::{Found, Machines};

use super::claims::{Claims, lock};
use crate::{Key, Paths, metrics::Metrics, world::Host};

/// What the gate is told of the machines of this node.
pub(super) struct NodeMachines {
    pub(super) claims: Arc<Mutex<Claims>>,
    pub(super) host: Arc<Host>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) paths: Paths,
}

impl Machines for NodeMachines {
    fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let record = lock(&self.claims).records().get(&Key::new(namespace, name)).cloned()?;
        let machine = self.paths.machine(&record.uid);
        let spec = &record.workspace.spec;
        let (user, working_dir) = match (&spec.user, &spec.working_dir) {
            (Some(user), Some(dir)) => (Some(user.clone()), Some(dir.clone())),
            _ => {
                let (user, dir) = self.host.image_process(&record);
                (spec.user.clone().or(user), spec.working_dir.clone().or(dir))
            }
        };
        Some(Found {
            phase: self.metrics.phase(&record.uid).unwrap_or(Phase::Unknown),
            workload_log: machine.workload_log(),
            console_log: machine.console_log(),
            vsock: machine.vsock(),
            user,
            working_dir,
            uid: record.uid,
        })
    }
}
