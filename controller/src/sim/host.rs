//! The simulated host: jobs, disks, and machines under their supervisor.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
};

use jiff::{SignedDuration, Timestamp};
use microagent_supervisor_protocol::{Artifact, ErrorBody, ErrorCode, Exit, Health, Identity, Machine, MachineState};

use super::{State, World, fault::Disturbance};
use crate::{
    Record,
    memory::{Boot, Fault, Stage},
    observed::{Disks, ImageFacts, KeptOutputs, KernelFacts, MachineSight, Observed, RootfsFacts, Work},
    plan::Action,
    world,
};

/// How long a job takes.
const JOB: SignedDuration = SignedDuration::from_secs(2);
/// How long a machine takes from its start to its workload, and from its halt to its end.
const BOOT: SignedDuration = SignedDuration::from_secs(1);

/// What is on the host.
#[derive(Clone, Default)]
pub(crate) struct Host {
    /// What was made, by its name: images, root disks, kernels.
    pub(crate) made: BTreeSet<String>,
    /// The work under way, and what failed: lost with the controller.
    pub(crate) jobs: BTreeMap<String, Job>,
    /// The jobs that fail next time, each with how.
    pub(crate) broken: BTreeMap<Stage, Fault>,
    pub(crate) disks: BTreeMap<String, Disks>,
    pub(crate) machines: BTreeMap<String, Vm>,
    pub(crate) kept: BTreeMap<String, KeptOutputs>,
    pub(crate) retained: BTreeSet<String>,
    /// The requests for a restart, by UID.
    pub(crate) requests: BTreeMap<String, String>,
    /// Every boot that there was: of which UID, and its id.
    pub(crate) boots: Vec<(String, String)>,
    /// No supervisor answers.
    pub(crate) blind: bool,
    /// Machines do not heed a halt.
    pub(crate) stubborn: bool,
    /// Machines have outputs when they end.
    pub(crate) outputs: bool,
    boot_ids: u32,
    /// What each workspace was seen as the last time.
    seen: BTreeMap<String, Observed>,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Job {
    Runs { until: Timestamp, wanted_by: BTreeSet<String> },
    Failed(Fault),
}

/// A machine, and what it will do.
#[derive(Clone)]
pub(crate) struct Vm {
    pub(crate) machine: Machine,
    /// When it goes on by itself: from starting to running, to the first verdict of its probe, and from halting to its end.
    pub(crate) at: Option<Timestamp>,
    /// It has a probe.
    probed: bool,
}

pub(crate) fn fault(code: &str, retryable: bool) -> Fault {
    Fault { code: code.to_owned(), message: "it was disturbed".to_owned(), retryable }
}

pub(crate) fn is_alive(machine: &Machine) -> bool {
    !matches!(machine.state, MachineState::Absent | MachineState::Prepared | MachineState::Exited)
}

fn image_name(record: &Record) -> String {
    format!("image {}", record.workspace.spec.image)
}

fn rootfs_name(record: &Record) -> String {
    format!("rootfs {}", record.workspace.spec.image)
}

const KERNEL: &str = "kernel";

impl Host {
    /// When something happens next.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let jobs = self.jobs.values().filter_map(|job| match job {
            Job::Runs { until, .. } => Some(*until),
            Job::Failed(_) => None,
        });
        jobs.chain(self.machines.values().filter_map(|vm| vm.at)).min()
    }

    /// Lets happen what is to have happened by now; gives the UIDs that are to hear of it.
    pub(crate) fn come_to(&mut self, now: Timestamp) -> BTreeSet<String> {
        let mut woken = BTreeSet::new();
        let ended: Vec<String> = self
            .jobs
            .iter()
            .filter(|(_, job)| matches!(job, Job::Runs { until, .. } if *until <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            let stage = match name.split(' ').next() {
                Some("image") => Stage::Image,
                Some("rootfs") => Stage::Rootfs,
                _ => Stage::Kernel,
            };
            if let Some(Job::Runs { wanted_by, .. }) = self.jobs.remove(&name) {
                woken.extend(wanted_by);
            }
            match self.broken.remove(&stage) {
                Some(fault) => drop(self.jobs.insert(name, Job::Failed(fault))),
                None => drop(self.made.insert(name)),
            }
        }
        for (uid, vm) in &mut self.machines {
            if vm.at.is_some_and(|at| at <= now) {
                vm.at = None;
                woken.insert(uid.clone());
                match vm.machine.state {
                    MachineState::Starting => {
                        vm.machine.state = MachineState::Running;
                        vm.machine.guest.ready = true;
                        vm.machine.guest.setup_complete = true;
                        vm.machine.guest.workload_started_at = Some(now);
                        vm.at = vm.probed.then_some(now + BOOT);
                    }
                    MachineState::Running => {
                        let message = "connected".to_owned();
                        vm.machine.guest.health = Some(Health { healthy: true, message });
                    }
                    MachineState::Halting => vm.end(Some(Exit::code(0)), now, self.outputs),
                    _ => {}
                }
            }
        }
        woken
    }

    pub(crate) fn set_clock(&mut self, by: SignedDuration) {
        for job in self.jobs.values_mut() {
            if let Job::Runs { until, .. } = job {
                *until += by;
            }
        }
        self.machines.values_mut().filter_map(|vm| vm.at.as_mut()).for_each(|at| *at += by);
    }

    /// The workload of a machine ends by itself.
    pub(crate) fn exit(&mut self, uid: &str, exit: Option<Exit>, now: Timestamp) {
        let outputs = self.outputs;
        if let Some(vm) = self.machines.get_mut(uid).filter(|vm| is_alive(&vm.machine)) {
            vm.end(exit, now, outputs);
        }
    }

    /// The machine dies without a word, as when its shim is killed or the host is started anew.
    pub(crate) fn lose(&mut self, uid: &str, now: Timestamp) {
        if let Some(vm) = self.machines.get_mut(uid).filter(|vm| is_alive(&vm.machine)) {
            vm.end(None, now, false);
            vm.machine.failure = Some(ErrorBody::new(ErrorCode::ShimLost, "the shim ended without a record"));
        }
    }

    pub(crate) fn health(&mut self, uid: &str, healthy: bool) {
        if let Some(vm) = self.machines.get_mut(uid).filter(|vm| vm.machine.guest.workload_started_at.is_some()) {
            vm.machine.guest.health = Some(Health { healthy, message: "connection refused".to_owned() });
        }
    }

    fn observe(&self, record: &Record) -> Observed {
        let reference = record.workspace.spec.image.clone();
        let digest = format!("sha256:{reference}");
        let image = self.work(&image_name(record), &record.uid, ImageFacts { reference, digest, took_ms: None });
        let rootfs = match image.is_ready() {
            true => self.work(&rootfs_name(record), &record.uid, RootfsFacts { took_ms: None }),
            false => Work::Absent,
        };
        let facts = KernelFacts { version: "6.1".to_owned(), digest: "sha256:1".to_owned(), took_ms: None };
        let machine = match self.machines.get(&record.uid) {
            _ if self.blind => MachineSight::Unknown(fault("SupervisorFailed", true)),
            Some(vm) => MachineSight::Seen {
                backend: "Qemu".to_owned(),
                why: None,
                machine: Box::new(vm.machine.clone()),
                timings: BTreeMap::new(),
            },
            None => MachineSight::None,
        };
        let has_outputs = self.machines.get(&record.uid).is_some_and(|vm| !vm.machine.artifacts.is_empty());
        Observed {
            image,
            rootfs,
            kernel: self.work(KERNEL, &record.uid, facts),
            disks: self.disks.get(&record.uid).copied().unwrap_or_default(),
            machine,
            kept_outputs: self.kept.get(&record.uid).filter(|_| has_outputs).cloned(),
            restart_request: self.requests.get(&record.uid).cloned(),
            withdrawable: false,
        }
    }

    fn work<T>(&self, name: &str, uid: &str, facts: T) -> Work<T> {
        match self.jobs.get(name) {
            _ if self.made.contains(name) => Work::Ready(facts),
            Some(Job::Runs { wanted_by, .. }) if wanted_by.contains(uid) => Work::Running { message: String::new() },
            Some(Job::Failed(fault)) => Work::Failed(fault.clone()),
            Some(Job::Runs { .. }) | None => Work::Absent,
        }
    }

    fn begin(&mut self, name: String, uid: &str, now: Timestamp) {
        if let Some(Job::Runs { wanted_by, .. }) = self.jobs.get_mut(&name) {
            wanted_by.insert(uid.to_owned());
        } else if !self.made.contains(&name) {
            let wanted_by = BTreeSet::from([uid.to_owned()]);
            self.jobs.insert(name, Job::Runs { until: now + JOB, wanted_by });
        }
    }

    /// Does it; with `part`, as far as one comes who is stopped in the middle.
    fn act(&mut self, record: &Record, action: &Action, part: bool, now: Timestamp) -> Result<(), Fault> {
        let uid = &record.uid;
        if self.blind && action.stage() >= Stage::Start && *action != Action::Forget {
            return Err(fault("SupervisorFailed", true));
        }
        match action {
            Action::ResolveImage | Action::BuildRootfs | Action::InstallKernel if part => {}
            Action::ResolveImage => self.begin(image_name(record), uid, now),
            Action::BuildRootfs => self.begin(rootfs_name(record), uid, now),
            Action::InstallKernel => self.begin(KERNEL.to_owned(), uid, now),
            Action::CreateDisks => {
                let disks = Disks { complete: !part, any: true, written: true };
                self.disks.insert(uid.clone(), disks);
            }
            Action::StartMachine(boot) => return self.start(record, boot, part, now),
            Action::PauseMachine if !part => self.switch(uid, MachineState::Paused)?,
            Action::ResumeMachine if !part => self.switch(uid, MachineState::Running)?,
            Action::QuarantineMachine if !part => self.switch(uid, MachineState::Quarantined)?,
            Action::PauseMachine | Action::ResumeMachine | Action::QuarantineMachine => {}
            Action::HaltMachine { .. } => {
                let stubborn = self.stubborn;
                if let Some(vm) = self.machines.get_mut(uid).filter(|vm| is_alive(&vm.machine)) {
                    vm.machine.state = MachineState::Halting;
                    vm.at = (!stubborn).then_some(now + BOOT);
                }
            }
            Action::KillMachine => {
                if let Some(vm) = self.machines.get_mut(uid).filter(|vm| is_alive(&vm.machine)) {
                    vm.end(None, now, false);
                }
            }
            Action::KeepOutputs if part => {}
            Action::KeepOutputs => {
                let Some(vm) = self.machines.get(uid) else { return Ok(()) };
                let boot_id = vm.machine.identity.as_ref().map(|i| i.boot_id.clone()).unwrap_or_default();
                let artifact =
                    |a: &Artifact| microagent_crds::status::Artifact { name: a.name.clone(), ..Default::default() };
                let artifacts = vm.machine.artifacts.iter().map(artifact).collect();
                self.kept.insert(uid.clone(), KeptOutputs { boot_id, artifacts });
            }
            Action::DeleteMachine => {
                if let Some(vm) = self.machines.get_mut(uid).filter(|_| part) {
                    vm.end(None, now, false);
                } else {
                    self.machines.remove(uid);
                }
            }
            Action::RetainDisks => {
                self.retained.insert(uid.clone());
                let disks = self.disks.entry(uid.clone()).or_default();
                *disks = Disks { complete: false, written: false, ..*disks };
            }
            Action::RemoveDisks if part => {
                self.machines.remove(uid);
                let disks = self.disks.entry(uid.clone()).or_default();
                *disks = Disks { complete: false, any: true, written: false };
            }
            Action::RemoveDisks => {
                self.machines.remove(uid);
                self.disks.remove(uid);
            }
            Action::WithdrawManifest => {}
            Action::Forget => {
                if self.machines.contains_key(uid) || self.disks.contains_key(uid) {
                    return Err(fault("HostError", true));
                }
                self.jobs.retain(|_, job| match job {
                    Job::Runs { wanted_by, .. } => !(wanted_by.remove(uid) && wanted_by.is_empty()),
                    Job::Failed(_) => true,
                });
            }
        }
        Ok(())
    }

    fn start(&mut self, record: &Record, boot: &Boot, part: bool, now: Timestamp) -> Result<(), Fault> {
        let uid = &record.uid;
        if !self.disks.get(uid).is_some_and(|disks| disks.complete) {
            return Err(fault("FileUnavailable", true));
        }
        if let Some(vm) = self.machines.get(uid) {
            let found = vm.machine.identity.as_ref().map(|identity| &identity.boot_id);
            if found == Some(&boot.id) {
                return Ok(());
            }
            if is_alive(&vm.machine) {
                return Err(fault("MachineRunning", true));
            }
        }
        if part {
            return Ok(());
        }
        self.boots.push((uid.clone(), boot.id.clone()));
        let probed = record.workspace.spec.health.is_some();
        let mut machine = Machine::bare(uid, MachineState::Starting);
        machine.identity = Some(Identity {
            uid: uid.clone(),
            name: record.key.to_string(),
            generation: boot.generation,
            boot_id: boot.id.clone(),
        });
        self.machines.insert(uid.clone(), Vm { machine, at: Some(now + BOOT), probed });
        Ok(())
    }

    fn switch(&mut self, uid: &str, state: MachineState) -> Result<(), Fault> {
        let vm = self.machines.get_mut(uid).ok_or_else(|| fault("MachineNotRunning", true))?;
        match vm.machine.state {
            MachineState::Running | MachineState::Paused | MachineState::Quarantined => {
                vm.machine.state = state;
                Ok(())
            }
            _ => Err(fault("MachineNotRunning", true)),
        }
    }
}

impl Vm {
    fn end(&mut self, exit: Option<Exit>, now: Timestamp, outputs: bool) {
        let machine = &mut self.machine;
        self.at = None;
        if !is_alive(machine) {
            return;
        }
        machine.state = MachineState::Exited;
        machine.finished_at = Some(now);
        if machine.guest.workload_started_at.is_some() {
            machine.guest.workload_exit = exit;
            machine.guest.workload_finished_at = exit.map(|_| now);
            if outputs && exit.is_some() {
                let name = "report".to_owned();
                machine.artifacts = vec![Artifact { name, path: None, bytes: None, digest: None, error: None }];
            }
        }
    }
}

impl world::World for World {
    fn now(&self) -> Timestamp {
        self.state().now
    }

    fn fresh_boot_id(&self) -> String {
        let mut state = self.state();
        state.host.boot_ids += 1;
        format!("boot-{}", state.host.boot_ids)
    }

    async fn observe(&self, record: &Record) -> Observed {
        let observed = {
            let state = &mut *self.state();
            let real = state.host.observe(record);
            match state.effect(|| format!("observe {}", record.key.name)) {
                Some(Disturbance::Stale) => state.host.seen.get(&record.uid).cloned().unwrap_or(real),
                Some(Disturbance::Blind) => {
                    Observed { machine: MachineSight::Unknown(fault("SupervisorFailed", true)), ..real }
                }
                Some(Disturbance::CrashBefore | Disturbance::CrashAfter | Disturbance::CrashPartly) => {
                    state.crashed = true;
                    real
                }
                Some(Disturbance::Late) => {
                    state.pass_time();
                    real
                }
                _ => {
                    state.host.seen.insert(record.uid.clone(), real.clone());
                    real
                }
            }
        };
        self.unless_crashed().await;
        observed
    }

    async fn act(&self, record: &Record, action: &Action) -> Result<(), Fault> {
        let outcome = {
            let state = &mut *self.state();
            let wrong = state.effect(|| format!("act {} {action:?}", record.key.name));
            state.acts += 1;
            let now = state.now;
            let mut act = |part| state.host.act(record, action, part, now);
            match wrong {
                Some(Disturbance::CrashBefore) => {
                    state.crashed = true;
                    Ok(())
                }
                Some(Disturbance::CrashAfter) => {
                    let done = act(false);
                    state.crashed = true;
                    done
                }
                Some(Disturbance::CrashPartly) => {
                    let done = act(true);
                    state.crashed = true;
                    done
                }
                Some(Disturbance::Refused) => Err(fault("HostError", true)),
                Some(Disturbance::RefusedForGood) => Err(fault("PermissionDenied", false)),
                Some(Disturbance::ReplyLost) => act(false).and(Err(fault("SupervisorFailed", true))),
                Some(Disturbance::Partly) => act(true).and(Err(fault("HostError", true))),
                Some(Disturbance::Twice) => act(false).and(act(false)),
                Some(Disturbance::Late) => {
                    let done = act(false);
                    state.pass_time();
                    done
                }
                Some(Disturbance::Stale | Disturbance::Blind) | None => act(false),
            }
        };
        self.unless_crashed().await;
        outcome
    }

    async fn machines(&self) -> Vec<String> {
        self.state().host.machines.keys().cloned().collect()
    }

    async fn sweep(&self, uid: &str) -> Result<(), Fault> {
        self.state().host.machines.remove(uid);
        Ok(())
    }
}

impl World {
    /// A killed controller does nothing more.
    async fn unless_crashed(&self) {
        let crashed = self.state().crashed;
        if crashed {
            pending::<()>().await;
        }
    }
}

impl State {
    /// A minute goes by while an effect is under way, and what happens meanwhile happens.
    fn pass_time(&mut self) {
        let end = self.now + SignedDuration::from_secs(60);
        while let Some(next) = self.host.next().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.host.come_to(self.now);
        }
        self.now = end;
    }
}
