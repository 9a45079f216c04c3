//! The pure part of a pass, on a workspace that is as it should be.

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_controller::{
    Record,
    observed::{Disks, ImageFacts, KernelFacts, MachineSight, Observed, RootfsFacts, Work},
    plan::{Input, machine_hash, plan},
};
use microagent_crds::WorkspaceStatus;
use microagent_supervisor_protocol::Machine;

use crate::farm::Farm;

/// How long decisions are counted.
const TIME: Duration = Duration::from_secs(3);
/// Decisions between two looks at the clock.
const BATCH: u32 = 1000;

/// How often a settled workspace is decided upon in a second, on one core.
pub(crate) fn plans_per_second(farm: &Farm) -> f64 {
    let object = farm.object(0).expect("an object");
    let previous: WorkspaceStatus = serde_json::from_value(object["status"].clone()).expect("a status");
    let record: Record = serde_json::from_value(farm.record(0).expect("a record")).expect("a record");
    let machine: Machine = serde_json::from_value(farm.machine(&record.uid).expect("a machine")).expect("a machine");
    let kernel = previous.kernel.clone().expect("a kernel");
    let observed = Observed {
        image: Work::Ready(ImageFacts {
            reference: record.workspace.spec.image.clone(),
            digest: previous.image.clone().expect("an image").digest,
            took_ms: None,
        }),
        rootfs: Work::Ready(RootfsFacts { took_ms: None }),
        kernel: Work::Ready(KernelFacts { version: kernel.version, digest: kernel.digest, took_ms: None }),
        disks: Disks { complete: true, any: true, written: true },
        machine: MachineSight::Seen {
            backend: "Qemu".to_owned(),
            why: None,
            machine: Box::new(machine),
            timings: BTreeMap::new(),
        },
        kept_outputs: None,
        restart_request: None,
        withdrawable: false,
    };
    let input = Input {
        record: &record,
        // Kept by the reconciler for each generation.
        machine_hash: &machine_hash(&record.workspace.spec),
        observed: &observed,
        previous: &previous,
        now: Timestamp::now(),
        fresh_boot_id: "b",
    };
    let decided = plan(&input);
    let same = decided.memory.is_none() && decided.status.is_none() && decided.events.is_empty();
    assert!(decided.next.is_none() && same, "the workspace is not settled: {decided:?}");
    let began = Instant::now();
    let mut plans = 0_u32;
    while began.elapsed() < TIME {
        for _ in 0..BATCH {
            black_box(plan(black_box(&input)));
        }
        plans += BATCH;
    }
    f64::from(plans) / began.elapsed().as_secs_f64()
}
