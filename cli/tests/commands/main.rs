//! The built program against a state directory that the test itself writes, as a controller would.

// The lints spare only the test functions themselves; these are their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod events;
mod images;
mod plan;
mod restart;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use microagent_base::durable;
use microagent_controller::{Key, Paths, Record, plan::machine_hash};
use microagent_crds::{Workspace, canonical_spec_hash};
use serde_json::{Value, json};

/// How long anything may take on a busy host.
const DEADLINE: Duration = Duration::from_secs(60);

/// A state directory, and a folder for files beside it.
struct Host {
    dir: tempfile::TempDir,
    paths: Paths,
}

/// What a command did.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        paths.create().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        Self { dir, paths }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The program, in the directory of the files.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microagent"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("MICROAGENT_STATE_DIR", &self.paths.state).env("MICROAGENT_CACHE_DIR", &self.paths.cache);
        command.env_remove("MICROAGENT_LOG");
        command
    }

    fn run(&self, line: &str) -> Done {
        let output = self.command(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The record of a workspace that this manifest in `folder/` made, and whose machine runs.
    fn record(&self, file: &str, manifest: &str) {
        let workspace = microagent_crds::parse(manifest, file).remove(0).unwrap();
        let key = key(&workspace);
        let record: Record = serde_json::from_value(json!({
            "key": &key, "uid": "u-1", "generation": 1, "specHash": canonical_spec_hash(&workspace.spec),
            "workspace": &workspace, "file": self.path("folder").join(file), "createdAt": "2026-11-24T06:00:00Z",
            "memory": {"boot": {"id": "b-1", "generation": 1, "machineHash": machine_hash(&workspace.spec)}},
        }))
        .unwrap();
        self.put(&self.paths.record(&key), &record);
    }

    /// Publishes a workspace with this status.
    fn publish(&self, manifest: &str, status: &Value) {
        let mut workspace = microagent_crds::parse(manifest, "w.yaml").remove(0).unwrap();
        workspace.metadata.uid = Some("u-1".to_owned());
        workspace.metadata.generation = Some(1);
        workspace.status = serde_json::from_value(status.clone()).unwrap();
        self.put(&self.paths.object(&key(&workspace)), &workspace);
    }

    fn put(&self, path: &Path, value: &impl serde::Serialize) {
        durable::private_dir(path.parent().unwrap()).unwrap();
        durable::write_json(path, value).unwrap();
    }
}

fn key(workspace: &Workspace) -> Key {
    Key::new("default", workspace.metadata.name.clone().unwrap())
}

/// A manifest with these further fields of the spec.
fn manifest(name: &str, more: &str) -> String {
    format!(
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata:\n  name: {name}\nspec:\n  image: alpine:3.21\n{more}"
    )
}

/// The status of a boot.
fn booted(boot: &str, ready: &str) -> Value {
    json!({"phase": "Running", "bootId": boot, "conditions": [{"type": "Ready", "status": ready, "reason": "Running",
        "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-11-24T06:00:00Z"}]})
}
