//! From the bytes of a manifest or an index to the manifest of one platform. No I/O.

use microagent_base::Digest;

use crate::{
    Error, Platform, Result,
    wire::{self, Descriptor, Document},
};

/// What a document turned out to be.
#[derive(Debug)]
pub(crate) enum Resolved {
    /// A manifest of an image.
    Manifest(Document),
    /// An index; this entry of it is the one for the platform.
    Entry(Descriptor),
}

/// Reads a document that came from outside.
pub(crate) fn parse(reference: &str, bytes: &[u8]) -> Result<Document> {
    let invalid = |why: String| Error::InvalidImage { reference: reference.to_owned(), why };
    let unsupported = |why: &str| Error::UnsupportedImage { reference: reference.to_owned(), why: why.to_owned() };
    let document: Document = serde_json::from_slice(bytes).map_err(|e| match other_algorithm(bytes) {
        Some(algorithm) => unsupported(&format!(
            "it names its parts by {algorithm} digests, and only SHA-256 is supported; push it with sha256 digests"
        )),
        None => invalid(format!("its manifest does not decode: {e}")),
    })?;
    if document.schema_version == 1 {
        return Err(unsupported(
            "it is in Docker's schema 1, whose content cannot be verified; push it again with a current tool",
        ));
    }
    if document.schema_version != 2 {
        return Err(invalid(format!("its manifest has schemaVersion {}, not 2", document.schema_version)));
    }
    // One document that two readers could take for two things has been used to smuggle images (CVE-2021-41190).
    if document.is_index() && (document.layers.is_some() || document.config.is_some()) {
        return Err(invalid("it is a manifest and an index at once".to_owned()));
    }
    let declared = document.media_type.as_deref();
    let fits = match declared {
        None => true,
        Some(wire::OCI_INDEX | wire::DOCKER_INDEX) => document.is_index(),
        Some(wire::OCI_MANIFEST | wire::DOCKER_MANIFEST) => !document.is_index(),
        Some(other) => return Err(unsupported(&format!("its manifest has the type {other}"))),
    };
    if fits { Ok(document) } else { Err(invalid("its members do not fit its mediaType".to_owned())) }
}

/// The digest algorithm of a manifest's config or layers that is not the supported one.
fn other_algorithm(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let layers = document.get("layers").and_then(|layers| layers.as_array());
    let parts = document.get("config").into_iter().chain(layers.into_iter().flatten());
    let mut algorithms = parts.filter_map(|part| part.get("digest")?.as_str()?.split_once(':').map(|(name, _)| name));
    algorithms
        .find(|name| *name != "sha256" && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric()))
        .map(str::to_owned)
}

/// Tells a manifest from an index, and chooses from the index.
pub(crate) fn resolve(reference: &str, bytes: &[u8], platform: &Platform) -> Result<Resolved> {
    let mut document = parse(reference, bytes)?;
    match document.entries() {
        None => Ok(Resolved::Manifest(document)),
        Some(entries) => choose(reference, entries, platform).map(Resolved::Entry),
    }
}

/// Indexes within each other that are gone through. Two are made by tools that join indexes.
const MAX_DEPTH: usize = 4;

/// The way down through indexes.
#[derive(Default)]
pub(crate) struct Way {
    depth: usize,
}

impl Way {
    /// Goes to an entry, unless that is too deep.
    pub(crate) fn down(&mut self, reference: &str, entry: Descriptor) -> Result<Descriptor> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(entry);
        }
        let why = format!("its indexes lie more than {MAX_DEPTH} deep in each other");
        Err(Error::UnsupportedImage { reference: reference.to_owned(), why })
    }
}

/// The document of a manifest that is in the store, which is never an index.
pub(crate) fn manifest(reference: &str, bytes: &[u8]) -> Result<Document> {
    let document = parse(reference, bytes)?;
    if document.is_index() {
        let why = "its index points to another index".to_owned();
        return Err(Error::UnsupportedImage { reference: reference.to_owned(), why });
    }
    Ok(document)
}

/// The entry of an index that suits `platform` best; of equal ones, the first, as `image-index.md` wants.
pub(crate) fn choose(reference: &str, entries: Vec<Descriptor>, platform: &Platform) -> Result<Descriptor> {
    let count = entries.len();
    let images: Vec<Descriptor> = entries.into_iter().filter(is_image).collect();
    // What a tool writes that knows no platforms: there is nothing to choose, and the config is checked later.
    if let [only] = images.as_slice()
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let mut best: Option<(u8, &Descriptor)> = None;
    for entry in &images {
        let score = entry.platform.as_ref().and_then(|offered| platform.suitability(offered));
        if let Some(score) = score
            && best.is_none_or(|(most, _)| score > most)
        {
            best = Some((score, entry));
        }
    }
    // An index that names no platform may hold any.
    let within = || images.iter().find(|e| e.platform.is_none() && is_index(e));
    best.map(|(_, entry)| entry).or_else(within).cloned().ok_or_else(|| Error::PlatformNotFound {
        reference: reference.to_owned(),
        platform: platform.to_string(),
        available: match names(&images) {
            names if names.is_empty() => format!("no image for a named platform ({count} entries)"),
            names => names,
        },
    })
}

/// Whether an entry is an image, and not an attestation or an artifact.
fn is_image(entry: &Descriptor) -> bool {
    let attestation = entry.annotation(wire::DOCKER_REFERENCE_TYPE).is_some()
        || entry.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown");
    let known = [wire::OCI_MANIFEST, wire::DOCKER_MANIFEST, wire::OCI_INDEX, wire::DOCKER_INDEX];
    !attestation && known.contains(&entry.media_type.as_str())
}

fn is_index(entry: &Descriptor) -> bool {
    [wire::OCI_INDEX, wire::DOCKER_INDEX].contains(&entry.media_type.as_str())
}

fn names(entries: &[Descriptor]) -> String {
    // Thirty names are more than any image has; a hostile index may have thousands.
    let mut names: Vec<_> =
        entries.iter().filter_map(|e| e.platform.as_ref()).take(30).map(Platform::to_string).collect();
    names.dedup();
    names.join(", ")
}

/// Checks that the config of a chosen image agrees with what was wanted.
pub(crate) fn check_platform(reference: &str, wanted: &Platform, found: &Platform) -> Result<()> {
    // The variant is left to the index: configs often say none, or another than their index.
    if wanted.os == found.os && wanted.architecture == found.architecture {
        return Ok(());
    }
    Err(Error::PlatformNotFound {
        reference: reference.to_owned(),
        platform: wanted.to_string(),
        available: found.to_string(),
    })
}

/// Checks bytes against the digest they were asked for by.
pub(crate) fn check_digest(what: &str, origin: &str, bytes: &[u8], expected: Digest) -> Result<()> {
    let actual = Digest::of(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(Error::DigestMismatch { what: what.to_owned(), origin: origin.to_owned(), expected, actual })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(name: &str, os: &str, architecture: &str, variant: Option<&str>) -> Value {
        json!({
            "mediaType": wire::OCI_MANIFEST, "digest": Digest::of(name.as_bytes()), "size": 1,
            "platform": {"os": os, "architecture": architecture, "variant": variant},
        })
    }

    fn index(manifests: &[Value]) -> Vec<u8> {
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": wire::OCI_INDEX, "manifests": manifests})).unwrap()
    }

    fn chosen(manifests: &[Value], platform: &str) -> Result<Digest> {
        match resolve("x", &index(manifests), &platform.parse().unwrap())? {
            Resolved::Entry(entry) => Ok(entry.digest),
            Resolved::Manifest(_) => panic!("a manifest"),
        }
    }

    #[test]
    fn the_entry_of_the_platform_is_chosen_and_attestations_are_skipped() {
        let all = [
            entry("attestation", "unknown", "unknown", None),
            entry("v3", "linux", "amd64", Some("v3")),
            entry("amd64", "linux", "amd64", None),
            entry("arm64", "linux", "arm64", Some("v8")),
        ];
        assert_eq!(chosen(&all, "linux/amd64").unwrap(), Digest::of(b"amd64"));
        assert_eq!(chosen(&all, "linux/amd64/v3").unwrap(), Digest::of(b"v3"));
        assert_eq!(chosen(&all, "linux/arm64").unwrap(), Digest::of(b"arm64"));
        let error = chosen(&all, "linux/riscv64").unwrap_err();
        assert_eq!(error.category(), "PlatformNotFound");
        assert!(error.to_string().contains("linux/amd64/v3, linux/amd64, linux/arm64/v8"), "{error}");
    }

    #[test]
    fn an_index_of_attestations_only_has_no_platform() {
        let mut marked = entry("a", "linux", "amd64", None);
        marked["annotations"] = json!({(wire::DOCKER_REFERENCE_TYPE): "attestation-manifest"});
        assert_eq!(chosen(&[marked], "linux/amd64").unwrap_err().category(), "PlatformNotFound");
        assert_eq!(chosen(&[], "linux/amd64").unwrap_err().category(), "PlatformNotFound");
    }

    #[test]
    fn artifacts_of_an_index_are_no_images_and_an_index_without_platform_is_looked_into() {
        let mut artifact = entry("signature", "linux", "amd64", None);
        artifact["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json".into();
        assert_eq!(chosen(&[artifact.clone()], "linux/amd64").unwrap_err().category(), "PlatformNotFound");
        let nested = json!({"mediaType": wire::OCI_INDEX, "digest": Digest::of(b"nested"), "size": 1});
        let all = [artifact, entry("arm64", "linux", "arm64", None), nested];
        assert_eq!(chosen(&all, "linux/arm64").unwrap(), Digest::of(b"arm64"));
        assert_eq!(chosen(&all, "linux/amd64").unwrap(), Digest::of(b"nested"));
    }

    #[test]
    fn an_entry_with_another_digest_algorithm_does_not_spoil_the_index() {
        let mut unknown = entry("a", "linux", "amd64", None);
        unknown["digest"] = "sha512:00".into();
        assert_eq!(chosen(&[unknown, entry("b", "linux", "amd64", None)], "linux/amd64").unwrap(), Digest::of(b"b"));
    }

    #[test]
    fn documents_that_are_old_ambiguous_or_strange_are_refused() {
        for (document, category) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "UnsupportedImage"),
            (json!({"schemaVersion": 3}), "InvalidImage"),
            (json!({"schemaVersion": 2, "manifests": [], "layers": []}), "InvalidImage"),
            (json!({"schemaVersion": 2, "mediaType": wire::OCI_MANIFEST, "manifests": []}), "InvalidImage"),
            (json!({"schemaVersion": 2, "mediaType": "text/html"}), "UnsupportedImage"),
            (json!([]), "InvalidImage"),
            (
                json!({"schemaVersion": 2, "config": {"mediaType": "x", "size": 1, "digest": "sha512:00"}}),
                "UnsupportedImage",
            ),
            (
                json!({"schemaVersion": 2, "config": {"mediaType": "x", "size": 1, "digest": "sha256:00"}}),
                "InvalidImage",
            ),
        ] {
            let error = parse("x", &serde_json::to_vec(&document).unwrap()).unwrap_err();
            assert_eq!(error.category(), category, "{error}");
        }
        assert_eq!(manifest("x", &index(&[])).unwrap_err().category(), "UnsupportedImage");
    }

    #[test]
    fn a_config_of_another_platform_is_refused() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        assert!(check_platform("x", &amd64, &"linux/amd64/v2".parse().unwrap()).is_ok());
        let error = check_platform("x", &amd64, &"windows/amd64".parse().unwrap()).unwrap_err();
        assert_eq!(error.category(), "PlatformNotFound");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_reading_a_manifest_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = resolve("x", &bytes, &"linux/amd64".parse().unwrap());
            let mut json = index(&[entry("a", "linux", "amd64", None)]);
            for (at, byte) in bytes.iter().enumerate() {
                let at = at * 7 % json.len();
                json[at] = *byte;
            }
            let _ = resolve("x", &json, &"linux/amd64".parse().unwrap());
        }
    }
}
