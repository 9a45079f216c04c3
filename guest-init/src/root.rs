//! The root file system: the image's read-only baseline with the writable disk laid over it, or the baseline alone.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use microagent_guest_protocol as protocol;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount_move, mount_remount, unmount},
    process::{chdir, chroot},
};

use crate::{disks, error::Error, mounts, setup::Record};

/// Where the parts are while the initramfs is the root. They stay there, hidden below the new root, out of the workload's
/// sight.
const BASELINE: &str = "/baseline";
const OVERLAY: &str = "/overlay";
const NEW: &str = "/newroot";

/// The directories of the writable disk: the upper layer, overlayfs's own, and ours.
const UPPER: &str = "/overlay/upper";
const WORK: &str = "/overlay/work";
const STATE: &str = "/overlay/state";

/// What must not change in the upper layer, so that it can become an OCI layer: no redirects and no data-less files. (They
/// are also what a kernel that is built with other defaults would write.)
const OVERLAY_OPTIONS: &str =
    "lowerdir=/baseline,upperdir=/overlay/upper,workdir=/overlay/work,redirect_dir=off,metacopy=off,index=off";

/// What was mounted from disks, to be made clean again at the end.
#[derive(Default)]
pub(crate) struct Disks {
    /// The writable disk, which has no path any more.
    overlay: Option<OwnedFd>,
    /// Further disks, and what lies over them, in the order in which they were mounted.
    mounts: Vec<PathBuf>,
}

impl Disks {
    /// Notes what was mounted from no disk and may lie on one, which cannot be made clean while it does.
    pub(crate) fn lies_over(&mut self, path: PathBuf) {
        self.mounts.push(path);
    }
}

/// Makes the root and enters it. Returns also where the record of the setup is.
pub(crate) fn enter(root: &protocol::Root) -> Result<(Disks, Record), Error> {
    for directory in [BASELINE, OVERLAY, NEW] {
        fs::create_dir_all(directory).map_err(|e| failed("a directory of the initramfs", directory, e))?;
    }
    let mut disks = Disks::default();
    let state = match root.overlay {
        None => {
            mount_disk(root.baseline, NEW, false)?;
            None
        }
        Some(overlay) => {
            mount_disk(root.baseline, BASELINE, true)?;
            mount_disk(overlay, OVERLAY, false)?;
            let state = prepare_overlay().map_err(|e| failed("the directories of the writable disk", OVERLAY, e))?;
            mounts::mount_one("overlay", "overlay", NEW, MountFlags::empty(), OVERLAY_OPTIONS)
                .map_err(|e| failed("the overlay of the writable disk and the baseline", NEW, e))?;
            disks.overlay = Some(File::open(OVERLAY).map_err(|e| failed("the writable disk", OVERLAY, e))?.into());
            Some(state)
        }
    };
    switch().map_err(|e| failed("the new root", "/", e))?;
    let record = match state {
        Some(directory) => Record::in_directory(directory),
        None => Record::on_root().map_err(|e| failed("the root", "/", e))?,
    };
    Ok((disks, record))
}

/// Mounts the further disks, outer ones first.
pub(crate) fn mount_further(disks: &mut Disks, further: &[protocol::Mount]) -> Result<(), Error> {
    for mount in in_order(further) {
        fs::create_dir_all(&mount.path).map_err(|e| failed("the directory of a disk", &mount.path, e))?;
        mount_disk(mount.disk, &mount.path, mount.read_only)?;
        disks.mounts.push(PathBuf::from(&mount.path));
    }
    Ok(())
}

/// Writes everything out and takes the right to write away, so that no disk has a journal to replay. Nothing runs any more.
pub(crate) fn make_clean(disks: &Disks) {
    rustix::fs::sync();
    let read_only = |path: &Path| {
        let _ = mount_remount(path, MountFlags::RDONLY, c"");
    };
    for path in disks.mounts.iter().rev() {
        if unmount(path, UnmountFlags::NOFOLLOW).is_err() {
            read_only(path);
        }
    }
    read_only(Path::new("/"));
    if let Some(overlay) = &disks.overlay {
        read_only(Path::new(&format!("/proc/self/fd/{}", overlay.as_raw_fd())));
    }
    rustix::fs::sync();
}

fn in_order(mounts: &[protocol::Mount]) -> Vec<&protocol::Mount> {
    let mut mounts: Vec<_> = mounts.iter().collect();
    mounts.sort_by_key(|m| Path::new(&m.path).components().count());
    mounts
}

fn mount_disk(disk: u32, target: &str, read_only: bool) -> Result<(), Error> {
    let device = disks::wait_for(disk)?;
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mounts::mount_one(&device.to_string_lossy(), "ext4", target, flags, "")
        .map_err(|e| failed(&format!("disk {disk} ({})", device.display()), target, e))
}

fn prepare_overlay() -> io::Result<OwnedFd> {
    // The root of the overlay shows the upper directory's own mode and owner: they must be those of the image's root.
    if !Path::new(UPPER).exists() {
        let baseline = fs::metadata(BASELINE)?;
        let new = Path::new("/overlay/upper.new");
        let _ = fs::remove_dir(new);
        fs::create_dir(new)?;
        chown(new, Some(baseline.uid()), Some(baseline.gid()))?;
        fs::set_permissions(new, Permissions::from_mode(baseline.mode() & 0o7777))?;
        fs::rename(new, UPPER)?;
    }
    for directory in [WORK, STATE] {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    Ok(File::open(STATE)?.into())
}

/// Puts the new root over the initramfs and goes into it, for good and for all children.
fn switch() -> io::Result<()> {
    let _ = unmount(mounts::EARLY, UnmountFlags::DETACH);
    chdir(NEW)?;
    mount_move(NEW, "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn failed(what: &str, target: impl Into<PathBuf>, source: io::Error) -> Error {
    let hint = match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NODEV) => ": the kernel lacks this file system: see that the initramfs has its module",
        Some(rustix::io::Errno::INVAL) => ": not an ext4 file system that this kernel knows, or options that it lacks",
        Some(rustix::io::Errno::NOSPC) => ": the disk is full",
        _ => "",
    };
    Error::MountFailed { what: what.to_owned(), target: target.into(), hint, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_inside_another_is_mounted_after_it() {
        let mount = |disk, path: &str| protocol::Mount { disk, path: path.into(), read_only: false };
        let mounts = [mount(2, "/data/cache/deep"), mount(3, "/data"), mount(4, "/data/cache"), mount(5, "/other")];
        assert_eq!(in_order(&mounts).iter().map(|m| m.disk).collect::<Vec<_>>(), [3, 5, 4, 2]);
    }
}
