use super::*;
use crate::{
    compression::Compression, deb::fixture::deb, image::fixture as images, modules::fixture::module, need::OPTIONS,
    package::fixture::FakeApt, verify::Presence,
};
use microagent_base::Silent;
use std::sync::atomic::AtomicBool;

const RELEASE: &str = "6.1.0-56-cloud-amd64";

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// A host with `/boot/vmlinuz-RELEASE`, its configuration and its modules.
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(host.modules().join("kernel/drivers")).unwrap();
        fs::create_dir(host.path("boot")).unwrap();
        let image = images::bzimage(RELEASE, Compression::Lz4Legacy, &images::vmlinux(RELEASE));
        fs::write(host.kernel(), image).unwrap();
        fs::write(host.path(&format!("boot/config-{RELEASE}")), config("EXT4_FS")).unwrap();
        fs::write(host.modules().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
        for (name, depends) in modules() {
            let file = host.modules().join(format!("kernel/drivers/{name}.ko"));
            fs::write(file, module(RELEASE, depends, "")).unwrap();
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn kernel(&self) -> PathBuf {
        self.path(&format!("boot/vmlinuz-{RELEASE}"))
    }

    fn modules(&self) -> PathBuf {
        self.path("lib/modules")
    }

    fn source(&self) -> KernelSource {
        KernelSource::Path { kernel: self.kernel(), modules: Some(self.modules()) }
    }

    fn store(&self) -> KernelStore {
        KernelStore::open(&self.path("store")).unwrap()
    }

    fn guest_init(&self) -> PathBuf {
        let path = self.path("guest-init");
        fs::write(&path, crate::elf::fixture::elf(62, ("x", b"init"), false)).unwrap();
        path
    }
}

fn config(also: &str) -> String {
    let options = OPTIONS.iter().map(|needed| needed.option).filter(|option| *option != "VIRTIO_MMIO").chain([also]);
    options.map(|option| format!("CONFIG_{option}=y\n")).collect()
}

fn modules() -> Vec<(&'static str, &'static str)> {
    vec![
        ("virtio_ring", ""),
        ("virtio", "virtio_ring"),
        ("virtio_mmio", "virtio,virtio_ring"),
        ("virtio_blk", "virtio,virtio_ring"),
        ("overlay", ""),
        ("vsock", ""),
        ("vmw_vsock_virtio_transport_common", "vsock"),
        ("vmw_vsock_virtio_transport", "virtio,vmw_vsock_virtio_transport_common,virtio_ring,vsock"),
        ("unused", ""),
    ]
}

fn package() -> KernelSource {
    KernelSource::Package { name: None, version: None }
}

fn debian_package() -> Vec<u8> {
    let image = images::bzimage(RELEASE, Compression::Xz, &images::vmlinux(RELEASE));
    let config = config("EXT4_FS");
    let mut files = vec![
        (format!("./boot/vmlinuz-{RELEASE}"), image),
        (format!("./boot/config-{RELEASE}"), config.into_bytes()),
        (format!("./usr/lib/modules/{RELEASE}/modules.builtin"), b"kernel/fs/ext4/ext4.ko\n".to_vec()),
        ("./usr/share/doc/x-1".to_owned(), b"nothing of ours".to_vec()),
    ];
    for (name, depends) in modules() {
        files.push((format!("./usr/lib/modules/{RELEASE}/kernel/{name}.ko"), module(RELEASE, depends, "")));
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    deb(Some(Compression::Xz), &files)
}

#[test]
fn a_kernel_of_the_host_is_installed_once_with_the_modules_that_guests_need_and_no_others() {
    let host = Host::new();
    let store = host.store();
    assert!(store.find(&host.source(), None).unwrap().is_none());
    let kernel = store.install(&host.source(), Some("6.1"), &Silent).unwrap();
    assert_eq!(kernel.version, RELEASE);
    assert!(kernel.pvh && kernel.source.starts_with("path:"));
    assert_eq!(fs::read(kernel.vmlinux.as_ref().unwrap()).unwrap(), images::vmlinux(RELEASE));
    assert_eq!(fs::read(&kernel.image).unwrap(), fs::read(host.kernel()).unwrap());
    let names: Vec<&str> = kernel.modules.iter().map(|module| module.name.as_str()).collect();
    let expected = ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "overlay", "vsock"];
    assert_eq!(names[..6], expected);
    assert!(!names.contains(&"unused"));
    assert_eq!((names.last(), kernel.modules.last().unwrap().builtin), (Some(&"ext4"), true));

    let again = store.install(&host.source(), None, &Silent).unwrap();
    assert_eq!((again.id, again.installed_at), (kernel.id, kernel.installed_at));
    assert_eq!(store.find(&KernelSource::Default, None).unwrap().unwrap().id, kernel.id);
    assert!(store.find(&KernelSource::Default, Some("6.12")).unwrap().is_none());
    assert_eq!(names_in(&host, "store/tmp"), 0);
}

#[test]
fn a_kernel_that_only_booting_tells_about_is_nobodys_default() {
    let host = Host::new();
    let store = host.store();
    fs::remove_file(host.path(&format!("boot/config-{RELEASE}"))).unwrap();
    let bare = KernelSource::Path { kernel: host.kernel(), modules: None };
    let kernel = store.install(&bare, None, &Silent).unwrap();
    assert_eq!(kernel.presence(Need::Vsock), Presence::Unknown);
    assert_eq!(store.find(&bare, None).unwrap().unwrap().id, kernel.id);
    assert!(store.find(&KernelSource::Default, None).unwrap().is_none());
}

#[test]
fn a_kernel_that_one_workspace_names_does_not_take_the_place_of_the_packages() {
    let host = Host::new();
    let mut store = host.store();
    store.programs = Some(FakeApt::new(&host.path("apt"), RELEASE, &debian_package()).programs());
    let packaged = store.install(&package(), None, &Silent).unwrap();
    let named = store.install(&host.source(), None, &Silent).unwrap();
    assert_ne!(packaged.id, named.id);
    assert_eq!(store.find(&KernelSource::Default, None).unwrap().unwrap().id, packaged.id);
}

fn names_in(host: &Host, dir: &str) -> usize {
    fs::read_dir(host.path(dir)).unwrap().count()
}

#[test]
fn a_replaced_kernel_file_counts_as_not_installed() {
    let host = Host::new();
    let store = host.store();
    let first = store.install(&host.source(), None, &Silent).unwrap();
    let image = images::bzimage(RELEASE, Compression::Gzip, &images::vmlinux(RELEASE));
    fs::write(host.kernel(), image).unwrap();
    assert!(store.find(&host.source(), None).unwrap().is_none());
    let second = store.install(&host.source(), None, &Silent).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn another_version_than_the_pinned_one_is_refused_and_nothing_is_left() {
    let host = Host::new();
    let store = host.store();
    let error = store.install(&host.source(), Some("5.10"), &Silent).unwrap_err();
    assert_eq!(error.category(), "WrongVersion");
    assert!(store.list().unwrap().is_empty());
    assert_eq!((names_in(&host, "store/tmp"), names_in(&host, "store/sources")), (0, 0));
}

#[test]
fn a_kernel_without_a_needed_driver_is_refused_with_what_would_fail() {
    let host = Host::new();
    fs::remove_file(host.modules().join("kernel/drivers/overlay.ko")).unwrap();
    let error = host.store().install(&host.source(), None, &Silent).unwrap_err();
    assert_eq!(error.category(), "MissingDriver");
    assert!(error.to_string().contains("overlay (CONFIG_OVERLAY_FS), without which the guest has no writable root"));
    assert!(host.store().list().unwrap().is_empty());
}

#[test]
fn a_bare_elf_kernel_is_taken_with_what_it_has_unknown() {
    let host = Host::new();
    let path = host.path("vmlinux");
    fs::write(&path, images::vmlinux("6.12.0-lean")).unwrap();
    let source = KernelSource::Path { kernel: path, modules: None };
    let kernel = host.store().install(&source, None, &Silent).unwrap();
    assert_eq!(kernel.vmlinux.as_ref(), Some(&kernel.image));
    assert_eq!(kernel.presence(Need::Overlay), Presence::Unknown);
    let made = host.store().initramfs(&kernel, &host.guest_init(), Need::MMIO).unwrap();
    assert!(made.modules.is_empty());
}

#[test]
fn damage_is_found_by_every_look_and_repaired_by_installing() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.install(&host.source(), None, &Silent).unwrap();
    assert!(store.check(&kernel).unwrap().require(&kernel, Need::MMIO).is_ok());
    let vmlinux = kernel.vmlinux.clone().unwrap();
    let mut bytes = fs::read(&vmlinux).unwrap();
    bytes[70] ^= 1;
    fs::write(&vmlinux, bytes).unwrap();
    let error = store.check(&kernel).unwrap().require(&kernel, Need::MMIO).unwrap_err();
    assert_eq!(error.category(), "KernelCorrupted");
    assert!(error.to_string().contains("vmlinux"), "{error}");
    assert!(store.find(&KernelSource::Default, None).unwrap().is_none());

    store.install(&host.source(), None, &Silent).unwrap();
    assert!(store.verify(&kernel).unwrap().corrupted.is_empty());
    fs::remove_file(kernel.dir.join("config")).unwrap();
    fs::remove_file(kernel.modules[0].path.clone().unwrap()).unwrap();
    assert_eq!(store.verify(&kernel).unwrap().corrupted.len(), 2);
}

#[test]
fn a_damaged_record_hides_its_kernel_and_is_repaired_by_installing() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.install(&host.source(), None, &Silent).unwrap();
    let record = kernel.dir.join(RECORD);
    for damage in ["{", &fs::read_to_string(&record).unwrap().replace("\"image\"", "\"../image\"")] {
        fs::write(&record, damage).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert_eq!(store.get(kernel.id).unwrap_err().category(), "KernelCorrupted");
        assert_eq!(store.install(&host.source(), None, &Silent).unwrap().id, kernel.id);
    }
}

#[test]
fn an_initramfs_is_made_once_of_what_is_needed_and_made_anew_when_damaged() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.install(&host.source(), None, &Silent).unwrap();
    let init = host.guest_init();
    let made = store.initramfs(&kernel, &init, Need::MMIO).unwrap();
    let expected = [
        "virtio_ring",
        "virtio",
        "virtio_mmio",
        "virtio_blk",
        "overlay",
        "vsock",
        "vmw_vsock_virtio_transport_common",
        "vmw_vsock_virtio_transport",
    ];
    assert_eq!(made.modules, expected);
    let inode = |path: &Path| Stamp::of(path).unwrap();
    let first = inode(&made.path);
    let mut shuffled = Need::MMIO.to_vec();
    shuffled.reverse();
    assert_eq!(store.initramfs(&kernel, &init, &shuffled).unwrap(), made);
    assert_eq!(inode(&made.path), first);

    fs::write(&made.path, "torn").unwrap();
    assert_eq!(store.initramfs(&kernel, &init, Need::MMIO).unwrap(), made);
    assert_eq!(Digest::of(&fs::read(&made.path).unwrap()), made.digest);

    let error = store.initramfs(&kernel, &init, Need::PCI).unwrap_err();
    assert!(error.to_string().contains("virtio_pci"), "{error}");
}

#[test]
fn removing_a_kernel_removes_all_that_was_made_of_it_and_is_repeatable() {
    let host = Host::new();
    let store = host.store();
    let kernel = store.install(&host.source(), None, &Silent).unwrap();
    store.initramfs(&kernel, &host.guest_init(), Need::MMIO).unwrap();
    store.remove(kernel.id).unwrap();
    store.remove(kernel.id).unwrap();
    for dir in ["kernels", "sources", "initramfs", "tmp"] {
        assert_eq!(names_in(&host, &format!("store/{dir}")), 0, "{dir}");
    }
}

#[test]
fn what_an_interrupted_installation_left_is_swept_and_never_listed() {
    let host = Host::new();
    let store = host.store();
    fs::create_dir_all(host.path("store/tmp/.tmpX/kernel")).unwrap();
    fs::create_dir_all(host.path("store/kernels/.tmp-half")).unwrap();
    assert!(store.list().unwrap().is_empty());
    store.install(&host.source(), None, &Silent).unwrap();
    assert_eq!(names_in(&host, "store/tmp"), 0);
}

#[test]
fn a_cancelled_installation_changes_nothing() {
    let host = Host::new();
    let store = host.store();
    let result = store.install(&host.source(), None, &AtomicBool::new(true));
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn default_installs_the_distribution_kernel_which_package_then_finds_with_no_network() {
    let host = Host::new();
    let mut store = host.store();
    let apt = FakeApt::new(&host.path("apt"), RELEASE, &debian_package());
    store.programs = Some(apt.programs());
    let kernel = store.install(&KernelSource::Default, None, &Silent).unwrap();
    assert_eq!(kernel.source, "package");
    assert_eq!(kernel.package.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64=6.1.192-2"));
    assert_eq!(kernel.packages[0].digest, Digest::of(&debian_package()));
    apt.break_all();
    assert_eq!(store.install(&package(), Some("6.1.192"), &Silent).unwrap().id, kernel.id);
    assert!(store.find(&package(), Some("6.2")).unwrap().is_none());
    assert_eq!(store.install(&package(), Some("6.2"), &Silent).unwrap_err().category(), "PackageManagerFailed");
}

#[test]
fn the_same_kernel_by_two_ways_is_kept_once() {
    let host = Host::new();
    let mut store = host.store();
    store.programs = Some(FakeApt::new(&host.path("apt"), RELEASE, &debian_package()).programs());
    let first = store.install(&package(), None, &Silent).unwrap();
    fs::write(host.kernel(), images::bzimage(RELEASE, Compression::Xz, &images::vmlinux(RELEASE))).unwrap();
    let second = store.install(&host.source(), None, &Silent).unwrap();
    assert_eq!(first.id, second.id);
    assert_eq!(store.list().unwrap().len(), 1);
}
