//! The published objects of workspaces, read from files. The controller writes them whole.

use std::{fs, io, path::Path};

use jiff::Timestamp;
use microagent_base::durable;
use microagent_controller::{Key, Paths};
use microagent_crds::{Condition, ConditionType, Workspace, WorkspaceStatus};

use crate::{
    failure::{Failure, Result},
    manifests,
    program::program,
    watch::Watch,
};

/// A workspace as it was published last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    /// Its name.
    pub(crate) key: Key,
    /// All of it.
    pub(crate) workspace: Workspace,
}

impl Object {
    /// The status; empty before the first look of a controller.
    pub(crate) fn status(&self) -> WorkspaceStatus {
        self.workspace.status.clone().unwrap_or_default()
    }

    /// The UID. Absent before the first look of a controller.
    pub(crate) fn uid(&self) -> Option<&str> {
        self.workspace.metadata.uid.as_deref()
    }

    /// The UID, for what cannot be done without.
    pub(crate) fn machine_uid(&self) -> Result<&str> {
        self.uid().ok_or_else(|| {
            Failure::try_again(format!("{} has no machine: no controller has taken it up yet", self.key))
                .help("start one with `microagent up`")
        })
    }

    /// The generation of the spec.
    pub(crate) fn generation(&self) -> i64 {
        self.workspace.metadata.generation.unwrap_or(0)
    }

    /// The condition of this type.
    pub(crate) fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.workspace.status.as_ref()?.conditions.iter().find(|c| c.type_ == kind)
    }

    /// Why a person must act, where one must, for the present generation.
    pub(crate) fn stalled(&self) -> Option<&Condition> {
        self.condition(ConditionType::Stalled)
            .filter(|c| c.is_true() && c.observed_generation.is_none_or(|g| g >= self.generation()))
    }

    /// When it was first seen.
    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.workspace.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }
}

/// The published object of `key`.
pub(crate) fn get(paths: &Paths, key: &Key) -> Result<Option<Object>> {
    let workspace: Option<Workspace> = durable::read_json(&paths.object(key))?;
    Ok(workspace.map(|workspace| Object { key: key.clone(), workspace }))
}

/// The object of `key`: published, or declared and not yet taken up by a controller.
pub(crate) fn find(paths: &Paths, key: &Key) -> Result<Option<Object>> {
    Ok(match get(paths, key)? {
        Some(object) => Some(object),
        None => manifests::read(paths, key)?.map(|workspace| Object { key: key.clone(), workspace }),
    })
}

/// As [`find`], and that there is none is a failure.
pub(crate) fn need(paths: &Paths, key: &Key) -> Result<Object> {
    find(paths, key)?.ok_or_else(|| not_found(key))
}

/// There is no such workspace.
pub(crate) fn not_found(key: &Key) -> Failure {
    Failure::new(format!("workspace {} not found in namespace {}", key.name, key.namespace))
        .help(format!("list all with `{} get -A`", program()))
}

/// All objects, in the order of their names: of one namespace, or of all. `unreadable` is told of each that cannot be read:
/// it must not hide the others.
pub(crate) fn list(paths: &Paths, namespace: Option<&str>, mut unreadable: impl FnMut(Failure)) -> Result<Vec<Object>> {
    let mut keys = manifests::keys(paths)?;
    keys.extend(stored(&paths.status())?);
    keys.retain(|key| namespace.is_none_or(|n| n == key.namespace));
    keys.sort();
    keys.dedup();
    let mut objects = Vec::with_capacity(keys.len());
    for key in keys {
        match find(paths, &key) {
            Ok(found) => objects.extend(found),
            Err(failure) => unreadable(failure),
        }
    }
    Ok(objects)
}

/// The workspaces of which there is a file in the directories of namespaces in `dir`.
pub(crate) fn stored(dir: &Path) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for namespace in names(dir)? {
        // The problems of files are beside the namespaces; no namespace starts with `_`.
        if !namespace.starts_with('_') {
            let files = names(&dir.join(&namespace))?;
            keys.extend(files.iter().filter_map(|f| Some(Key::new(namespace.clone(), f.strip_suffix(".json")?))));
        }
    }
    Ok(keys)
}

/// The names in a directory that are neither hidden nor temporary; none when it is not there.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::new(format!("cannot list {}: {e}", dir.display()))),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok().filter(|n| !n.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

/// A watch of the object of `key`.
pub(crate) fn watch(paths: &Paths, key: &Key) -> Watch {
    let mut watch = Watch::new();
    watch.dir(&paths.status().join(&key.namespace));
    watch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &Path) -> Paths {
        Paths { state: dir.join("state"), cache: dir.join("cache") }
    }

    #[test]
    fn published_and_merely_declared_workspaces_are_listed_together_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        paths.create().unwrap();
        let object = |name: &str| {
            let mut workspace = Workspace::new(name, microagent_crds::WorkspaceSpec::new("alpine"));
            workspace.metadata.namespace = Some("default".to_owned());
            workspace
        };
        for name in ["b", "c"] {
            manifests::write(&paths, &Key::new("default", name), &object(name)).unwrap();
        }
        durable::private_dir(&paths.status().join("default")).unwrap();
        durable::private_dir(&paths.file_problems()).unwrap();
        fs::write(paths.file_problems().join("x.json"), "{}").unwrap();
        for name in ["a", "b"] {
            durable::write_json(&paths.object(&Key::new("default", name)), &object(name)).unwrap();
        }
        let names = |ns| {
            list(&paths, ns, |failure| panic!("{failure}")).unwrap().into_iter().map(|o| o.key.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Some("default")), ["a", "b", "c"]);
        assert_eq!(names(None), ["a", "b", "c"]);
        assert!(names(Some("other")).is_empty());
    }

    #[test]
    fn an_object_that_cannot_be_read_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let good = Workspace::new("b", microagent_crds::WorkspaceSpec::new("alpine"));
        durable::private_dir(&paths.status().join("default")).unwrap();
        durable::write(&paths.object(&Key::new("default", "a")), b"torn").unwrap();
        durable::write_json(&paths.object(&Key::new("default", "b")), &good).unwrap();
        let mut unreadable = Vec::new();
        let listed = list(&paths, None, |failure| unreadable.push(failure.to_string())).unwrap();
        assert_eq!(listed.len(), 1);
        assert!(unreadable[0].contains("a.json"), "{unreadable:?}");
    }

    #[test]
    fn an_empty_host_has_no_workspaces() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(&paths(dir.path()), None, drop).unwrap().is_empty());
        let failure = need(&paths(dir.path()), &Key::new("default", "x")).unwrap_err();
        assert!(failure.to_string().contains("microagent get -A"));
    }
}
