//! How a user names an image.

use std::{fmt, path::PathBuf, str::FromStr};

use microagent_base::Digest;

use crate::{Error, Result, registry::RegistryReference};

/// The longest reference that is read, in bytes: a registry, a repository of 255, a tag of 128 and a digest, or a
/// path of the usual length, fit.
const MAX_LEN: usize = 4096;

/// Where an image is. Made by parsing; the text of it is the canonical name under which the store keeps the image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageReference {
    /// An image in a registry. Short names mean what they mean to Docker: `alpine` is
    /// `docker.io/library/alpine:latest`.
    Registry(RegistryReference),
    /// A directory in the form of the OCI image layout (`image-layout.md`).
    OciLayout {
        /// The directory.
        dir: PathBuf,
        /// The `org.opencontainers.image.ref.name`; needed when the layout has several images.
        tag: Option<String>,
    },
    /// An uncompressed tar file of such a directory.
    OciArchive {
        /// The file.
        file: PathBuf,
        /// As in [`ImageReference::OciLayout`].
        tag: Option<String>,
    },
    /// An uncompressed tar file that `docker save` wrote.
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// The image in it, by a name it was saved under; needed when it holds several.
        image: Option<RegistryReference>,
    },
}

impl ImageReference {
    /// What is read of a `docker-archive:` reference behind the transport. As to other tools, the path has no colon.
    fn docker_archive(text: &str) -> Result<Self, String> {
        let (file, image) = match text.split_once(':') {
            Some((file, image)) => (file, Some(image.parse::<RegistryReference>()?)),
            None => (text, None),
        };
        if file.is_empty() || image.as_ref().is_some_and(|image| image.digest().is_some()) {
            return Err("write docker-archive:FILE[:NAME:TAG], with no colon in the path".to_owned());
        }
        Ok(Self::DockerArchive { file: file.into(), image })
    }

    /// The digest that the reference is pinned to. It may be that of an image index.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Registry(reference) => reference.digest(),
            _ => None,
        }
    }

    /// The name under which the store keeps the image: local paths made absolute.
    #[must_use]
    pub fn name(&self) -> String {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        match self {
            Self::Registry(_) => self.to_string(),
            Self::OciLayout { dir, tag } => Self::OciLayout { dir: absolute(dir), tag: tag.clone() }.to_string(),
            Self::OciArchive { file, tag } => Self::OciArchive { file: absolute(file), tag: tag.clone() }.to_string(),
            Self::DockerArchive { file, image } => {
                Self::DockerArchive { file: absolute(file), image: image.clone() }.to_string()
            }
        }
    }

    /// Whether the name says no version, or `latest`: Kubernetes then pulls always, unless told otherwise.
    #[must_use]
    pub fn is_floating(&self) -> bool {
        match self {
            Self::Registry(reference) => reference.digest().is_none() && reference.tag() == Some("latest"),
            Self::OciLayout { tag, .. } | Self::OciArchive { tag, .. } => {
                tag.as_deref().is_none_or(|tag| tag == "latest")
            }
            Self::DockerArchive { image, .. } => image.as_ref().is_none_or(|image| image.tag() == Some("latest")),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = |f: &mut fmt::Formatter<'_>, transport, path: &PathBuf, tag: &Option<String>| {
            write!(f, "{transport}:{}", path.display())?;
            tag.as_deref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
        };
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::OciLayout { dir, tag } => local(f, "oci-layout", dir, tag),
            Self::OciArchive { file, tag } => local(f, "oci-archive", file, tag),
            Self::DockerArchive { file, image } => {
                local(f, "docker-archive", file, &image.as_ref().map(RegistryReference::to_string))
            }
        }
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            |why: &str| Error::InvalidReference { reference: text.chars().take(200).collect(), why: why.to_owned() };
        if text.len() > MAX_LEN {
            return Err(invalid("it is longer than 4096 bytes"));
        }
        let is_local = text.starts_with("oci-") || text.starts_with("docker-archive:");
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) && !is_local {
            return Err(invalid("it is empty or has white space; write it like registry.example/team/image:tag"));
        }
        if text.contains('\0') || text.contains('\n') {
            return Err(invalid("it has a NUL or a line break"));
        }
        if let Some(rest) = text.strip_prefix("oci-layout:") {
            let (dir, tag) = path_and_tag(rest).ok_or_else(|| invalid("write oci-layout:DIRECTORY[:TAG]"))?;
            return Ok(Self::OciLayout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = path_and_tag(rest).ok_or_else(|| invalid("write oci-archive:FILE[:TAG]"))?;
            return Ok(Self::OciArchive { file, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return Self::docker_archive(rest).map_err(|why| invalid(&why));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(invalid(&format!("leave out {scheme}://")));
        }
        text.parse().map(Self::Registry).map_err(|why: String| invalid(&why))
    }
}

/// What stands behind the last colon is a tag unless it has a slash: then the colon is part of the path.
fn path_and_tag(text: &str) -> Option<(PathBuf, Option<String>)> {
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    };
    let tag_is_good = tag.is_none_or(|t| {
        !t.is_empty() && t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+@".contains(&b))
    });
    (!path.is_empty() && tag_is_good).then(|| (PathBuf::from(path), tag.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<ImageReference>().unwrap().to_string()
    }

    #[test]
    fn short_names_mean_what_they_mean_to_docker() {
        assert_eq!(canonical("alpine"), "docker.io/library/alpine:latest");
        assert_eq!(canonical("alpine:3.22"), "docker.io/library/alpine:3.22");
        assert_eq!(canonical("me/tool"), "docker.io/me/tool:latest");
        assert_eq!(canonical("localhost:5000/tool"), "localhost:5000/tool:latest");
        assert_eq!(canonical("ghcr.io/me/tool:v1"), "ghcr.io/me/tool:v1");
        assert_eq!(canonical("[::1]:5000/me/tool"), "[::1]:5000/me/tool:latest");
    }

    #[test]
    fn a_pinned_reference_has_a_digest_and_no_invented_tag() {
        let digest = Digest::of(b"x");
        let reference: ImageReference = format!("ghcr.io/me/tool@{digest}").parse().unwrap();
        assert_eq!(reference.digest(), Some(digest));
        assert!(!reference.is_floating());
        assert_eq!(reference.to_string(), format!("ghcr.io/me/tool@{digest}"));
    }

    #[test]
    fn local_sources_take_a_tag_behind_the_last_colon() {
        let parsed: ImageReference = "oci-layout:/a:b/c:v1".parse().unwrap();
        assert_eq!(parsed, ImageReference::OciLayout { dir: "/a:b/c".into(), tag: Some("v1".into()) });
        let parsed: ImageReference = "oci-archive:/a:b/c.tar".parse().unwrap();
        assert_eq!(parsed, ImageReference::OciArchive { file: "/a:b/c.tar".into(), tag: None });
        assert!(parsed.is_floating());
        assert_eq!(canonical("docker-archive:/c.tar:me/tool:v1"), "docker-archive:/c.tar:docker.io/me/tool:v1");
        assert_eq!(canonical("docker-archive:/c.tar"), "docker-archive:/c.tar");
    }

    #[test]
    fn what_names_no_image_is_refused_with_what_to_write() {
        for (text, hint) in [
            ("", "white space"),
            ("Alpine", "lower-case"),
            ("a b", "white space"),
            ("docker://alpine", "leave out docker://"),
            ("docker-archive:", "docker-archive:FILE"),
            ("docker-archive:/a:b/C.tar", "no repository"),
            ("oci-layout:", "oci-layout:DIRECTORY"),
            ("oci-archive:/x:", "oci-archive:FILE"),
            ("../../etc", "no registry"),
            ("[::1/x", "[::1]:5000"),
            ("[::1]:99999/x", "[::1]:5000"),
            ("x@sha512:0123456789abcdef0123456789abcdef", "only SHA-256"),
            ("x@sha256:0123", "64 lower-case"),
        ] {
            let error = text.parse::<ImageReference>().unwrap_err();
            assert_eq!(error.category(), "InvalidReference");
            assert!(error.to_string().contains(hint), "{error}");
        }
        assert!("x".repeat(5000).parse::<ImageReference>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_is_stable(text in "(oci-layout:|oci-archive:|docker-archive:)?[ -~]{0,80}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<ImageReference>().unwrap(), reference);
            }
        }
    }
}
