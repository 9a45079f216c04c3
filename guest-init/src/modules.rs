//! Kernel modules: the initramfs carries `/modules/NN-name.ko`, numbered in the order in which they depend on each other.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::console;

/// What the root needs and the channel to the host does not. No other module depends on one of these.
const NOT_FOR_THE_CHANNEL: [&str; 2] = ["virtio_blk", "overlay"];

/// The modules of `directory`, in load order: those to be loaded before the host can speak to the machine, and those that
/// can be loaded while it already does.
pub(crate) fn find(directory: impl AsRef<Path>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    in_order(directory.as_ref()).into_iter().partition(|path| !NOT_FOR_THE_CHANNEL.contains(&name(path)))
}

/// Loads modules, and frees the memory that their files took. One that cannot be loaded is named on the console: whether it
/// is missed shows in the step that needs it.
pub(crate) fn load_all(modules: &[PathBuf]) {
    for path in modules {
        if let Err(e) = load(path) {
            console::say(&format!("cannot load the kernel module {}: {e}", path.display()));
        }
        let _ = fs::remove_file(path);
    }
}

/// `virtio_ring` of `/modules/00-virtio_ring.ko`.
fn name(path: &Path) -> &str {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.split_once('-').map_or(stem, |(_, name)| name)
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
    fn what_the_channel_to_the_host_needs_is_loaded_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00-virtio_ring.ko", "01-virtio_blk.ko", "02-overlay.ko", "03-vsock.ko"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let (channel, others) = find(dir.path());
        assert_eq!(channel.iter().map(|p| name(p)).collect::<Vec<_>>(), ["virtio_ring", "vsock"]);
        assert_eq!(others.iter().map(|p| name(p)).collect::<Vec<_>>(), ["virtio_blk", "overlay"]);
    }

    #[test]
    fn an_initramfs_without_modules_is_fine() {
        assert_eq!(find("/nonexistent"), (Vec::new(), Vec::new()));
    }
}
