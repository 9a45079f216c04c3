//! Control groups of machines: `microagent/UID`, a group for each machine with bounds on what its programs take of the host.
//!
//! Version 2 alone (`Documentation/admin-guide/cgroup-v2.rst` of the kernel), and only where this user may make groups. The shim itself
//! stays where it is: it must be able to tell how its machine ended. Firecracker's jailer makes the same group by itself.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use serde::{Deserialize, Serialize};

use crate::dir::host;

/// Names the directory at which control groups are, where it is not `/sys/fs/cgroup`: in a container they are mounted elsewhere.
const ROOT_VARIABLE: &str = "MICROAGENT_CGROUPS";

/// The parent of the machines' groups.
pub const PARENT: &str = "microagent";

/// What is bounded. Both come with every kernel of a distribution that uses version 2.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// How long the last process of a group may take to be gone from it, once it was killed.
const EMPTY: Duration = Duration::from_secs(5);

/// How often that is tried.
const EMPTY_LOOK: Duration = Duration::from_millis(5);

/// What the programs of a machine may take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, with that of the guest.
    pub memory: u64,
    /// Processes and threads.
    pub threads: u32,
}

/// The control groups of a host.
#[derive(Clone, Debug)]
pub struct Groups {
    root: PathBuf,
}

impl Groups {
    /// Those of this host.
    #[must_use]
    pub fn of_host() -> Self {
        let root = env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty());
        Self { root: root.map_or_else(|| PathBuf::from("/sys/fs/cgroup"), PathBuf::from) }
    }

    /// Whether groups with bounds can be had, found out by making the parent of all.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn ready(&self) -> Result<(), String> {
        let controllers = fs::read_to_string(self.root.join("cgroup.controllers")).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                format!("control groups of version 2 are not mounted at {}", self.root.display())
            }
            _ => format!("the control groups at {} cannot be read: {e}", self.root.display()),
        })?;
        for wanted in CONTROLLERS {
            if !controllers.split_whitespace().any(|have| have == wanted) {
                return Err(format!("the control groups at {} have no controller {wanted}", self.root.display()));
            }
        }
        let parent = self.root.join(PARENT);
        let made = enable(&self.root).and_then(|()| make(&parent)).and_then(|()| enable(&parent));
        made.map_err(|e| format!("control groups cannot be made in {}: {e}", parent.display()))
    }

    /// Makes the group of a machine, with its bounds.
    pub(crate) fn group(&self, uid: &str, limits: Limits) -> Result<Group, ErrorBody> {
        let group = Group { dir: self.dir(uid) };
        let failed = |e| host(&format!("cannot make the control group {}", group.dir.display()), &e);
        make(&group.dir).map_err(failed)?;
        fs::write(group.dir.join("memory.max"), limits.memory.to_string()).map_err(failed)?;
        fs::write(group.dir.join("pids.max"), limits.threads.to_string()).map_err(failed)?;
        Ok(group)
    }

    /// Removes the group of the machine of this UID, whose programs have ended. That there is none is no error.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), ErrorBody> {
        let dir = self.dir(uid);
        let until = Instant::now() + EMPTY;
        loop {
            match fs::remove_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                    thread::sleep(EMPTY_LOOK)
                }
                // Also where nothing can be removed: what is not there is removed.
                Err(e) if e.kind() != io::ErrorKind::NotFound && fs::symlink_metadata(&dir).is_ok() => {
                    let message = format!("cannot remove the control group {}: {e}", dir.display());
                    return Err(ErrorBody::new(ErrorCode::Host, message));
                }
                _ => return Ok(()),
            }
        }
    }

    fn dir(&self, uid: &str) -> PathBuf {
        self.root.join(PARENT).join(uid)
    }
}

/// The group of one machine.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
}

impl Group {
    /// Puts a process with all its threads into the group.
    pub(crate) fn take(&self, pid: u32) -> Result<(), ErrorBody> {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string())
            .map_err(|e| host(&format!("cannot put process {pid} into {}", self.dir.display()), &e))
    }

    /// Whether the kernel ended a process of the group for the memory that the group took.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Has the groups below `dir` be bounded. Fails where `dir` has processes of its own and is not the root of all.
fn enable(dir: &Path) -> io::Result<()> {
    let control = dir.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control)?;
    if CONTROLLERS.iter().all(|wanted| enabled.split_whitespace().any(|have| have == *wanted)) {
        return Ok(());
    }
    fs::write(control, CONTROLLERS.map(|c| format!("+{c}")).join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files of a group; in the real one the kernel makes them.
    fn stand_in(dir: &Path, controllers: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
    }

    #[test]
    fn a_machine_has_a_group_with_its_bounds_and_its_end_is_read_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Groups { root: dir.path().to_owned() };
        stand_in(dir.path(), "cpu memory pids\n");
        stand_in(&dir.path().join(PARENT), "memory pids\n");
        groups.ready().unwrap();
        let told = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(told("cgroup.subtree_control"), "+memory +pids");
        assert_eq!(told("microagent/cgroup.subtree_control"), "+memory +pids");
        let group = groups.group("u1", Limits { memory: 5 << 20, threads: 7 }).unwrap();
        group.take(42).unwrap();
        assert_eq!(told("microagent/u1/memory.max"), "5242880");
        assert_eq!(told("microagent/u1/pids.max"), "7");
        assert_eq!(told("microagent/u1/cgroup.procs"), "42");
        assert!(!group.ran_out_of_memory());
        fs::write(dir.path().join("microagent/u1/memory.events"), "max 9\noom 0\noom_kill 0\n").unwrap();
        assert!(!group.ran_out_of_memory());
        fs::write(dir.path().join("microagent/u1/memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
    }

    #[test]
    fn where_groups_cannot_be_had_it_is_said_why() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Groups { root: dir.path().to_owned() };
        assert!(groups.ready().unwrap_err().contains("not mounted"));
        stand_in(dir.path(), "cpu pids\n");
        assert!(groups.ready().unwrap_err().contains("no controller memory"));
        // A group without the kernel's files: what a directory that is not one of control groups looks like.
        stand_in(dir.path(), "memory pids\n");
        assert!(groups.ready().unwrap_err().contains("cannot be made"));
    }

    #[test]
    fn an_empty_group_is_removed_and_one_that_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Groups { root: dir.path().to_owned() };
        fs::create_dir_all(dir.path().join("microagent/u1")).unwrap();
        groups.remove("u1").unwrap();
        groups.remove("u1").unwrap();
        assert!(!dir.path().join("microagent/u1").exists());
    }
}
