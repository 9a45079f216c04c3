//! Which processes belong to a machine, seen from outside.

use std::{fs, io, os::unix::ffi::OsStrExt, path::Path};

use microagent_base::process::ProcessId;
use rustix::process::Signal;

/// The processes that run in this directory, or name it or the UID on their command line. The kit itself is none.
pub(crate) fn of(dir: &Path, uid: &str) -> io::Result<Vec<ProcessId>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid != own && belongs(&entry.path(), dir, uid) {
            // One that ended meanwhile is none.
            found.extend(ProcessId::of(pid).ok().filter(ProcessId::is_alive));
        }
    }
    Ok(found)
}

fn belongs(process: &Path, dir: &Path, uid: &str) -> bool {
    let works_there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    let names = |line: &[u8]| [dir.as_os_str().as_bytes(), uid.as_bytes()].iter().any(|name| contains(line, name));
    works_there || fs::read(process.join("cmdline")).is_ok_and(|line| names(&line))
}

/// Whether these bytes hold those.
pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && bytes.windows(part.len()).any(|window| window == part)
}

/// Kills it; that it is gone already is no error.
pub(crate) fn kill(process: ProcessId) -> io::Result<()> {
    process.signal(Signal::KILL).map(|_| ())
}

/// The session that a process is in: field 6 of `/proc/PID/stat`, proc(5).
pub(crate) fn session(pid: u32) -> io::Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it is in parentheses, and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    fields.split(' ').nth(3).and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
