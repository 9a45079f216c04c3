//! Errors of the libraries as faults of a workspace.

use microagent_base::durable;

use crate::{memory::Fault, registries::RegistriesError};

/// What a stage saw made and the next one does not find.
pub(super) fn vanished(what: &str) -> Fault {
    let message = format!("the {what} was there a moment ago and is gone; it is made again");
    Fault { code: "HostError".to_owned(), message, retryable: true }
}

/// What a person must mend stalls the workspace, though it is tried again from time to time all the same.
pub(super) fn image_fault(error: &microagent_images::Error) -> Fault {
    let code = error.category();
    let for_a_person = matches!(
        code,
        "ImageNotFound" | "RegistryDenied" | "RegistrySettingsInvalid" | "CredentialsUnreadable" | "DigestMismatch"
    );
    Fault { code: code.to_owned(), message: error.to_string(), retryable: error.is_retryable() && !for_a_person }
}

/// Only a person can mend the file, though it is read anew each time.
pub(super) fn registries_fault(error: &RegistriesError) -> Fault {
    Fault { code: error.category().to_owned(), message: error.to_string(), retryable: false }
}

pub(super) fn kernel_fault(error: &microagent_kernel::Error) -> Fault {
    Fault { code: error.category().to_owned(), message: error.to_string(), retryable: error.is_retryable() }
}

pub(super) fn host_fault(error: &durable::DurableError) -> Fault {
    let full = error.io_kind() == Some(std::io::ErrorKind::StorageFull);
    let code = if full { "DiskFull" } else { "HostError" };
    Fault { code: code.to_owned(), message: error.to_string(), retryable: true }
}

/// The operating system refused something, or work on a thread ended badly.
pub(super) fn host_error(message: String) -> Fault {
    Fault { code: "HostError".to_owned(), message, retryable: true }
}
