//! A machine's configuration, checked for what holds on every backend.

use std::{fs::OpenOptions, io, path::Path};

use microagent_guest_protocol::Config as GuestConfig;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig};

use crate::backend::Backend;

/// The least memory a machine can have, in MiB: a distribution's kernel and its initramfs need it.
const MIN_MEMORY_MIB: u64 = 64;

/// The most memory, in MiB: what 46 bits of address reach.
const MAX_MEMORY_MIB: u64 = 1 << 26;

/// The most disks: `microvm` has 24 transports, some of which vsock and entropy take.
const MAX_DISKS: usize = 16;

/// The most outputs: each is a file and an entry of the record.
const MAX_OUTPUTS: usize = 64;

/// The longest command line of an x86 kernel is 2048 bytes; the supervisor's own words need some of it.
const MAX_KERNEL_ARGS: usize = 1024;

/// Checks what the shim takes from the guest's configuration for names of files.
pub(crate) fn guest(config: &GuestConfig) -> Result<(), ErrorBody> {
    let invalid = |message: String| Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
    if config.outputs.len() > MAX_OUTPUTS {
        return invalid(format!("{} outputs: at most {MAX_OUTPUTS} can be had", config.outputs.len()));
    }
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    for (n, output) in config.outputs.iter().enumerate() {
        let name = &output.name;
        let label = !name.is_empty() && name.len() <= 63 && name.bytes().all(good);
        if !label || name.starts_with('-') || name.ends_with('-') {
            return invalid(format!(
                "the output {name:?} is no RFC 1123 label: 1 to 63 lower-case letters, digits and `-`"
            ));
        }
        if config.outputs[..n].iter().any(|other| other.name == *name) {
            return invalid(format!("two outputs have the name {name}"));
        }
    }
    Ok(())
}

/// Checks bounds and files.
pub(crate) fn machine(config: &MachineConfig, backend: &impl Backend) -> Result<(), ErrorBody> {
    let unsupported = |message: String| Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
    let max_vcpus = backend.max_vcpus();
    if config.vcpus == 0 || config.vcpus > max_vcpus {
        return unsupported(format!("{} virtual CPUs: between 1 and {max_vcpus} can be had", config.vcpus));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&config.memory_mib) {
        return unsupported(format!(
            "{} MiB of memory: between {MIN_MEMORY_MIB} and {MAX_MEMORY_MIB} can be had",
            config.memory_mib
        ));
    }
    if config.disks.len() > MAX_DISKS {
        return unsupported(format!("{} disks: at most {MAX_DISKS} can be had", config.disks.len()));
    }
    let options = [
        ("Qemu", config.qemu.is_some()),
        ("Firecracker", config.firecracker.is_some()),
        ("AppleVf", config.apple_vf.is_some()),
    ];
    if let Some((whose, _)) = options.iter().find(|(whose, given)| *given && *whose != backend.name()) {
        return unsupported(format!("options of backend {whose} were given to backend {}", backend.name()));
    }
    let args = &config.kernel.args;
    if args.iter().any(|a| a.chars().any(char::is_control))
        || args.iter().map(|a| a.len() + 1).sum::<usize>() > MAX_KERNEL_ARGS
    {
        return unsupported(format!(
            "the kernel's arguments must be printable and have at most {MAX_KERNEL_ARGS} bytes together"
        ));
    }
    file("kernel", &config.kernel.path, false)?;
    file("initramfs", &config.initramfs, false)?;
    config.disks.iter().try_for_each(|d| file(&format!("disk {}", d.id), &d.path, !d.read_only))
}

fn file(what: &str, path: &Path, write: bool) -> Result<(), ErrorBody> {
    let unavailable =
        |why: String| ErrorBody::new(ErrorCode::FileUnavailable, format!("{what} {}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(unavailable("the path is not absolute".to_owned()));
    }
    let opened = OpenOptions::new().read(true).write(write).open(path);
    let kind = opened.and_then(|f| f.metadata()).map_err(|e: io::Error| unavailable(e.to_string()))?;
    if kind.is_dir() { Err(unavailable("it is a directory".to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_outputs_are_labels_and_differ() {
        let config = |names: &[&str]| -> GuestConfig {
            let outputs: Vec<_> = names.iter().map(|name| json!({"name": name, "path": "/x"})).collect();
            let text = json!({
                "version": 1, "bootId": "b", "hostname": "h", "realtimeNs": 0, "root": {"baseline": 0},
                "workload": {"argv": ["x"]}, "graceSeconds": 1, "outputs": outputs,
            });
            serde_json::from_value(text).unwrap()
        };
        assert!(guest(&config(&["a", "b-2"])).is_ok());
        let long = "x".repeat(64);
        for bad in [&["a", "a"][..], &["../a"], &["A"], &[""], &["a.tar"], &["-a"], &[long.as_str()]] {
            assert_eq!(guest(&config(bad)).unwrap_err().code, ErrorCode::InvalidRequest, "{bad:?}");
        }
        assert!(guest(&config(&vec!["a"; 65])).unwrap_err().message.contains("at most 64"));
    }
}
