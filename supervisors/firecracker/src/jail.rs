//! The jail of a machine: a root directory with nothing in it but its own parts, a user of its own, and a control group where one can
//! be made.
//!
//! Firecracker's jailer makes the root directory and gives up root. What the machine is made of is shown in there by bind mounts in a
//! mount namespace of its own ([`microagent_shim::Bind`]): they work across file systems, copy nothing, can be read-only whatever the
//! file's mode is, and are gone with the VMM however it ends, so that nothing has to be unmounted or unlinked afterwards.
//!
//! A disk that the machine alone writes to becomes its user's. What is shared, as a baseline is, keeps its owner: it has to be
//! readable for all, which inside a directory that others cannot enter makes it readable for nobody else.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use microagent_base::{Digest, durable};
use microagent_shim::{
    Bind, JAIL,
    cgroup::{self, Groups},
};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig};
use serde::{Deserialize, Serialize};

use crate::plan::{API_SOCKET, PIPES, Part, SOCKETS, text};

/// The first of the user ids of jails. systemd's table of ids has nothing from here to 0x7FFF_FFFF.
const FIRST_USER: u32 = 0x7000_0000;

/// What a VMM may have beyond its guest's memory, in MiB: it needs some 5, and the rest is for what the kernel counts to it.
const OVERHEAD_MIB: u64 = 64;

/// How many threads a VMM may have beside one for each virtual CPU.
const THREADS: u32 = 16;

/// A jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Jail {
    /// Its root directory, below the machine's.
    pub(crate) root: PathBuf,
    /// The user and the group of the VMM.
    pub(crate) user: u32,
}

impl Jail {
    /// The jail of the machine of this UID for this Firecracker.
    pub(crate) fn of(uid: &str, firecracker: &Path) -> Self {
        let digest = Digest::of(uid.as_bytes());
        let [a, b, c, d, ..] = *digest.bytes();
        // The jailer names the directory after the file that it runs, with all symbolic links resolved.
        let program = fs::canonicalize(firecracker).unwrap_or_else(|_| firecracker.to_owned());
        let name = program.file_name().unwrap_or_default();
        Self {
            root: Path::new(JAIL).join(name).join(uid).join("root"),
            user: FIRST_USER | (u32::from_be_bytes([a, b, c, d]) & 0x0FFF_FFFF),
        }
    }

    /// The arguments of the jailer.
    pub(crate) fn arguments(&self, uid: &str, firecracker: &Path, config: &MachineConfig) -> Vec<String> {
        let user = self.user.to_string();
        let mut args: Vec<String> = ["--id", uid, "--exec-file", &text(firecracker)].map(str::to_owned).into();
        args.extend(["--uid", &user, "--gid", &user, "--chroot-base-dir", JAIL].map(str::to_owned));
        if Groups::of_host().ready().is_ok() {
            let memory = (config.memory_mib + OVERHEAD_MIB) << 20;
            args.extend(["--cgroup-version", "2", "--parent-cgroup", cgroup::PARENT].map(str::to_owned));
            args.extend(["--cgroup".to_owned(), format!("memory.max={memory}")]);
            args.extend(["--cgroup".to_owned(), format!("pids.max={}", config.vcpus + THREADS)]);
        }
        args.extend(["--", "--api-sock", &format!("/{API_SOCKET}")].map(str::to_owned));
        args
    }

    /// What is shown in the jail.
    pub(crate) fn binds(&self, config: &MachineConfig) -> Vec<Bind> {
        let bind = |(part, host, read_only): (Part, &Path, bool)| Bind {
            from: host.to_owned(),
            to: self.root.join(part.name()),
            read_only,
        };
        Part::all(config).map(bind).collect()
    }

    /// Makes its root directory, empty, in the machine's directory, which is the working directory.
    pub(crate) fn make_root(&self) -> Result<(), ErrorBody> {
        durable::remove_dir(Path::new(JAIL)).and_then(|()| durable::private_dir(&self.root)).map_err(|e| host(&e))
    }

    /// Puts the places of the machine's parts into it, and gives the machine's user what is its own.
    pub(crate) fn furnish(&self, config: &MachineConfig) -> Result<(), ErrorBody> {
        for (part, path, read_only) in Part::all(config) {
            File::create_new(self.root.join(part.name())).map_err(|e| host(&e))?;
            let done = if read_only { self.let_read(path) } else { self.give(path) };
            done.map_err(|e| e.told(part, path))?;
        }
        for pipe in PIPES {
            chown(self.root.join(pipe), Some(self.user), Some(self.user)).map_err(|e| host(&e))?;
        }
        for socket in SOCKETS {
            durable::remove_file(Path::new(socket)).map_err(|e| host(&e))?;
            symlink(self.root.join(socket), socket).map_err(|e| host(&e))?;
        }
        Ok(())
    }

    /// Makes the file the machine's own.
    fn give(&self, path: &Path) -> Result<(), Denied> {
        let metadata = fs::metadata(path)?;
        if (metadata.uid(), metadata.gid()) != (self.user, self.user) {
            chown(path, Some(self.user), Some(self.user))?;
        }
        if metadata.mode() & 0o600 != 0o600 {
            fs::set_permissions(path, Permissions::from_mode(metadata.mode() & 0o7777 | 0o600))?;
        }
        Ok(())
    }

    /// Makes a file that others use too readable for the machine.
    pub(crate) fn show(&self, path: &Path) -> Result<(), ErrorBody> {
        self.let_read(path).map_err(|e| e.told_of("the snapshot", path))
    }

    /// Makes the file readable for the machine, where nobody else gets to it by that.
    fn let_read(&self, path: &Path) -> Result<(), Denied> {
        let metadata = fs::metadata(path)?;
        if metadata.mode() & 0o004 != 0 || metadata.uid() == self.user {
            return Ok(());
        }
        let path = fs::canonicalize(path)?;
        if !is_private(&path)? {
            return Err(Denied::Exposed);
        }
        Ok(fs::set_permissions(&path, Permissions::from_mode(metadata.mode() & 0o7777 | 0o004))?)
    }
}

/// Whether others than the owner and the group cannot get to the file, because one of its directories is closed to them.
fn is_private(path: &Path) -> io::Result<bool> {
    for dir in path.ancestors().skip(1) {
        if fs::metadata(dir)?.mode() & 0o001 == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Why a file cannot be shown in the jail.
enum Denied {
    Io(io::Error),
    Exposed,
}

impl From<io::Error> for Denied {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Denied {
    fn told(self, part: Part, path: &Path) -> ErrorBody {
        self.told_of(&part.name(), path)
    }

    fn told_of(self, what: &str, path: &Path) -> ErrorBody {
        let why = match self {
            Self::Io(error) => error.to_string(),
            Self::Exposed => "the jailed VMM may not read it, and so that it may, everybody on this host would have to; make it \
                              readable for all (`chmod o+r`), keep it in a directory that others cannot enter, or start without a jail"
                .to_owned(),
        };
        let message = format!("{what} {} cannot be shown in the jail: {why}", path.display());
        ErrorBody::new(ErrorCode::FileUnavailable, message)
    }
}

fn host(error: &dyn std::fmt::Display) -> ErrorBody {
    ErrorBody::new(ErrorCode::Host, format!("cannot make the jail: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_users_of_their_own_in_a_range_that_nobody_uses() {
        let user = |uid: &str| Jail::of(uid, Path::new("/opt/firecracker")).user;
        assert_eq!(user("u-1"), user("u-1"));
        assert_ne!(user("u-1"), user("u-2"));
        assert!((0x7000_0000..=0x7FFF_FFFF).contains(&user("u-1")));
    }

    #[test]
    fn a_file_that_everybody_could_get_to_is_not_opened_for_the_jail() {
        let dir = tempfile::tempdir().unwrap();
        let jail = Jail::of("u-1", Path::new("/opt/firecracker"));
        let (private, open) = (dir.path().join("private"), dir.path().join("open"));
        for (folder, mode) in [(&private, 0o700), (&open, 0o755)] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("kernel"), "").unwrap();
            fs::set_permissions(folder.join("kernel"), Permissions::from_mode(0o640)).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        }
        assert!(jail.let_read(&private.join("kernel")).is_ok());
        assert_eq!(fs::metadata(private.join("kernel")).unwrap().mode() & 0o777, 0o644);
        // The test's own directory is private already.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        if is_private(&open.join("kernel")).unwrap() {
            eprintln!("skipped: the directory for temporary files is itself closed to others");
            return;
        }
        assert!(matches!(jail.let_read(&open.join("kernel")), Err(Denied::Exposed)));
        assert_eq!(fs::metadata(open.join("kernel")).unwrap().mode() & 0o777, 0o640);
    }
}
