//! The file systems that are not on a disk: what every Linux program expects to find.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount, mount_bind};

use crate::{console, error::Error, files};

/// Where guest-init keeps what it tells the workload about the machine.
pub(crate) const OWN: &str = "/run/microagent";

/// How many directories of the image's `/run` are kept, and how deep: far more than any image has.
const MAX_RUN: usize = 1024;
const MAX_RUN_DEPTH: usize = 8;

struct Standard {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
    /// A kernel may be built without it, and nearly all programs do without.
    optional: bool,
}

/// Mounted already in the initramfs.
pub(crate) const EARLY: &str = "/dev";

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// In the order in which they lie upon each other.
const STANDARD: [Standard; 8] = [
    Standard { kind: "proc", target: "/proc", flags: SAFE, options: "", optional: false },
    Standard { kind: "sysfs", target: "/sys", flags: SAFE, options: "", optional: false },
    Standard { kind: "cgroup2", target: "/sys/fs/cgroup", flags: SAFE, options: "", optional: true },
    Standard { kind: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, options: "mode=0755", optional: false },
    Standard {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "gid=5,mode=0620,ptmxmode=0666",
        optional: false,
    },
    Standard {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=1777",
        optional: false,
    },
    Standard { kind: "mqueue", target: "/dev/mqueue", flags: SAFE, options: "", optional: true },
    Standard {
        kind: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=0755",
        optional: false,
    },
];

/// What guest-init itself needs while the initramfs is the root: the console and the disks. Failures show in the steps that
/// need what is missing.
pub(crate) fn early() {
    for m in STANDARD.iter().filter(|m| m.target == EARLY) {
        let _ = fs::create_dir_all(m.target);
        let _ = mount_one(m.kind, m.kind, m.target, m.flags, m.options);
    }
}

/// Mounts `source` at `target`. `options` are the file system's own.
pub(crate) fn mount_one(
    source: &str,
    kind: &str,
    target: impl AsRef<Path>,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    // Paths and names without NUL always convert: the configuration was checked.
    let options = std::ffi::CString::new(options).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(mount(source, target.as_ref(), kind, flags, options.as_c_str())?)
}

/// Mounts all that programs expect into the root that has just become ours.
pub(crate) fn standard() -> Result<(), Error> {
    let run = directories(Path::new("/run"));
    for m in &STANDARD {
        let mounted =
            fs::create_dir_all(m.target).and_then(|()| mount_one(m.kind, m.kind, m.target, m.flags, m.options));
        match mounted {
            Err(source) if !m.optional => {
                return Err(Error::MountFailed { what: m.kind.to_owned(), target: m.target.into(), hint: "", source });
            }
            _ => {}
        }
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, Path::new("/dev").join(link));
    }
    // Images ship directories such as /run/mysqld that their programs need; files in /run belong to an earlier boot.
    for directory in run {
        let _ = directory.create();
    }
    if !Path::new("/tmp").exists() {
        let _ =
            DirBuilder::new().create("/tmp").and_then(|()| fs::set_permissions("/tmp", Permissions::from_mode(0o1777)));
    }
    Ok(())
}

/// Tells the workload who it is. As with container engines, `/etc/hosts` and `/etc/hostname` lie over the image's files as
/// mounts, so that neither the baseline nor what the workload wrote is touched.
pub(crate) fn identity(hostname: &str, boot_id: &str) -> Result<(), Error> {
    rustix::system::sethostname(hostname.as_bytes()).map_err(|e| Error::InvalidConfig {
        field: "hostname".to_owned(),
        problem: format!("{hostname:?}, which the kernel refuses: {e}"),
    })?;
    let own = Path::new(OWN);
    let failed = |path: &Path, source| Error::FileFailed { path: path.to_owned(), doing: "create", source };
    fs::create_dir_all(own).map_err(|e| failed(own, e))?;
    for (name, text, over) in [
        ("boot-id", format!("{boot_id}\n"), None),
        ("hostname", format!("{hostname}\n"), Some("/etc/hostname")),
        ("hosts", hosts(hostname), Some("/etc/hosts")),
    ] {
        let path = own.join(name);
        fs::write(&path, text).map_err(|e| failed(&path, e))?;
        if let Some(over) = over
            && let Err(e) = files::ensure(Path::new(over)).and_then(|target| Ok(mount_bind(&path, target)?))
        {
            console::say(&format!("cannot lay our own file over {over}: {e}"));
        }
    }
    Ok(())
}

fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\t\
         ip6-allrouters\n"
    )
}

/// A directory to be made again.
struct Directory {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
}

impl Directory {
    fn create(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path)?;
        chown(&self.path, Some(self.owner.0), Some(self.owner.1))?;
        fs::set_permissions(&self.path, Permissions::from_mode(self.mode))
    }
}

/// The directories below `root`, parents first, without following links.
fn directories(root: &Path) -> Vec<Directory> {
    let mut found: Vec<Directory> = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..MAX_RUN_DEPTH {
        let mut next = Vec::new();
        for entry in level.iter().filter_map(|d| fs::read_dir(d).ok()).flatten().flatten() {
            let path = entry.path();
            if let Ok(meta) = entry.metadata()
                && meta.is_dir()
                && found.len() < MAX_RUN
            {
                found.push(Directory {
                    path: path.clone(),
                    mode: meta.mode() & 0o7777,
                    owner: (meta.uid(), meta.gid()),
                });
                next.push(path);
            }
        }
        level = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_run_are_kept_with_their_modes_and_files_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("mysqld/sub")).unwrap();
        fs::set_permissions(dir.path().join("mysqld"), Permissions::from_mode(0o1775)).unwrap();
        fs::write(dir.path().join("mysqld/old.pid"), "1").unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let found: Vec<_> = directories(dir.path())
            .into_iter()
            .map(|d| (d.path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned(), d.mode))
            .collect();
        assert_eq!(found[0], ("mysqld".to_owned(), 0o1775));
        assert_eq!(found[1].0, "mysqld/sub");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_mount_never_comes_before_the_one_that_it_lies_on() {
        for (i, m) in STANDARD.iter().enumerate() {
            assert!(
                STANDARD[i + 1..].iter().all(|later| !Path::new(m.target).starts_with(later.target)),
                "{}",
                m.target
            );
        }
    }

    #[test]
    fn the_machine_knows_itself_by_name() {
        assert!(hosts("box").starts_with("127.0.0.1\tlocalhost box\n::1\t"));
    }
}
