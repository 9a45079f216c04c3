//! What this host has: Firecracker, its jailer, KVM.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use microagent_shim::{
    kvm::{self, Unusable},
    memory::Memory,
    program::{beside, in_path, is_executable, named, version_line},
};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use rustix::{process::geteuid, thread::CapabilitySet};

/// The first Firecracker whose API is that of [`crate::request`], and whose vsock device is reset so that guests notice.
pub(crate) const MIN_VERSION: Version = Version(1, 16);

/// The first that lets its guests run on with a vsock device that still delivers: before it, connections that the host makes after a
/// pause are never answered.
pub(crate) const GOOD_PAUSE: Version = Version(1, 17);

/// Names the Firecracker to use.
const FIRECRACKER: &str = "MICROAGENT_FIRECRACKER";
/// Names the jailer to use.
const JAILER: &str = "MICROAGENT_JAILER";
/// `assumed`: KVM counts as working without a try, for VMMs that need none.
const KVM: &str = "MICROAGENT_KVM";

/// Where packages put programs that are for other programs, seen from the directory of this one.
const LIBEXEC: &str = "../libexec/microagent";

/// A version of Firecracker, without its patch level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

/// What `--version` says: `Firecracker v1.16.1`.
pub(crate) fn version(line: &str) -> Option<Version> {
    let number = line.split(' ').find_map(|word| word.trim_start_matches('v').split_once('.'));
    let (major, rest) = number?;
    Some(Version(major.parse().ok()?, rest.split(['.', '-']).next()?.parse().ok()?))
}

/// A VMM that was found and can be used.
#[derive(Clone, Debug)]
pub(crate) struct Vmm {
    pub(crate) path: PathBuf,
    /// The first line that it says of its version.
    pub(crate) line: String,
}

/// What was found of this host, each thing looked for at most once in a call.
#[derive(Default)]
pub(crate) struct Host {
    vmm: OnceLock<Result<Vmm, ErrorBody>>,
    jailer: OnceLock<Result<PathBuf, ErrorBody>>,
    kvm: OnceLock<Option<Unusable>>,
}

impl Host {
    /// Firecracker: `MICROAGENT_FIRECRACKER`, or from `PATH`, or beside this executable or where packages put such programs.
    pub(crate) fn firecracker(&self) -> Result<&Vmm, ErrorBody> {
        self.vmm.get_or_init(find_firecracker).as_ref().map_err(Clone::clone)
    }

    /// The jailer of that Firecracker: `MICROAGENT_JAILER`, or beside it, or from `PATH`.
    pub(crate) fn jailer(&self) -> Result<&Path, ErrorBody> {
        let find = || find_jailer(self.firecracker()?);
        self.jailer.get_or_init(find).as_deref().map_err(Clone::clone)
    }

    /// Why KVM does not work.
    pub(crate) fn kvm_broken(&self) -> Option<&Unusable> {
        let look = || {
            if env::var_os(KVM).is_some_and(|word| word == "assumed") {
                return None;
            }
            // Where another backend found that it does not run whole guests, the probe, which runs some instructions, is no proof.
            Memory::recall().kvm_broken.map(Unusable::from).or_else(|| kvm::probe().err())
        };
        self.kvm.get_or_init(look).as_ref()
    }
}

/// Whether this process may make jails: root with the right to mount and to make devices, not root of a container without them.
pub(crate) fn may_jail() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("only root can make a jail".to_owned());
    }
    let needed = [
        (CapabilitySet::SYS_ADMIN, "SYS_ADMIN"),
        (CapabilitySet::SYS_CHROOT, "SYS_CHROOT"),
        (CapabilitySet::MKNOD, "MKNOD"),
        (CapabilitySet::SETUID, "SETUID"),
        (CapabilitySet::SETGID, "SETGID"),
        (CapabilitySet::CHOWN, "CHOWN"),
    ];
    let have = rustix::thread::capabilities(None).map_err(|e| format!("its capabilities cannot be read: {e}"))?;
    match needed.iter().find(|(capability, _)| !have.effective.contains(*capability)) {
        Some((_, name)) => Err(format!("this root lacks the capability {name}")),
        None => Ok(()),
    }
}

fn find_firecracker() -> Result<Vmm, ErrorBody> {
    let missing = |message: String| ErrorBody::new(ErrorCode::VmmNotFound, message);
    let path = match named(FIRECRACKER) {
        Some(path) if is_executable(&path) => path,
        Some(path) => {
            return Err(missing(format!("{}, which {FIRECRACKER} names, is no executable file", path.display())));
        }
        None => in_path("firecracker").or_else(|| packaged("firecracker")).ok_or_else(|| {
            missing(format!("firecracker is not in PATH, nor beside this supervisor, nor named by {FIRECRACKER}"))
        })?,
    };
    let unsuitable = |what: String| ErrorBody::new(ErrorCode::VmmUnsuitable, format!("{}: {what}", path.display()));
    let line = version_line(&path).ok_or_else(|| unsuitable("it does not tell its version".to_owned()))?;
    let Version(major, minor) = MIN_VERSION;
    match version(&line).filter(|_| line.starts_with("Firecracker ")) {
        Some(found) if found >= MIN_VERSION => Ok(Vmm { path, line }),
        Some(_) => Err(unsuitable(format!("it is {line}; {major}.{minor} or newer is needed"))),
        None => Err(unsuitable(format!("it says {line:?}, which is no version of Firecracker"))),
    }
}

fn find_jailer(vmm: &Vmm) -> Result<PathBuf, ErrorBody> {
    let missing = |message: String| ErrorBody::new(ErrorCode::VmmNotFound, message);
    let path = match named(JAILER) {
        Some(path) if is_executable(&path) => path,
        Some(path) => return Err(missing(format!("{}, which {JAILER} names, is no executable file", path.display()))),
        None => Some(vmm.path.with_file_name("jailer"))
            .filter(|path| is_executable(path))
            .or_else(|| in_path("jailer"))
            .or_else(|| packaged("jailer"))
            .ok_or_else(|| {
                missing(format!("jailer is not beside {}, not in PATH, nor named by {JAILER}", vmm.path.display()))
            })?,
    };
    let line = version_line(&path).unwrap_or_default();
    let same = |line: &str| line.split_once(" v").map(|(_, number)| number.to_owned());
    if !line.starts_with("Jailer ") || same(&line) != same(&vmm.line) {
        let message = format!("{} says {line:?}, which is not the jailer of {}", path.display(), vmm.line);
        return Err(ErrorBody::new(ErrorCode::VmmUnsuitable, message));
    }
    Ok(path)
}

fn packaged(name: &str) -> Option<PathBuf> {
    [name.to_owned(), format!("{LIBEXEC}/{name}")]
        .iter()
        .filter_map(|name| beside(name))
        .find(|path| is_executable(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_releases_and_builds_print() {
        for (line, expected) in [
            ("Firecracker v1.16.1", Some(Version(1, 16))),
            ("Firecracker v1.17.0-dev", Some(Version(1, 17))),
            ("Firecracker v1.9.1", Some(Version(1, 9))),
            ("Firecracker v2.0", Some(Version(2, 0))),
            ("1.16.0", Some(Version(1, 16))),
            ("Firecracker", None),
            ("Firecracker vx.y", None),
        ] {
            assert_eq!(version(line), expected, "{line}");
        }
        assert!(Version(1, 9) < MIN_VERSION && Version(2, 0) > MIN_VERSION);
    }
}
