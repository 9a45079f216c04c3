//! `index.json` of the store: which image has which name. An OCI image index (`image-layout.md`), so that other
//! tools can read the store; changed under a lock only.

use std::{collections::BTreeMap, path::Path};

use microagent_base::{Digest, Silent, durable};
use serde::{Deserialize, Serialize};

use crate::{
    Platform, Result, lock,
    wire::{self, Descriptor},
};

/// When an image was put into the store, in RFC 3339.
const PULLED: &str = "dev.microagent.pulled";

/// The file. Entries without a name were superseded by a newer image of that name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u64,
    media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: 2, media_type: wire::OCI_INDEX.to_owned(), manifests: Vec::new() }
    }
}

pub(crate) fn name(entry: &Descriptor) -> Option<&str> {
    entry.annotation(wire::REF_NAME)
}

fn unname(entry: &mut Descriptor) {
    if let Some(annotations) = &mut entry.annotations {
        annotations.remove(wire::REF_NAME);
    }
}

pub(crate) fn pulled(entry: &Descriptor) -> Option<jiff::Timestamp> {
    entry.annotation(PULLED)?.parse().ok()
}

impl Index {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        Ok(durable::read_json(&root.join("index.json"))?.unwrap_or_default())
    }

    /// Reads, changes and writes the file while nobody else does. Not written when `change` says that nothing changed.
    pub(crate) fn update<T>(root: &Path, change: impl FnOnce(&mut Self) -> Result<(T, bool)>) -> Result<T> {
        // Held for two small file operations: no reason to let anybody cancel.
        let _lock = lock::exclusive_blocking(&root.join("locks/index"), &Silent, "a change of the image index")?;
        let mut index = Self::read(root)?;
        let (result, changed) = change(&mut index)?;
        if changed {
            durable::write_json(&root.join("index.json"), &index)?;
        }
        Ok(result)
    }

    /// The newest entry of this name or digest that suits the platform.
    pub(crate) fn find(&self, wanted: &str, digest: Option<Digest>, platform: &Platform) -> Option<&Descriptor> {
        let suits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| platform.suitability(p).is_some());
        let named = |entry: &&Descriptor| name(entry) == Some(wanted);
        let pinned = |entry: &&Descriptor| digest.is_some_and(|d| d == entry.digest);
        self.manifests
            .iter()
            .rev()
            .find(|e| named(e) && suits(e))
            .or_else(|| self.manifests.iter().rev().find(|e| pinned(e) && suits(e)))
    }

    /// Gives `reference` to a manifest. Says whether that is news.
    pub(crate) fn put(&mut self, reference: &str, manifest: Descriptor, platform: &Platform) -> bool {
        let same_name =
            |entry: &Descriptor| name(entry) == Some(reference) && entry.platform.as_ref() == Some(platform);
        if self.manifests.iter().any(|e| same_name(e) && e.digest == manifest.digest) {
            return false;
        }
        // Workspaces may still be made from the older image, so it stays, without its name.
        for old in self.manifests.iter_mut().filter(|e| same_name(e)) {
            unname(old);
        }
        // A nameless entry of the same manifest is now told by this one.
        self.manifests.retain(|e| name(e).is_some() || e.digest != manifest.digest);
        let annotations = BTreeMap::from([
            (wire::REF_NAME.to_owned(), reference.to_owned()),
            (PULLED.to_owned(), jiff::Timestamp::now().to_string()),
        ]);
        self.manifests.push(Descriptor {
            platform: Some(platform.clone()),
            annotations: Some(annotations),
            ..manifest
        });
        self.drop_nameless_twins();
        true
    }

    /// Two nameless entries of one manifest say no more than one, and none when a named one is there.
    fn drop_nameless_twins(&mut self) {
        let mut named: Vec<Digest> = self.manifests.iter().filter(|e| name(e).is_some()).map(|e| e.digest).collect();
        self.manifests.retain(|e| {
            let stays = name(e).is_some() || !named.contains(&e.digest);
            named.push(e.digest);
            stays
        });
    }

    /// Takes the names of these entries away; the images stay.
    pub(crate) fn unname(&mut self, of: impl Fn(&Descriptor) -> bool) {
        self.manifests.iter_mut().filter(|e| of(e)).for_each(unname);
        self.drop_nameless_twins();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor {
            media_type: wire::OCI_MANIFEST.to_owned(),
            digest: Digest::of(content),
            size: content.len() as u64,
            platform: None,
            annotations: None,
        }
    }

    #[test]
    fn a_name_moves_to_the_newer_image_and_the_older_one_stays_without_name() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let mut index = Index::default();
        assert!(index.put("a:1", descriptor(b"old"), &amd64));
        assert!(!index.put("a:1", descriptor(b"old"), &amd64));
        assert!(index.put("a:1", descriptor(b"new"), &amd64));
        assert_eq!(index.find("a:1", None, &amd64).unwrap().digest, Digest::of(b"new"));
        assert_eq!(index.find("b@x", Some(Digest::of(b"old")), &amd64).unwrap().digest, Digest::of(b"old"));
        assert!(index.put("a:1", descriptor(b"old"), &amd64));
        assert_eq!(index.manifests.len(), 2);
    }

    #[test]
    fn one_name_has_an_image_for_each_platform() {
        let (amd64, arm64): (Platform, Platform) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
        let mut index = Index::default();
        index.put("a:1", descriptor(b"x"), &amd64);
        assert!(index.find("a:1", None, &arm64).is_none());
        index.put("a:1", descriptor(b"y"), &arm64);
        assert_eq!(index.find("a:1", None, &amd64).unwrap().digest, Digest::of(b"x"));
        index.unname(|e| e.platform.as_ref() == Some(&arm64));
        assert!(index.find("a:1", None, &arm64).is_none() && index.manifests.len() == 2);
    }
}
