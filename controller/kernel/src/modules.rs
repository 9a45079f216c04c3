//! Kernel modules: what they say of themselves, and which must be loaded before which.
//!
//! A package as it is shipped has no `modules.dep` (depmod writes it when the package is installed), so what the
//! modules say in their own `.modinfo` section decides: `include/linux/module.h`, `scripts/mod/modpost.c`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    arch::Arch,
    compression::{Compression, Limited},
    elf::Elf,
    error::{Error, Result, io_error},
};

/// The largest modules (graphics drivers with debug information) have some tens of MiB.
const MAX_MODULE: u64 = 128 << 20;

/// A module, decompressed.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// What must be loaded before it and is not built in, soft dependencies included.
    pub(crate) depends: Vec<String>,
}

/// Where the modules of one kernel are, by name, and which are built in.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) files: BTreeMap<String, PathBuf>,
    pub(crate) built_in: BTreeSet<String>,
    /// Whether `modules.builtin` was there, so that absence from it means something.
    pub(crate) knows_built_in: bool,
}

impl Index {
    /// Takes note of a file below the modules directory; gives whether it is of use.
    pub(crate) fn add(&mut self, path: &Path) -> bool {
        let Some(name) = module_name(path) else { return false };
        self.files.insert(name, path.to_owned());
        true
    }

    /// Reads `modules.builtin`: a line for each, `kernel/fs/ext4/ext4.ko`.
    pub(crate) fn add_built_in(&mut self, text: &str) {
        self.built_in.extend(text.lines().filter_map(|line| module_name(Path::new(line.trim()))));
        self.knows_built_in = true;
    }

    /// The modules that exist of `roots` and all that these depend on, each behind what it depends on.
    pub(crate) fn closure(&self, roots: &[&str], release: &str, arch: Arch) -> Result<Vec<Loaded>> {
        let mut loaded = BTreeMap::new();
        let mut wanted: Vec<String> =
            roots.iter().filter(|r| self.files.contains_key(**r)).map(|r| (*r).to_owned()).collect();
        let mut present = wanted.clone();
        while let Some(name) = wanted.pop() {
            let Some(path) = self.files.get(&name) else { continue };
            if loaded.contains_key(&name) {
                continue;
            }
            let bytes = read_module(path)?;
            let info = ModInfo::parse(&bytes, path, arch)?;
            let built_for = info.vermagic.split(' ').next().unwrap_or_default();
            if built_for != release {
                return Err(Error::unsupported(
                    path,
                    format!("it is a module of kernel {built_for:?}, not of {release}"),
                ));
            }
            let mut depends = Vec::new();
            for dependency in &info.depends {
                if self.files.contains_key(dependency) {
                    depends.push(dependency.clone());
                } else if self.knows_built_in && !self.built_in.contains(dependency) {
                    let text =
                        format!("it depends on the module {dependency}, which is not among the kernel's modules");
                    return Err(Error::unsupported(path, text));
                }
            }
            depends.extend(info.soft.iter().filter_map(|name| self.soft(name)));
            wanted.extend(depends.iter().cloned());
            loaded.insert(name.clone(), Loaded { name, bytes, depends });
        }
        present.retain(|name| loaded.contains_key(name));
        let order = load_order(&present, |name| loaded.get(name).map(|module| module.depends.as_slice()));
        Ok(order.into_iter().filter_map(|name| loaded.remove(&name)).collect())
    }

    /// A soft dependency is a name or an alias. The aliases that file systems use are those of the crypto layer
    /// (`crc32c`, `crypto-crc32c`), whose plain implementation is `crc32c_generic`; another that is not found is
    /// left out, as modprobe does.
    fn soft(&self, name: &str) -> Option<String> {
        let plain = name.strip_prefix("crypto_").unwrap_or(name);
        [name.to_owned(), plain.to_owned(), format!("{plain}_generic")]
            .into_iter()
            .find(|candidate| self.files.contains_key(candidate))
    }
}

/// `roots` and all they depend on, each name once and behind its dependencies. A ring is broken where it is entered.
pub(crate) fn load_order<'a>(roots: &[String], depends: impl Fn(&str) -> Option<&'a [String]>) -> Vec<String> {
    let mut order = Vec::new();
    let mut entered = BTreeSet::new();
    // A stack of its own: a hostile chain of modules must not exhaust the thread's.
    let mut stack: Vec<(String, bool)> = roots.iter().rev().map(|name| (name.clone(), false)).collect();
    while let Some((name, left)) = stack.pop() {
        if left {
            order.push(name);
        } else if entered.insert(name.clone()) {
            let before = depends(&name).unwrap_or_default();
            stack.push((name, true));
            stack.extend(before.iter().rev().map(|name| (name.clone(), false)));
        }
    }
    order
}

/// The name of the module in a file: kbuild makes it of the file's name, with `_` for `-`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|suffix| file.strip_suffix(suffix))?;
    let plain =
        !stem.is_empty() && stem.len() <= 64 && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    plain.then(|| stem.replace('-', "_"))
}

/// The bytes of a module, decompressed when they are compressed.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let bytes = crate::image::read_bounded(path, MAX_MODULE)?;
    let Some(compression) = Compression::detect(&bytes) else { return Ok(bytes) };
    let mut out = Vec::new();
    let reader = compression.reader(bytes.as_slice()).map_err(io_error("decompress", path))?;
    Limited::new(reader, MAX_MODULE).read_to_end(&mut out).map_err(io_error("decompress", path))?;
    Ok(out)
}

/// What a module says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct ModInfo {
    depends: Vec<String>,
    soft: Vec<String>,
    vermagic: String,
}

impl ModInfo {
    fn parse(bytes: &[u8], path: &Path, arch: Arch) -> Result<Self> {
        let elf = Elf::parse(bytes).map_err(|why| Error::unsupported(path, why))?;
        if elf.arch() != Some(arch) {
            let found = elf.arch().map_or(format!("ELF machine {}", elf.machine()), |arch| arch.to_string());
            return Err(Error::WrongArchitecture { path: path.to_owned(), found, wanted: arch });
        }
        let section = elf.section(".modinfo").ok_or_else(|| Error::unsupported(path, "it has no .modinfo section"))?;
        let mut info = Self::default();
        for field in section.split(|b| *b == 0) {
            let Some((key, value)) = std::str::from_utf8(field).ok().and_then(|text| text.split_once('=')) else {
                continue;
            };
            let names = |text: &str, separator: char| -> Vec<String> {
                text.split(separator).filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
            };
            match key {
                "depends" => info.depends.extend(names(value, ',')),
                // `pre: a b post: c`: only what stands behind `pre:` comes before.
                "softdep" => {
                    let pre = value.split_once("pre:").map_or("", |(_, rest)| rest);
                    info.soft.extend(names(pre.split("post:").next().unwrap_or_default(), ' '));
                }
                "vermagic" => value.clone_into(&mut info.vermagic),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// Test fixtures: modules.
#[cfg(test)]
pub(crate) mod fixture {
    pub(crate) fn module(release: &str, depends: &str, soft: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0{soft}\0vermagic={release} SMP mod_unload \0");
        crate::elf::fixture::elf(62, (".modinfo", info.as_bytes()), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::fixture::compress;

    fn index(dir: &Path, modules: &[(&str, &str, &str)]) -> Index {
        let mut index = Index::default();
        for (file, depends, soft) in modules {
            let mut bytes = fixture::module("6.1.0-test", depends, soft);
            for (suffix, compression) in
                [("xz", Compression::Xz), ("zst", Compression::Zstd), ("gz", Compression::Gzip)]
            {
                if file.ends_with(suffix) {
                    bytes = compress(compression, &bytes);
                }
            }
            std::fs::write(dir.join(file), bytes).unwrap();
            assert!(index.add(&dir.join(file)));
        }
        index.add_built_in("kernel/fs/jbd2/jbd2.ko\n");
        index
    }

    fn names(index: &Index, roots: &[&str]) -> Result<Vec<String>> {
        Ok(index.closure(roots, "6.1.0-test", Arch::X86_64)?.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn every_module_stands_behind_what_it_depends_on_and_roots_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(
            dir.path(),
            &[
                ("virtio_blk.ko.xz", "virtio,virtio_ring", ""),
                ("virtio_mmio.ko.zst", "virtio,virtio_ring", ""),
                ("virtio.ko.gz", "virtio_ring", ""),
                ("virtio-ring.ko", "", ""),
                ("unused.ko", "", ""),
            ],
        );
        let order = names(&index, &["virtio_mmio", "absent", "virtio_blk"]).unwrap();
        assert_eq!(order, ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk"]);
    }

    #[test]
    fn a_soft_dependency_is_taken_by_name_or_by_its_crypto_alias_and_left_out_when_absent() {
        let dir = tempfile::tempdir().unwrap();
        let soft = "softdep=pre: crc32c crypto-sha256 nowhere post: late";
        let index = index(
            dir.path(),
            &[("ext4.ko", "jbd2", soft), ("crc32c_generic.ko", "", ""), ("sha256.ko", "", ""), ("late.ko", "", "")],
        );
        assert_eq!(names(&index, &["ext4"]).unwrap(), ["crc32c_generic", "sha256", "ext4"]);
    }

    #[test]
    fn a_dependency_that_is_nowhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path(), &[("vsock.ko", "gone", "")]);
        let message = names(&index, &["vsock"]).unwrap_err().to_string();
        assert!(message.contains("vsock.ko") && message.contains("module gone"), "{message}");
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path(), &[("vsock.ko", "", "")]);
        let error = index.closure(&["vsock"], "6.1.0-other", Arch::X86_64).unwrap_err();
        assert_eq!(error.category(), "UnsupportedKernel");
        let error = index.closure(&["vsock"], "6.1.0-test", Arch::Aarch64).unwrap_err();
        assert_eq!(error.category(), "WrongArchitecture");
    }

    #[test]
    fn a_ring_of_dependencies_ends() {
        let dir = tempfile::tempdir().unwrap();
        let index = index(dir.path(), &[("a.ko", "b", ""), ("b.ko", "a", "")]);
        assert_eq!(names(&index, &["a"]).unwrap(), ["b", "a"]);
    }
}
