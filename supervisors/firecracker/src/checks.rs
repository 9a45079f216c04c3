//! What was looked at, for people and for `microagent doctor`.

use microagent_shim::cgroup::Groups;
use microagent_supervisor_protocol::{Check, CheckStatus, ErrorBody, ErrorCode};

use crate::host::{Host, may_jail};

/// What is true of this host.
pub(crate) fn host(host: &Host) -> Vec<Check> {
    vec![firecracker(host), kvm(host), jailer(host)]
}

/// What is wrong with a machine's configuration.
pub(crate) fn config(error: ErrorBody) -> Check {
    failed("Config", error)
}

fn firecracker(host: &Host) -> Check {
    match host.firecracker() {
        Ok(vmm) => ok("FirecrackerBinary", format!("{}: {}", vmm.path.display(), vmm.line)),
        Err(error) => {
            let found = matches!(error.code, ErrorCode::VmmUnsuitable);
            let remediation =
                if found { "install a newer release of Firecracker" } else { "install Firecracker 1.16 or newer" };
            Check { remediation: Some(remediation.to_owned()), ..failed("FirecrackerBinary", error) }
        }
    }
}

fn kvm(host: &Host) -> Check {
    match host.kvm_broken() {
        None => ok("Kvm", "a virtual machine runs instructions".to_owned()),
        Some(broken) => failed("Kvm", kvm_error(broken.denied, &broken.why)),
    }
}

/// Why no machine can be started without KVM.
pub(crate) fn kvm_error(denied: bool, why: &str) -> ErrorBody {
    let code = if denied { ErrorCode::PermissionDenied } else { ErrorCode::AcceleratorUnavailable };
    let remediation = if denied { code.remediation() } else { "use backend Qemu, or a host whose /dev/kvm works" };
    ErrorBody { remediation: remediation.to_owned(), ..ErrorBody::new(code, format!("Firecracker needs KVM: {why}")) }
}

fn jailer(host: &Host) -> Check {
    let warning = |message: String, remediation: &str| Check {
        name: "Jailer".to_owned(),
        status: CheckStatus::Warning,
        message,
        remediation: Some(remediation.to_owned()),
    };
    if let Err(why) = may_jail() {
        return warning(
            format!("machines run without a jail: {why}"),
            "nothing, where seccomp and this user's rights are boundary enough; else run microagent as root",
        );
    }
    match host.jailer() {
        Ok(path) => {
            let groups = match Groups::of_host().ready() {
                Ok(()) => String::new(),
                Err(why) => format!("; without limits: {why}"),
            };
            ok("Jailer", format!("{}{groups}", path.display()))
        }
        Err(error) => warning(
            format!("machines run without a jail: {}", error.message),
            "install the jailer of the same release beside Firecracker",
        ),
    }
}

fn ok(name: &str, message: String) -> Check {
    Check { name: name.to_owned(), status: CheckStatus::Ok, message, remediation: None }
}

fn failed(name: &str, error: ErrorBody) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Failed,
        message: error.message,
        remediation: Some(error.remediation),
    }
}
