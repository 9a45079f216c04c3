//! The programs of the host that build a kernel. They are looked for and never installed.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use microagent_base::Progress;

use crate::{
    arch::Arch,
    error::{Error, Result},
    process::run,
};

/// Each program, and the package of Debian and Ubuntu that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("gzip", "gzip"),
];
/// Each header of the host's own programs of the build, and its package.
const HEADERS: &[(&str, &str)] = &[("stdio.h", "libc6-dev"), ("gelf.h", "libelf-dev")];

/// The tools that were found.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// Where they are looked for.
    path: OsString,
    /// The first lines of what compiler and linker say of their versions: the bytes of a kernel depend on them.
    pub(crate) compiler: String,
    pub(crate) linker: String,
}

impl Tools {
    /// Looks for all of them: in `programs`, or where there is none in `PATH`.
    ///
    /// # Errors
    /// [`Error::ToolsMissing`] with all that is missing and the command that installs it.
    pub(crate) fn find(programs: Option<&Path>, arch: Arch, progress: &dyn Progress) -> Result<Self> {
        let path = programs.map_or_else(|| env::var_os("PATH").unwrap_or_default(), |dir| dir.as_os_str().to_owned());
        let has = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
        let mut missing: Vec<(&str, &str)> = PROGRAMS.iter().copied().filter(|(program, _)| !has(program)).collect();
        let mut tools = Self { path: path.clone(), compiler: String::new(), linker: String::new() };
        if has("gcc") {
            for &(header, package) in HEADERS {
                // The kernel's own tool that reads ELF files works on x86-64 alone.
                let wanted = header != "gelf.h" || arch == Arch::X86_64;
                if wanted && !tools.compiles(header, progress)? {
                    missing.push((header, package));
                }
            }
        } else {
            missing.extend(HEADERS.iter().copied().filter(|(header, _)| *header != "gelf.h" || arch == Arch::X86_64));
        }
        if !missing.is_empty() {
            let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
            packages.sort_unstable();
            packages.dedup();
            return Err(Error::ToolsMissing {
                missing: missing.iter().map(|(name, _)| (*name).to_owned()).collect(),
                command: format!("apt-get install {}", packages.join(" ")),
            });
        }
        tools.compiler = tools.version("gcc", progress)?;
        tools.linker = tools.version("ld", progress)?;
        Ok(tools)
    }

    /// A command with nothing of our environment that a build could depend on.
    pub(crate) fn command(&self, program: &str) -> (Command, PathBuf) {
        let found = env::split_paths(&self.path).map(|dir| dir.join(program)).find(|path| path.is_file());
        let program = found.unwrap_or_else(|| PathBuf::from(program));
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", &self.path).env("LC_ALL", "C").env("TZ", "UTC");
        // Where the host's compiler may put its own files.
        if let Some(dir) = env::var_os("TMPDIR") {
            command.env("TMPDIR", dir);
        }
        (command, program)
    }

    fn compiles(&self, header: &str, progress: &dyn Progress) -> Result<bool> {
        let (mut command, program) = self.command("gcc");
        command.args(["-E", "-include", header, "-x", "c", "/dev/null", "-o", "/dev/null"]);
        Ok(run(command, &program, progress, |_, _| ())?.status.success())
    }

    fn version(&self, name: &str, progress: &dyn Progress) -> Result<String> {
        let (mut command, program) = self.command(name);
        command.arg("--version");
        let output = run(command, &program, progress, |_, _| ())?;
        Ok(output.stdout.lines().next().unwrap_or_default().trim().to_owned())
    }
}
