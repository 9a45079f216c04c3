//! What manifests say, and what is wanted now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use microagent_base::durable;
use microagent_controller::{
    Key, Problem, Record,
    preview::{Manifests, Present},
    source::{FolderSource, QUIET_UNANNOUNCED, Snapshot, is_manifest_name},
};
use microagent_crds::Reason;

use crate::{
    commands::apply,
    context::Context,
    failure::{Failure, Result},
    manifests, objects,
};

/// So often a folder is looked at until two looks agree.
const LOOKS: u32 = 10;

/// What was given to `-f`.
pub(super) struct Wanted {
    pub(super) manifests: Manifests,
    folders: Vec<Folder>,
}

/// A folder, as it was written and as it is.
struct Folder {
    written: PathBuf,
    real: PathBuf,
}

impl Wanted {
    /// Where a file was read, or would have been, when it is in one of the folders.
    pub(super) fn locate(&self, file: &Path) -> Option<PathBuf> {
        let (dir, name) = (real(file.parent()?), file.file_name()?);
        let folder = self.folders.iter().find(|folder| folder.real == dir)?;
        Some(folder.written.join(name))
    }
}

/// The path with no symbolic link in it. What cannot be resolved, such as a pipe, is known by the name that it was given.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Reads every manifest. One that was named twice, or is in a folder that was named too, is read once.
pub(super) fn wanted(filenames: &[PathBuf]) -> Result<Wanted> {
    let mut wanted = Wanted { manifests: Manifests::default(), folders: Vec::new() };
    let mut seen = BTreeSet::new();
    let (folders, files): (Vec<_>, Vec<_>) = filenames.iter().partition(|path| path.is_dir());
    for written in folders {
        let folder = Folder { written: written.clone(), real: real(written) };
        if seen.insert(folder.real.clone()) {
            wanted.manifests.folder(&scan(written)?);
            wanted.folders.push(folder);
        }
    }
    for path in files {
        let in_folder = path.file_name().is_some_and(is_manifest_name) && wanted.locate(&real(path)).is_some();
        if !in_folder && seen.insert(real(path)) {
            let (text, name) = apply::text(path)?;
            wanted.manifests.text(&text, Path::new(&name));
        }
    }
    Ok(wanted)
}

/// What a folder says, by the rules of the source that watches it.
fn scan(dir: &Path) -> Result<Snapshot> {
    let mut source = FolderSource::new(dir);
    // The source wants two looks that agree, some time apart: on a clock of its own, so that nobody waits for it.
    let mut now = Instant::now();
    let mut reason = None;
    for _ in 0..LOOKS {
        let snapshot = source.scan(now);
        if snapshot.complete && snapshot.settled {
            return Ok(snapshot);
        }
        reason = snapshot.reason;
        now += QUIET_UNANNOUNCED;
    }
    let changing = || format!("the files in {} change while they are read; try again", dir.display());
    Err(Failure::new(reason.map_or_else(changing, |problem| problem.message)))
}

/// What is wanted now: of the names that the manifests have, and of all where a folder could lack one.
pub(super) fn present(context: &Context, wanted: &Wanted) -> Result<BTreeMap<Key, Result<Present, Problem>>> {
    let paths = &context.paths;
    let mut keys: BTreeSet<Key> = wanted.manifests.keys().cloned().collect();
    if !wanted.folders.is_empty() {
        keys.extend(objects::stored(&paths.workspaces())?);
    }
    let mut present = BTreeMap::new();
    for key in keys {
        let found = match durable::read_json::<Record>(&paths.record(&key)) {
            Ok(Some(record)) => Ok(record.into()),
            // Declared, and not taken up yet. A manifest there that is no good would be replaced.
            Ok(None) => match manifests::read(paths, &key) {
                Ok(Some(workspace)) => Ok(Present::declared(workspace, paths.manifest(&key))),
                Ok(None) | Err(_) => continue,
            },
            Err(e) => {
                let message = format!("the record of workspace {key} cannot be read, so nothing is done to it: {e}");
                Err(Problem { code: Reason::HostError.as_str().to_owned(), message })
            }
        };
        present.insert(key, found);
    }
    Ok(present)
}
