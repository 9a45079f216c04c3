//! Runs the kernel's own build.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use microagent_base::{Progress, progress::Step};

use super::tools::Tools;
use crate::{
    arch::Arch,
    error::{Error, Result, io_error},
    process::run_as_one,
};

/// Whose builds these are, on whatever host: both stand in the kernel's banner.
const BUILDER: &str = "microagent";

/// A build of one source in one configuration.
pub(crate) struct Make<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) arch: Arch,
    /// The source, which is not written to.
    pub(crate) source: &'a Path,
    /// Where everything is put.
    pub(crate) objects: &'a Path,
    /// Seconds since 1970 that the kernel bears as its build's time.
    pub(crate) time: i64,
    pub(crate) log: &'a Path,
}

impl Make<'_> {
    /// Writes `.config`: what is asked for, and off what is not asked for.
    pub(crate) fn configure(&self, asked: &Path, progress: &dyn Progress) -> Result<()> {
        progress.step(Step { what: "configuring the kernel".to_owned(), done: 0, total: None });
        let (mut command, program) = self.command();
        command.env("KCONFIG_ALLCONFIG", asked).arg("allnoconfig");
        self.run(command, &program, progress, |_| ())
    }

    /// Builds the kernel; gives its file. What an interrupted build left is used.
    pub(crate) fn build(&self, jobs: usize, expected: u64, progress: &dyn Progress) -> Result<PathBuf> {
        let (target, file) = match self.arch {
            Arch::X86_64 => ("vmlinux", "vmlinux"),
            Arch::Aarch64 => ("Image", "arch/arm64/boot/Image"),
        };
        let (mut command, program) = self.command();
        command.arg(format!("-j{jobs}")).arg(target);
        let mut done = objects_in(self.objects, 0);
        let mut told = None;
        self.run(command, &program, progress, |line| {
            if line.starts_with("  CC ") || line.starts_with("  AS ") {
                done += 1;
            }
            let percent = (done * 100 / expected.max(1)).min(99) as u8;
            if told != Some(percent) {
                told = Some(percent);
                // How many files there are is known of our own configuration only, so that this is about right.
                progress.share("building the kernel", percent);
            }
        })?;
        Ok(self.objects.join(file))
    }

    fn command(&self) -> (Command, PathBuf) {
        let (mut command, program) = self.tools.command("make");
        let mut output = std::ffi::OsString::from("O=");
        output.push(self.objects);
        let arch = match self.arch {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "arm64",
        };
        let stamp = Timestamp::from_second(self.time).unwrap_or(Timestamp::UNIX_EPOCH);
        command
            .arg("-C")
            .arg(self.source)
            .arg(output)
            .arg(format!("ARCH={arch}"))
            .env("KBUILD_BUILD_TIMESTAMP", stamp.strftime("%a %b %e %H:%M:%S UTC %Y").to_string())
            .env("KBUILD_BUILD_USER", BUILDER)
            .env("KBUILD_BUILD_HOST", BUILDER)
            .env("KBUILD_BUILD_VERSION", "1")
            .env("SOURCE_DATE_EPOCH", self.time.to_string());
        (command, program)
    }

    fn run(&self, command: Command, program: &Path, progress: &dyn Progress, mut line: impl FnMut(&str)) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log).map_err(io_error("open", self.log))?;
        let mut log = BufWriter::new(log);
        let mut full = false;
        let output = run_as_one(command, program, progress, |text| {
            // A log that cannot be written is no reason to end a build.
            let _ = writeln!(log, "{text}");
            full |= text.contains("No space left on device");
            line(text);
        })?;
        let _ = log.flush();
        if output.status.success() {
            return Ok(());
        }
        if full {
            return Err(Error::DiskFull { action: "build the kernel in", path: self.objects.to_owned() });
        }
        Err(Error::BuildFailed { status: output.status.to_string(), lines: output.last, log: self.log.to_owned() })
    }
}

/// How many object files there are already.
fn objects_in(dir: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() && depth < 16 => objects_in(&entry.path(), depth + 1),
        Ok(kind) if kind.is_file() && entry.path().extension().is_some_and(|e| e == "o") => 1,
        _ => 0,
    };
    entries.flatten().map(count).sum()
}
