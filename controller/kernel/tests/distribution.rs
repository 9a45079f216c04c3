//! The distribution's real kernel, through the host's real package manager.

// Helpers of tests are not tests to clippy.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{env, fs, path::PathBuf, process::Command};

use microagent_base::{Progress, Silent, progress::Step};
use microagent_kernel::{Arch, Error, Kernel, KernelSource, KernelStore, Need, Presence};

/// A store that outlives the run, so that the package is downloaded once; several test programs may share it.
fn store() -> KernelStore {
    let cache = env::var_os("MICROAGENT_TEST_CACHE").map(PathBuf::from).or_else(|| {
        let home = PathBuf::from(env::var_os("HOME")?);
        Some(home.join(".cache/microagent-test"))
    });
    KernelStore::open(&cache.unwrap_or_else(env::temp_dir).join("kernels")).unwrap()
}

/// Shows what a person would see, on the standard error of the test.
struct Shown;

impl Progress for Shown {
    fn step(&self, step: Step) {
        if step.total.is_some() {
            eprintln!("{} {}", step.what, step.done);
        }
    }
}

/// The installed kernel, or the line that says why the test is skipped.
fn installed(test: &str, store: &KernelStore) -> Option<Kernel> {
    match store.install(&KernelSource::Package { name: None, version: None }, None, &Shown) {
        Ok(kernel) => Some(kernel),
        Err(error @ (Error::PackageManagerMissing { .. } | Error::PackageManagerFailed { .. })) => {
            println!("SKIP {test}: needs a working apt-get: {error}");
            None
        }
        Err(error) => panic!("{}: {error}", error.category()),
    }
}

#[test]
fn the_distribution_kernel_is_installed_whole_and_gives_all_that_a_workspace_needs() {
    let store = store();
    let test = "the_distribution_kernel_is_installed_whole_and_gives_all_that_a_workspace_needs";
    let Some(kernel) = installed(test, &store) else { return };
    let found = store.verify(&kernel).unwrap();
    found.require(&kernel, Need::ALL).unwrap();
    assert!(found.drivers.iter().all(|driver| driver.presence != Presence::Unknown));
    assert!(kernel.version.ends_with(Arch::host().unwrap().debian()) || kernel.version.ends_with("generic"));
    assert!(kernel.package.as_ref().is_some_and(|package| package.contains(&kernel.version)), "{:?}", kernel.package);
    assert!(kernel.config().unwrap().unwrap().is_enabled("VIRTIO_BLK"));
    if kernel.arch == Arch::X86_64 {
        assert!(kernel.pvh, "the ELF kernel has no PVH entry");
        let elf = fs::read(kernel.vmlinux.as_ref().unwrap()).unwrap();
        assert!(elf.starts_with(b"\x7fELF"));
    }
    for source in [KernelSource::Default, KernelSource::Package { name: None, version: None }] {
        assert_eq!(store.find(&source, Some(&kernel.version)).unwrap().unwrap().id, kernel.id);
    }
    eprintln!("{} is {} in {} bytes", kernel.id, kernel.version, kernel.size);
}

#[test]
fn modules_of_the_distribution_kernel_stand_in_the_initramfs_behind_what_they_depend_on() {
    let store = store();
    let test = "modules_of_the_distribution_kernel_stand_in_the_initramfs_behind_what_they_depend_on";
    let Some(kernel) = installed(test, &store) else { return };
    let dir = tempfile::tempdir().unwrap();
    let init = dir.path().join("init");
    // Any static program of the architecture will do; a workspace has guest-init here.
    let busybox = PathBuf::from("/bin/busybox");
    if !busybox.is_file() {
        println!("SKIP {test}: needs /bin/busybox (busybox-static)");
        return;
    }
    fs::copy(&busybox, &init).unwrap();
    let made = match store.initramfs(&kernel, &init, Need::MMIO) {
        Err(error) if error.to_string().contains("dynamically") => {
            println!("SKIP {test}: needs busybox-static");
            return;
        }
        other => other.unwrap(),
    };
    let position = |name: &str| made.modules.iter().position(|module| module == name);
    for (before, after) in [
        ("virtio_ring", "virtio"),
        ("virtio", "virtio_mmio"),
        ("virtio_mmio", "virtio_blk"),
        ("vsock", "vmw_vsock_virtio_transport_common"),
        ("vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
    ] {
        // A kernel may have either built in.
        if let (Some(before), Some(after)) = (position(before), position(after)) {
            assert!(before < after, "{:?}", made.modules);
        }
    }
    assert!(!made.modules.iter().any(|module| module == "virtio_net"));
    let bytes = fs::read(&made.path).unwrap();
    eprintln!("initramfs: {:?}, {} bytes, zstd -19 {}", made.modules, bytes.len(), {
        zstd::encode_all(bytes.as_slice(), 19).unwrap().len()
    });

    // What another implementation reads is what was meant.
    let listing = Command::new(&busybox).args(["cpio", "-t", "-F"]).arg(&made.path).output().unwrap();
    let names = String::from_utf8_lossy(&listing.stdout).into_owned();
    for name in ["init", "dev/console", "newroot", "proc", "sys", "run"] {
        assert!(names.lines().any(|line| line == name), "{name} is not in {names}");
    }
}

#[test]
fn a_package_that_no_source_has_is_reported_as_not_found() {
    let store = store();
    let source = KernelSource::Package { name: Some("linux-image-of-nobody".to_owned()), version: None };
    match store.install(&source, None, &Silent) {
        Err(Error::KernelNotFound { .. }) => {}
        Err(error @ (Error::PackageManagerMissing { .. } | Error::PackageManagerFailed { .. })) => {
            println!("SKIP a_package_that_no_source_has_is_reported_as_not_found: needs a working apt-get: {error}");
        }
        other => panic!("{other:?}"),
    }
}
