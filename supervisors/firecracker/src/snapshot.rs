//! Snapshots: memory and devices of a machine in two files, and machines that go on from them.
//!
//! A snapshot of changes holds only the pages that were written since the one before, as data between holes. Firecracker goes on from
//! whole memory alone: for a machine that is to go on from changes, they are laid over the full snapshot in a file of the machine's own.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown},
    path::{Path, PathBuf},
    time::Duration,
};

use microagent_base::{durable, process::ProcessId};
use microagent_shim::MERGED_MEMORY;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig, Snapshot, SnapshotKind};
use rustix::{
    fs::{OFlags, SeekFrom, copy_file_range, seek, statvfs},
    io::Errno,
};

use crate::{
    api::{Api, ApiError, PATIENCE},
    configure::{flush_metrics, watch},
    plan::{API_SOCKET, Notes},
    power,
    request::{MemoryBackend, SnapshotCreate, SnapshotLoad, Vm, VmState},
};

/// The machine's devices.
const STATE: &str = "state";
/// The machine's memory.
const MEMORY: &str = "memory";
/// Where a jailed Firecracker writes both, in its jail.
const JAIL_DIR: &str = "snapshot";

/// How long Firecracker may take to write a machine's memory, on a slow disk.
const WRITING: Duration = Duration::from_secs(300);

/// How long it may take to go on from a snapshot: it maps the memory and reads it as it is needed.
const LOADING: Duration = Duration::from_secs(60);

/// What the operating system says of a full disk. Firecracker passes its words on and has no codes.
const FULL: &str = "os error 28";

/// The longest piece that is copied at once, in bytes.
const PIECE: usize = 64 * 1024 * 1024;

/// What must be the same where a machine goes on.
pub(crate) fn facts(notes: &Notes, config: &MachineConfig) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([("vmm".to_owned(), notes.version.clone())]);
    let jail = if notes.jail.is_some() { "one" } else { "none" };
    facts.insert("jail".to_owned(), jail.to_owned());
    if notes.jail.is_none() {
        // The state has the paths; in a jail they are the same for every machine.
        let paths =
            config.disks.iter().map(|disk| (format!("path of disk {}", disk.id), disk.path.display().to_string()));
        facts.extend(paths);
    }
    facts
}

/// Whether the snapshot could be made: pages are tracked where changes alone are wanted, and the disk can hold a full memory, which is all
/// written.
pub(crate) fn check(config: &MachineConfig, wanted: &Snapshot) -> Result<(), ErrorBody> {
    if wanted.kind == SnapshotKind::Diff {
        if config.firecracker.as_ref().is_some_and(|options| options.track_dirty_pages) {
            return Ok(());
        }
        let message = "a snapshot of changes of a machine that was started without `trackDirtyPages`";
        return Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
    }
    let dir = wanted.dir.parent().unwrap_or(Path::new("/"));
    let space = statvfs(dir).map_err(|e| host("cannot ask for free space", &e))?;
    let (free, needed) = (space.f_bavail.saturating_mul(space.f_frsize), config.memory_mib << 20);
    if free < needed {
        let message = format!("the snapshot needs {needed} bytes, and {} has {free} left", dir.display());
        return Err(ErrorBody::new(ErrorCode::DiskFull, message));
    }
    Ok(())
}

/// Writes the two files into the directory.
pub(crate) fn make(notes: &Notes, vmm: ProcessId, dir: &Path, kind: SnapshotKind) -> Result<(), ErrorBody> {
    power::stand_still(vmm)?;
    let (told, written) = match &notes.jail {
        Some(jail) => {
            let place = jail.root.join(JAIL_DIR);
            durable::remove_dir(&place).map_err(|e| host("cannot make room in the jail", &e))?;
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&place)
                // The jail is its user's: a link may be there by now, which is not followed.
                .and_then(|()| lchown(&place, Some(jail.user), Some(jail.user)))
                .map_err(|e| host("cannot make room in the jail", &e))?;
            (Path::new("/").join(JAIL_DIR), place)
        }
        None => (dir.to_owned(), dir.to_owned()),
    };
    let request = SnapshotCreate {
        snapshot_type: if kind == SnapshotKind::Full { "Full" } else { "Diff" },
        snapshot_path: &told.join(STATE),
        mem_file_path: &told.join(MEMORY),
    };
    let made = Api::connect(Path::new(API_SOCKET))
        .and_then(|mut api| api.put("/snapshot/create", &request, WRITING))
        .map_err(full_disk)
        .and_then(|()| fetch(&written, dir));
    if notes.jail.is_some() {
        let _ = durable::remove_dir(&written);
    }
    made
}

/// Brings what was written from the jail, and makes it this user's own. Whoever is jailed may have put anything there: nothing is
/// followed, and what is looked at is out of reach by then.
fn fetch(from: &Path, to: &Path) -> Result<(), ErrorBody> {
    let failed = |e: &io::Error| host("cannot keep the snapshot", e);
    for name in [STATE, MEMORY] {
        let (source, target) = (from.join(name), to.join(name));
        if from != to {
            match fs::rename(&source, &target) {
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    let source = regular(&source).map_err(|e| failed(&e))?;
                    create(&target).and_then(|target| lay_over(&source, &target)).map_err(|e| failed(&e))?;
                }
                other => other.map_err(|e| failed(&e))?,
            }
        }
        let file = regular(&target).map_err(|e| failed(&e))?;
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        fchown(&file, Some(user.as_raw()), Some(group.as_raw()))
            .and_then(|()| file.set_permissions(Permissions::from_mode(0o600)))
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Opens what is a file, not a link to one.
fn regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(format!("{} is no file", path.display()))) }
}

fn full_disk(error: ApiError) -> ErrorBody {
    match &error {
        ApiError::Refused { fault, .. } if fault.contains(FULL) => {
            ErrorBody::new(ErrorCode::DiskFull, format!("Firecracker cannot write the snapshot: {fault}"))
        }
        _ => error.into(),
    }
}

/// Puts the files of the snapshots where Firecracker finds them.
pub(crate) fn prepare(notes: &Notes, chain: &[PathBuf]) -> Result<(), ErrorBody> {
    let failed = |e: &io::Error| host("cannot lay the snapshot ready", e);
    let [first, changes @ ..] = chain else { return Ok(()) };
    let memory = notes.outside(MERGED_MEMORY);
    durable::remove_file(&memory).map_err(|e| host("cannot lay the snapshot ready", &e))?;
    let shared = first.join(MEMORY);
    if !changes.is_empty() {
        merge(&shared, changes, &memory).map_err(|e| failed(&e))?;
    }
    let Some(jail) = &notes.jail else { return Ok(()) };
    if changes.is_empty() {
        // Whoever goes on from it only reads it; it is not copied where that can be avoided.
        jail.show(&shared)?;
        match fs::hard_link(&shared, &memory) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                merge(&shared, &[], &memory).map_err(|e| failed(&e))?
            }
            other => other.map_err(|e| failed(&e))?,
        }
    } else {
        chown(&memory, Some(jail.user), Some(jail.user)).map_err(|e| failed(&e))?;
    }
    let state = jail.root.join(STATE);
    let last = changes.last().unwrap_or(first);
    fs::copy(last.join(STATE), &state)
        .and_then(|_| chown(&state, Some(jail.user), Some(jail.user)))
        .map_err(|e| failed(&e))
}

/// Has a fresh Firecracker go on from there.
pub(crate) fn load(notes: &Notes, config: &MachineConfig, chain: &[PathBuf]) -> Result<(), ErrorBody> {
    let ([first, ..], [.., last]) = (chain, chain) else {
        return Err(ErrorBody::new(ErrorCode::SnapshotInvalid, "there is no snapshot to go on from"));
    };
    let (state, memory) = match &notes.jail {
        Some(_) => (PathBuf::from("/").join(STATE), PathBuf::from("/").join(MERGED_MEMORY)),
        None if chain.len() > 1 => (last.join(STATE), PathBuf::from(MERGED_MEMORY)),
        None => (last.join(STATE), first.join(MEMORY)),
    };
    let mut api = Api::connect(Path::new(API_SOCKET))?;
    watch(&mut api, notes)?;
    let request = SnapshotLoad {
        snapshot_path: &state,
        mem_backend: MemoryBackend { backend_type: "File", backend_path: &memory },
        track_dirty_pages: config.firecracker.as_ref().is_some_and(|options| options.track_dirty_pages),
        resume_vm: false,
    };
    api.put("/snapshot/load", &request, LOADING).map_err(|e| {
        ErrorBody::new(ErrorCode::SnapshotInvalid, format!("Firecracker does not go on from {}: {e}", last.display()))
    })?;
    api.patch("/vm", &Vm { state: VmState::Resumed }, PATIENCE)?;
    flush_metrics(&mut api);
    Ok(())
}

/// A file with the memory of the full snapshot, and the changes over it.
fn merge(full: &Path, changes: &[PathBuf], to: &Path) -> io::Result<()> {
    let target = create(to)?;
    target.set_len(fs::metadata(full)?.len())?;
    lay_over(&File::open(full)?, &target)?;
    changes.iter().try_for_each(|dir| lay_over(&File::open(dir.join(MEMORY))?, &target))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Copies the data of a file to the same places of another; its holes leave the other as it is.
fn lay_over(source: &File, to: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    if to.metadata()?.len() < length {
        to.set_len(length)?;
    }
    let mut at = 0;
    while at < length {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(source, SeekFrom::Hole(start))?;
        copy(source, to, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy(source: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut at) = (start, start);
    while from < end {
        let piece = usize::try_from(end - from).unwrap_or(PIECE).min(PIECE);
        match copy_file_range(source, Some(&mut from), to, Some(&mut at), piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Between some file systems the kernel does not copy.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                let mut buffer = vec![0; piece.min(1024 * 1024)];
                source.read_exact_at(&mut buffer, from)?;
                to.write_all_at(&buffer, from)?;
                from += buffer.len() as u64;
                at = from;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn host(what: &str, error: &dyn std::fmt::Display) -> ErrorBody {
    ErrorBody::new(ErrorCode::Host, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_laid_over_the_full_memory_in_their_order_and_holes_change_nothing() {
        let home = tempfile::tempdir().unwrap();
        const PAGE: u64 = 64 * 1024;
        let snapshot = |name: &str, pages: &[(u64, u8)]| {
            let dir = home.path().join(name);
            fs::create_dir(&dir).unwrap();
            let file = File::create(dir.join(MEMORY)).unwrap();
            file.set_len(8 * PAGE).unwrap();
            for (page, byte) in pages {
                file.write_all_at(&vec![*byte; PAGE as usize], page * PAGE).unwrap();
            }
            dir
        };
        let full = snapshot("full", &[(0, 1), (1, 1), (2, 1), (7, 1)]);
        let changes = [snapshot("a", &[(1, 2), (4, 2)]), snapshot("b", &[(1, 3), (7, 3)])];
        let to = home.path().join("memory");
        merge(&full.join(MEMORY), &changes, &to).unwrap();
        let bytes = fs::read(to).unwrap();
        let pages: Vec<u8> = bytes.chunks(PAGE as usize).map(|page| page[0]).collect();
        assert_eq!(pages, [1, 3, 1, 0, 2, 0, 0, 3]);
        assert!(bytes.chunks(PAGE as usize).all(|page| page.iter().all(|byte| *byte == page[0])));
    }
}
