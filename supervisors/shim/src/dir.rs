//! The machine's directory: names, lock, clean-up.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use microagent_base::durable;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use rustix::fs::{FlockOperation, flock};

/// The record of the machine.
pub const MACHINE_RECORD: &str = "machine.json";
/// What the guest's serial console printed.
pub const CONSOLE_LOG: &str = "console.log";
/// What setup and workload printed.
pub const WORKLOAD_LOG: &str = "workload.log";
/// The guest's vsock ports, for clients: served by the shim.
pub const VSOCK_SOCKET: &str = "vsock.sock";
/// The guest's vsock ports, for the shim alone: served by the helper program.
pub const GUEST_SOCKET: &str = "guest.sock";
/// The pipe on which a VMM logs, where its log has one.
pub const LOGGER: &str = "logger.fifo";
/// The pipe on which a VMM tells its metrics, where it has one.
pub const METRICS_PIPE: &str = "metrics.fifo";
/// What a VMM told last of its metrics.
pub const METRICS: &str = "metrics.json";
/// The memory of a machine that goes on from changes after a full snapshot.
pub const MERGED_MEMORY: &str = "memory";
/// The root directory of a VMM that is jailed is below this.
pub const JAIL: &str = "jail";
pub(crate) const VMM_LOG: &str = "vmm.log";
pub(crate) const SHIM_LOG: &str = "shim.log";
pub(crate) const SHIM_LOCK: &str = "shim.lock";
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
pub(crate) const ACTIVITY: &str = "activity";
pub(crate) const OUTPUTS: &str = "outputs";

/// A machine's directory.
#[derive(Clone, Debug)]
pub(crate) struct MachineDir(PathBuf);

/// Held while a call changes the machine. The lock is on the directory itself: a lock file could not be removed safely.
#[must_use]
pub(crate) struct DirLock {
    _folder: File,
}

impl MachineDir {
    pub(crate) fn new(path: &Path) -> Result<Self, ErrorBody> {
        if !path.is_absolute() {
            let message = format!("the machine's directory {} is not an absolute path", path.display());
            return Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
        }
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn make(&self) -> Result<(), ErrorBody> {
        durable::private_dir(&self.0).map_err(|e| durable_error(&e))
    }

    /// `None` when there is no such directory.
    pub(crate) fn lock(&self) -> Result<Option<DirLock>, ErrorBody> {
        let folder = match File::open(&self.0) {
            Ok(folder) => folder,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(host(&format!("cannot open {}", self.0.display()), &e)),
        };
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(DirLock { _folder: folder })),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(ErrorBody::new(ErrorCode::MachineBusy, format!("another call is at work in {}", self.0.display())))
            }
            Err(e) => Err(host(&format!("cannot lock {}", self.0.display()), &e.into())),
        }
    }

    /// Removes everything that supervisors and shims make here; what is absent is no error.
    pub(crate) fn clean(&self) -> Result<(), ErrorBody> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(host(&format!("cannot list {}", self.0.display()), &e)),
        };
        self.clean_outputs()?;
        durable::remove_dir(&self.join(JAIL)).map_err(|e| durable_error(&e))?;
        for entry in entries {
            let entry = entry.map_err(|e| host(&format!("cannot list {}", self.0.display()), &e))?;
            if entry.file_name().to_str().is_some_and(is_ours) {
                durable::remove_file(&entry.path()).map_err(|e| durable_error(&e))?;
            }
        }
        durable::sync_dir(&self.0).map_err(|e| durable_error(&e))
    }

    /// Removes what an earlier boot copied out.
    pub(crate) fn clean_outputs(&self) -> Result<(), ErrorBody> {
        durable::remove_dir(&self.join(OUTPUTS)).map_err(|e| durable_error(&e))
    }

    /// Removes the sockets of an earlier boot: a socket cannot be bound over an old one.
    pub(crate) fn clean_sockets(&self) -> Result<(), ErrorBody> {
        let sockets = fs::read_dir(&self.0).map_err(|e| host(&format!("cannot list {}", self.0.display()), &e))?;
        for entry in sockets.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.ends_with(".sock"))) {
            durable::remove_file(&entry.path()).map_err(|e| durable_error(&e))?;
        }
        Ok(())
    }
}

fn is_ours(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        MACHINE_RECORD,
        CONSOLE_LOG,
        WORKLOAD_LOG,
        VMM_LOG,
        SHIM_LOG,
        SHIM_LOCK,
        ACTIVITY,
        LOGGER,
        METRICS_PIPE,
        METRICS,
        MERGED_MEMORY,
    ];
    NAMES.contains(&name.strip_suffix(".1").unwrap_or(name))
        || name.ends_with(".sock")
        || [VSOCK_SOCKET, GUEST_SOCKET].iter().any(|socket| name.starts_with(&format!("{socket}_")))
        || name.starts_with(durable::TEMPORARY_PREFIX)
}

/// An error of the operating system.
pub(crate) fn host(what: &str, error: &io::Error) -> ErrorBody {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
        _ => ErrorCode::Host,
    };
    ErrorBody::new(code, format!("{what}: {error}"))
}

pub(crate) fn durable_error(error: &durable::DurableError) -> ErrorBody {
    let full = matches!(error.io_kind(), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    ErrorBody::new(if full { ErrorCode::DiskFull } else { ErrorCode::Host }, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_up_takes_what_is_ours_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "machine.json",
            "console.log.1",
            "vsock.sock",
            "guest.sock_5",
            "activity",
            "logger.fifo",
            ".tmp-x",
            "overlay.ext4",
            "notes.log",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("outputs")).unwrap();
        fs::write(dir.path().join("outputs/a.tar"), "").unwrap();
        fs::create_dir_all(dir.path().join("jail/firecracker/u/root/dev")).unwrap();
        let machine = MachineDir::new(dir.path()).unwrap();
        machine.clean().unwrap();
        machine.clean().unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["notes.log", "overlay.ext4"]);
    }

    #[test]
    fn a_second_call_at_the_same_time_is_told_that_the_machine_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(dir.path()).unwrap();
        let _first = machine.lock().unwrap().unwrap();
        assert_eq!(machine.lock().err().unwrap().code, ErrorCode::MachineBusy);
    }
}
