//! Kernels built on this host, of the distribution's signed source and of fragments that name what guests need. Everything is built in.
//!
//! ```text
//! build/lock           held while a kernel is built
//! build/packages/      the source package
//! build/source/        the source, unpacked
//! build/objects/       what is compiled; an interrupted build goes on from there
//! build/objects.json   of which source, configuration and tools the objects are
//! build/asked.config   all fragments as one
//! build/image          the kernel, stripped
//! build/log            what the last build printed
//! ```
//!
//! All but the log goes when the kernel is installed. The places are always the same ones, as their names may show in a kernel.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
};

use microagent_base::{Digest, Progress, durable, lock::FileLock, progress::Step};
use serde::{Deserialize, Serialize};

mod fragment;
mod kconfig;
mod make;
mod tools;
mod tree;

pub use fragment::Fragment;
pub use kconfig::Untaken;

use crate::{
    arch::Arch,
    config::Config,
    error::{Error, Result, io_error},
    kernel::PackageId,
    package::{Apt, Fetched, Stanza},
    process::run,
    stage::read_text,
};
use fragment::{Configuration, needed};
use make::Make;
use tools::Tools;
use tree::Tree;

/// Files that our own configuration compiles, about: what a percentage is of.
const FILES: u64 = 1775;

/// What is to be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// Fragments beside ours; a later one wins over an earlier one.
    pub fragments: Vec<Fragment>,
    /// How many programs run at a time; as many as there are CPUs when there is none.
    pub jobs: Option<NonZeroUsize>,
}

impl Recipe {
    /// What tells the configuration from others. How many jobs there are makes no other kernel.
    pub(crate) fn fingerprint(&self) -> Digest {
        fragment::fingerprint(Arch::host().unwrap_or(Arch::X86_64), &self.fragments)
    }
}

/// How a kernel was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildRecord {
    /// The digest of source, configuration and tools: what has it is the same kernel.
    pub key: Digest,
    /// What the compiler says of its version.
    pub compiler: String,
    /// What the linker says of its version.
    pub linker: String,
    /// Options of ours that this source does not take, each with what refused it. Nothing needs them.
    pub untaken: Vec<String>,
}

/// Where kernels are built, and with which tools.
#[derive(Debug)]
pub(crate) struct Workshop<'a> {
    pub(crate) dir: PathBuf,
    pub(crate) arch: Arch,
    /// Where the host's programs are, when it is not `PATH`. For tests.
    pub(crate) programs: Option<&'a Path>,
    pub(crate) apt: Apt,
}

/// A plan of a build: all that decides what comes out of it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) key: Digest,
    asked: Configuration,
    tools: Tools,
    package: Stanza,
    jobs: usize,
}

/// A kernel that was built and is not installed yet. The build's lock is held as long.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) image: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) packages: Vec<PackageId>,
    pub(crate) record: BuildRecord,
    dir: PathBuf,
    _lock: FileLock,
}

#[derive(Serialize, Deserialize)]
struct Objects {
    key: Digest,
}

impl Workshop<'_> {
    /// Looks at tools, fragments and the newest source (or the newest whose version is pinned); builds nothing.
    ///
    /// # Errors
    /// What is missing or contradicts itself, each cause a variant of [`Error`].
    pub(crate) fn plan(&self, recipe: &Recipe, pin: Option<&str>, progress: &dyn Progress) -> Result<Plan> {
        let asked = Configuration::merge(self.arch, &recipe.fragments)?;
        let tools = Tools::find(self.programs, self.arch, progress)?;
        let package = self.apt.newest_source(pin.map(source_pin), progress)?;
        let parts =
            [&package.digest()?.to_string(), &self.arch.to_string(), &asked.text(), &tools.compiler, &tools.linker];
        let key = Digest::of(parts.map(|part| Digest::of(part.as_bytes()).hex()).concat().as_bytes());
        let jobs = recipe.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        Ok(Plan { key, asked, tools, package, jobs })
    }

    /// Builds what is planned, going on where an interrupted build of the same plan stopped. Waits for another build.
    ///
    /// # Errors
    /// Each cause is a variant of [`Error`]; what was compiled is kept for the next attempt, and the log.
    pub(crate) fn build(&self, plan: &Plan, progress: &dyn Progress) -> Result<Built> {
        durable::private_dir(&self.dir)?;
        let lock = FileLock::exclusive(&self.dir.join("lock"))?;
        let (source, objects) = (self.dir.join("source"), self.dir.join("objects"));
        let tree = self.tree(plan, &source, progress)?;

        let of = self.dir.join("objects.json");
        if durable::read_json::<Objects>(&of).ok().flatten().is_none_or(|of| of.key != plan.key) {
            durable::remove_file(&of)?;
            durable::remove_dir(&objects)?;
            durable::private_dir(&objects)?;
            durable::write_json(&of, &Objects { key: plan.key })?;
        }
        let log = self.dir.join("log");
        durable::remove_file(&log)?;
        let asked = self.dir.join("asked.config");
        durable::write(&asked, plan.asked.text().as_bytes())?;
        let source = source.join(&tree.root);
        let make = Make {
            tools: &plan.tools,
            arch: self.arch,
            source: &source,
            objects: &objects,
            time: tree.time,
            log: &log,
        };
        make.configure(&asked, progress)?;
        let config = objects.join(".config");
        let untaken = self.held(plan, &config, &source)?;
        let made = make.build(plan.jobs, FILES, progress)?;

        progress.step(Step { what: "stripping the kernel".to_owned(), done: 0, total: None });
        // Not among the objects, where the kernel's own build has directories of many names.
        let image = self.dir.join("image");
        self.strip(&plan.tools, &made, &image, progress)?;
        let record = BuildRecord {
            key: plan.key,
            compiler: plan.tools.compiler.clone(),
            linker: plan.tools.linker.clone(),
            untaken,
        };
        Ok(Built { image, config, packages: vec![tree.package], record, dir: self.dir.clone(), _lock: lock })
    }

    /// The unpacked source of the plan's package.
    fn tree(&self, plan: &Plan, dir: &Path, progress: &dyn Progress) -> Result<Tree> {
        let digest = plan.package.digest()?;
        if let Some(tree) = Tree::at(dir, digest) {
            return Ok(tree);
        }
        let packages = self.dir.join("packages");
        durable::remove_dir(&packages)?;
        let Fetched { files, ids } = self.apt.fetch_package(&plan.package, &packages, progress)?;
        let (Some(file), Some(id)) = (files.into_iter().next(), ids.into_iter().next()) else {
            return Err(Error::CorruptedPackage { path: packages, reason: "nothing was downloaded".to_owned() });
        };
        let tree = Tree::unpack(&file, id, dir, progress)?;
        durable::remove_dir(&packages)?;
        Ok(tree)
    }

    /// Holds the configuration against what was asked for. Options of ours that nothing needs may be missing, as other versions of the
    /// kernel have others: they are given back.
    fn held(&self, plan: &Plan, config: &Path, source: &Path) -> Result<Vec<String>> {
        let came = Config::parse(&read_text(config)?);
        let (fatal, rest): (Vec<Untaken>, Vec<Untaken>) = kconfig::untaken(&plan.asked, &came, source)
            .into_iter()
            .partition(|option| option.by_user || needed(self.arch, &option.option).is_some());
        if !fatal.is_empty() {
            return Err(Error::ConfigRefused { options: fatal.iter().map(tell).collect() });
        }
        Ok(rest.iter().map(tell).collect())
    }

    /// Symbols are of use to nobody who has no `System.map` of the same build, and are half of the file.
    fn strip(&self, tools: &Tools, from: &Path, to: &Path, progress: &dyn Progress) -> Result<()> {
        if self.arch == Arch::Aarch64 {
            return fs::copy(from, to).map(drop).map_err(io_error("copy", from));
        }
        let (mut command, program) = tools.command("strip");
        command.arg("--strip-all").arg("-o").arg(to).arg(from);
        let output = run(command, &program, progress, |_, _| ())?;
        if output.status.success() {
            return Ok(());
        }
        let log = self.dir.join("log");
        Err(Error::BuildFailed { status: output.status.to_string(), lines: output.last, log })
    }
}

impl Built {
    /// Removes all that a build leaves, but its log: the kernel is installed.
    pub(crate) fn clear(&self) -> Result<()> {
        for name in ["objects.json", "asked.config", "image"] {
            durable::remove_file(&self.dir.join(name))?;
        }
        for name in ["objects", "source", "packages"] {
            durable::remove_dir(&self.dir.join(name))?;
        }
        Ok(())
    }
}

/// A release of ours as a version of the source: `6.12.117-microagent` is built of `6.12.117`.
fn source_pin(pin: &str) -> &str {
    pin.strip_suffix("-microagent").unwrap_or(pin)
}

fn tell(option: &Untaken) -> String {
    let reason = if option.reason.is_empty() { String::new() } else { format!(" ({})", option.reason) };
    format!("CONFIG_{} of {}{reason} {}", option.option, option.from, option.why)
}
