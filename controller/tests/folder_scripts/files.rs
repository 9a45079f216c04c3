//! What a look could know: the folders as they are at this moment, read without any of the code under test.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use microagent_controller::{
    Key,
    source::{MAX_FILE, is_manifest_name},
};
use microagent_crds::{Workspace, canonical_spec_hash};

/// Which directory a folder is: device, number, and when it was made.
pub(crate) type Identity = (u64, u64, Option<SystemTime>);

/// What shows that a file was changed: number, mode, size, and both times.
pub(crate) type Fingerprint = (u64, u32, u64, i128, i128);

/// A folder.
#[derive(Clone, Debug)]
pub(crate) enum View {
    Missing,
    NoDirectory,
    Listed { identity: Identity, files: BTreeMap<PathBuf, File> },
}

/// A manifest file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Nothing when it cannot be read.
    pub(crate) content: Option<Arc<Content>>,
}

/// What is in a file.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    /// The named documents; nothing in place of a workspace for one that is wrong.
    pub(crate) declared: Vec<(Key, Option<Valid>)>,
    /// Whether part of it has no name, so that anything could be meant.
    pub(crate) nameless: bool,
}

/// A good document.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) workspace: Workspace,
    pub(crate) hash: String,
}

impl File {
    /// Whether it could declare what it does not name.
    pub(crate) fn is_bad(&self) -> bool {
        self.content.as_ref().is_none_or(|content| content.nameless)
    }

    pub(crate) fn declares(&self, key: &Key) -> bool {
        self.content.as_ref().is_some_and(|content| content.declares(key))
    }
}

impl Content {
    fn new(bytes: Vec<u8>) -> Self {
        let (mut declared, mut nameless) = (Vec::new(), false);
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                let documents = microagent_crds::parse(text, "file");
                nameless |= documents.is_empty();
                for document in documents {
                    match document {
                        Ok(workspace) => {
                            let key = Key::new("default", workspace.metadata.name.as_deref().unwrap());
                            let hash = canonical_spec_hash(&workspace.spec);
                            declared.push((key, Some(Valid { workspace, hash })));
                        }
                        Err(error) => match error.workspace {
                            Some((namespace, name)) => declared.push((Key::new(namespace, name), None)),
                            None => nameless = true,
                        },
                    }
                }
            }
            Err(_) => nameless = true,
        }
        Self { bytes, declared, nameless }
    }

    pub(crate) fn declares(&self, key: &Key) -> bool {
        self.declared.iter().any(|(declared, _)| declared == key)
    }

    pub(crate) fn has(&self, key: &Key, hash: &str) -> bool {
        self.declared.iter().any(|(declared, valid)| declared == key && valid.as_ref().is_some_and(|v| v.hash == hash))
    }
}

impl View {
    pub(crate) fn of(dir: &Path) -> Self {
        let Ok(metadata) = fs::metadata(dir) else { return Self::Missing };
        let Ok(entries) = fs::read_dir(dir) else { return Self::NoDirectory };
        let paths = entries.map(|entry| entry.unwrap().path());
        let files = paths.filter(|path| is_manifest_name(path.file_name().unwrap())).map(|path| {
            let readable = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_FILE);
            let content = readable.then(|| read(fs::read(&path).unwrap()));
            (path, File { content })
        });
        let identity = (metadata.dev(), metadata.ino(), metadata.created().ok());
        Self::Listed { identity, files: files.collect() }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&PathBuf, &File)> {
        match self {
            Self::Listed { files, .. } => Some(files),
            _ => None,
        }
        .into_iter()
        .flatten()
    }
}

/// Checking a document costs more than all else here, and there are few different ones.
fn read(bytes: Vec<u8>) -> Arc<Content> {
    static KNOWN: Mutex<Option<HashMap<Vec<u8>, Arc<Content>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.entry(bytes.clone()).or_insert_with(|| Arc::new(Content::new(bytes))).clone()
}

/// Everything below `root` that a write, a move or a removal would show in.
pub(crate) fn fingerprint(root: &Path) -> BTreeMap<PathBuf, Fingerprint> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(m) = fs::symlink_metadata(&path) else { continue };
        if m.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let time = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        let times = (time(m.mtime(), m.mtime_nsec()), time(m.ctime(), m.ctime_nsec()));
        all.insert(path, (m.ino(), m.mode(), m.size(), times.0, times.1));
    }
    all
}
