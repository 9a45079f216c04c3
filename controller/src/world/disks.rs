//! The writable disks of a workspace: sparse ext4 files, made whole or not at all.

use std::{
    fs::{self, File},
    path::Path,
    time::SystemTime,
};

use microagent_base::durable::{self, TEMPORARY_PREFIX};
use microagent_rootfs::EmptyOptions;

use crate::memory::Fault;

/// Makes an empty ext4 disk of `size` bytes at `path`; an existing one is left as it is.
///
/// `identity` decides the UUID of the file system: the same text, the same UUID.
pub(super) fn create(path: &Path, size: u64, label: &str, identity: &str) -> Result<(), Fault> {
    if path.exists() {
        return Ok(());
    }
    let fail = |what: &str, e: &dyn std::fmt::Display, full: bool| Fault {
        code: if full { "DiskFull" } else { "DiskFailed" }.to_owned(),
        message: format!("cannot {what} the disk {}: {e}", path.display()),
        retryable: true,
    };
    let io = |what, e: std::io::Error| fail(what, &e, e.kind() == std::io::ErrorKind::StorageFull);
    let dir = path.parent().unwrap_or(Path::new("/"));
    durable::private_dir(dir).map_err(|e| fail("make the directory of", &e, false))?;
    sweep(dir);
    let temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(dir).map_err(|e| io("create", e))?;
    let digest = microagent_base::Digest::of(identity.as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&digest.bytes()[..16]);
    let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let options = EmptyOptions {
        uuid: uuid::Builder::from_custom_bytes(first).into_uuid().into_bytes(),
        label: label.to_owned(),
        created: i64::try_from(created).unwrap_or(0),
    };
    let file: &File = temporary.as_file();
    microagent_rootfs::format(file, size, &options).map_err(|e| {
        let full = e.category() == "DiskFull";
        fail("format", &e, full)
    })?;
    file.sync_data().map_err(|e| io("flush", e))?;
    temporary.persist(path).map_err(|e| io("keep", e.error))?;
    durable::sync_dir(dir).map_err(|e| fail("keep", &e, false))
}

/// Removes what a controller that was killed was writing in a directory of one workspace: nobody else is at work there. Best
/// effort, as what stays goes with the workspace.
pub(super) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            let _ = durable::remove_file(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_made_once_and_what_a_killed_controller_left_beside_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("{TEMPORARY_PREFIX}x")), "half").unwrap();
        let path = dir.path().join("overlay.ext4");
        create(&path, 64 << 20, "overlay", "u-1").unwrap();
        let made = fs::metadata(&path).unwrap().modified().unwrap();
        create(&path, 128 << 20, "overlay", "u-1").unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.modified().unwrap()), (64 << 20, made));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
