//! A workspace's disk as an image: what `microagent commit` does.
//!
//! Two locks keep machines off the disk meanwhile. One is the controller's own, which it takes for every start
//! ([`hold`]); the other is on the disk itself, where a machine has it that no controller of this host started. Under
//! the first the supervisor is asked, so what it says of the machine stays so.

use std::{fs::File, io, path::PathBuf};

use jiff::Timestamp;
use microagent_base::{
    Digest, Progress,
    durable::{self, DurableError},
    lock::{FileLock, LockError},
};
use microagent_images::{Commit, Image, ImageReference, Store};
use microagent_rootfs::{LayerContents, LayerOptions, Limits, write_layer};
use microagent_supervisor_protocol::{MachineState, Target};
use rustix::fs::{FlockOperation, flock};

use super::{
    backend::{self, Deadlines},
    fault::host_error,
};
use crate::{Key, Paths, Record, memory::Fault, paths::MachinePaths};

/// The layer of a disk that guest-init mounted.
///
/// Left out are mount points that guest-init makes where an image has none (`guest-init/src/mounts.rs`): nothing can be
/// written there but into what lies over them, and every boot makes them again. Files that it was placing when the
/// machine ended (`guest-init/src/files.rs`) were never there for anybody.
const LAYER: LayerOptions<'static> = LayerOptions {
    upper: "upper",
    mount_points: &["dev", "proc", "run", "sys", "etc/hosts", "etc/hostname"],
    unfinished: (".", ".microagent-new"),
    limits: Limits { max_content_bytes: 64 << 30, max_entries: 2_000_000, max_metadata_bytes: 1 << 30 },
};

/// What an image made of a workspace is to be.
#[derive(Clone, Copy, Debug)]
pub struct CommitRequest<'a> {
    /// Its name: one of a registry, with a tag.
    pub name: &'a ImageReference,
    /// What its history says of the layer.
    pub message: Option<&'a str>,
    /// Who made it.
    pub author: Option<&'a str>,
}

/// An image that was made of a workspace.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The image, in the store.
    pub image: Image,
    /// What its last layer holds.
    pub contents: LayerContents,
}

/// Why a workspace did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// There is no such workspace on this host.
    #[error("workspace {0} has no machine and no disk on this host")]
    NotFound(Key),
    /// Nothing was ever started for it, or not since its image was changed.
    #[error("workspace {key} has no disk for its image yet ({path} is not there); start it once", path = .path.display())]
    NoDisk {
        /// The workspace.
        key: Key,
        /// Where the disk would be.
        path: PathBuf,
    },
    /// Its machine has not ended.
    #[error("workspace {key} cannot be committed while its machine {doing}")]
    NotHalted {
        /// The workspace.
        key: Key,
        /// What the machine does.
        doing: &'static str,
    },
    /// Its machine is being started, or another commit of it is under way.
    #[error("workspace {key} is busy: {source}")]
    Busy {
        /// The workspace.
        key: Key,
        /// Who has the lock.
        source: LockError,
    },
    /// Its supervisor does not say whether the machine has ended.
    #[error("cannot tell whether the machine of workspace {key} has ended: {why}")]
    Unknown {
        /// The workspace.
        key: Key,
        /// What the supervisor said.
        why: String,
    },
    /// The record of the workspace or its lock cannot be read.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The disk cannot be opened.
    #[error("cannot open the disk {path}: {source}", path = .path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// The reason that the system gave.
        source: io::Error,
    },
    /// The image cannot be made.
    #[error(transparent)]
    Image(#[from] microagent_images::Error),
}

/// Makes an image of the image that a workspace has and of what the workspace wrote. Its machine must have ended, and none
/// is started meanwhile. The disk is only read. Blocking.
///
/// # Errors
/// See [`CommitError`].
pub fn commit(
    paths: &Paths,
    store: &Store,
    key: &Key,
    request: &CommitRequest<'_>,
    progress: &dyn Progress,
) -> Result<Committed, CommitError> {
    let record: Option<Record> = durable::read_json(&paths.record(key))?;
    let record = record.ok_or_else(|| CommitError::NotFound(key.clone()))?;
    let machine = paths.machine(&record.uid);
    let pinned = record.memory.image.as_ref().and_then(|image| image.digest.parse::<Digest>().ok());
    let Some(base) = pinned.filter(|_| machine.dir().is_dir()) else {
        return Err(CommitError::NoDisk { key: key.clone(), path: machine.disks() });
    };
    let _lock = hold(&machine).map_err(|source| CommitError::Busy { key: key.clone(), source })?;
    check_ended(key, &record.uid, &machine)?;
    let path = machine.overlay(&base.short());
    let disk = match File::open(&path) {
        Ok(disk) => disk,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CommitError::NoDisk { key: key.clone(), path }),
        Err(source) => return Err(CommitError::Disk { path, source }),
    };
    match flock(&disk, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(CommitError::NotHalted { key: key.clone(), doing: "has its disk" });
        }
        Err(e) => return Err(CommitError::Disk { path, source: e.into() }),
    }
    let created_by = format!("microagent commit {key}");
    let commit = Commit {
        base,
        name: request.name,
        created_by: &created_by,
        message: request.message,
        author: request.author,
        created: Timestamp::now(),
    };
    let (image, contents) = store.commit_layer(&commit, |out| write_layer(&disk, out, &LAYER, progress))?;
    Ok(Committed { image, contents })
}

/// The lock under which a machine is started, and under which its disks are read while there is none.
///
/// # Errors
/// Somebody else has it.
pub(super) fn hold(machine: &MachinePaths) -> Result<FileLock, LockError> {
    FileLock::try_exclusive(&machine.lock())
}

/// The lock for a start. That it is held is worth another try.
pub(super) fn hold_for_start(machine: &MachinePaths) -> Result<FileLock, Fault> {
    hold(machine).map_err(|error| match error {
        LockError::Held { .. } => Fault {
            code: "DiskInUse".to_owned(),
            message: format!("an image is being made of the workspace's disk: {error}"),
            retryable: true,
        },
        error @ LockError::Io { .. } => host_error(error.to_string()),
    })
}

fn check_ended(key: &Key, uid: &str, machine: &MachinePaths) -> Result<(), CommitError> {
    if !machine.supervisor().exists() {
        return Ok(());
    }
    let unknown = |fault: Fault| CommitError::Unknown { key: key.clone(), why: fault.message };
    let (_, supervisor) = backend::of_machine(machine.dir()).map_err(unknown)?;
    let target = Target { uid: uid.to_owned(), machine_dir: machine.supervisor() };
    let deadline = Deadlines::of_this_process().call;
    let seen = supervisor.inspect(target, deadline).map_err(|e| unknown(backend::fault(&e)))?;
    let doing = match seen.state {
        MachineState::Absent | MachineState::Prepared | MachineState::Exited => return Ok(()),
        MachineState::Starting => "is starting",
        MachineState::Running => "runs",
        MachineState::Paused => "is paused",
        MachineState::Quarantined => "is quarantined",
        MachineState::Halting => "is still halting",
    };
    Err(CommitError::NotHalted { key: key.clone(), doing })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use microagent_base::Silent;
    use microagent_crds::{Workspace, WorkspaceSpec};
    use microagent_images::{Credentials, PullOptions, PullPolicy, host_platform};
    use microagent_tests::image_fixture::{Compression, ImageFixture, LayerBuilder};
    use tempfile::TempDir;

    use super::{super::disks, *};
    use crate::memory::{Memory, PinnedImage};

    struct Fixture {
        _dir: TempDir,
        paths: Paths,
        store: Store,
        key: Key,
        base: Image,
    }

    impl Fixture {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
            paths.create().unwrap();
            let layout = dir.path().join("layout");
            let layer = LayerBuilder::new().dir("tmp", 0o1777).finish();
            ImageFixture::new().layer(layer, Compression::Gzip).build().write_layout(&layout, "1");
            let store = Store::open(&paths.images()).unwrap();
            let reference = format!("oci-layout:{}", layout.display()).parse().unwrap();
            let options = PullOptions { credentials: Credentials::none(), ..PullOptions::default() };
            let platform = host_platform();
            let pull = store.pull(&reference, &platform, PullPolicy::Always, &options, Arc::new(Silent));
            let base = pull.await.unwrap();
            Self { _dir: dir, paths, store, key: Key::new("default", "a"), base }
        }

        fn record(&self, digest: Option<String>) {
            let image = digest.map(|digest| PinnedImage { reference: "image".to_owned(), digest });
            let record = Record {
                key: self.key.clone(),
                uid: "u".to_owned(),
                generation: 1,
                spec_hash: String::new(),
                workspace: Workspace::new("a", WorkspaceSpec::new("image")).into(),
                file: "a.yaml".into(),
                created_at: Timestamp::UNIX_EPOCH,
                deleted_at: None,
                problem: None,
                unreserved: None,
                memory: Memory { image, ..Memory::default() },
            };
            durable::private_dir(self.paths.record(&self.key).parent().unwrap()).unwrap();
            durable::write_json(&self.paths.record(&self.key), &record).unwrap();
        }

        fn overlay(&self) -> PathBuf {
            self.paths.machine("u").overlay(&self.base.digest.short())
        }

        fn refused(&self) -> CommitError {
            let request = CommitRequest { name: &"team/web:2".parse().unwrap(), message: None, author: None };
            let error = commit(&self.paths, &self.store, &self.key, &request, &Silent).unwrap_err();
            assert_eq!(self.store.list().unwrap().len(), 1, "{error}");
            error
        }
    }

    #[tokio::test]
    async fn what_has_no_disk_or_was_never_written_to_is_told() {
        let fixture = Fixture::new().await;
        assert!(matches!(fixture.refused(), CommitError::NotFound(_)));
        fixture.record(None);
        assert!(matches!(fixture.refused(), CommitError::NoDisk { .. }));
        fixture.record(Some(fixture.base.digest.to_string()));
        assert!(matches!(fixture.refused(), CommitError::NoDisk { .. }));
        durable::private_dir(fixture.paths.machine("u").dir()).unwrap();
        assert!(fixture.refused().to_string().contains("overlay-"));
        disks::create(&fixture.overlay(), 8 << 20, "overlay", "u").unwrap();
        match fixture.refused() {
            CommitError::Image(error) => assert_eq!(error.category(), "OverlayEmpty"),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_disk_in_use_is_left_alone_and_a_start_waits_for_a_commit() {
        let fixture = Fixture::new().await;
        fixture.record(Some(fixture.base.digest.to_string()));
        disks::create(&fixture.overlay(), 8 << 20, "overlay", "u").unwrap();
        let machine = fixture.paths.machine("u");
        let disk = File::open(fixture.overlay()).unwrap();
        flock(&disk, FlockOperation::LockExclusive).unwrap();
        assert!(matches!(fixture.refused(), CommitError::NotHalted { .. }));
        drop(disk);
        let held = hold_for_start(&machine).unwrap();
        assert!(matches!(fixture.refused(), CommitError::Busy { .. }));
        drop(held);
        let _held = hold(&machine).unwrap();
        let fault = hold_for_start(&machine).unwrap_err();
        assert!(fault.retryable && fault.code == "DiskInUse", "{}", fault.message);
    }
}
