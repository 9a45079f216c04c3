//! Kernel modules: the initramfs carries `/modules/NN-name.ko`, numbered in the order in which they depend on each other.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::console;

/// Loads every module of `directory` in the order of the file names, and frees the memory that its file took. A module
/// that cannot be loaded is named on the console: whether it is missed shows in the step that needs it.
pub(crate) fn load_all(directory: impl AsRef<Path>) {
    for path in in_order(directory.as_ref()) {
        if let Err(e) = load(&path) {
            console::say(&format!("cannot load the kernel module {}: {e}", path.display()));
        }
        let _ = fs::remove_file(&path);
    }
}

fn in_order(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut modules: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "ko")).collect();
    modules.sort();
    modules
}

fn load(path: &Path) -> io::Result<()> {
    match rustix::system::finit_module(File::open(path)?, c"", 0) {
        // Built into this kernel, or there twice: it is loaded, which is what was wanted.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_in_the_order_of_their_names_and_other_files_are_left() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10-vsock.ko", "02-virtio.ko", "README", "01-virtio_ring.ko"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> =
            in_order(dir.path()).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["01-virtio_ring.ko", "02-virtio.ko", "10-vsock.ko"]);
    }

    #[test]
    fn an_initramfs_without_modules_is_fine() {
        assert!(in_order(Path::new("/nonexistent")).is_empty());
    }
}
