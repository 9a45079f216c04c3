//! The real world: this host's image and kernel stores, its disks, and its supervisors.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use microagent_base::{Digest, Progress, durable};
use microagent_crds::{PullPolicy as SpecPullPolicy, WorkspaceSpec};
use microagent_images::{Baseline, Image, ImageReference, PullOptions, PullPolicy, Store, host_platform};
use microagent_kernel::{Kernel, KernelStore, Need};
use microagent_supervisor_protocol as supervisor;
use tokio::sync::{Semaphore, mpsc};

use super::{
    HostView, JobSight, World, backend,
    backend::Backends,
    blocking::blocking,
    disks,
    fault::{host_error, host_fault, image_fault, kernel_fault, vanished},
    guest,
    guest_init::find_guest_init,
    jobs::Jobs,
    keep,
    kernel::{bootable, kernel_source, needs, qemu_options},
    watch::Watch,
};
use crate::{
    Key, Paths, Record,
    memory::{Boot, Fault, Stage},
    metrics::{Metrics, label::JobKind},
    observed::{Disks, ImageFacts, KernelFacts, MachineSight, Observed, RootfsFacts, Work},
    plan::Action,
    request,
};

/// How long a supervisor may take for a call that starts nothing and awaits nothing.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long `start` may take: it returns once the VMM runs, which includes one failed try of a hypervisor.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a guest may take until it listens. A busy host under TCG needs tens of seconds.
const BOOT_TIMEOUT_MS: u64 = 120_000;
/// The size at which a log of a machine is rotated.
const LOG_BYTES: u64 = 16 * 1024 * 1024;

/// This host.
pub struct Host {
    paths: Paths,
    images: Store,
    kernels: Arc<KernelStore>,
    guest_init: PathBuf,
    backends: Arc<Backends>,
    pulls: Jobs<Image>,
    builds: Jobs<Baseline>,
    installs: Jobs<Kernel>,
    watch: Watch,
    timings: Mutex<HashMap<String, BTreeMap<String, u64>>>,
}

impl Host {
    /// Opens the stores. At most `parallelism` pulls, builds and installs run at once; `wake` is told which workspaces have
    /// news. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A store cannot be opened, or guest-init is not installed.
    pub fn open(
        paths: &Paths,
        parallelism: usize,
        wake: mpsc::UnboundedSender<Key>,
        metrics: &Metrics,
    ) -> Result<Self, Fault> {
        let slots = Arc::new(Semaphore::new(parallelism.max(1)));
        let backends = Arc::new(Backends::default());
        let warm = backends.clone();
        // The first workspace must not wait for the hypervisor's probe.
        tokio::task::spawn_blocking(move || drop(warm.choose(microagent_crds::Backend::Auto)));
        Ok(Self {
            paths: paths.clone(),
            images: Store::open(&paths.images()).map_err(|e| image_fault(&e))?,
            kernels: Arc::new(KernelStore::open(&paths.kernels()).map_err(|e| kernel_fault(&e))?),
            guest_init: find_guest_init()?,
            backends,
            pulls: Jobs::new(JobKind::Pull, metrics.stage(Stage::Image), slots.clone(), wake.clone()),
            builds: Jobs::new(JobKind::Build, metrics.stage(Stage::Rootfs), slots.clone(), wake.clone()),
            installs: Jobs::new(JobKind::Install, metrics.stage(Stage::Kernel), slots, wake.clone()),
            watch: Watch::new(wake),
            timings: Mutex::default(),
        })
    }

    /// The image of the record: by its pinned digest when it has one, else by the pull that was begun for it.
    fn image(&self, record: &Record) -> Work<(Image, Option<Duration>)> {
        let reference = &record.workspace.spec.image;
        if let Some(pinned) = record.memory.image.as_ref().filter(|pinned| pinned.reference == *reference)
            && let Ok(digest) = pinned.digest.parse::<Digest>()
        {
            match self.images.image(&digest) {
                Ok(Some(image)) => return Work::Ready((image, None)),
                Ok(None) => {}
                Err(e) => return Work::Failed(image_fault(&e)),
            }
        }
        let pull = self.pulls.look(&pull_name(&record.workspace.spec), &record.key);
        pull.map(|done| (done.value, Some(done.took)))
    }

    /// The finished root disk of an image.
    fn baseline(&self, record: &Record, image: &Image) -> Work<(Baseline, Option<Duration>)> {
        let name = image.digest.to_string();
        match self.images.baseline(image) {
            Ok(Some(baseline)) => {
                let took = self.builds.look(&name, &record.key).ready().map(|done| done.took);
                Work::Ready((baseline, took))
            }
            Ok(None) => match self.builds.look(&name, &record.key) {
                // It was built and is gone again: it must be built anew.
                Work::Ready(_) => Work::Absent,
                other => other.map(|done| (done.value, Some(done.took))),
            },
            Err(e) => Work::Failed(image_fault(&e)),
        }
    }

    fn kernel(&self, record: &Record) -> Work<(Kernel, Option<Duration>)> {
        let (source, version) = kernel_source(&record.workspace.spec);
        let job = self.installs.look(&install_name(&record.workspace.spec), &record.key);
        match self.kernels.find(&source, version.as_deref()) {
            Ok(Some(kernel)) => {
                let took = job.ready().map(|done| done.took);
                match self.kernels.check(&kernel).and_then(|found| found.require(&kernel, Need::REQUIRED)) {
                    Ok(()) => Work::Ready((kernel, took)),
                    Err(_) if job.is_under_way() => job.map(|done| (done.value, None)),
                    // Installing again mends what can be mended, and says what cannot.
                    Err(e) => {
                        if let Work::Failed(fault) = job {
                            Work::Failed(fault)
                        } else {
                            Work::Failed(kernel_fault(&e))
                        }
                    }
                }
            }
            Ok(None) => match job {
                Work::Ready(_) => Work::Absent,
                other => other.map(|done| (done.value, Some(done.took))),
            },
            Err(e) => Work::Failed(kernel_fault(&e)),
        }
    }

    fn disk_files(&self, record: &Record, image: &Digest) -> Vec<OwnDisk> {
        let machine = self.paths.machine(&record.uid);
        let spec = &record.workspace.spec;
        let mut all = vec![OwnDisk {
            name: "overlay".to_owned(),
            path: machine.overlay(&image.short()),
            size: Some(spec.resources.disk.bytes()),
            read_only: false,
        }];
        all.extend(spec.disks.iter().map(|disk| match (&disk.source.empty, &disk.source.image) {
            (_, Some(image)) => OwnDisk {
                name: disk.name.clone(),
                path: PathBuf::from(&image.path),
                size: None,
                read_only: disk.read_only,
            },
            (empty, None) => OwnDisk {
                name: disk.name.clone(),
                path: machine.disk(&disk.name),
                size: Some(empty.as_ref().map_or(0, |empty| empty.size.bytes())),
                read_only: disk.read_only,
            },
        }));
        all
    }

    fn machine(&self, record: &Record) -> MachineSight {
        let machine = self.paths.machine(&record.uid);
        let dir = machine.supervisor();
        if !dir.exists() {
            return MachineSight::None;
        }
        self.watch.add(&dir, &record.key);
        let sight = backend::of_machine(machine.dir()).and_then(|(name, supervisor)| {
            let seen = supervisor.inspect(self.target(record), CALL_DEADLINE).map_err(|e| backend::fault(&e))?;
            Ok((name, seen))
        });
        match sight {
            Ok((_, seen)) if seen.uid != record.uid || seen.identity.as_ref().is_some_and(|i| i.uid != record.uid) => {
                MachineSight::Unknown(Fault {
                    code: "SupervisorFailed".to_owned(),
                    message: format!(
                        "the supervisor answered for the machine {} when asked for {}; nothing is done to either",
                        seen.identity.as_ref().map_or(&seen.uid, |identity| &identity.uid),
                        record.uid
                    ),
                    retryable: false,
                })
            }
            Ok((backend, seen)) => {
                let timings = self.timings.lock().unwrap_or_else(PoisonError::into_inner);
                let timings = timings.get(&record.uid).cloned().unwrap_or_default();
                MachineSight::Seen { backend, machine: Box::new(seen), timings }
            }
            Err(fault) => MachineSight::Unknown(fault),
        }
    }

    fn look(&self, record: &Record) -> Observed {
        let image = self.image(record);
        let rootfs = match image.ready() {
            Some((image, _)) => self.baseline(record, image),
            None => Work::Absent,
        };
        let machine_paths = self.paths.machine(&record.uid);
        let machine = self.machine(record);
        let complete = image
            .ready()
            .is_some_and(|(image, _)| self.disk_files(record, &image.digest).iter().all(|disk| disk.path.exists()));
        let ms = |took: Option<Duration>| took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let reference = record.workspace.spec.image.clone();
        Observed {
            disks: Disks { complete, any: machine_paths.dir().exists(), written: machine_paths.disks().exists() },
            kept_outputs: has_outputs(&machine).then(|| keep::kept_outputs(&self.paths, record)).flatten(),
            restart_request: self.restart_request(record),
            withdrawable: record.file.parent() == Some(&self.paths.manifests()) && record.file.exists(),
            machine,
            image: image.map(|(image, took)| ImageFacts {
                reference,
                digest: image.digest.to_string(),
                took_ms: ms(took),
            }),
            rootfs: rootfs.map(|(_, took)| RootfsFacts { took_ms: ms(took) }),
            kernel: self.kernel(record).map(|(kernel, took)| KernelFacts {
                version: kernel.version.clone(),
                digest: kernel.id.to_string(),
                took_ms: ms(took),
            }),
        }
    }

    fn target(&self, record: &Record) -> supervisor::Target {
        supervisor::Target { uid: record.uid.clone(), machine_dir: self.paths.machine(&record.uid).supervisor() }
    }

    /// The image and its root disk, which the plan saw made a moment ago.
    fn made(&self, record: &Record) -> Result<(Image, Baseline), Fault> {
        let Work::Ready((image, _)) = self.image(record) else { return Err(vanished("image")) };
        let Work::Ready((baseline, _)) = self.baseline(record, &image) else { return Err(vanished("root disk")) };
        Ok((image, baseline))
    }

    fn start(&self, record: &Record, boot: &Boot) -> Result<(), Fault> {
        let began = Instant::now();
        let spec = &record.workspace.spec;
        let (image, baseline) = self.made(record)?;
        let Work::Ready((kernel, _)) = self.kernel(record) else { return Err(vanished("kernel")) };
        let initramfs =
            self.kernels.initramfs(&kernel, &self.guest_init, needs(&kernel)).map_err(|e| kernel_fault(&e))?;
        let chosen = self.backends.choose(spec.backend)?;
        let mut disks = vec![supervisor::Disk { id: "baseline".to_owned(), path: baseline.path, read_only: true }];
        disks.extend(self.disk_files(record, &image.digest).into_iter().map(|disk| supervisor::Disk {
            id: disk.name,
            path: disk.path,
            read_only: disk.read_only,
        }));
        let request = supervisor::StartRequest {
            protocol: supervisor::PROTOCOL.to_owned(),
            target: self.target(record),
            identity: supervisor::Identity {
                uid: record.uid.clone(),
                name: record.key.to_string(),
                generation: boot.generation,
                boot_id: boot.id.clone(),
            },
            config: supervisor::MachineConfig {
                vcpus: u32::from(spec.resources.cpus.vcpus()),
                memory_mib: spec.resources.memory.mebibytes(),
                kernel: bootable(&kernel, &chosen, &spec.kernel.args),
                initramfs: initramfs.path,
                disks,
                boot_timeout_ms: BOOT_TIMEOUT_MS,
                log_bytes: LOG_BYTES,
                output_bytes: supervisor::OUTPUT_BYTES,
                qemu: qemu_options(&kernel, &chosen),
            },
            guest: guest::config(record, &image.config, &boot.id)?,
        };
        let machine = self.paths.machine(&record.uid);
        backend::remember(machine.dir(), chosen.name)?;
        durable::private_dir(&machine.supervisor()).map_err(|e| host_fault(&e))?;
        self.watch.add(&machine.supervisor(), &record.key);
        let prepared = began.elapsed();
        tracing::info!(boot = %boot.id, backend = chosen.name, "starting the machine");
        chosen.supervisor.start(request, START_DEADLINE).map_err(|e| backend::fault(&e))?;
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let stages = [("prepare".to_owned(), ms(prepared)), ("start".to_owned(), ms(began.elapsed() - prepared))];
        self.timings.lock().unwrap_or_else(PoisonError::into_inner).insert(record.uid.clone(), BTreeMap::from(stages));
        self.release(&record.key);
        Ok(())
    }

    fn create_disks(&self, record: &Record) -> Result<(), Fault> {
        let Work::Ready((image, _)) = self.image(record) else { return Err(vanished("image")) };
        for disk in self.disk_files(record, &image.digest) {
            match disk.size {
                Some(size) => {
                    disks::create(&disk.path, size, &disk.name, &format!("{}/{}", record.uid, disk.path.display()))?
                }
                None if disk.path.exists() => {}
                None => {
                    return Err(Fault {
                        code: "DiskNotFound".to_owned(),
                        message: format!(
                            "the disk `{}` is to be {}, which does not exist; put the file there or change spec.disks",
                            disk.name,
                            disk.path.display()
                        ),
                        retryable: false,
                    });
                }
            }
        }
        Ok(())
    }

    /// A call to the supervisor of the machine.
    fn call<T>(
        &self,
        record: &Record,
        call: impl FnOnce(&supervisor::Supervisor, supervisor::Target) -> Result<T, supervisor::CallError>,
    ) -> Result<T, Fault> {
        let (_, found) = backend::of_machine(self.paths.machine(&record.uid).dir())?;
        call(&found, self.target(record)).map_err(|e| backend::fault(&e))
    }

    /// The restart that is asked for of this very workspace.
    fn restart_request(&self, record: &Record) -> Option<String> {
        match request::read(&self.paths, &record.key) {
            Ok(request) => request.filter(|request| request.uid == record.uid).map(|request| request.token),
            Err(error) => {
                tracing::warn!(workspace = %record.key, "{error}");
                None
            }
        }
    }

    /// Removes the request for a restart that is remembered as taken.
    fn done_with_request(&self, record: &Record) -> Result<(), Fault> {
        let Some(token) = &record.memory.restarted.request else { return Ok(()) };
        request::remove(&self.paths, &record.key, token).map_err(|e| host_error(e.to_string()))
    }

    fn delete_machine(&self, record: &Record) -> Result<(), Fault> {
        self.call(record, |s, target| s.delete(target, CALL_DEADLINE))?;
        durable::remove_dir(&self.paths.machine(&record.uid).supervisor()).map_err(|e| host_fault(&e))
    }

    fn release(&self, key: &Key) {
        self.pulls.release(key);
        self.builds.release(key);
        self.installs.release(key);
    }

    fn act_blocking(&self, record: &Record, action: &Action) -> Result<(), Fault> {
        match action {
            Action::CreateDisks => self.create_disks(record),
            Action::StartMachine(boot) => {
                self.start(record, boot)?;
                self.done_with_request(record)
            }
            Action::HaltMachine { grace_seconds } => {
                self.done_with_request(record)?;
                let halt = supervisor::Halt { grace_seconds: *grace_seconds, no_wait: true };
                self.call(record, |s, target| s.halt(target, halt, CALL_DEADLINE)).map(drop)
            }
            Action::PauseMachine => self.call(record, |s, target| s.pause(target, CALL_DEADLINE)).map(drop),
            Action::ResumeMachine => self.call(record, |s, target| s.resume(target, CALL_DEADLINE)).map(drop),
            Action::QuarantineMachine => self.call(record, |s, target| s.quarantine(target, CALL_DEADLINE)).map(drop),
            Action::KeepOutputs => {
                let machine = self.call(record, |s, target| s.inspect(target, CALL_DEADLINE))?;
                match &machine.identity {
                    Some(identity) => keep::keep_outputs(&self.paths, record, &identity.boot_id, &machine.artifacts),
                    None => Ok(()),
                }
            }
            Action::RetainDisks => {
                let disks = self.paths.machine(&record.uid).disks();
                keep::retain_disks(&disks, &self.paths.retained(&record.key, &record.uid))
            }
            Action::WithdrawManifest => durable::remove_file(&record.file).map_err(|e| host_fault(&e)),
            Action::KillMachine => self.call(record, |s, target| s.kill(target, CALL_DEADLINE)).map(drop),
            Action::DeleteMachine => self.delete_machine(record),
            Action::RemoveDisks => {
                // A start that was on its way when the machine was looked at may have come to its end since.
                if self.paths.machine(&record.uid).supervisor().exists() {
                    self.delete_machine(record)?;
                }
                durable::remove_dir(self.paths.machine(&record.uid).dir()).map_err(|e| host_fault(&e))
            }
            Action::Forget => {
                let dir = self.paths.machine(&record.uid);
                if dir.dir().exists() {
                    return Err(host_error(format!("{} is there again; it is removed first", dir.dir().display())));
                }
                self.release(&record.key);
                request::discard(&self.paths, &record.key).map_err(|e| host_error(e.to_string()))?;
                self.timings.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.uid);
                Ok(())
            }
            Action::ResolveImage | Action::BuildRootfs | Action::InstallKernel => Ok(()),
        }
    }

    fn begin_pull(&self, record: &Record) -> Result<(), Fault> {
        let spec = &record.workspace.spec;
        let reference: ImageReference = spec.image.parse().map_err(|e| image_fault(&e))?;
        let policy = match spec.image_pull_policy {
            SpecPullPolicy::Always => PullPolicy::Always,
            SpecPullPolicy::IfNotPresent => PullPolicy::IfNotPresent,
            SpecPullPolicy::Never => PullPolicy::Never,
        };
        let store = self.images.clone();
        let runtime = tokio::runtime::Handle::current();
        self.pulls.begin(&pull_name(spec), &record.key, move |progress| {
            // On a thread of its own: between two reads of the network a pull hashes and writes.
            blocking(move || {
                let options = PullOptions::default();
                let platform = host_platform();
                let pull = store.pull(&reference, &platform, policy, &options, progress);
                runtime.block_on(pull).map_err(|e| image_fault(&e))
            })
        });
        Ok(())
    }

    fn begin_build(&self, record: &Record) -> Result<(), Fault> {
        let Work::Ready((image, _)) = self.image(record) else { return Err(vanished("image")) };
        let store = self.images.clone();
        self.builds.begin(&image.digest.to_string(), &record.key, move |progress| {
            blocking(move || store.build_baseline(&image, progress.as_ref()).map_err(|e| image_fault(&e)))
        });
        Ok(())
    }

    fn begin_install(&self, record: &Record) {
        let (source, version) = kernel_source(&record.workspace.spec);
        let (store, guest_init) = (self.kernels.clone(), self.guest_init.clone());
        self.installs.begin(&install_name(&record.workspace.spec), &record.key, move |progress: Arc<dyn Progress>| {
            blocking(move || {
                let kernel =
                    store.install(&source, version.as_deref(), progress.as_ref()).map_err(|e| kernel_fault(&e))?;
                // Made now, so that no start waits for it.
                store.initramfs(&kernel, &guest_init, needs(&kernel)).map_err(|e| kernel_fault(&e))?;
                Ok(kernel)
            })
        });
    }
}

impl World for Arc<Host> {
    async fn observe(&self, record: &Record) -> Observed {
        let (host, copy, span) = (self.clone(), record.clone(), tracing::Span::current());
        match tokio::task::spawn_blocking(move || span.in_scope(|| host.look(&copy))).await {
            Ok(observed) => observed,
            Err(e) => Observed {
                image: Work::Absent,
                rootfs: Work::Absent,
                kernel: Work::Absent,
                disks: Disks::default(),
                kept_outputs: None,
                restart_request: None,
                withdrawable: false,
                machine: MachineSight::Unknown(host_error(format!("looking at the workspace failed: {e}"))),
            },
        }
    }

    async fn act(&self, record: &Record, action: &Action) -> Result<(), Fault> {
        match action {
            Action::ResolveImage => self.begin_pull(record),
            Action::BuildRootfs => self.begin_build(record),
            Action::InstallKernel => {
                self.begin_install(record);
                Ok(())
            }
            _ => {
                let (host, copy, action) = (self.clone(), record.clone(), action.clone());
                blocking(move || host.act_blocking(&copy, &action)).await
            }
        }
    }
}

impl HostView for Host {
    fn jobs(&self) -> Vec<JobSight> {
        let mut jobs = self.pulls.under_way();
        jobs.extend(self.builds.under_way());
        jobs.extend(self.installs.under_way());
        jobs
    }

    fn backend(&self) -> Result<&'static str, Fault> {
        self.backends.choose(microagent_crds::Backend::Auto).map(|chosen| chosen.name)
    }
}

fn has_outputs(sight: &MachineSight) -> bool {
    matches!(sight, MachineSight::Seen { machine, .. } if !machine.artifacts.is_empty())
}

/// A disk of the workspace: one that is made (with its size) or a file that is there.
struct OwnDisk {
    name: String,
    path: PathBuf,
    size: Option<u64>,
    read_only: bool,
}

fn pull_name(spec: &WorkspaceSpec) -> String {
    format!("{:?} {}", spec.image_pull_policy, spec.image)
}

fn install_name(spec: &WorkspaceSpec) -> String {
    format!("{:?}", kernel_source(spec))
}
