//! The store of installed kernels.
//!
//! ```text
//! lock                     held while something is installed or removed
//! kernels/HEX/             one kernel; HEX is its id. Made elsewhere and renamed here, so it is whole or absent
//!     kernel.json image vmlinux config modules/NAME.ko
//! sources/KEY-HEX.json     that a source once gave that kernel
//! initramfs/HEX-KEY.cpio   made of that kernel; beside it a .json
//! apt/                     package lists of our own, where the system's do not do
//! build/                   a kernel that is being built
//! tmp/                     work under way; swept by the next holder of the lock
//! ```

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use microagent_base::{Digest, Progress, durable, lock::FileLock};
use serde::{Deserialize, Serialize};

use crate::{
    arch::Arch,
    build::{Recipe, Workshop},
    error::{Error, Result, io_error},
    initramfs::{self, Initramfs},
    kernel::{Content, Kernel, RECORD, Record},
    modules::Index,
    need::Need,
    package::{Apt, Wanted},
    source::KernelSource,
    stage::Staged,
    verify::{Corruption, Presence, Stamp, Verification, difference, revision},
    version,
};

mod install;

/// Installed kernels below one directory. Several processes may use one at a time.
#[derive(Debug)]
pub struct KernelStore {
    dir: PathBuf,
    arch: Arch,
    /// Where the package manager is, when it is not the one in `PATH`. For tests.
    programs: Option<PathBuf>,
    /// Files whose digest was found right, as they were then.
    seen: Mutex<HashMap<PathBuf, (Stamp, Digest)>>,
}

/// That a source gave a kernel.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Binding {
    source: String,
    kernel: Digest,
    /// The files of the host that it was made of, as they were.
    files: Vec<(PathBuf, u128, u64)>,
}

impl KernelStore {
    /// Opens the store at `dir` and makes it when there is none.
    ///
    /// # Errors
    /// The directory cannot be made, or the host's architecture runs no workspaces.
    pub fn open(dir: &Path) -> Result<Self> {
        let arch = Arch::host().ok_or_else(|| {
            Error::unsupported(
                dir,
                format!(
                    "no kernel fits this host: workspaces run on x86_64 and aarch64, not on {}",
                    std::env::consts::ARCH
                ),
            )
        })?;
        for name in ["kernels", "sources", "initramfs", "tmp"] {
            durable::private_dir(&dir.join(name))?;
        }
        // Records hold paths, which must not depend on the working directory.
        let dir = fs::canonicalize(dir).map_err(io_error("find", dir))?;
        Ok(Self { dir, arch, programs: None, seen: Mutex::default() })
    }

    /// All installed kernels, the newest release first. One whose record is damaged is left out, with a warning in the log.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<Kernel>> {
        let mut kernels = Vec::new();
        for name in names(&self.dir.join("kernels"))? {
            let Ok(id) = format!("sha256:{name}").parse() else { continue };
            match self.get(id) {
                Ok(kernel) => kernels.extend(kernel),
                Err(error) => tracing::warn!(kernel = %id, %error, "an installed kernel is passed over"),
            }
        }
        kernels.sort_by(|a, b| version::compare(&b.version, &a.version).then(b.installed_at.cmp(&a.installed_at)));
        Ok(kernels)
    }

    /// An installed kernel by its id; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::KernelCorrupted`] when its record is not the one that its id was made of.
    pub fn get(&self, id: Digest) -> Result<Option<Kernel>> {
        let dir = self.kernel_dir(id);
        let path = dir.join(RECORD);
        let damaged = |reason: String| Error::KernelCorrupted { version: id.short(), path: path.clone(), reason };
        let record: Record = match durable::read_json(&path) {
            Ok(Some(record)) => record,
            Ok(None) if !dir.exists() => return Ok(None),
            Ok(None) => return Err(damaged("it is not there".to_owned())),
            Err(durable::DurableError::Decode { source, .. }) => return Err(damaged(source.to_string())),
            Err(error) => return Err(error.into()),
        };
        if record.content.id()? != id || !record.content.is_plain() || record.content.format != Content::FORMAT {
            return Err(damaged("it is not the record that the kernel was installed with".to_owned()));
        }
        Ok(Some(Kernel::new(&dir, id, record)))
    }

    /// What an earlier installation from `source` gave, the newest when there were several; no network is used.
    /// `version` is a release or package version, whole or up to a separator (`6.1`). For [`KernelSource::Default`] it is
    /// the newest kernel whose files are as installed and that is known to have every driver a workspace needs: those that were built
    /// before those of packages, as they start faster, and both before others: the kernel that one workspace names by its path must not
    /// become that of all. A file of [`KernelSource::Path`] that was replaced since counts as not installed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn find(&self, source: &KernelSource, version: Option<&str>) -> Result<Option<Kernel>> {
        let fits = |kernel: &Kernel| kernel.arch == self.arch && version.is_none_or(|pin| kernel.matches_version(pin));
        if *source == KernelSource::Default {
            let mut kernels: Vec<Kernel> = self.list()?.into_iter().filter(fits).filter(is_known_good).collect();
            kernels.sort_by_key(|kernel| (kernel.build.is_none(), kernel.packages.is_empty()));
            for kernel in kernels {
                if self.check(&kernel)?.corrupted.is_empty() {
                    return Ok(Some(kernel));
                }
            }
            return Ok(None);
        }
        let prefix = source_prefix(source);
        let mut found = Vec::new();
        for name in names(&self.dir.join("sources"))?.iter().filter(|name| name.starts_with(&prefix)) {
            let Ok(Some(binding)) = durable::read_json::<Binding>(&self.dir.join("sources").join(name)) else {
                continue;
            };
            let unchanged = |(path, modified, size): &(PathBuf, u128, u64)| {
                revision(path).is_ok_and(|now| now == (*modified, *size))
            };
            if binding.files.iter().all(unchanged) {
                found.extend(self.get(binding.kernel).ok().flatten().filter(&fits));
            }
        }
        found.sort_by(|a, b| version::compare(&b.version, &a.version).then(b.installed_at.cmp(&a.installed_at)));
        Ok(found.into_iter().next())
    }

    /// Gives the kernel of `source`, installing it when there is none that verifies: from the network only then. A kernel is
    /// refused that lacks what every workspace needs. Waits for another installation into the same store; a build does not keep others
    /// waiting.
    ///
    /// # Errors
    /// Each cause is a variant of [`Error`]; nothing half-made is left.
    pub fn install(&self, source: &KernelSource, version: Option<&str>, progress: &dyn Progress) -> Result<Kernel> {
        let lock = self.lock()?;
        self.sweep()?;
        if let Some(kernel) = self.find(source, version)?
            && self.verify(&kernel)?.corrupted.is_empty()
        {
            return Ok(kernel);
        }
        let wanted = |name, exact| Wanted { name, version: exact, pin: version, arch: self.arch };
        match source {
            KernelSource::Path { kernel, modules } => {
                install::of_path(self, source, (kernel, modules.as_deref()), version, progress)
            }
            KernelSource::Package { name, version: exact } => {
                install::of_package(self, source, &wanted(name.as_deref(), exact.as_deref()), version, progress)
            }
            // What `default` downloads is found again by whoever asks for the package.
            KernelSource::Default => {
                let package = KernelSource::Package { name: None, version: None };
                install::of_package(self, &package, &wanted(None, None), version, progress)
            }
            KernelSource::Build(recipe) => {
                drop(lock);
                self.build(recipe, version, progress)
            }
        }
    }

    /// Builds the kernel of a recipe of the newest source that the host's package sources have, or of the newest whose version is
    /// pinned, and installs it. One that was built of the same source, configuration and tools and verifies is not built again. An
    /// interrupted build goes on where it stopped.
    ///
    /// # Errors
    /// Each cause is a variant of [`Error`]; nothing half-made is installed.
    pub fn build(&self, recipe: &Recipe, version: Option<&str>, progress: &dyn Progress) -> Result<Kernel> {
        let source = KernelSource::Build(recipe.clone());
        let workshop = Workshop {
            dir: self.dir.join("build"),
            arch: self.arch,
            programs: self.programs.as_deref(),
            apt: self.apt()?,
        };
        let plan = workshop.plan(recipe, version, progress)?;
        if let Some(kernel) = self.built(plan.key)? {
            let _lock = self.lock()?;
            self.bind(&source, kernel.id, Vec::new())?;
            return Ok(kernel);
        }
        let built = workshop.build(&plan, progress)?;
        let _lock = self.lock()?;
        self.sweep()?;
        let parts = install::Parts {
            staged: Staged { image: built.image.clone(), config: Some(built.config.clone()), index: Index::default() },
            packages: built.packages.clone(),
            build: Some(built.record.clone()),
        };
        let kernel = install::finish(self, &source, parts, version, progress)?;
        built.clear()?;
        Ok(kernel)
    }

    /// The installed kernel that was built so, when its files are as they were.
    fn built(&self, key: Digest) -> Result<Option<Kernel>> {
        let is_it = |kernel: &Kernel| kernel.build.as_ref().is_some_and(|build| build.key == key);
        for kernel in self.list()?.into_iter().filter(is_it) {
            if self.verify(&kernel)?.corrupted.is_empty() {
                return Ok(Some(kernel));
            }
        }
        Ok(None)
    }

    /// The newer kernel that the host's package sources have for an installed one, in their words (`linux-image-…=6.1.193-1`): of the
    /// package or of the source that it came from. `None` when there is none, and for a kernel that came from a file. The host's package
    /// lists are read as they are; nothing is downloaded.
    ///
    /// # Errors
    /// The package manager is missing or fails, or no longer knows any kernel.
    pub fn newer(&self, kernel: &Kernel, progress: &dyn Progress) -> Result<Option<String>> {
        let Some(have) = kernel.package_id() else { return Ok(None) };
        let apt = self.apt()?;
        let candidate = if kernel.build.is_some() {
            apt.newest_source(None, progress)?
        } else {
            let wanted = Wanted { name: None, version: None, pin: None, arch: self.arch };
            let packages = apt.newest(&wanted, progress)?;
            let image = packages.iter().find(|package| package.name().starts_with("linux-image")).or(packages.first());
            let Some(image) = image else { return Ok(None) };
            image.clone()
        };
        let newer = version::compare(candidate.version(), &have.version).is_gt();
        Ok(newer.then(|| candidate.spec()))
    }

    fn apt(&self) -> Result<Apt> {
        let state = self.dir.join("apt");
        match &self.programs {
            Some(programs) => Ok(Apt::at(programs.clone(), &state)),
            None => Apt::find(&state),
        }
    }

    /// Reads every installed file of a kernel again and holds it against what was installed, and the kernel against what
    /// workspaces need. What is wrong is in the answer; [`Verification::require`] makes an error of it.
    ///
    /// # Errors
    /// Only when the looking itself fails.
    pub fn verify(&self, kernel: &Kernel) -> Result<Verification> {
        self.seen().retain(|path, _| !path.starts_with(&kernel.dir));
        self.check(kernel)
    }

    /// As [`KernelStore::verify`], but a file is not read again when this store saw it right before and neither its
    /// inode, its size nor its times changed since. For every start.
    ///
    /// # Errors
    /// Only when the looking itself fails.
    pub fn check(&self, kernel: &Kernel) -> Result<Verification> {
        let mut corrupted = Vec::new();
        for recorded in kernel.record.content.files() {
            let path = kernel.dir.join(&recorded.name);
            // Taken before the file is read: a write during the reading shows at the next look.
            let stamp = Stamp::of(&path).ok();
            let known = stamp.map(|stamp| (stamp, recorded.digest));
            if known.is_some() && self.seen().get(&path).copied() == known {
                continue;
            }
            match (difference(&path, recorded), known) {
                (Some(reason), _) => corrupted.push(Corruption { path, reason }),
                (None, Some(known)) => {
                    self.seen().insert(path, known);
                }
                (None, None) => {}
            }
        }
        match Verification::of_contents(kernel) {
            Ok(found) => Ok(Verification { corrupted, ..found }),
            // The configuration is among the files that are gone.
            Err(_) if !corrupted.is_empty() => Ok(Verification { corrupted, ..Verification::default() }),
            Err(error) => Err(error),
        }
    }

    /// The initramfs with `guest_init` as `/init` and the modules of `kernel` for `needs` (see [`Need::MMIO`] and
    /// [`Need::PCI`]). The same input gives the same file, made once.
    ///
    /// # Errors
    /// [`Error::MissingDriver`] when the kernel is known to lack a need; [`Error::KernelCorrupted`];
    /// [`Error::UnsupportedKernel`] and [`Error::WrongArchitecture`] when `guest_init` cannot be the guest's first program.
    pub fn initramfs(&self, kernel: &Kernel, guest_init: &Path, needs: &[Need]) -> Result<Initramfs> {
        initramfs::get(&self.dir.join("initramfs"), kernel, guest_init, needs)
    }

    /// Removes a kernel and all that was made of it; that it is not there is no error. A machine that runs it runs on.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn remove(&self, id: Digest) -> Result<()> {
        let _lock = self.lock()?;
        self.sweep()?;
        let sources = self.dir.join("sources");
        for name in names(&sources)?.iter().filter(|name| name.ends_with(&format!("-{}.json", id.hex()))) {
            durable::remove_file(&sources.join(name))?;
        }
        let made = self.dir.join("initramfs");
        for name in names(&made)?.iter().filter(|name| name.starts_with(&id.hex())) {
            durable::remove_file(&made.join(name))?;
        }
        self.retire(id)
    }

    /// Takes a kernel out of sight at once, then removes its files.
    fn retire(&self, id: Digest) -> Result<()> {
        let dir = self.kernel_dir(id);
        if dir.exists() {
            let old = self.dir.join("tmp").join(id.hex());
            durable::remove_dir(&old)?;
            durable::rename(&dir, &old)?;
            durable::remove_dir(&old)?;
        }
        Ok(())
    }

    fn bind(&self, source: &KernelSource, kernel: Digest, files: Vec<(PathBuf, u128, u64)>) -> Result<()> {
        let path = self.dir.join("sources").join(format!("{}{}.json", source_prefix(source), kernel.hex()));
        Ok(durable::write_json(&path, &Binding { source: source.label(), kernel, files })?)
    }

    fn kernel_dir(&self, id: Digest) -> PathBuf {
        self.dir.join("kernels").join(id.hex())
    }

    fn lock(&self) -> Result<FileLock> {
        Ok(FileLock::exclusive(&self.dir.join("lock"))?)
    }

    /// Removes what an interrupted installation left. Only the holder of the lock makes anything there.
    fn sweep(&self) -> Result<()> {
        let dir = self.dir.join("tmp");
        for name in names(&dir)? {
            durable::remove_dir(&dir.join(name))?;
        }
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, Digest)>> {
        // A map that another thread left in a panic is still a map of facts.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether every driver that a workspace needs is known to be there: of a kernel that only booting tells about, nobody but who
/// named it makes use.
fn is_known_good(kernel: &Kernel) -> bool {
    let known = |need: &Need| matches!(kernel.presence(*need), Presence::BuiltIn | Presence::Module);
    Need::REQUIRED.iter().all(known) && [Need::VirtioMmio, Need::VirtioPci].iter().any(known)
}

fn source_prefix(source: &KernelSource) -> String {
    format!("{}-", Digest::of(source.key().as_bytes()).hex())
}

/// The names in a directory that are text, sorted; none when there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut out = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                out.extend(entry.map_err(io_error("list", dir))?.file_name().into_string().ok());
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("list", dir, e)),
    }
    out.sort();
    Ok(out)
}

#[cfg(test)]
mod built_tests;
#[cfg(test)]
mod tests;
