//! Real machines for tests of guest-init: QEMU's emulation, the distribution's cloud kernel, an image of busybox.
#![allow(dead_code, reason = "each program uses its part")]

pub(crate) mod client;
pub(crate) mod image;
pub(crate) mod vm;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// What the tests need from the host, made once for each program.
pub(crate) struct Tools {
    pub(crate) qemu: PathBuf,
    pub(crate) vsock: PathBuf,
    pub(crate) busybox: PathBuf,
    pub(crate) kernel: PathBuf,
    /// guest-init and the kernel's modules.
    pub(crate) initramfs: PathBuf,
    pub(crate) init: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
}

/// In the order in which they depend on each other.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "overlay",
];

/// The tools; or, after a line that says what is missing, nothing.
pub(crate) fn tools(test: &str) -> Option<&'static Tools> {
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    match TOOLS.get_or_init(find) {
        Ok(tools) => Some(tools),
        Err(missing) => {
            println!("SKIP {test}: needs {missing}");
            None
        }
    }
}

fn find() -> Result<Tools, String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let qemu = program("qemu-system-x86_64", &[])?;
    let vsock = program("vhost-device-vsock", &[home.join(".cache/microagent-tools/bin")])?;
    let busybox = program("busybox", &[])?;
    for tool in ["mke2fs", "e2fsck", "dpkg-deb"] {
        program(tool, &["/sbin".into(), "/usr/sbin".into()])?;
    }
    if !cfg!(target_arch = "x86_64") {
        return Err("an x86_64 host (the machine type microvm)".into());
    }
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-init");
    std::fs::create_dir_all(&scratch).map_err(|e| e.to_string())?;
    let (kernel, modules) = kernel(&scratch)?;
    let init = scratch.join("microagent-guest-init");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.sh");
    let built = Command::new(script).arg(&init).stdout(Stdio::null()).status();
    assert!(built.is_ok_and(|s| s.success()), "build.sh failed");
    let initramfs = scratch.join("initramfs");
    image::initramfs(&initramfs, &init, &modules);
    Ok(Tools { qemu, vsock, busybox, kernel, initramfs, init, modules })
}

fn program(name: &str, more: &[PathBuf]) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain(more.iter().cloned()).map(|d| d.join(name)).find(|p| p.is_file());
    found.ok_or_else(|| format!("the program {name}"))
}

/// The distribution's cloud kernel, from the package in `$MICROAGENT_TEST_KERNEL_DEB_DIR` or from the package manager.
fn kernel(scratch: &Path) -> Result<(PathBuf, Vec<PathBuf>), String> {
    let given = std::env::var_os("MICROAGENT_TEST_KERNEL_DEB_DIR").map(PathBuf::from);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-package");
    let package = match given.or_else(|| Some(kept.clone()).filter(|d| package_in(d).is_some())) {
        Some(directory) => package_in(&directory),
        None => download(scratch, &kept).and_then(|()| package_in(&kept)),
    };
    let package = package.ok_or("the package linux-image-*-cloud-amd64 (apt-get download)")?;
    let tree = scratch.join("kernel");
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree).status();
    assert!(unpacked.is_ok_and(|s| s.success()), "dpkg-deb failed");
    let image = files(&tree.join("boot")).into_iter().find(|p| name(p).starts_with("vmlinuz-")).ok_or("a vmlinuz")?;
    let all = files_below(&tree.join("lib/modules"));
    let find = |module: &str| {
        let module = format!("{module}.ko");
        all.iter().find(|p| name(p) == module).cloned().ok_or(format!("the kernel module {module}, not compressed"))
    };
    Ok((image, MODULES.iter().map(|m| find(m)).collect::<Result<_, _>>()?))
}

fn package_in(directory: &Path) -> Option<PathBuf> {
    files(directory).into_iter().find(|p| name(p).starts_with("linux-image-") && name(p).ends_with(".deb"))
}

/// Downloads to `kept`, by a rename so that programs side by side do not see half a package.
fn download(scratch: &Path, kept: &Path) -> Option<()> {
    let depends = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output().ok()?;
    let text = String::from_utf8(depends.stdout).ok()?;
    let package = text.lines().find_map(|l| l.trim().strip_prefix("Depends: linux-image-"))?.to_owned();
    let directory = scratch.join("download");
    std::fs::create_dir_all(&directory).ok()?;
    let mut get = Command::new("apt-get");
    get.arg("download").arg(format!("linux-image-{package}")).current_dir(&directory);
    get.stdout(Stdio::null()).stderr(Stdio::null()).status().ok().filter(|s| s.success())?;
    // Another program may have been first.
    let _ = std::fs::rename(&directory, kept);
    Some(())
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (directories, mut found): (Vec<_>, Vec<_>) = files(directory).into_iter().partition(|p| p.is_dir());
    found.extend(directories.iter().flat_map(|d| files_below(d)));
    found
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
