//! The kernel of a spec: where it is to come from, in which form it boots, and what it must bring.

use std::path::{Path, PathBuf};

use microagent_crds::{Acceleration, KernelSource as SpecKernelSource, WorkspaceSpec};
use microagent_kernel::{Kernel, KernelSource, Need, Presence, Recipe};
use microagent_supervisor_protocol as supervisor;

/// The source, and the version that is pinned.
pub(super) fn kernel_source(spec: &WorkspaceSpec) -> (KernelSource, Option<String>) {
    let kernel = &spec.kernel;
    let source = match (kernel.source, &kernel.path) {
        (SpecKernelSource::Path, Some(path)) => {
            KernelSource::Path { kernel: PathBuf::from(path), modules: kernel.modules.as_ref().map(PathBuf::from) }
        }
        (SpecKernelSource::Package, _) => KernelSource::Package { name: None, version: None },
        (SpecKernelSource::Build, _) => KernelSource::Build(Recipe::default()),
        // `url` and `oci` are refused when the manifest is read.
        _ => KernelSource::Default,
    };
    (source, kernel.version.clone())
}

/// The files that decide which kernel of the store is the one of this source, and whether it is whole.
pub(super) fn kernel_files(store: &Path, source: &KernelSource, kernel: &Kernel) -> Vec<PathBuf> {
    let mut files = vec![store.join("kernels"), store.join("sources"), kernel.image.clone()];
    files.extend(kernel.vmlinux.clone());
    files.extend(kernel.modules.iter().filter_map(|module| module.path.clone()));
    if let Some(dir) = kernel.image.parent() {
        files.extend([dir.join("kernel.json"), dir.join("config"), dir.join("modules")]);
    }
    if let KernelSource::Path { kernel, modules } = source {
        files.push(kernel.clone());
        // A module that is replaced alone shows when the fact is a minute old; whoever runs depmod shows it at once.
        files.extend(modules.iter().flat_map(|dir| [dir.clone(), dir.join("modules.dep")]));
    }
    files
}

/// Why Firecracker cannot boot the kernel at all.
pub(super) fn not_by_firecracker(kernel: &Kernel) -> Option<&'static str> {
    if cfg!(target_arch = "x86_64") && kernel.vmlinux.is_none() {
        Some("it has no uncompressed `vmlinux`")
    } else if needs(kernel) == Need::PCI {
        Some("it has no virtio over MMIO, which all devices of Firecracker are on")
    } else {
        None
    }
}

/// The form of the kernel that the backend boots fastest, where the kernel has it.
#[must_use]
pub fn bootable(kernel: &Kernel, capabilities: &supervisor::Capabilities, args: &[String]) -> supervisor::Kernel {
    use supervisor::KernelFormat;
    // Firecracker enters a kernel without a PVH entry as 64-bit code.
    let entered = kernel.pvh || capabilities.backend == "Firecracker";
    let elf = kernel.vmlinux.as_ref().filter(|_| entered && capabilities.kernel_format == Some(KernelFormat::Elf));
    let (path, format) = match elf {
        Some(vmlinux) => (vmlinux.clone(), KernelFormat::Elf),
        None if cfg!(target_arch = "aarch64") => (kernel.image.clone(), KernelFormat::Image),
        None => (kernel.image.clone(), KernelFormat::BzImage),
    };
    supervisor::Kernel { path, format, args: args.to_vec() }
}

/// What the guest's kernel is given: the devices over MMIO, as QEMU's `microvm` and Firecracker have them, where the kernel can; else
/// those over PCI.
#[must_use]
pub fn needs(kernel: &Kernel) -> &'static [Need] {
    if kernel.presence(Need::VirtioMmio) == Presence::Missing { Need::PCI } else { Need::MMIO }
}

/// What QEMU must be told: a kernel that cannot do MMIO needs a machine with PCI, and QEMU falls back to translation unless it is told
/// not to.
#[must_use]
pub fn qemu_options(kernel: &Kernel, backend: &str, acceleration: Acceleration) -> Option<supervisor::QemuOptions> {
    let machine = (needs(kernel) == Need::PCI).then_some(supervisor::QemuMachine::Q35);
    let accelerator = (acceleration == Acceleration::Required).then_some(supervisor::Accelerator::Kvm);
    let options = supervisor::QemuOptions { machine, accelerator };
    (backend == "Qemu" && options != supervisor::QemuOptions::default()).then_some(options)
}
