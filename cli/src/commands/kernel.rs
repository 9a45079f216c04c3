//! `microagent kernel`

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use microagent_base::Progress;
use microagent_kernel::{Fragment, Kernel, KernelSource, KernelStore, Need, Purpose, Recipe, Verification};
use serde_json::{Value, json};

use super::{signal_code, with_bars};
use crate::{
    context::Context,
    failure::{FAILED, Failure, Result},
    output::{self, Format, OutputArgs, human, table::Table},
};

/// The kernels on this host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the kernels that are installed
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Install a kernel: the distribution's signed package, or a file
    Install {
        /// default, package, package:NAME, build, or the path of a kernel
        #[arg(default_value = "default")]
        source: String,
        /// This version, or one that starts so
        #[arg(long)]
        version: Option<String>,
        /// The directory of the modules of a kernel that is named by its path
        #[arg(long, value_name = "DIR")]
        modules: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Build a lean kernel of the distribution's signed source, and install it
    #[command(after_help = "A build takes 5 to 30 minutes. One that is interrupted goes on where it stopped.")]
    Build {
        /// A file of options that are added to ours, such as CONFIG_BTRFS_FS=y; a later one wins
        #[arg(long = "fragment", value_name = "FILE")]
        fragments: Vec<PathBuf>,
        /// How many programs run at a time [default: as many as there are CPUs]
        #[arg(long, value_name = "N")]
        jobs: Option<NonZeroUsize>,
        /// Of the source of this version, or one that starts so [default: the newest]
        #[arg(long)]
        version: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Ask the host's package sources whether they have a newer kernel than those installed
    Check {
        /// The kernels, by version or id [default: all]
        #[arg(value_name = "KERNEL")]
        kernels: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Check that installed kernels are whole and have what workspaces, backends and workloads need
    Verify {
        /// The kernels, by version or id [default: all]
        #[arg(value_name = "KERNEL")]
        kernels: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove installed kernels
    #[command(visible_alias = "rm")]
    Remove {
        /// The kernels, by version or id
        #[arg(required = true, value_name = "KERNEL")]
        kernels: Vec<String>,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let store = KernelStore::open(&context.paths.kernels())?;
    match args.verb {
        Verb::List { output } => list(&store, output.output),
        Verb::Install { source, version, modules, output } => {
            install(store, parse(&source, modules)?, version, output.output).await
        }
        Verb::Build { fragments, jobs, version, output } => {
            let fragments =
                fragments.iter().map(|path| Fragment::read(path)).collect::<Result<_, _>>().map_err(told)?;
            build(store, Recipe { fragments, jobs }, version, output.output).await
        }
        Verb::Check { kernels, output } => check(store, &kernels, output.output).await,
        Verb::Verify { kernels, output } => verify(&store, &kernels, output.output),
        Verb::Remove { kernels } => {
            for kernel in chosen(&store, &kernels)? {
                store.remove(kernel.id)?;
                output::line(&format!("removed {}", kernel.version))?;
            }
            Ok(0)
        }
    }
}

/// `default`, `package[:NAME]`, `build` or a path.
fn parse(source: &str, modules: Option<PathBuf>) -> Result<KernelSource> {
    let parsed = match source {
        "default" => KernelSource::Default,
        "package" => KernelSource::Package { name: None, version: None },
        "build" => KernelSource::Build(Recipe::default()),
        _ => match source.strip_prefix("package:") {
            Some(name) => KernelSource::Package { name: Some(name.to_owned()), version: None },
            None => {
                let modules = modules.map(std::path::absolute).transpose()?;
                return Ok(KernelSource::Path { kernel: std::path::absolute(source)?, modules });
            }
        },
    };
    match modules {
        Some(_) => Err(Failure::usage("--modules goes with the path of a kernel")),
        None => Ok(parsed),
    }
}

async fn install(store: KernelStore, source: KernelSource, version: Option<String>, format: Format) -> Result<u8> {
    match long(move |progress| store.install(&source, version.as_deref(), progress)).await? {
        Ok(kernel) => installed(&kernel, format),
        Err(number) => Ok(signal_code(number)),
    }
}

async fn build(store: KernelStore, recipe: Recipe, version: Option<String>, format: Format) -> Result<u8> {
    match long(move |progress| store.build(&recipe, version.as_deref(), progress)).await? {
        Ok(kernel) => {
            for option in kernel.build.iter().flat_map(|build| &build.untaken) {
                output::note(&format!("left out, as nothing of a workspace needs it: {option}"));
            }
            installed(&kernel, format)
        }
        Err(number) => Ok(signal_code(number)),
    }
}

/// Does long work with bars, on a thread where it may block. The inner error is the number of the signal that ended it.
async fn long<T: Send + 'static>(
    work: impl FnOnce(&dyn Progress) -> microagent_kernel::Result<T> + Send + 'static,
) -> Result<Result<T, i32>> {
    match with_bars(|bars| tokio::task::spawn_blocking(move || work(&*bars))).await? {
        Ok(ended) => ended?.map(Ok).map_err(told),
        Err(number) => Ok(Err(number)),
    }
}

fn told(error: microagent_kernel::Error) -> Failure {
    Failure::new(format!("{}: {error}", error.category()))
}

fn installed(kernel: &Kernel, format: Format) -> Result<u8> {
    match output::structured(format, &value(kernel))? {
        Some(text) => output::print(&text)?,
        None => output::line(&format!("{} {}", kernel.version, kernel.id))?,
    }
    Ok(0)
}

/// What the package sources have for each kernel.
async fn check(store: KernelStore, wanted: &[String], format: Format) -> Result<u8> {
    let kernels = chosen(&store, wanted)?;
    let found = long(move |progress| {
        kernels.into_iter().map(|kernel| store.newer(&kernel, progress).map(|newer| (kernel, newer))).collect()
    });
    let found: Vec<(Kernel, Option<String>)> = match found.await? {
        Ok(found) => found,
        Err(number) => return Ok(signal_code(number)),
    };
    let mut table = Table::new(&["VERSION", "ID", "SOURCE", "PACKAGE", "NEWER"]);
    let mut values = Vec::new();
    for (kernel, newer) in &found {
        let package = kernel.package.clone().unwrap_or_default();
        let says = match (newer, &kernel.package) {
            (Some(newer), _) => newer.clone(),
            (None, Some(_)) => "none".to_owned(),
            (None, None) => "not known: it came from a file".to_owned(),
        };
        table.row([kernel.version.clone(), kernel.id.short(), short_source(&kernel.source), package, says]);
        values.push(json!({ "version": kernel.version, "id": kernel.id, "package": kernel.package, "newer": newer }));
    }
    match output::structured(format, &values)? {
        Some(text) => output::print(&text)?,
        None => output::print(&table.render(""))?,
    }
    Ok(0)
}

fn list(store: &KernelStore, format: Format) -> Result<u8> {
    let kernels = store.list()?;
    let values: Vec<_> = kernels.iter().map(value).collect();
    let text = match output::structured(format, &values)? {
        Some(text) => text,
        None if format == Format::Name => kernels.iter().map(|k| format!("{}\n", k.version)).collect(),
        None => table(&kernels, format == Format::Wide, Timestamp::now()),
    };
    output::print(&text)?;
    Ok(0)
}

fn table(kernels: &[Kernel], wide: bool, now: Timestamp) -> String {
    let mut table = Table::new(&["VERSION", "ID", "ARCH", "SOURCE", "PACKAGE", "SIZE", "AGE"]);
    for kernel in kernels {
        table.row([
            kernel.version.clone(),
            kernel.id.short(),
            kernel.arch.to_string(),
            if wide { kernel.source.clone() } else { short_source(&kernel.source) },
            kernel.package.clone().unwrap_or_default(),
            human::bytes(kernel.size),
            human::age(kernel.installed_at, now),
        ]);
    }
    table.render("")
}

/// A source without the directories of its path.
fn short_source(source: &str) -> String {
    match source.strip_prefix("path:").and_then(|path| Path::new(path).file_name()) {
        Some(name) => format!("path:…/{}", name.to_string_lossy()),
        None => source.to_owned(),
    }
}

fn value(kernel: &Kernel) -> Value {
    json!({
        "id": kernel.id,
        "version": kernel.version,
        "arch": kernel.arch.to_string(),
        "source": kernel.source,
        "package": kernel.package,
        "build": kernel.build,
        "packages": kernel.packages,
        "image": kernel.image,
        "vmlinux": kernel.vmlinux,
        "pvh": kernel.pvh,
        "modules": kernel.modules.iter().map(|m| json!({ "name": m.name, "builtin": m.builtin })).collect::<Vec<_>>(),
        "installedAt": kernel.installed_at,
        "size": kernel.size,
    })
}

/// The kernels that are meant: by version, by id or its beginning; all when none is named.
fn chosen(store: &KernelStore, wanted: &[String]) -> Result<Vec<Kernel>> {
    let kernels = store.list()?;
    for name in wanted {
        if !kernels.iter().any(|k| is(k, name)) {
            return Err(Failure::new(format!("kernel {name} is not installed"))
                .help("list the installed ones with `microagent kernel list`"));
        }
    }
    Ok(kernels.into_iter().filter(|k| wanted.is_empty() || wanted.iter().any(|name| is(k, name))).collect())
}

fn is(kernel: &Kernel, name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    kernel.version == name || hex.len() >= 6 && kernel.id.hex().starts_with(hex)
}

fn verify(store: &KernelStore, wanted: &[String], format: Format) -> Result<u8> {
    let kernels = chosen(store, wanted)?;
    if kernels.is_empty() {
        return Err(Failure::new("no kernel is installed").help("install one with `microagent kernel install`"));
    }
    let mut table = Table::new(&["VERSION", "ID", "RESULT", "WHY"]);
    let (mut values, mut good) = (Vec::new(), true);
    for kernel in &kernels {
        let found = store.verify(kernel)?;
        let wrong = faults(&found);
        good &= wrong.is_empty();
        let result = if wrong.is_empty() { "ok" } else { "failed" };
        let why =
            if wrong.is_empty() { "whole, with every driver that guests need".to_owned() } else { wrong.join("; ") };
        table.row([kernel.version.clone(), kernel.id.short(), result.to_owned(), why]);
        let lacks = lacks(kernel, &found);
        for (purpose, missing) in &lacks {
            for missing in missing {
                let why = format!("for {purpose}: {missing}");
                table.row([kernel.version.clone(), kernel.id.short(), "lacks".to_owned(), why]);
            }
        }
        values.push(json!({
            "version": kernel.version, "id": kernel.id, "ok": wrong.is_empty(), "faults": wrong,
            "lacks": lacks.into_iter().collect::<BTreeMap<_, _>>(),
        }));
    }
    match output::structured(format, &values)? {
        Some(text) => output::print(&text)?,
        None => output::print(&table.render(""))?,
    }
    Ok(if good { 0 } else { FAILED })
}

fn faults(found: &Verification) -> Vec<String> {
    let mut faults: Vec<_> = found.corrupted.iter().map(|c| format!("{}: {}", c.path.display(), c.reason)).collect();
    faults.extend(found.missing(Need::REQUIRED));
    faults
}

/// What the kernel lacks for what not every workspace has or does.
fn lacks(kernel: &Kernel, found: &Verification) -> Vec<(&'static str, Vec<String>)> {
    let mut all = Vec::new();
    for purpose in Purpose::ALL.iter().copied().filter(|purpose| *purpose != Purpose::Workspace) {
        let mut missing = found.missing_for(purpose);
        if purpose == Purpose::Qemu && kernel.vmlinux.is_some() && !kernel.pvh {
            missing.push("the ELF note of the PVH entry, without which the slower bzImage is booted".to_owned());
        }
        if !missing.is_empty() {
            all.push((purpose.label(), missing));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_in_a_table_loses_its_directories() {
        assert_eq!(short_source("path:/home/me/builds/vmlinuz-6.1"), "path:…/vmlinuz-6.1");
        assert_eq!(short_source("package"), "package");
    }

    #[test]
    fn a_source_is_a_word_or_a_path() {
        assert_eq!(parse("default", None).unwrap(), KernelSource::Default);
        let named = KernelSource::Package { name: Some("linux-image-x".to_owned()), version: None };
        assert_eq!(parse("package:linux-image-x", None).unwrap(), named);
        let path = KernelSource::Path { kernel: "/boot/vmlinuz".into(), modules: Some("/m".into()) };
        assert_eq!(parse("/boot/vmlinuz", Some("/m".into())).unwrap(), path);
        assert!(parse("package", Some("/m".into())).is_err());
    }
}
