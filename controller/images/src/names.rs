//! The names of the images in the store: what a user means by one, and giving another.

use std::collections::BTreeMap;

use microagent_base::Digest;

use crate::{
    Error, Image, ImageReference, Platform, Result, Store, host_platform,
    index::{self, Index},
    lock,
    wire::Descriptor,
};

/// How many digits of a digest must be given: fewer are sooner a mistake than a digest.
const MIN_DIGITS: usize = 6;

/// What a text names in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The images of this name, one for each platform.
    Name(String),
    /// The manifest with this digest, whatever names it has.
    Digest(Digest),
}

impl Meant {
    pub(crate) fn is(&self, entry: &Descriptor) -> bool {
        match self {
            Self::Name(name) => index::name(entry) == Some(name),
            Self::Digest(digest) => entry.digest == *digest,
        }
    }
}

impl Index {
    /// What a user means: a name, also a short one, a digest, or its first digits.
    pub(crate) fn meant(&self, wanted: &str) -> Result<Meant> {
        let parsed = wanted.parse::<ImageReference>();
        let canonical = parsed.as_ref().map(ImageReference::name).unwrap_or_default();
        let mut names = self.manifests.iter().filter_map(index::name);
        if let Some(name) = names.find(|name| *name == wanted || *name == canonical) {
            return Ok(Meant::Name(name.to_owned()));
        }
        let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let mut found: Vec<Digest> = Vec::new();
        if digits.len() >= MIN_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            found.extend(self.manifests.iter().map(|e| e.digest).filter(|d| d.hex().starts_with(digits)));
            found.sort_unstable();
            found.dedup();
        }
        match found.as_slice() {
            [] => Err(Error::ImageNotFound {
                reference: wanted.to_owned(),
                why: "it is not in the store of this host".to_owned(),
            }),
            [only] => Ok(Meant::Digest(*only)),
            several => Err(Error::InvalidReference {
                reference: wanted.to_owned(),
                why: format!("{} images have digests that begin so; give more digits", several.len()),
            }),
        }
    }

    /// The newest entry that a user means, that of the platform where there are several.
    pub(crate) fn chosen(&self, wanted: &str, platform: Option<&Platform>) -> Result<&Descriptor> {
        let meant = self.meant(wanted)?;
        let host = host_platform();
        let mut fitting = self.manifests.iter().rev().filter(|e| meant.is(e));
        let suits = |e: &&Descriptor| {
            let offered = e.platform.as_ref();
            offered.is_some_and(|offered| platform.unwrap_or(&host).suitability(offered).is_some())
        };
        let newest = fitting.clone().next();
        fitting.find(suits).or(newest.filter(|_| platform.is_none())).ok_or_else(|| Error::PlatformNotFound {
            reference: wanted.to_owned(),
            platform: platform.unwrap_or(&host).to_string(),
            available: self
                .manifests
                .iter()
                .filter(|e| meant.is(e))
                .filter_map(|e| e.platform.as_ref().map(Platform::to_string))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// All names of a manifest.
    pub(crate) fn names(&self, manifest: &Digest) -> impl Iterator<Item = &str> {
        self.manifests.iter().filter(move |e| e.digest == *manifest).filter_map(index::name)
    }
}

impl Store {
    /// The image that a user means by a name, also a short one, a digest or its first digits. Of several platforms it
    /// is that of `platform`, or of this host. Asks no registry.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::PlatformNotFound`], [`Error::ImageIncomplete`] when not all of it is there,
    /// [`Error::InvalidReference`] when the digits fit several, and those of the operating system.
    pub fn look_up(&self, wanted: &str, platform: Option<&Platform>) -> Result<Image> {
        let index = Index::read(&self.root)?;
        let entry = index.chosen(wanted, platform)?;
        self.load(entry)?.ok_or_else(|| Error::ImageIncomplete {
            reference: wanted.to_owned(),
            why: "not all of its blobs are there".to_owned(),
        })
    }

    /// Gives the image that `wanted` means another name, for all its platforms. An image that had the name stays,
    /// without it. Gives the name in full and the manifests that have it now.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::InvalidReference`] when `name` is not that of an image in a registry, and
    /// those of the operating system.
    pub fn tag(&self, wanted: &str, name: &str) -> Result<(String, Vec<Digest>)> {
        let reference: ImageReference = name.parse()?;
        if !matches!(reference, ImageReference::Registry(_)) || reference.digest().is_some() {
            return Err(Error::InvalidReference {
                reference: name.to_owned(),
                why: "a name is written like registry.example/team/image:tag, without a digest".to_owned(),
            });
        }
        let name = reference.name();
        // What gets a name is not swept at the same time.
        let _in_use = lock::in_use(&self.locks())?;
        Index::update(&self.root, |index| {
            let meant = index.meant(wanted)?;
            // The newest of each platform comes last and has the name in the end.
            let images: BTreeMap<Platform, Descriptor> = index
                .manifests
                .iter()
                .filter(|e| meant.is(e))
                .filter_map(|e| Some((e.platform.clone()?, e.clone())))
                .collect();
            let mut news = false;
            for (platform, image) in &images {
                news |= index.put(&name, Descriptor { annotations: None, ..image.clone() }, platform);
            }
            Ok(((name, images.values().map(|e| e.digest).collect()), news))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn index(images: &[(&str, &[u8], &str)]) -> Index {
        let mut index = Index::default();
        for (name, content, platform) in images {
            let manifest = Descriptor {
                media_type: wire::OCI_MANIFEST.to_owned(),
                digest: Digest::of(content),
                size: 1,
                platform: None,
                annotations: None,
            };
            index.put(name, manifest, &platform.parse().unwrap());
        }
        index
    }

    #[test]
    fn a_user_may_give_a_short_name_a_digest_or_its_first_digits() {
        let index = index(&[("docker.io/library/alpine:latest", b"a", "linux/amd64")]);
        let digest = Digest::of(b"a");
        let name = Meant::Name("docker.io/library/alpine:latest".to_owned());
        for (text, meant) in [
            ("alpine", &name),
            ("docker.io/library/alpine:latest", &name),
            (&digest.to_string(), &Meant::Digest(digest)),
            (&digest.hex()[..6], &Meant::Digest(digest)),
            (&format!("sha256:{}", &digest.hex()[..9]), &Meant::Digest(digest)),
        ] {
            assert_eq!(index.meant(text).unwrap(), *meant, "{text}");
        }
        for text in ["", "alpine:3", &digest.hex()[..5], "sha256:", "0000000"] {
            assert_eq!(index.meant(text).unwrap_err().category(), "ImageNotFound", "{text}");
        }
    }

    #[test]
    fn digits_that_fit_several_images_choose_none() {
        // Two contents whose digests begin alike are not to be found by hand: a shortened rule is the same rule.
        let mut index = index(&[("a:1", b"a", "linux/amd64"), ("b:1", b"b", "linux/amd64")]);
        let mut hex = index.manifests[0].digest.hex();
        hex.replace_range(60.., "0000");
        index.manifests[1].digest = format!("sha256:{hex}").parse().unwrap();
        let error = index.meant(&hex[..10]).unwrap_err();
        assert!(error.to_string().contains("2 images"), "{error}");
    }

    #[test]
    fn of_several_platforms_that_of_the_host_is_meant_unless_one_is_named() {
        let host = host_platform();
        let index = index(&[("x/a:1", b"host", &host.to_string()), ("x/a:1", b"other", "linux/s390x")]);
        assert_eq!(index.chosen("x/a:1", None).unwrap().digest, Digest::of(b"host"));
        let s390x = "linux/s390x".parse().unwrap();
        assert_eq!(index.chosen("x/a:1", Some(&s390x)).unwrap().digest, Digest::of(b"other"));
        let arm = "linux/arm".parse().unwrap();
        assert_eq!(index.chosen("x/a:1", Some(&arm)).unwrap_err().category(), "PlatformNotFound");
    }
}
