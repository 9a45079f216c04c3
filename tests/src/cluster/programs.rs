//! Where the programs of the control plane are.

use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The script that knows.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/control-plane");

/// A folder with all programs.
#[derive(Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// Asks once. Prints `SKIP test: …` where they cannot be had.
    pub(super) fn of_test(test: &str) -> Option<&'static Self> {
        static FOUND: OnceLock<Result<Programs, String>> = OnceLock::new();
        match FOUND.get_or_init(find) {
            Ok(programs) => Some(programs),
            Err(why) => {
                println!("SKIP {test}: {why}");
                None
            }
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Nothing is built by a test: that takes minutes, and `scripts/setup` does it.
fn find() -> Result<Programs, String> {
    let output = Command::new(SCRIPT).arg("find").output().map_err(|error| format!("{SCRIPT}: {error}"))?;
    if output.status.success() {
        Ok(Programs(String::from_utf8_lossy(&output.stdout).trim().into()))
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().last().unwrap_or("scripts/control-plane failed").trim_start_matches("error: ").to_owned())
    }
}
