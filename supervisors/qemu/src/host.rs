//! What this host has: QEMU, and something that serves vsock.

use std::{env, fs::OpenOptions, path::PathBuf};

use microagent_shim::program::{beside, in_path, is_executable, named};

/// The first QEMU whose `microvm` finds its devices through ACPI and takes `vhost-user-vsock`.
pub(crate) const MIN_VERSION: (u32, u32) = (6, 2);

/// The emulator for machines like this one.
pub(crate) const EMULATOR: &str =
    if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };

/// The package of Debian and Ubuntu that has it.
pub(crate) const PACKAGE: &str = if cfg!(target_arch = "aarch64") { "qemu-system-arm" } else { "qemu-system-x86" };

/// The program that serves vsock without help of the host's kernel.
pub(crate) const VSOCK_PROGRAM: &str = "vhost-device-vsock";

/// What serves vsock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vsock {
    /// The host's kernel, by `/dev/vhost-vsock`.
    Kernel,
    /// A program, by the vhost-user protocol.
    Program(PathBuf),
}

/// QEMU: `MICROAGENT_QEMU`, or from `PATH`.
pub(crate) fn qemu() -> Option<PathBuf> {
    match named("MICROAGENT_QEMU") {
        Some(program) => Some(program).filter(|path| is_executable(path)),
        None => in_path(EMULATOR),
    }
}

/// What serves vsock here. A program named by `MICROAGENT_VHOST_DEVICE_VSOCK` goes before the kernel; others, found in `PATH`,
/// beside this executable, in `~/.cargo/bin` or in `~/.cache/microagent-tools/bin`, after it.
pub(crate) fn vsock() -> Option<Vsock> {
    if let Some(program) = named("MICROAGENT_VHOST_DEVICE_VSOCK") {
        return is_executable(&program).then_some(Vsock::Program(program));
    }
    if OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock").is_ok() {
        return Some(Vsock::Kernel);
    }
    let home = env::var_os("HOME").map(PathBuf::from);
    let at_home = home.into_iter().flat_map(|h| [h.join(".cargo/bin"), h.join(".cache/microagent-tools/bin")]);
    let program = in_path(VSOCK_PROGRAM).or_else(|| {
        beside(VSOCK_PROGRAM).into_iter().chain(at_home.map(|d| d.join(VSOCK_PROGRAM))).find(|p| is_executable(p))
    });
    program.map(Vsock::Program)
}

/// The version in that line.
pub(crate) fn version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split(' ').find_map(|w| w.strip_prefix(|c: char| c.is_ascii_digit()).map(|_| w))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        for (line, expected) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", Some((7, 2))),
            ("QEMU emulator version 10.0.2", Some((10, 0))),
            ("not an emulator", None),
        ] {
            assert_eq!(version(line), expected, "{line}");
        }
    }
}
