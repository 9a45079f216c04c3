//! The real world: this host's image and kernel stores, its disks, and its supervisors.

mod observe;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use microagent_base::{Digest, Progress, durable};
use microagent_crds::{PullPolicy as SpecPullPolicy, WorkspaceSpec};
use microagent_guest_protocol::SecretBytes;
use microagent_images::{Arriving, Baseline, Image, ImageReference, PullOptions, PullPolicy, Store, host_platform};
use microagent_kernel::{Kernel, KernelStore};
use microagent_supervisor_protocol as supervisor;
use tokio::sync::{Semaphore, mpsc};

use super::{
    HostView, JobSight, World, backend,
    backend::{Backends, Deadlines},
    blocking::blocking,
    choice::Wanted,
    commit, disks,
    facts::Facts,
    fault::{host_error, host_fault, image_fault, kernel_fault, registries_fault, vanished},
    guest,
    guest_init::find_guest_init,
    jobs::{Jobs, Slot},
    keep,
    kernel::{bootable, kernel_source, needs, qemu_options},
    owners::Owners,
    secrets::{self, Supplies},
    sight::Sights,
    watch::Watch,
};
use crate::{
    Key, Paths, Record, image_use,
    memory::{Boot, Fault, Stage},
    metrics::{Metrics, label::JobKind},
    observed::{Disks, MachineSight, Observed, Work},
    plan::Action,
    registries, request,
};

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
    owners: Owners,
    deadlines: Deadlines,
    known_images: Facts<Digest, Image>,
    known_baselines: Facts<Digest, Baseline>,
    known_kernels: Facts<String, Kernel>,
    sights: Sights,
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
        // Before any image is looked for: nobody who prunes may overlook the workspaces of this state directory.
        image_use::register(paths).map_err(|e| host_fault(&e))?;
        let slots = Arc::new(Semaphore::new(parallelism.max(1)));
        let backends = Arc::new(Backends::default());
        let warm = backends.clone();
        // The first workspace must not wait for the hypervisor's probe.
        tokio::task::spawn_blocking(move || drop(warm.choose(Wanted::ANY)));
        Ok(Self {
            paths: paths.clone(),
            images: Store::open(&paths.images()).map_err(|e| image_fault(&e))?,
            kernels: Arc::new(KernelStore::open(&paths.kernels()).map_err(|e| kernel_fault(&e))?),
            guest_init: find_guest_init()?,
            backends,
            pulls: Jobs::new(JobKind::Pull, metrics.stage(Stage::Image), slots.clone(), wake.clone()),
            builds: Jobs::new(JobKind::Build, metrics.stage(Stage::Rootfs), slots.clone(), wake.clone()),
            installs: Jobs::new(JobKind::Install, metrics.stage(Stage::Kernel), slots, wake.clone()),
            watch: Watch::new(wake.clone()),
            owners: Owners::new(wake),
            deadlines: Deadlines::of_this_process(),
            known_images: Facts::default(),
            known_baselines: Facts::default(),
            known_kernels: Facts::default(),
            sights: Sights::default(),
            timings: Mutex::default(),
        })
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

    fn start(&self, record: &Record, boot: &Boot, supplies: &Supplies) -> Result<(), Fault> {
        let began = Instant::now();
        let spec = &record.workspace.spec;
        let (image, baseline) = self.made(record)?;
        let Work::Ready((kernel, _)) = self.kernel(record) else { return Err(vanished("kernel")) };
        let initramfs =
            self.kernels.initramfs(&kernel, &self.guest_init, needs(&kernel)).map_err(|e| kernel_fault(&e))?;
        let chosen = self.backends.choose(Wanted::of(spec, &kernel))?;
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
                kernel: bootable(&kernel, &chosen.capabilities, &spec.kernel.args),
                initramfs: initramfs.path,
                disks,
                boot_timeout_ms: BOOT_TIMEOUT_MS,
                log_bytes: LOG_BYTES,
                output_bytes: supervisor::OUTPUT_BYTES,
                qemu: qemu_options(&kernel, chosen.name, spec.acceleration),
                firecracker: None,
                apple_vf: None,
            },
            guest: guest::config(record, &image.config, &boot.id, secrets::read(spec, supplies)?)?,
            restore: None,
        };
        let machine = self.paths.machine(&record.uid);
        backend::remember(machine.dir(), &chosen)?;
        durable::private_dir(&machine.supervisor()).map_err(|e| host_fault(&e))?;
        self.watch.add(&machine.supervisor(), &record.key);
        let _lock = commit::hold_for_start(&machine)?;
        let prepared = began.elapsed();
        tracing::info!(boot = %boot.id, backend = chosen.name, "starting the machine");
        chosen.supervisor.start(request, self.deadlines.start).map_err(|e| backend::fault(&e))?;
        self.sights.started(&record.uid, &boot.id);
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

    /// Removes the request for a restart that is remembered as taken.
    fn done_with_request(&self, record: &Record) -> Result<(), Fault> {
        let Some(token) = &record.memory.restarted.request else { return Ok(()) };
        request::remove(&self.paths, &record.key, token).map_err(|e| host_error(e.to_string()))
    }

    fn delete_machine(&self, record: &Record) -> Result<(), Fault> {
        self.call(record, |s, target| s.delete(target, self.deadlines.call))?;
        durable::remove_dir(&self.paths.machine(&record.uid).supervisor()).map_err(|e| host_fault(&e))
    }

    fn release(&self, key: &Key) {
        self.pulls.release(key);
        self.builds.release(key);
        self.installs.release(key);
    }

    fn act_blocking(&self, record: &Record, action: &Action, supplies: &Supplies) -> Result<(), Fault> {
        self.sights.forget(&record.uid);
        match action {
            Action::CreateDisks => self.create_disks(record),
            Action::StartMachine(boot) => {
                self.start(record, boot, supplies)?;
                self.done_with_request(record)
            }
            Action::HaltMachine { grace_seconds } => {
                self.done_with_request(record)?;
                let halt = supervisor::Halt { grace_seconds: *grace_seconds, no_wait: true };
                self.call(record, |s, target| s.halt(target, halt, self.deadlines.call)).map(drop)
            }
            Action::PauseMachine => self.call(record, |s, target| s.pause(target, self.deadlines.call)).map(drop),
            Action::ResumeMachine => self.call(record, |s, target| s.resume(target, self.deadlines.call)).map(drop),
            Action::QuarantineMachine => {
                self.call(record, |s, target| s.quarantine(target, self.deadlines.call)).map(drop)
            }
            Action::KeepOutputs => {
                let machine = self.call(record, |s, target| s.inspect(target, self.deadlines.call))?;
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
            Action::KillMachine => self.call(record, |s, target| s.kill(target, self.deadlines.call)).map(drop),
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

    fn begin_pull(self: &Arc<Self>, record: &Record, logins: Vec<(String, SecretBytes)>) -> Result<(), Fault> {
        let spec = &record.workspace.spec;
        let reference: ImageReference = spec.image.parse().map_err(|e| image_fault(&e))?;
        let policy = match spec.image_pull_policy {
            SpecPullPolicy::Always => PullPolicy::Always,
            SpecPullPolicy::IfNotPresent => PullPolicy::IfNotPresent,
            SpecPullPolicy::Never => PullPolicy::Never,
        };
        let (host, key) = (self.clone(), record.key.clone());
        let runtime = tokio::runtime::Handle::current();
        self.pulls.begin_within(&pull_name(record), &record.key, None, move |progress, slot| {
            // On a thread of its own: between two reads of the network a pull hashes and writes.
            blocking(move || {
                let registries = registries().map_err(|e| registries_fault(&e))?;
                let mut options = PullOptions { registries, ..PullOptions::default() };
                // The last that is added is looked at first.
                for (origin, login) in logins.into_iter().rev() {
                    options.credentials = options.credentials.with_secret(origin, login.expose().to_vec());
                }
                let platform = host_platform();
                let begun = |arriving| host.build_beside(arriving, &key, slot);
                let pull = host.images.pull_arriving(&reference, &platform, policy, &options, progress, begun);
                runtime.block_on(pull).map(Some).map_err(|e| image_fault(&e))
            })
        });
        Ok(())
    }

    /// Makes the root disk while the layers come: the build that will be asked for once the image is there is then under way,
    /// or done. It is of the pull's slot, and comes to nothing when the pull fails.
    fn build_beside(&self, arriving: Arriving, key: &Key, slot: Option<Slot>) {
        if matches!(self.images.baseline(arriving.image()), Ok(Some(_))) {
            return;
        }
        let name = arriving.image().digest.to_string();
        self.builds.begin_within(&name, key, slot, move |progress, _| {
            blocking(move || arriving.build(progress).map_err(|e| image_fault(&e)))
        });
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
        self.act_with(record, action, Supplies::default()).await
    }

    async fn machines(&self) -> Vec<String> {
        let host = self.clone();
        blocking(move || Ok(host.list_machines())).await.unwrap_or_default()
    }

    async fn sweep(&self, uid: &str) -> Result<(), Fault> {
        let (host, uid) = (self.clone(), uid.to_owned());
        blocking(move || host.sweep_machine(&uid)).await
    }
}

impl Host {
    /// [`World::act`], with what only a cluster can give.
    pub(crate) async fn act_with(
        self: &Arc<Self>,
        record: &Record,
        action: &Action,
        supplies: Supplies,
    ) -> Result<(), Fault> {
        match action {
            Action::ResolveImage => self.begin_pull(record, supplies.logins),
            Action::BuildRootfs => self.begin_build(record),
            Action::InstallKernel => {
                self.begin_install(record);
                Ok(())
            }
            _ => {
                let (host, copy, action) = (self.clone(), record.clone(), action.clone());
                blocking(move || host.act_blocking(&copy, &action, &supplies)).await
            }
        }
    }

    fn list_machines(&self) -> Vec<String> {
        let entries = fs::read_dir(self.paths.machines()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // What has another name is none of ours.
        names.filter(|name| uuid::Uuid::parse_str(name).is_ok()).collect()
    }

    fn sweep_machine(&self, uid: &str) -> Result<(), Fault> {
        let machine = self.paths.machine(uid);
        if machine.supervisor().exists() {
            let (_, supervisor) = backend::of_machine(machine.dir())?;
            let target = supervisor::Target { uid: uid.to_owned(), machine_dir: machine.supervisor() };
            supervisor.delete(target, self.deadlines.call).map_err(|e| backend::fault(&e))?;
        }
        keep::retain_disks(&machine.disks(), &self.paths.orphan(uid))?;
        durable::remove_dir(machine.dir()).map_err(|e| host_fault(&e))
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
        self.backends.choose(Wanted::ANY).map(|chosen| chosen.name)
    }
}

/// A disk of the workspace: one that is made (with its size) or a file that is there.
struct OwnDisk {
    name: String,
    path: PathBuf,
    size: Option<u64>,
    read_only: bool,
}

/// What one login may pull is not what another may: pulls are shared by those who use the same ones.
fn pull_name(record: &Record) -> String {
    let spec = &record.workspace.spec;
    let mut name = format!("{:?} {}", spec.image_pull_policy, spec.image);
    if !spec.image_pull_secrets.is_empty() {
        name.push_str(&format!(" with secrets of {}:", record.key.namespace));
    }
    for secret in &spec.image_pull_secrets {
        name.push_str(&format!(" {}", secret.name));
    }
    name
}

fn install_name(spec: &WorkspaceSpec) -> String {
    format!("{:?}", kernel_source(spec))
}
