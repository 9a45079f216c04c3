//! One installation: gather the parts, keep those that guests need, put them in place in one step.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use microagent_base::{Digest, Progress, durable, progress::Step};

use super::KernelStore;
use crate::{
    arch::Arch,
    build::BuildRecord,
    compression::{Compression, Limited},
    config::{Config, embedded},
    elf::Elf,
    error::{Error, Result, io_error},
    image::{self, Format, MAX_IMAGE, read_bounded},
    kernel::{Content, FileRecord, Kernel, ModuleRecord, PackageId, RECORD, Record},
    need::Need,
    package::{Fetched, Wanted},
    source::KernelSource,
    stage::{self, Staged, read_text},
    verify::{missing_for_any_workspace, require, revision},
};

/// The parts of a kernel, and where they came from.
pub(super) struct Parts {
    pub(super) staged: Staged,
    pub(super) packages: Vec<PackageId>,
    pub(super) build: Option<BuildRecord>,
}

/// Installs a kernel of the host's files. The caller holds the lock.
pub(super) fn of_path(
    store: &KernelStore,
    source: &KernelSource,
    (kernel, modules): (&Path, Option<&Path>),
    version: Option<&str>,
    progress: &dyn Progress,
) -> Result<Kernel> {
    let staged = stage::from_path(kernel, modules)?;
    finish(store, source, Parts { staged, packages: Vec::new(), build: None }, version, progress)
}

/// Installs a kernel of the distribution's packages, which `source` is. The caller holds the lock.
pub(super) fn of_package(
    store: &KernelStore,
    source: &KernelSource,
    wanted: &Wanted<'_>,
    version: Option<&str>,
    progress: &dyn Progress,
) -> Result<Kernel> {
    let work = work(store)?;
    let (staged, packages) = download(store, wanted, work.path(), progress)?;
    finish(store, source, Parts { staged, packages, build: None }, version, progress)
}

/// A directory that goes when it is dropped, or with the next holder of the lock.
fn work(store: &KernelStore) -> Result<tempfile::TempDir> {
    let tmp = store.dir.join("tmp");
    tempfile::tempdir_in(&tmp).map_err(io_error("create a directory in", &tmp))
}

/// Puts a kernel in place, and remembers that `source` gave it. The caller holds the lock.
pub(super) fn finish(
    store: &KernelStore,
    source: &KernelSource,
    parts: Parts,
    version: Option<&str>,
    progress: &dyn Progress,
) -> Result<Kernel> {
    let Parts { staged, packages, build } = parts;
    let work = work(store)?;
    // Looked at before the files are read: a change during the reading makes the next look install again.
    let origins = if packages.is_empty() { origins(&staged)? } else { Vec::new() };

    progress.step(Step { what: "installing the kernel".to_owned(), done: 0, total: None });
    let made = work.path().join("kernel");
    let content = choose(&staged, &made, store.arch, progress)?;
    let id = content.id()?;
    let record = Record { content, source: source.label(), packages, build, installed_at: Timestamp::now() };
    durable::write_json(&made.join(RECORD), &record)?;

    let kernel = Kernel::new(&made, id, record.clone());
    if let Some(wanted) = version
        && !kernel.matches_version(wanted)
    {
        let found = kernel.version;
        return Err(Error::WrongVersion { origin: source.label(), found, wanted: wanted.to_owned() });
    }
    require(&kernel, missing_for_any_workspace(&kernel)?)?;
    if progress.cancelled() {
        return Err(Error::Cancelled);
    }
    let kernel = place(store, &made, id, record)?;
    store.bind(source, id, origins)?;
    Ok(kernel)
}

/// Downloads packages and unpacks them below `work`.
fn download(
    store: &KernelStore,
    wanted: &Wanted<'_>,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(Staged, Vec<PackageId>)> {
    let Fetched { files, ids } = store.apt()?.fetch(wanted, &work.join("packages"), progress)?;
    let parts = work.join("parts");
    fs::create_dir(&parts).map_err(io_error("create directory", &parts))?;
    Ok((stage::from_packages(&files, &parts, progress)?, ids))
}

/// Puts the finished directory in place, unless the same kernel is there already and whole.
fn place(store: &KernelStore, made: &Path, id: Digest, record: Record) -> Result<Kernel> {
    if let Ok(Some(present)) = store.get(id)
        && store.verify(&present)?.corrupted.is_empty()
    {
        return Ok(present);
    }
    store.retire(id)?;
    let modules = made.join("modules");
    durable::sync_dir(&modules)?;
    durable::sync_dir(made)?;
    let target = store.kernel_dir(id);
    durable::rename(made, &target)?;
    Ok(Kernel::new(&target, id, record))
}

/// The host's files that a kernel is made of, as they are now.
fn origins(staged: &Staged) -> Result<Vec<(PathBuf, u128, u64)>> {
    let modules = Need::ALL.iter().filter_map(|need| staged.index.files.get(need.driver().module));
    let paths = std::iter::once(&staged.image).chain(&staged.config).chain(modules);
    paths
        .map(|path| {
            let (modified, size) = revision(path).map_err(io_error("look at", path))?;
            Ok((path.clone(), modified, size))
        })
        .collect()
}

/// Writes to `dir` what a guest needs of the kernel.
fn choose(staged: &Staged, dir: &Path, arch: Arch, progress: &dyn Progress) -> Result<Content> {
    let modules_dir = dir.join("modules");
    fs::create_dir_all(&modules_dir).map_err(io_error("create directory", &modules_dir))?;
    let packed = read_bounded(&staged.image, MAX_IMAGE)?;
    let image = whole(&packed, &staged.image)?;
    let format = image::identify(&image, &staged.image, arch)?;
    if progress.cancelled() {
        return Err(Error::Cancelled);
    }

    let image_file = write(dir, "image", &image)?;
    let (release, elf, vmlinux) = match format {
        Format::BzImage(payload) => {
            let elf = image::unpack(&image, payload, &staged.image)?;
            let release = image::bzimage_release(&image).or_else(|| image::banner_release(&elf));
            let file = write(dir, "vmlinux", &elf)?;
            (release, Cow::Owned(elf), Some(file))
        }
        Format::Elf => (image::banner_release(&image), Cow::Borrowed(&*image), Some(image_file.clone())),
        Format::Arm64Image => (image::banner_release(&image), Cow::Borrowed(&*image), None),
    };
    let version = release.ok_or_else(|| Error::unsupported(&staged.image, "it does not say which release it is"))?;
    let pvh = Elf::parse(&elf).is_ok_and(|elf| elf.has_pvh_entry());
    let config = match &staged.config {
        Some(path) => Some(read_text(path)?.into_bytes()),
        None => embedded(&elf),
    };
    drop(elf);

    let roots: Vec<&str> = Need::ALL.iter().map(|need| need.driver().module).collect();
    let mut modules = Vec::new();
    for module in staged.index.closure(&roots, &version, arch)? {
        let file = write(dir, &format!("modules/{}.ko", module.name), &module.bytes)?;
        modules.push(ModuleRecord { name: module.name, file, depends: module.depends });
    }
    let settings = config.as_ref().map(|bytes| Config::parse(&String::from_utf8_lossy(bytes)));
    let is_built_in = |need: &&Need| {
        let driver = need.driver();
        staged.index.built_in.contains(driver.module)
            || settings.as_ref().is_some_and(|config| config.is_built_in(driver.option))
    };
    let is_module = |need: &&Need| modules.iter().any(|module| module.name == need.driver().module);
    let built_in: BTreeSet<String> = Need::ALL
        .iter()
        .filter(is_built_in)
        .filter(|need| !is_module(need))
        .map(|need| need.driver().module.to_owned())
        .collect();
    Ok(Content {
        format: Content::FORMAT,
        version,
        arch,
        image: image_file,
        vmlinux,
        pvh,
        config: config.map(|bytes| write(dir, "config", &bytes)).transpose()?,
        modules,
        built_in,
        complete: settings.is_some() || staged.index.knows_built_in,
    })
}

/// The image, decompressed when the whole file is compressed: arm64 distributions ship `Image` with gzip, and whoever
/// boots it wants it plain.
fn whole<'a>(bytes: &'a [u8], path: &Path) -> Result<Cow<'a, [u8]>> {
    let Some(compression) = Compression::detect(bytes) else { return Ok(Cow::Borrowed(bytes)) };
    let mut out = Vec::new();
    let reader = compression.reader(bytes).map_err(io_error("decompress", path))?;
    Limited::new(reader, MAX_IMAGE).read_to_end(&mut out).map_err(io_error("decompress", path))?;
    Ok(Cow::Owned(out))
}

/// Writes a file and flushes it. It becomes visible with the directory that it is in.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<FileRecord> {
    let path = dir.join(name);
    let mut file = fs::File::create_new(&path).map_err(io_error("create", &path))?;
    file.write_all(bytes).map_err(io_error("write", &path))?;
    file.sync_all().map_err(io_error("flush", &path))?;
    Ok(FileRecord { name: name.to_owned(), digest: Digest::of(bytes), size: bytes.len() as u64 })
}
