//! Control groups: one for the workload, one for each setup step and each exec, so that all that a command left behind can
//! be ended, and so that the kernel says whether it ran out of memory. All of it is best effort: a kernel without cgroup v2
//! still runs workloads.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

const ROOT: &str = "/sys/fs/cgroup";

/// Hands the controllers down to the groups made here. One by one: a kernel may lack one.
pub(crate) fn enable_controllers() {
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A group that is removed when it is dropped, unless processes are left in it.
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `/NAME`.
    pub(crate) fn create(name: &str) -> Self {
        let path = Path::new(ROOT).join(name);
        let _ = fs::create_dir(&path);
        Self { path }
    }

    /// The file through which a process joins.
    pub(crate) fn procs(&self) -> Option<OwnedFd> {
        File::options().write(true).open(self.path.join("cgroup.procs")).ok().map(OwnedFd::from)
    }

    /// Ends all processes in it at once (since Linux 5.14).
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Whether the kernel ended a process in it for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events")).is_ok_and(|events| oom_kills(&events) > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn oom_kills(events: &str) -> u64 {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_count_not_the_times_that_memory_was_short() {
        assert_eq!(oom_kills("low 0\nhigh 3\nmax 9\noom 2\noom_kill 0\noom_group_kill 0\n"), 0);
        assert_eq!(oom_kills("oom 2\noom_kill 1\n"), 1);
        assert_eq!(oom_kills(""), 0);
    }
}
