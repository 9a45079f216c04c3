//! The managed folder: what `apply` and `run` declare, one file for each workspace.

use std::{fs, io};

use microagent_base::durable;
use microagent_controller::{Key, Paths, Record};
use microagent_crds::Workspace;

use crate::{
    failure::{Context, Failure, Result},
    objects,
};

/// What writing a manifest changed, in kubectl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There was none.
    Created,
    /// It is another one now.
    Configured,
    /// It was the same.
    Unchanged,
}

impl Change {
    /// The word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// The key of a parsed manifest.
pub(crate) fn key(workspace: &Workspace) -> Key {
    let metadata = &workspace.metadata;
    Key::new(
        metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// The manifest of `key` in the managed folder.
pub(crate) fn read(paths: &Paths, key: &Key) -> Result<Option<Workspace>> {
    let path = paths.manifest(key);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::new(format!("cannot read {}: {e}", path.display()))),
    };
    let parsed = microagent_crds::parse(&text, &path.display().to_string());
    parsed.into_iter().next().transpose().map_err(|e| {
        Failure::verbatim(e.to_string())
            .help(format!("apply {key} again, or remove it with `microagent delete -n {} {}`", key.namespace, key.name))
    })
}

/// Declares a workspace. Its file is whole at every instant.
pub(crate) fn write(paths: &Paths, key: &Key, workspace: &Workspace) -> Result<Change> {
    let path = paths.manifest(key);
    let text = text(workspace).context(|| format!("cannot write the manifest of {key}"))?;
    let change = match fs::read_to_string(&path) {
        Ok(old) if old == text => return Ok(Change::Unchanged),
        Ok(_) => Change::Configured,
        Err(_) => Change::Created,
    };
    durable::write(&path, text.as_bytes())?;
    Ok(change)
}

/// The canonical text of a manifest: what the user declares, without what a controller fills in.
fn text(workspace: &Workspace) -> Result<String> {
    let metadata = &workspace.metadata;
    let mut value = serde_json::json!({
        "apiVersion": "microagent.dev/v1alpha1",
        "kind": "Workspace",
        "metadata": { "name": metadata.name, "namespace": metadata.namespace },
        "spec": workspace.spec,
    });
    for (field, map) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
        if let Some(map) = map.as_ref().filter(|m| !m.is_empty()) {
            value["metadata"][field] = serde_json::to_value(map)?;
        }
    }
    Ok(microagent_crds::yaml::to_string(&value)?)
}

/// Takes a workspace back. Whether it was declared here.
pub(crate) fn remove(paths: &Paths, key: &Key) -> Result<bool> {
    let path = paths.manifest(key);
    let there = path.symlink_metadata().is_ok();
    durable::remove_file(&path)?;
    if there {
        durable::sync_dir(&paths.manifests())?;
    }
    Ok(there)
}

/// What is declared in the managed folder.
pub(crate) fn keys(paths: &Paths) -> Result<Vec<Key>> {
    let key = |file: String| {
        // A namespace has no dot.
        let (namespace, name) = file.strip_suffix(".yaml")?.split_once('.')?;
        Some(Key::new(namespace, name))
    };
    Ok(objects::names(&paths.manifests())?.into_iter().filter_map(key).collect())
}

/// Refuses a name that a file of a user's folder declares: that file would go on declaring it.
pub(crate) fn refuse_foreign(paths: &Paths, key: &Key, verb: &str) -> Result<()> {
    let record: Option<Record> = durable::read_json(&paths.record(key))?;
    match record {
        Some(record) if record.deleted_at.is_none() && !record.file.starts_with(paths.manifests()) => {
            let file = record.file.display();
            Err(Failure::new(format!("cannot {verb} workspace {key}: the file {file} declares it"))
                .help(format!("{verb} that file instead")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(image: &str) -> Workspace {
        let text = format!(
            "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {{name: a, labels: {{x: y}}}}\nspec: {{image: {image}}}\n"
        );
        microagent_crds::parse(&text, "test").remove(0).unwrap()
    }

    #[test]
    fn a_manifest_survives_its_file_and_tells_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("s"), cache: dir.path().join("c") };
        paths.create().unwrap();
        let workspace_a = workspace("alpine:3.22");
        let key = key(&workspace_a);
        assert_eq!(key, Key::new("default", "a"));
        assert_eq!(write(&paths, &key, &workspace_a).unwrap(), Change::Created);
        assert_eq!(write(&paths, &key, &workspace_a).unwrap(), Change::Unchanged);
        assert_eq!(read(&paths, &key).unwrap().unwrap(), workspace_a);
        assert_eq!(write(&paths, &key, &workspace("alpine:3.21")).unwrap(), Change::Configured);
        assert_eq!(keys(&paths).unwrap(), std::slice::from_ref(&key));
        assert!(remove(&paths, &key).unwrap());
        assert!(!remove(&paths, &key).unwrap());
        assert!(keys(&paths).unwrap().is_empty());
    }
}
