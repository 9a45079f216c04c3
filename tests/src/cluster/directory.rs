//! The directory of a cluster, removed when the cluster is, and also when the test process is killed or leaves without dropping it,
//! as it leaves what all tests share.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Waits for the end of its input, which comes when nobody holds the other end of the pipe. What still runs then is being killed.
const REMOVE_AT_END: &str = r#"read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit 0; sleep 0.5; done"#;

/// A temporary directory with a process that removes it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    remover: Child,
}

impl Directory {
    pub(super) fn create() -> Self {
        let path = tempfile::Builder::new().prefix("microagent-cluster-").tempdir().unwrap().keep();
        let mut command = Command::new("sh");
        command.args(["-c", REMOVE_AT_END, "sh"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::null());
        // A group of its own: what the user's terminal ends is the test, not this.
        let remover = command.stderr(Stdio::null()).process_group(0).spawn().unwrap();
        Self { path, remover }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}
