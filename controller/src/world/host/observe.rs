//! What is on this host of a workspace. Changes nothing.

use std::{
    path::PathBuf,
    sync::PoisonError,
    time::{Duration, Instant},
};

use microagent_base::{Digest, process::ProcessId};
use microagent_crds::PullPolicy as SpecPullPolicy;
use microagent_images::{Baseline, Image};
use microagent_kernel::{Kernel, Need};
use microagent_supervisor_protocol::{Machine, Owner};

use super::{
    super::{
        backend,
        fault::{host_error, image_fault, kernel_fault},
        keep,
        kernel::{kernel_files, kernel_source},
        sight::Place,
    },
    Host, OwnDisk, install_name, pull_name,
};
use crate::{
    Record,
    memory::Fault,
    observed::{Disks, ImageFacts, KernelFacts, MachineSight, Observed, RootfsFacts, Work},
    request,
};

impl Host {
    /// The image of the record: by its pinned digest when it has one, else by the pull that was begun for it.
    pub(super) fn image(&self, record: &Record) -> Work<(Image, Option<Duration>)> {
        let reference = &record.workspace.spec.image;
        if let Some(pinned) = record.memory.image.as_ref().filter(|pinned| pinned.reference == *reference)
            && let Ok(digest) = pinned.digest.parse::<Digest>()
        {
            match self.stored_image(&digest) {
                Ok(Some(image)) => return Work::Ready((image, None)),
                Ok(None) => {}
                Err(e) => return Work::Failed(image_fault(&e)),
            }
        }
        let name = pull_name(record);
        let pull = self.pulls.look(&name, &record.key).map(|done| (done.value, Some(done.took)));
        // Whoever wants what is here already, and not the newest, takes what another was given a moment ago.
        match self.pulls.recent(&name) {
            Some(done)
                if !pull.is_ready()
                    && record.workspace.spec.image_pull_policy != SpecPullPolicy::Always
                    && self.stored_image(&done.value.digest).is_ok_and(|image| image.is_some()) =>
            {
                Work::Ready((done.value, None))
            }
            _ => match pull {
                // It was pulled and is gone again, before anything here told that it is in use: it must be pulled anew.
                Work::Ready((image, _)) if self.stored_image(&image.digest).is_ok_and(|image| image.is_none()) => {
                    Work::Absent
                }
                pull => pull,
            },
        }
    }

    /// An image whose blobs are all here.
    fn stored_image(&self, digest: &Digest) -> Result<Option<Image>, microagent_images::Error> {
        let store = self.paths.images();
        let blobs = store.join("blobs/sha256");
        self.known_images.find(
            *digest,
            || self.images.image(digest),
            |image| {
                let layers = image.layers.iter().map(|layer| blobs.join(layer.digest.hex()));
                // Its configuration is a blob too; should that one go, its directory shows it.
                [store.join("index.json"), blobs.clone(), blobs.join(digest.hex())].into_iter().chain(layers).collect()
            },
        )
    }

    /// The user and the working directory that the workspace's image names for its process, as far as the image is here.
    pub(crate) fn image_process(&self, record: &Record) -> (Option<String>, Option<String>) {
        let Work::Ready((image, _)) = self.image(record) else { return (None, None) };
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        (set(&image.config.user), set(&image.config.working_dir))
    }

    /// The finished root disk of an image.
    pub(super) fn baseline(&self, record: &Record, image: &Image) -> Work<(Baseline, Option<Duration>)> {
        let name = image.digest.to_string();
        let found = self.known_baselines.find(
            image.digest,
            || self.images.baseline(image),
            |baseline| vec![baseline.path.clone(), baseline.path.with_extension("json")],
        );
        match found {
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

    pub(super) fn kernel(&self, record: &Record) -> Work<(Kernel, Option<Duration>)> {
        let (source, version) = kernel_source(&record.workspace.spec);
        let name = install_name(&record.workspace.spec);
        let job = self.installs.look(&name, &record.key);
        let fit = || {
            let Some(kernel) = self.kernels.find(&source, version.as_deref())? else { return Ok(None) };
            self.kernels.check(&kernel)?.require(&kernel, Need::REQUIRED).map(|()| Some(kernel))
        };
        let files = |kernel: &Kernel| kernel_files(&self.paths.kernels(), &source, kernel);
        if let Ok(Some(kernel)) = self.known_kernels.find(name, fit, files) {
            return Work::Ready((kernel, job.ready().map(|done| done.took)));
        }
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

    pub(super) fn disk_files(&self, record: &Record, image: &Digest) -> Vec<OwnDisk> {
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
        let place = match Place::of(&dir) {
            Ok(Some(place)) => place,
            Ok(None) => return MachineSight::None,
            Err(e) => return MachineSight::Unknown(host_error(format!("cannot look at {}: {e}", dir.display()))),
        };
        let asked = Instant::now();
        // How long a machine has been idle is told by its supervisor alone.
        let may_recall = record.workspace.spec.lifecycle.idle_timeout_seconds.is_none();
        let sight = match self.sights.recall(&record.uid, &place, asked).filter(|_| may_recall) {
            Some(known) => Ok(known),
            None => {
                self.watch.add(&dir, &record.key);
                backend::of_machine(machine.dir()).and_then(|(note, supervisor)| {
                    let deadline = self.deadlines.call;
                    let seen = supervisor.inspect(self.target(record), deadline).map_err(|e| backend::fault(&e))?;
                    self.sights.keep(&record.uid, place, asked, &note, &seen);
                    if let Some(Owner { pid, start_time }) = seen.owner {
                        self.owners.add(ProcessId { pid, start_time, boot: None }, &record.key);
                    }
                    Ok((note, seen))
                })
            }
        };
        match sight {
            Ok((_, seen)) if answered_for(&seen, &record.uid) != record.uid => MachineSight::Unknown(Fault {
                code: "SupervisorFailed".to_owned(),
                message: format!(
                    "the supervisor answered for the machine {} when asked for {}; nothing is done to either",
                    answered_for(&seen, &record.uid),
                    record.uid
                ),
                retryable: false,
            }),
            Ok((note, seen)) => {
                if let Some(message) = self.sights.contradiction(&record.uid, &seen) {
                    let code = "SupervisorFailed".to_owned();
                    return MachineSight::Unknown(Fault { code, message, retryable: true });
                }
                let timings = self.timings.lock().unwrap_or_else(PoisonError::into_inner);
                let timings = timings.get(&record.uid).cloned().unwrap_or_default();
                let (backend, why) = backend::read_note(&note);
                let (backend, why) = (backend.to_owned(), why.map(str::to_owned));
                MachineSight::Seen { backend, why, machine: Box::new(seen), timings }
            }
            Err(fault) => MachineSight::Unknown(fault),
        }
    }

    pub(super) fn look(&self, record: &Record) -> Observed {
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
}

/// Of whom an answer is: both the answer and the machine in it are to be of the UID that was asked for.
fn answered_for<'a>(seen: &'a Machine, asked: &str) -> &'a str {
    match &seen.identity {
        Some(identity) if seen.uid == asked => &identity.uid,
        _ => &seen.uid,
    }
}

fn has_outputs(sight: &MachineSight) -> bool {
    matches!(sight, MachineSight::Seen { machine, .. } if !machine.artifacts.is_empty())
}

#[cfg(test)]
mod tests {
    use microagent_supervisor_protocol::{Identity, MachineState};

    use super::*;

    #[test]
    fn an_answer_is_of_the_machine_and_of_the_identity_that_were_asked_for_or_of_another() {
        let mut machine = Machine::bare("a", MachineState::Running);
        assert_eq!((answered_for(&machine, "a"), answered_for(&machine, "b")), ("a", "a"));
        let identity = |uid: &str| Identity { uid: uid.into(), name: "n".into(), generation: 1, boot_id: "b".into() };
        machine.identity = Some(identity("a"));
        assert_eq!(answered_for(&machine, "a"), "a");
        machine.identity = Some(identity("other"));
        assert_eq!(answered_for(&machine, "a"), "other");
        machine.uid = "third".to_owned();
        assert_eq!(answered_for(&machine, "a"), "third");
    }
}
