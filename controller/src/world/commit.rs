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
