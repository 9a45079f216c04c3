//! What outlives a machine: its outputs, and the disks of a workspace that keeps them.

use std::{fs, io, path::Path};

use microagent_base::durable;
use microagent_crds::status::Artifact;
use microagent_supervisor_protocol as supervisor;

use super::fault::{host_error, host_fault};
use crate::{Paths, Record, memory::Fault, observed::KeptOutputs};

/// The outputs of this workspace that were kept last.
pub(super) fn kept_outputs(paths: &Paths, record: &Record) -> Option<KeptOutputs> {
    durable::read_json(&paths.kept_outputs(&record.key, &record.uid)).ok().flatten()
}

/// Moves the outputs of a boot out of the machine's directory. What was moved before this process was killed is found at its new
/// place; the list is written last, and with it the outputs of earlier boots go.
pub(super) fn keep_outputs(
    paths: &Paths,
    record: &Record,
    boot_id: &str,
    outputs: &[supervisor::Artifact],
) -> Result<(), Fault> {
    let home = paths.artifacts(&record.key, &record.uid);
    let dir = home.join(boot_id);
    durable::private_dir(&dir).map_err(|e| host_fault(&e))?;
    let mut artifacts = Vec::with_capacity(outputs.len());
    for output in outputs {
        let kept = dir.join(format!("{}.tar", output.name));
        let mut artifact = Artifact {
            name: output.name.clone(),
            path: None,
            bytes: output.bytes,
            digest: output.digest.clone(),
            error: output.error.clone(),
        };
        if let Some(from) = &output.path {
            let moved = match fs::rename(from, &kept) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && kept.exists() => Ok(()),
                moved => moved,
            };
            match moved {
                Ok(()) => artifact.path = Some(kept.to_string_lossy().into_owned()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    artifact.error = Some(format!("{} is gone", from.display()));
                }
                Err(e) => {
                    return Err(host_error(format!("cannot move {} to {}: {e}", from.display(), kept.display())));
                }
            }
        }
        artifacts.push(artifact);
    }
    durable::sync_dir(&dir).map_err(|e| host_fault(&e))?;
    let list = KeptOutputs { boot_id: boot_id.to_owned(), artifacts };
    durable::write_json(&paths.kept_outputs(&record.key, &record.uid), &list).map_err(|e| host_fault(&e))?;
    for earlier in fs::read_dir(&home).into_iter().flatten().flatten() {
        if earlier.file_name() != *boot_id && earlier.path().is_dir() {
            durable::remove_dir(&earlier.path()).map_err(|e| host_fault(&e))?;
        }
    }
    Ok(())
}

/// Moves the disks of a workspace to where they outlive it. What is there already stays: it was moved before this process was killed.
pub(super) fn retain_disks(disks: &Path, home: &Path) -> Result<(), Fault> {
    if !disks.exists() {
        return Ok(());
    }
    if let Some(parent) = home.parent() {
        durable::private_dir(parent).map_err(|e| host_fault(&e))?;
    }
    // A directory replaces an empty one only: what was kept before under the same UID is not lost.
    durable::rename(disks, home).map_err(|e| host_fault(&e))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use microagent_crds::{Workspace, WorkspaceSpec};

    use super::*;
    use crate::{Key, memory::Memory};

    fn host() -> (tempfile::TempDir, Paths, Record) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        paths.create().unwrap();
        let record = Record {
            key: Key::new("default", "a"),
            uid: "u".to_owned(),
            generation: 1,
            spec_hash: String::new(),
            workspace: Workspace::new("a", WorkspaceSpec::new("image")).into(),
            file: "a.yaml".into(),
            created_at: Timestamp::UNIX_EPOCH,
            deleted_at: None,
            problem: None,
            unreserved: None,
            memory: Memory::default(),
        };
        (dir, paths, record)
    }

    fn output(dir: &Path, name: &str, content: &str) -> supervisor::Artifact {
        let path = dir.join(format!("{name}.tar"));
        fs::write(&path, content).unwrap();
        let bytes = Some(content.len() as u64);
        supervisor::Artifact { name: name.to_owned(), path: Some(path), bytes, digest: None, error: None }
    }

    #[test]
    fn outputs_are_moved_once_and_replace_those_of_the_boot_before() {
        let (dir, paths, record) = host();
        let first = [output(dir.path(), "a", "one")];
        keep_outputs(&paths, &record, "boot-1", &first).unwrap();
        let second = [output(dir.path(), "a", "two"), output(dir.path(), "b", "three")];
        // The controller was killed behind the first move, and asks again.
        let kept = paths.artifacts(&record.key, &record.uid).join("boot-2");
        fs::create_dir(&kept).unwrap();
        fs::rename(second[0].path.as_ref().unwrap(), kept.join("a.tar")).unwrap();
        for _ in 0..2 {
            keep_outputs(&paths, &record, "boot-2", &second).unwrap();
            let list = kept_outputs(&paths, &record).unwrap();
            assert_eq!(list.boot_id, "boot-2");
            let contents: Vec<_> =
                list.artifacts.iter().map(|a| fs::read_to_string(a.path.as_ref().unwrap()).unwrap()).collect();
            assert_eq!(contents, ["two", "three"]);
        }
        assert!(!paths.artifacts(&record.key, &record.uid).join("boot-1").exists());
    }

    #[test]
    fn an_output_that_is_gone_is_told_and_holds_nothing_up() {
        let (dir, paths, record) = host();
        let gone = [output(dir.path(), "a", "one")];
        fs::remove_file(gone[0].path.as_ref().unwrap()).unwrap();
        keep_outputs(&paths, &record, "boot-1", &gone).unwrap();
        let artifact = kept_outputs(&paths, &record).unwrap().artifacts.remove(0);
        assert!(artifact.path.is_none() && artifact.error.unwrap().contains("is gone"));
    }

    #[test]
    fn retained_disks_are_moved_whole_and_a_second_call_changes_nothing() {
        let (dir, paths, record) = host();
        let disks = dir.path().join("disks");
        fs::create_dir(&disks).unwrap();
        fs::write(disks.join("overlay.ext4"), "x").unwrap();
        let home = paths.retained(&record.key, &record.uid);
        for _ in 0..2 {
            retain_disks(&disks, &home).unwrap();
            assert!(!disks.exists());
            assert_eq!(fs::read_to_string(home.join("overlay.ext4")).unwrap(), "x");
        }
    }
}
