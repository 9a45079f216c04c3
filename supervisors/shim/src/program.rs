//! Where the programs of this host are.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The longest line that a program may say of its version, in characters.
const MAX_LINE: usize = 200;

/// The program that an environment variable names, if it names one. It may not be there.
#[must_use]
pub fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|p| !p.as_os_str().is_empty())
}

/// The first executable of that name on `PATH`.
#[must_use]
pub fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|d| d.join(name)).find(|p| p.is_absolute() && is_executable(p))
}

/// Where the program would be if it stood beside this one. It may not be there.
#[must_use]
pub fn beside(name: &str) -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.join(name))
}

/// Whether it is a file that somebody may run.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// What the program prints first when it is run with `--version`; `None` when it fails or is silent.
#[must_use]
pub fn version_line(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().filter(|_| output.status.success())?;
    Some(line.trim().chars().filter(|c| !c.is_control()).take(MAX_LINE).collect())
}
