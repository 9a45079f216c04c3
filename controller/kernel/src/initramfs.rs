//! The initramfs: guest-init and the modules that it loads, as `Documentation/driver-api/early-userspace/buffer-format.rst`
//! of the kernel lays it down ("newc" cpio).
//!
//! It is not compressed. Measured with Debian 6.1's eight modules on QEMU `microvm` under TCG, to the power-off by an init
//! that loads them, medians of 7: 1.68 s as it is (1.26 MB), 1.88 s after zstd -19 (0.36 MB). The guest decompresses on every
//! boot what the host copies in no time.

use std::path::{Path, PathBuf};

use microagent_base::{Digest, durable};
use serde::{Deserialize, Serialize};

use crate::{
    arch::Arch,
    elf::Elf,
    error::{Error, Result},
    image::read_bounded,
    kernel::Kernel,
    modules::load_order,
    need::Need,
    verify::{Verification, difference, require},
};

/// guest-init is to be at most 1.5 MiB; a debug build of it has some tens.
const MAX_GUEST_INIT: u64 = 256 << 20;
/// Changes whenever the bytes that [`build`] makes of the same input change.
const LAYOUT: &str = "microagent initramfs 1";

/// An initramfs in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Initramfs {
    /// The file.
    pub path: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The modules in it, in the order in which guest-init loads them.
    pub modules: Vec<String>,
}

/// Gives the initramfs of a kernel for `needs` below `dir`, making it when there is none.
pub(crate) fn get(dir: &Path, kernel: &Kernel, guest_init: &Path, needs: &[Need]) -> Result<Initramfs> {
    require(kernel, Verification::of_contents(kernel)?.missing(needs))?;
    let init = read_bounded(guest_init, MAX_GUEST_INIT)?;
    check_guest_init(&init, guest_init, kernel.arch)?;

    let modules = chosen(kernel, needs);
    let mut key = format!("{LAYOUT}\n{}\n", Digest::of(&init));
    for module in &modules {
        key.push_str(&format!("{} {}\n", module.name, module.file.digest));
    }
    // The kernel's id comes first, so that its removal finds what was made of it.
    let name = format!("{}-{}", kernel.id.hex(), Digest::of(key.as_bytes()).hex());
    let (path, record) = (dir.join(format!("{name}.cpio")), dir.join(format!("{name}.json")));
    if let Ok(Some(known)) = durable::read_json::<Initramfs>(&record)
        && known.path == path
        && difference(&path, &crate::kernel::FileRecord { name, digest: known.digest, size: known.size }).is_none()
    {
        return Ok(known);
    }

    let mut files = Vec::new();
    for module in &modules {
        let path = kernel.dir.join(&module.file.name);
        let damaged = |reason| Error::KernelCorrupted { version: kernel.version.clone(), path: path.clone(), reason };
        let bytes = read_bounded(&path, module.file.size).map_err(|e| damaged(e.to_string()))?;
        if Digest::of(&bytes) != module.file.digest {
            return Err(damaged("its content is not what was installed".to_owned()));
        }
        files.push((module.name.as_str(), bytes));
    }
    let bytes = build(&init, &files);
    durable::write(&path, &bytes)?;
    let made = Initramfs {
        path,
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        modules: files.into_iter().map(|(name, _)| name.to_owned()).collect(),
    };
    durable::write_json(&record, &made)?;
    Ok(made)
}

/// What cannot be the guest's first program is refused here, where it can be named, and not in a kernel panic.
fn check_guest_init(bytes: &[u8], path: &Path, wanted: Arch) -> Result<()> {
    let refuse = |why: &str| Error::unsupported(path, format!("as guest-init: {why}"));
    let elf = Elf::parse(bytes).map_err(refuse)?;
    if elf.arch() != Some(wanted) {
        let found = format!("ELF machine {}", elf.machine());
        return Err(Error::WrongArchitecture { path: path.to_owned(), found, wanted });
    }
    if elf.has_interpreter() {
        return Err(refuse("it is linked dynamically, and the initramfs has no libraries; build it static"));
    }
    Ok(())
}

/// The module records for the needs, in load order. That order is the one of [`Need::ALL`], whatever the caller's, so
/// that one set of needs is one initramfs.
fn chosen<'a>(kernel: &'a Kernel, needs: &[Need]) -> Vec<&'a crate::kernel::ModuleRecord> {
    let records = &kernel.record.content.modules;
    let find = |name: &str| records.iter().find(|record| record.name == name);
    let roots: Vec<String> =
        Need::ALL.iter().filter(|need| needs.contains(need)).map(|need| need.driver().module.to_owned()).collect();
    let order = load_order(&roots, |name| find(name).map(|record| record.depends.as_slice()));
    order.iter().filter_map(|name| find(name)).collect()
}

/// The archive: the same input gives the same bytes.
pub(crate) fn build(init: &[u8], modules: &[(&str, Vec<u8>)]) -> Vec<u8> {
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const FILE: u32 = 0o100_644;
    const CONSOLE: u32 = 0o020_600;
    let mut cpio = Cpio::default();
    for dir in ["dev", "proc", "sys", "run", "newroot", "modules"] {
        cpio.add(dir, DIRECTORY, (0, 0), &[]);
    }
    // The kernel opens it for guest-init's standard streams before anything is mounted.
    cpio.add("dev/console", CONSOLE, (5, 1), &[]);
    cpio.add("init", PROGRAM, (0, 0), init);
    for (index, (name, bytes)) in modules.iter().enumerate() {
        cpio.add(&format!("modules/{index:02}-{name}.ko"), FILE, (0, 0), bytes);
    }
    cpio.finish()
}

#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        self.entry(name, self.inode, mode, device, content);
    }

    fn entry(&mut self, name: &str, inode: u32, mode: u32, device: (u32, u32), content: &[u8]) {
        // Thirteen fields: inode, mode, uid, gid, links, time, size, the file system's device, the node's device, the
        // name's size with its zero, and a checksum that this format leaves zero.
        let fields =
            [inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Names and contents end at multiples of four bytes from the start.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes, and contents of an archive.
    fn list(mut cpio: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            assert_eq!(&cpio[..6], b"070701");
            let field = |n: usize| {
                u32::from_str_radix(std::str::from_utf8(&cpio[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap() as usize
            };
            let (size, name_size) = (field(6), field(11));
            let name = String::from_utf8(cpio[110..110 + name_size - 1].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return out;
            }
            let start = (110 + name_size).next_multiple_of(4);
            out.push((name, field(1) as u32, cpio[start..start + size].to_vec()));
            cpio = &cpio[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn the_archive_has_what_the_kernel_and_guest_init_expect_in_load_order() {
        let bytes = build(b"init!", &[("virtio_ring", b"one".to_vec()), ("virtio", b"two22".to_vec())]);
        let entries = list(&bytes);
        let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        let expected = ["dev", "proc", "sys", "run", "newroot", "modules", "dev/console", "init"];
        assert_eq!(names[..8], expected);
        assert_eq!(names[8..], ["modules/00-virtio_ring.ko", "modules/01-virtio.ko"]);
        assert_eq!((entries[7].1, entries[7].2.as_slice()), (0o100_755, &b"init!"[..]));
        assert_eq!(entries[9].2, b"two22");
        assert_eq!(bytes, build(b"init!", &[("virtio_ring", b"one".to_vec()), ("virtio", b"two22".to_vec())]));
    }

    #[test]
    fn a_guest_init_that_cannot_start_is_refused_with_the_reason() {
        let arm = crate::elf::fixture::elf(183, ("x", b""), false);
        let path = Path::new("guest-init");
        assert_eq!(check_guest_init(&arm, path, Arch::X86_64).unwrap_err().category(), "WrongArchitecture");
        let mut dynamic = crate::elf::fixture::elf(62, ("x", b""), true);
        assert!(check_guest_init(&dynamic, path, Arch::X86_64).is_ok());
        dynamic[64] = 3;
        let message = check_guest_init(&dynamic, path, Arch::X86_64).unwrap_err().to_string();
        assert!(message.contains("linked dynamically"), "{message}");
        assert!(check_guest_init(b"#!/bin/sh", path, Arch::X86_64).is_err());
    }
}
