//! apt, on Debian, Ubuntu and what is made of them: apt-get(8), apt-cache(8), apt.conf(5).

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use microagent_base::{Progress, durable, progress::Step};

use super::{Fetched, Stanza, Wanted, collect, is_pinned, kernel_release};
use crate::{
    error::{Error, Result, io_error},
    process::{Output, Stream, run},
    version,
};

/// A kernel is split into at most four packages; a meta package adds one.
const MAX_PACKAGES: usize = 8;

/// How the names of packages of kernel sources begin.
const SOURCE_PREFIX: &str = "linux-source-";

/// Hooks that the host has for its own updates must not run for ours: they clean or notify the system.
const NO_HOOKS: &str = "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
                        #clear APT::Update::Post-Invoke-Success;\n";

/// The apt of this host.
#[derive(Clone, Debug)]
pub(crate) struct Apt {
    /// Where its programs are.
    programs: PathBuf,
    /// Where apt may keep lists of its own for us.
    state: PathBuf,
}

/// Whose package lists are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    System,
    Private,
}

impl Apt {
    /// The apt in `PATH`. `state` is a private directory; it is made when it is needed.
    pub(crate) fn find(state: &Path) -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let find = |program: &str| env::split_paths(&path).find(|dir| dir.join(program).is_file());
        match find("apt-get") {
            Some(programs) => Ok(Self::at(programs, state)),
            None => Err(Error::PackageManagerMissing {
                found: ["dnf", "zypper", "pacman", "apk"].into_iter().find(|program| find(program).is_some()),
            }),
        }
    }

    pub(crate) fn at(programs: PathBuf, state: &Path) -> Self {
        Self { programs, state: state.to_owned() }
    }

    /// Downloads the packages of one kernel into `dir`.
    pub(crate) fn fetch(&self, wanted: &Wanted<'_>, dir: &Path, progress: &dyn Progress) -> Result<Fetched> {
        self.by_any_lists(progress, |lists| {
            let packages = self.find_kernel(lists, wanted, progress)?;
            self.download(lists, &packages, dir, progress)
        })
    }

    /// The packages of one kernel, as the lists have them; nothing is downloaded.
    pub(crate) fn newest(&self, wanted: &Wanted<'_>, progress: &dyn Progress) -> Result<Vec<Stanza>> {
        self.by_any_lists(progress, |lists| self.find_kernel(lists, wanted, progress))
    }

    /// The package of the newest kernel source, or of the newest whose version is pinned; nothing is downloaded.
    pub(crate) fn newest_source(&self, pin: Option<&str>, progress: &dyn Progress) -> Result<Stanza> {
        self.by_any_lists(progress, |lists| {
            progress.step(Step { what: "looking for the kernel source".to_owned(), done: 0, total: None });
            self.find_source(lists, pin, progress)?.ok_or_else(|| Error::KernelNotFound {
                what: pin.map_or("source package".to_owned(), |pin| format!("source package of version {pin}")),
                why: "the package sources of this host have no such `linux-source` package".to_owned(),
                remedy: "add the source that has it, or use `kernel.source: package`".to_owned(),
            })
        })
    }

    /// Downloads a package into `dir`.
    pub(crate) fn fetch_package(&self, package: &Stanza, dir: &Path, progress: &dyn Progress) -> Result<Fetched> {
        let packages = std::slice::from_ref(package);
        self.by_any_lists(progress, |lists| self.download(lists, packages, dir, progress))
    }

    /// Does something by the system's package lists, and where that fails by fresh private ones.
    fn by_any_lists<T>(&self, progress: &dyn Progress, attempt: impl Fn(Lists) -> Result<T>) -> Result<T> {
        self.prepare()?;
        match attempt(Lists::System) {
            // Unknown here, or gone from the mirror since the lists were fetched: fresh lists tell.
            Err(Error::KernelNotFound { .. } | Error::PackageManagerFailed { .. }) => {}
            other => return other,
        }
        progress.step(Step { what: "fetching the package lists".to_owned(), done: 0, total: None });
        let updated = self.run(Lists::Private, "apt-get", &["update"], None, progress, |_| ())?;
        match attempt(Lists::Private) {
            // One broken source among several is no reason to fail, unless it is the one that has the kernel.
            Err(Error::KernelNotFound { .. }) if !updated.status.success() => Err(failed("apt-get update", &updated)),
            other => other,
        }
    }

    fn find_kernel(&self, lists: Lists, wanted: &Wanted<'_>, progress: &dyn Progress) -> Result<Vec<Stanza>> {
        progress.step(Step { what: "looking for the kernel package".to_owned(), done: 0, total: None });
        self.resolve(lists, wanted, progress)?.ok_or_else(|| Error::KernelNotFound {
            what: wanted.describe(),
            why: "the package sources of this host do not have it".to_owned(),
            remedy: "correct `kernel.version`, add the source that has it, or set `kernel.source: path`".to_owned(),
        })
    }

    /// Debian and Ubuntu name the packages of kernel sources `linux-source-` and the line of versions.
    fn find_source(&self, lists: Lists, pin: Option<&str>, progress: &dyn Progress) -> Result<Option<Stanza>> {
        let output = self.run(lists, "apt-cache", &["pkgnames", SOURCE_PREFIX], None, progress, |_| ())?;
        let line_of = |name: &str| name.strip_prefix(SOURCE_PREFIX).map(str::to_owned).unwrap_or_default();
        let mut names: Vec<&str> = output.stdout.lines().filter(|name| is_line(&line_of(name))).collect();
        names.sort_by(|a, b| version::compare(&line_of(b), &line_of(a)));
        for name in names {
            // All versions only where one of them is asked for: the first is the one that apt prefers.
            for stanza in self.show(lists, name, pin.is_some(), progress)? {
                if pin.is_none_or(|pin| version::matches(pin, stanza.version())) {
                    return Ok(Some(stanza));
                }
            }
        }
        Ok(None)
    }

    fn download(&self, lists: Lists, packages: &[Stanza], dir: &Path, progress: &dyn Progress) -> Result<Fetched> {
        let total: u64 = packages.iter().map(Stanza::size).sum();
        let what = format!("downloading {}", packages.first().map_or("", Stanza::name));
        let specs: Vec<String> = packages.iter().map(Stanza::spec).collect();
        let arguments: Vec<&str> = std::iter::once("download").chain(specs.iter().map(String::as_str)).collect();
        let output = self.run(lists, "apt-get", &arguments, Some(dir), progress, |line| {
            if let Some(percent) = download_percent(line) {
                let done = (total as f64 * percent / 100.0) as u64;
                progress.step(Step { what: what.clone(), done: done.min(total), total: Some(total) });
            }
        })?;
        if !output.status.success() {
            return Err(failed(&format!("apt-get download {}", specs.join(" ")), &output));
        }
        collect(packages, dir)
    }

    /// The packages of the kernel that is wanted, without the meta package that led to them.
    fn resolve(&self, lists: Lists, wanted: &Wanted<'_>, progress: &dyn Progress) -> Result<Option<Vec<Stanza>>> {
        let arch = wanted.arch.debian();
        // Debian's cloud kernel, Ubuntu's kernel for virtual machines, then what any Debian has.
        let usual = [format!("linux-image-cloud-{arch}"), "linux-image-virtual".into(), format!("linux-image-{arch}")];
        let names = wanted.name.map_or_else(|| usual.to_vec(), |name| vec![name.to_owned()]);
        for name in &names {
            let spec = wanted.version.map_or_else(|| name.clone(), |version| format!("{name}={version}"));
            for stanza in self.show(lists, &spec, wanted.pin.is_some(), progress)? {
                let packages = self.parts(lists, stanza, progress)?;
                if wanted.pin.is_none_or(|pin| is_pinned(&packages, pin)) {
                    return Ok(Some(packages));
                }
            }
        }
        match wanted.pin {
            Some(pin) if wanted.name.is_none() => self.resolve_release(lists, pin, arch, progress),
            _ => Ok(None),
        }
    }

    /// A kernel that no meta package names any longer but that is still there: the newest whose release is pinned.
    fn resolve_release(
        &self,
        lists: Lists,
        pin: &str,
        arch: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Vec<Stanza>>> {
        let prefix = format!("linux-image-{pin}");
        let output = self.run(lists, "apt-cache", &["pkgnames", &prefix], None, progress, |_| ())?;
        for flavour in [format!("-cloud-{arch}"), "-generic".to_owned(), format!("-{arch}")] {
            let mut names: Vec<&str> = output
                .stdout
                .lines()
                .filter(|name| name.ends_with(&flavour))
                .filter(|name| kernel_release(name).is_some_and(|release| version::matches(pin, release)))
                .collect();
            names.sort_by(|a, b| version::compare(b, a));
            for name in names {
                if let Some(stanza) = self.show(lists, name, false, progress)?.into_iter().next() {
                    return self.parts(lists, stanza, progress).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// The packages that make up the kernel of a package, which may be a meta package.
    fn parts(&self, lists: Lists, start: Stanza, progress: &dyn Progress) -> Result<Vec<Stanza>> {
        let mut seen = BTreeSet::from([start.name().to_owned()]);
        let mut left = vec![start];
        let mut parts = Vec::new();
        let mut metas = Vec::new();
        while let Some(stanza) = left.pop() {
            for spec in stanza.kernel_depends() {
                let name = spec.split('=').next().unwrap_or_default().to_owned();
                if seen.len() < MAX_PACKAGES && seen.insert(name) {
                    left.extend(self.show(lists, &spec, false, progress)?.into_iter().next());
                }
            }
            if kernel_release(stanza.name()).is_some() { parts.push(stanza) } else { metas.push(stanza) }
        }
        // A package with a name of its own (a kernel that the user's own archive has) is no meta package.
        Ok(if parts.is_empty() { metas } else { parts })
    }

    /// The index records of a package; none when it is not known.
    fn show(&self, lists: Lists, spec: &str, all: bool, progress: &dyn Progress) -> Result<Vec<Stanza>> {
        if spec.starts_with('-') || spec.contains(char::is_whitespace) {
            return Ok(Vec::new());
        }
        let which = if all { "--all-versions" } else { "--no-all-versions" };
        let output = self.run(lists, "apt-cache", &["show", which, spec], None, progress, |_| ())?;
        // It fails alike for an unknown package and for unreadable lists; private lists are tried for both.
        Ok(if output.status.success() { Stanza::parse_all(&output.stdout) } else { Vec::new() })
    }

    /// Makes the directories that apt expects. An index of the lists is kept here too, so that only the first call makes it.
    fn prepare(&self) -> Result<()> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            durable::private_dir(&self.state.join(dir))?;
        }
        durable::write(&self.state.join("no-hooks.conf"), NO_HOOKS.as_bytes())?;
        Ok(())
    }

    fn run(
        &self,
        lists: Lists,
        program: &str,
        arguments: &[&str],
        dir: Option<&Path>,
        progress: &dyn Progress,
        mut line: impl FnMut(&str),
    ) -> Result<Output> {
        let path = self.programs.join(program);
        let mut command = Command::new(&path);
        let option = |name: &str, value: &Path| {
            let mut text = OsString::from(format!("{name}="));
            text.push(value);
            [OsString::from("-o"), text]
        };
        command.arg("-c").arg(self.state.join("no-hooks.conf"));
        // A host may have set the inner directories by themselves, so that the outer ones alone would not move them.
        command.args(option("Dir::Cache", &self.state.join("cache")));
        command.args(option("Dir::Cache::archives", &self.state.join("cache/archives")));
        if lists == Lists::Private {
            command.args(option("Dir::State::lists", &self.state.join("lists")));
            command.args(option("Dir::State", &self.state));
            command.args(option("Dir::State::status", Path::new("/var/lib/dpkg/status")));
        }
        for setting in [
            // Images of Debian for containers switch these off; they save a second a call.
            "Dir::Cache::pkgcache=pkgcache.bin",
            "Dir::Cache::srcpkgcache=srcpkgcache.bin",
            // As root apt downloads as `_apt`, which may not enter a private directory. Of no effect for others.
            "APT::Sandbox::User=root",
            "APT::Status-Fd=1",
            "APT::Get::AllowUnauthenticated=false",
            "Acquire::AllowInsecureRepositories=false",
            "Acquire::AllowDowngradeToInsecureRepositories=false",
            "Acquire::Languages=none",
            // Nobody waits for ever on a mirror that does not answer.
            "Acquire::http::Timeout=30",
            "Acquire::https::Timeout=30",
            "Acquire::Retries=2",
        ] {
            command.arg("-o").arg(setting);
        }
        if program == "apt-get" {
            // With -y apt fails, and does not ask, when a package is not authenticated.
            command.arg("-y");
        }
        command.args(arguments).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(dir) = dir {
            fs::create_dir_all(dir).map_err(io_error("create directory", dir))?;
            command.current_dir(dir);
        }
        tracing::debug!(program, ?arguments, ?lists, "running the package manager");
        run(command, &path, progress, |stream, text| {
            if stream == Stream::Stdout {
                line(text);
            }
        })
    }
}

/// Whether it is a line of versions, such as `6.12`: there are packages of patches and of headers with like names.
fn is_line(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// The percentage in a line for `APT::Status-Fd`: `dlstatus:1:45.2:Retrieving file 1 of 1`.
fn download_percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok().filter(|percent: &f64| percent.is_finite())
}

fn failed(command: &str, output: &Output) -> Error {
    let lines = output.last.clone();
    Error::PackageManagerFailed { command: command.to_owned(), status: output.status.to_string(), lines }
}

#[cfg(test)]
mod tests;
