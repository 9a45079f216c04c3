//! Disks belong to one machine at a time.

use std::{fs::File, path::Path};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig};
use rustix::fs::{FlockOperation, flock};

use crate::dir::host;

/// Locks on the disks of a machine (flock(2)). The kernel gives them back when the shim ends, however it ends.
#[must_use = "the locks are given back when this is dropped"]
pub(crate) struct Held(#[expect(dead_code, reason = "the locks go with the files")] Vec<File>);

/// Takes the disks: those that the machine writes to alone, the others together with machines that only read them too.
pub(crate) fn hold(config: &MachineConfig) -> Result<Held, ErrorBody> {
    config.disks.iter().map(|disk| lock(&disk.id, &disk.path, disk.read_only)).collect::<Result<_, _>>().map(Held)
}

fn lock(id: &str, path: &Path, read_only: bool) -> Result<File, ErrorBody> {
    let file = File::open(path).map_err(|e| {
        ErrorBody::new(ErrorCode::FileUnavailable, format!("disk {id} {}: it cannot be opened: {e}", path.display()))
    })?;
    let operation =
        if read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match flock(&file, operation) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let what = if read_only { "writes to it" } else { "uses it" };
            Err(ErrorBody::new(ErrorCode::DiskInUse, format!("disk {id} {}: another machine {what}", path.display())))
        }
        Err(e) => Err(host(&format!("disk {id} {}: it cannot be locked", path.display()), &e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_by_many_or_written_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, "").unwrap();
        let readers = [lock("d", &path, true).unwrap(), lock("d", &path, true).unwrap()];
        assert_eq!(lock("d", &path, false).unwrap_err().code, ErrorCode::DiskInUse);
        drop(readers);
        let _writer = lock("d", &path, false).unwrap();
        for read_only in [true, false] {
            assert_eq!(lock("d", &path, read_only).unwrap_err().code, ErrorCode::DiskInUse);
        }
        assert_eq!(lock("d", &dir.path().join("none"), true).unwrap_err().code, ErrorCode::FileUnavailable);
    }
}
