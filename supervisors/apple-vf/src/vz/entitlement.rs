//! Whether this executable may use the framework.

use std::{ffi::c_void, ptr};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use objc2::{rc::Retained, runtime::AnyObject};
use objc2_foundation::{NSNumber, NSString, ns_string};

/// What an executable must be signed with.
const NAME: &str = "com.apple.security.virtualization";

// Security/SecTask.h: there are no bindings of it in the tree, and these two functions are all that is used.
#[link(name = "Security", kind = "framework")]
unsafe extern "C" {
    fn SecTaskCreateFromSelf(allocator: *const c_void) -> *mut AnyObject;
    fn SecTaskCopyValueForEntitlement(
        task: *mut AnyObject,
        entitlement: *const NSString,
        error: *mut *mut c_void,
    ) -> *mut AnyObject;
}

/// That this executable is signed with it.
pub(super) fn held() -> Result<String, ErrorBody> {
    if is_held() {
        return Ok(format!("this executable has {NAME}"));
    }
    let message = format!("this executable is not signed with the entitlement {NAME}");
    let remediation = "install a release that is signed, or sign it as docs/apple-vf.md says".to_owned();
    Err(ErrorBody { remediation, ..ErrorBody::new(ErrorCode::PermissionDenied, message) })
}

fn is_held() -> bool {
    // SAFETY: the default allocator is meant by a null pointer; what `Create` and `Copy` give is the caller's to release, which
    // `Retained` does, for a CFType is an object; a CFString is a NSString; no error is asked for.
    let value = unsafe {
        let Some(task) = Retained::from_raw(SecTaskCreateFromSelf(ptr::null())) else { return false };
        let name: &NSString = ns_string!("com.apple.security.virtualization");
        Retained::from_raw(SecTaskCopyValueForEntitlement(Retained::as_ptr(&task).cast_mut(), name, ptr::null_mut()))
    };
    value.and_then(|value| value.downcast::<NSNumber>().ok()).is_some_and(|value| value.boolValue())
}
