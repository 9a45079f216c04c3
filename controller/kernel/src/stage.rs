//! The parts of a kernel, gathered from packages or from the host's files, before the needed ones are chosen.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use microagent_base::{Progress, progress::Step};

use crate::{
    config::MAX_CONFIG,
    error::{Error, Result, io_error},
    image::{MAX_IMAGE, read_bounded},
    modules::Index,
};

/// How deep module directories are; real ones have eight levels.
const MAX_DEPTH: usize = 16;
/// More than any distribution's kernel has files (some 7000).
const MAX_FILES: usize = 100_000;

/// A kernel in parts.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The kernel image.
    pub(crate) image: PathBuf,
    /// Where its configuration is, when it came with one.
    pub(crate) config: Option<PathBuf>,
    /// Its modules.
    pub(crate) index: Index,
}

/// Unpacks into `dir` (empty, private) what the packages have of one kernel.
pub(crate) fn from_packages(packages: &[PathBuf], dir: &Path, progress: &dyn Progress) -> Result<Staged> {
    let mut image = None;
    let mut config = None;
    let mut index = Index::default();
    let mut done = 0;
    let mut count = 0_usize;
    for package in packages {
        let damaged = |reason: String| Error::CorruptedPackage { path: package.to_owned(), reason };
        crate::deb::for_each_file(package, |path, content, size| {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let Some(part) = Part::of(path) else { return Ok(()) };
            // The name is ours: nothing of the package's paths reaches the file system but the module's checked name.
            let target = match part {
                Part::Image => dir.join("image"),
                Part::Config => dir.join("config"),
                Part::BuiltIn => dir.join("modules.builtin"),
                Part::Module => {
                    let Some(name) = path.file_name() else { return Ok(()) };
                    count += 1;
                    // A directory per file: two modules of one file name in different directories do not collide.
                    let slot = dir.join(count.to_string());
                    let target = slot.join(name);
                    if !index.add(&target) {
                        return Ok(());
                    }
                    fs::create_dir(&slot).map_err(io_error("create directory", &slot))?;
                    target
                }
            };
            let limit = if matches!(part, Part::Image | Part::Module) { MAX_IMAGE } else { MAX_CONFIG };
            if size > limit {
                return Err(damaged(format!("its member {path:?} has {size} bytes; at most {limit} are taken")));
            }
            let mut file = fs::File::create(&target).map_err(io_error("create", &target))?;
            std::io::copy(content, &mut file).map_err(|e| match e.kind() {
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => damaged(e.to_string()),
                _ => Error::io("write", &target, e),
            })?;
            match part {
                Part::Image => image = Some(target),
                Part::Config => config = Some(target),
                Part::BuiltIn => index.add_built_in(&read_text(&target)?),
                Part::Module => {}
            }
            done += size;
            progress.step(Step { what: "unpacking the kernel".to_owned(), done, total: None });
            Ok(())
        })?;
    }
    let image = image.ok_or_else(|| Error::CorruptedPackage {
        path: packages.first().cloned().unwrap_or_default(),
        reason: "it has no kernel in boot/ or lib/modules/; is it a kernel package?".to_owned(),
    })?;
    Ok(Staged { image, config, index })
}

/// A part of a kernel, by its place in a package.
#[derive(Clone, Copy)]
enum Part {
    Image,
    Config,
    BuiltIn,
    Module,
}

impl Part {
    fn of(path: &Path) -> Option<Self> {
        // Merged-/usr distributions ship `usr/lib/modules`.
        let path = path.strip_prefix("usr").unwrap_or(path);
        let name = path.file_name()?.to_str()?;
        if let Ok(rest) = path.strip_prefix("lib/modules") {
            return match (rest.components().count(), name) {
                (2, "vmlinuz") => Some(Self::Image),
                (2, "config") => Some(Self::Config),
                (2, "modules.builtin") => Some(Self::BuiltIn),
                (3.., _) if name.contains(".ko") => Some(Self::Module),
                _ => None,
            };
        }
        let is_boot = path.parent() == Some(Path::new("boot"));
        match name.split_once('-')?.0 {
            "vmlinuz" | "vmlinux" if is_boot => Some(Self::Image),
            "config" if is_boot => Some(Self::Config),
            _ => None,
        }
    }
}

/// The kernel and the modules that are at these places on the host. Nothing is copied.
pub(crate) fn from_path(kernel: &Path, modules: Option<&Path>) -> Result<Staged> {
    if !kernel.is_file() {
        return Err(Error::KernelNotFound {
            what: kernel.display().to_string(),
            why: "there is no such file".to_owned(),
            remedy: "check the path".to_owned(),
        });
    }
    let mut index = Index::default();
    let mut configs = Vec::new();
    if let Some(modules) = modules {
        if !modules.is_dir() {
            return Err(Error::KernelNotFound {
                what: format!("modules directory {}", modules.display()),
                why: "there is no such directory".to_owned(),
                remedy: "check the path, or leave the modules out when all drivers are built in".to_owned(),
            });
        }
        walk(modules, &mut index)?;
        let built_in = modules.join("modules.builtin");
        if built_in.is_file() {
            index.add_built_in(&read_text(&built_in)?);
        }
        configs.push(modules.join("config"));
    }
    // `/vmlinuz` is a link to the newest kernel on many hosts; its configuration stands beside that one.
    let target = fs::canonicalize(kernel).map_err(io_error("find", kernel))?;
    let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some((_, release)) = name.split_once('-') {
        configs.push(target.with_file_name(format!("config-{release}")));
    }
    let config = configs.into_iter().find(|path| path.is_file());
    Ok(Staged { image: kernel.to_owned(), config, index })
}

fn walk(root: &Path, index: &mut Index) -> Result<()> {
    let mut left = vec![(root.to_owned(), 0)];
    let mut count = 0;
    while let Some((dir, depth)) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let entry = entry.map_err(io_error("list", &dir))?;
            count += 1;
            if count > MAX_FILES || depth > MAX_DEPTH {
                return Err(Error::unsupported(root, "it is no directory of kernel modules: it has too many files"));
            }
            // Links are not followed: `build` and `source` lead to the kernel's headers.
            let kind = entry.file_type().map_err(io_error("look at", &dir))?;
            if kind.is_dir() {
                left.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                index.add(&entry.path());
            }
        }
    }
    Ok(())
}

/// A text that is bounded like a configuration. What is not UTF-8 in it is replaced.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_bounded(path, MAX_CONFIG)?).into_owned())
}
