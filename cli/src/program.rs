//! The name by which this program was called.

use std::{path::Path, sync::OnceLock};

/// The name of the file under which it works on a cluster: kubectl finds its plugins by such names.
pub(crate) const PLUGIN: &str = "kubectl-microagent";

/// Whether this is the plugin of kubectl.
pub(crate) fn is_plugin() -> bool {
    static CALLED: OnceLock<bool> = OnceLock::new();
    *CALLED.get_or_init(|| {
        let called = std::env::args_os().next().unwrap_or_default();
        Path::new(&called).file_name().is_some_and(|name| name == PLUGIN)
    })
}

/// What people type to call it.
pub(crate) fn program() -> &'static str {
    if is_plugin() { "kubectl microagent" } else { "microagent" }
}
