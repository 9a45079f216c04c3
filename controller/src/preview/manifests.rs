//! What manifests declare, from folders and texts together.

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    path::{Path, PathBuf},
    sync::Arc,
};

use microagent_crds::{
    Reason, Workspace,
    name::{check_name, check_namespace},
};

use crate::{
    Key, Problem,
    source::{Entry, Snapshot, duplicate},
};

/// What manifests declare.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    pub(super) declared: BTreeMap<Key, Declared>,
    pub(super) problems: BTreeMap<PathBuf, Problem>,
}

/// What is declared under one name, and where.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) manifest: Result<Arc<Workspace>, Problem>,
    pub(super) files: Vec<PathBuf>,
}

impl Manifests {
    /// Adds what a folder says. Of an incomplete snapshot nothing counts, so it must not be given.
    pub fn folder(&mut self, snapshot: &Snapshot) {
        for (file, problem) in &snapshot.problems {
            self.problem(file, problem.clone());
        }
        for (key, entry) in &snapshot.entries {
            let manifest = match entry {
                Entry::Valid { workspace, .. } => Ok(workspace.clone()),
                Entry::Invalid { problem, .. } => Err(problem.clone()),
            };
            let files = entry.files().iter().map(|file| file.to_path_buf()).collect();
            self.add(key.clone(), Declared { manifest, files });
        }
    }

    /// Adds the documents of one text; `file` is how errors name it.
    pub fn text(&mut self, text: &str, file: &Path) {
        let documents = microagent_crds::parse(text, &file.display().to_string());
        if documents.is_empty() {
            let code = Reason::InvalidManifest.as_str().to_owned();
            self.problem(file, Problem { code, message: "the file declares no workspace".to_owned() });
        }
        let files = vec![file.to_owned()];
        for document in documents {
            match document {
                Ok(workspace) => {
                    self.add(key(&workspace), Declared { manifest: Ok(workspace.into()), files: files.clone() });
                }
                Err(error) => {
                    let problem = Problem { code: error.reason().as_str().to_owned(), message: error.to_string() };
                    match error.workspace.and_then(safe) {
                        Some(key) => self.add(key, Declared { manifest: Err(problem), files: files.clone() }),
                        None => self.problem(file, problem),
                    }
                }
            }
        }
    }

    /// Every name that is declared, rightly or wrongly.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.declared.keys()
    }

    fn add(&mut self, key: Key, declared: Declared) {
        match self.declared.entry(key) {
            Slot::Vacant(vacant) => drop(vacant.insert(declared)),
            Slot::Occupied(mut occupied) => {
                occupied.get_mut().files.extend(declared.files);
                let files: Vec<_> = occupied.get().files.iter().map(|file| file.as_path().into()).collect();
                let problem = duplicate(occupied.key(), &files);
                occupied.get_mut().manifest = Err(problem);
            }
        }
    }

    /// Several problems of a file are told together.
    fn problem(&mut self, file: &Path, problem: Problem) {
        match self.problems.entry(file.to_owned()) {
            Slot::Vacant(vacant) => drop(vacant.insert(problem)),
            Slot::Occupied(mut told) => {
                let text = format!("{}\n{}", told.get().message, problem.message);
                told.get_mut().message = text;
            }
        }
    }
}

fn key(workspace: &Workspace) -> Key {
    let metadata = &workspace.metadata;
    Key::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
}

/// A name that can be part of a path. What is wrong with the document may be just that.
fn safe((namespace, name): (String, String)) -> Option<Key> {
    (check_namespace(&namespace).is_ok() && check_name(&name).is_ok()).then(|| Key::new(namespace, name))
}
