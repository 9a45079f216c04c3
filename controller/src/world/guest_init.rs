//! Where guest-init is.

use std::path::{Path, PathBuf};

use crate::memory::Fault;

/// Overrides where guest-init is.
pub const GUEST_INIT_VARIABLE: &str = "MICROAGENT_GUEST_INIT";

/// guest-init: named by `MICROAGENT_GUEST_INIT`, beside this program, or in `../libexec/microagent`.
///
/// # Errors
/// It is nowhere.
pub fn find_guest_init() -> Result<PathBuf, Fault> {
    const NAME: &str = "microagent-guest-init";
    if let Some(path) = std::env::var_os(GUEST_INIT_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let exe = std::env::current_exe().ok();
    let dir = exe.as_deref().and_then(Path::parent).unwrap_or(Path::new("/"));
    let places = [dir.join(NAME), dir.join("../libexec/microagent").join(NAME)];
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| Fault {
        code: "GuestInitNotFound".to_owned(),
        message: format!(
            "guest-init is neither {} nor {}; build it with guest-init/build.sh, or name it in {GUEST_INIT_VARIABLE}",
            places[0].display(),
            places[1].display(),
        ),
        retryable: false,
    })
}
