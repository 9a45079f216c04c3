//! An installed kernel, and the record of it on disk.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use microagent_base::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    arch::Arch, build::BuildRecord, config::Config, error::Result, need::Need, stage::read_text, verify::Presence,
    version,
};

/// The name of the record in a kernel's directory.
pub(crate) const RECORD: &str = "kernel.json";

/// A kernel in the store. All paths are absolute when the store's is.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The digest of everything that was installed: release, image, configuration and modules.
    pub id: Digest,
    /// The release, `uname -r`: `6.1.0-56-cloud-amd64`.
    pub version: String,
    /// What it is built for.
    pub arch: Arch,
    /// Where it came from: `package`, `build`, or `path:` and the path.
    pub source: String,
    /// The package that holds the image, as the package manager spells it: `linux-image-6.1.0-56-cloud-amd64=6.1.192-2`.
    pub package: Option<String>,
    /// How it was built; `None` for one that was not built on this host.
    pub build: Option<BuildRecord>,
    /// All packages that it was taken from.
    pub packages: Vec<PackageId>,
    /// The kernel as it was packaged: a `bzImage`, an ELF `vmlinux`, or an arm64 `Image`.
    pub image: PathBuf,
    /// The ELF kernel, decompressed; `None` only on architectures that boot none.
    pub vmlinux: Option<PathBuf>,
    /// Whether `vmlinux` has a PVH entry, without which QEMU cannot boot it.
    pub pvh: bool,
    /// The modules that guests may need, each behind what it depends on, then the built-in ones of [`Need::ALL`].
    pub modules: Vec<Module>,
    /// When it was installed.
    pub installed_at: Timestamp,
    /// Bytes on disk.
    pub size: u64,
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
}

/// A module of an installed kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` and never `-`.
    pub name: String,
    /// The plain, uncompressed `.ko`; `None` when it is built in.
    pub path: Option<PathBuf>,
    /// Whether it is part of the image.
    pub builtin: bool,
}

/// A package that a kernel was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PackageId {
    /// Its name.
    pub name: String,
    /// Its version, in the package manager's words.
    pub version: String,
    /// The digest of the package file, equal to the one in the signed index of the distribution.
    pub digest: Digest,
}

/// What is written beside the files of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) content: Content,
    pub(crate) source: String,
    pub(crate) packages: Vec<PackageId>,
    /// How it was built, where it was built on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) build: Option<BuildRecord>,
    pub(crate) installed_at: Timestamp,
}

/// What makes a kernel the kernel that it is. Its digest is the kernel's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Content {
    /// Of this record: 1.
    pub(crate) format: u32,
    pub(crate) version: String,
    pub(crate) arch: Arch,
    pub(crate) image: FileRecord,
    /// The same file as `image` when that is an ELF kernel already.
    pub(crate) vmlinux: Option<FileRecord>,
    pub(crate) pvh: bool,
    pub(crate) config: Option<FileRecord>,
    pub(crate) modules: Vec<ModuleRecord>,
    /// Of the modules of [`Need::ALL`], those that are built in, as far as that can be known.
    pub(crate) built_in: BTreeSet<String>,
    /// Whether a driver that is neither a module nor in `built_in` is known to be absent.
    pub(crate) complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FileRecord {
    /// Relative to the kernel's directory.
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ModuleRecord {
    pub(crate) name: String,
    pub(crate) file: FileRecord,
    pub(crate) depends: Vec<String>,
}

impl Content {
    pub(crate) const FORMAT: u32 = 1;

    /// The digest of the record's JSON, which has one form: structs and sorted sets only.
    pub(crate) fn id(&self) -> Result<Digest> {
        let bytes = serde_json::to_vec(self)
            .map_err(|source| microagent_base::durable::DurableError::Encode { path: PathBuf::from(RECORD), source })?;
        Ok(Digest::of(&bytes))
    }

    /// Every file once.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileRecord> {
        let vmlinux = self.vmlinux.as_ref().filter(|file| file.name != self.image.name);
        std::iter::once(&self.image).chain(vmlinux).chain(&self.config).chain(self.modules.iter().map(|m| &m.file))
    }

    /// Whether every name stays in the kernel's directory. The record is ours, but it lies on a disk.
    pub(crate) fn is_plain(&self) -> bool {
        self.files().all(|file| {
            let name = file.name.strip_prefix("modules/").unwrap_or(&file.name);
            !name.is_empty() && name != "." && name != ".." && !name.contains('/')
        })
    }
}

fn package_of(packages: &[PackageId]) -> Option<&PackageId> {
    packages.iter().find(|p| p.name.starts_with("linux-image")).or(packages.first())
}

impl Kernel {
    pub(crate) fn new(dir: &Path, id: Digest, record: Record) -> Self {
        let content = &record.content;
        let at = |file: &FileRecord| dir.join(&file.name);
        let modules = content
            .modules
            .iter()
            .map(|m| Module { name: m.name.clone(), path: Some(at(&m.file)), builtin: false })
            .chain(content.built_in.iter().map(|name| Module { name: name.clone(), path: None, builtin: true }))
            .collect();
        let package = package_of(&record.packages);
        Self {
            id,
            version: content.version.clone(),
            arch: content.arch,
            source: record.source.clone(),
            package: package.map(|p| format!("{}={}", p.name, p.version)),
            build: record.build.clone(),
            packages: record.packages.clone(),
            image: at(&content.image),
            vmlinux: content.vmlinux.as_ref().map(at),
            pvh: content.pvh,
            modules,
            installed_at: record.installed_at,
            size: content.files().map(|file| file.size).sum(),
            dir: dir.to_owned(),
            record,
        }
    }

    /// The package that holds the image or the source; `None` for a kernel of a file.
    pub(crate) fn package_id(&self) -> Option<&PackageId> {
        package_of(&self.packages)
    }

    /// The build configuration; `None` when the kernel came with none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn config(&self) -> Result<Option<Config>> {
        let Some(file) = &self.record.content.config else { return Ok(None) };
        Ok(Some(Config::parse(&read_text(&self.dir.join(&file.name))?)))
    }

    /// How the kernel gives a driver.
    #[must_use]
    pub fn presence(&self, need: Need) -> Presence {
        let content = &self.record.content;
        let module = need.driver().module;
        if content.modules.iter().any(|m| m.name == module) {
            Presence::Module
        } else if content.built_in.contains(module) {
            Presence::BuiltIn
        } else if content.complete {
            Presence::Missing
        } else {
            Presence::Unknown
        }
    }

    /// Whether a pin means this kernel: its release or the version of its package, whole or up to a separator.
    #[must_use]
    pub fn matches_version(&self, pin: &str) -> bool {
        version::matches(pin, &self.version) || self.packages.iter().any(|p| version::matches(pin, &p.version))
    }
}
