//! The name of an image in a registry.
//!
//! Read by hand: the regular expression that the OCI crates read it with costs 20 MiB while it is compiled and 7 MiB for as
//! long as the process lives. A test holds this reader against theirs.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use microagent_base::Digest;

/// Where names without a registry are, as to Docker.
const DOCKER_HUB: &str = "docker.io";
/// What Docker Hub was called before.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// Docker Hub's repositories without an owner.
const DOCKER_HUB_OFFICIAL: &str = "library";
/// The longest repository, in bytes (distribution `reference/reference.go`, `RepositoryNameTotalLengthMax`).
const MAX_REPOSITORY: usize = 255;
/// The longest tag, in bytes (distribution specification, "Pulling manifests").
const MAX_TAG: usize = 128;

/// `[registry[:port]/]repository[:tag][@digest]`, by the grammar of distribution's `reference/reference.go`, with Docker's
/// short names: `alpine` is `docker.io/library/alpine:latest`. The registry may be an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl RegistryReference {
    /// `host[:port]` of the registry.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. `latest` when the text has neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the reference is pinned to.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for RegistryReference {
    /// What is wrong with the text, and what to write instead.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(format!(
                "the tag {tag:?} is not 1 to {MAX_TAG} letters, digits, `_`, `.` and `-` that begin with a letter, digit or `_`"
            ));
        }
        let (registry, repository) = split(name)?;
        if !repository.split('/').all(is_component) {
            return Err(format!(
                "{repository:?} is no repository; its parts are lower-case letters and digits, joined by `.`, `_`, `__` or `-`, \
                 as in registry.example/team/image:tag"
            ));
        }
        if repository.len() > MAX_REPOSITORY {
            return Err(format!("its repository has more than {MAX_REPOSITORY} characters"));
        }
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None }).map(str::to_owned);
        Ok(Self { registry, repository, tag, digest })
    }
}

/// The registry and the repository of a name, completed as Docker completes them.
fn split(name: &str) -> Result<(String, String), String> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':', '[']) => {
            if !is_registry(first) {
                return Err(format!("{first:?} is no registry; write it like registry.example:5000 or [::1]:5000"));
            }
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    };
    let registry = if registry == DOCKER_HUB_LEGACY { DOCKER_HUB } else { registry };
    let official = registry == DOCKER_HUB && !repository.contains('/');
    let repository = if official { format!("{DOCKER_HUB_OFFICIAL}/{repository}") } else { repository.to_owned() };
    Ok((registry.to_owned(), repository))
}

/// Whether this is a host, maybe with a port.
fn is_registry(text: &str) -> bool {
    if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_is_good && address.parse::<Ipv6Addr>().is_ok();
    }
    match text.split_once(':') {
        Some((host, port)) => is_host(host) && is_port(port),
        // Underscores are in no host name of the DNS, but in those of private networks, and Docker takes them.
        None => is_host(text) || is_component(text),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_host(text: &str) -> bool {
    text.split('.').all(|label| {
        let ends_are_good = !label.starts_with('-') && !label.ends_with('-');
        ends_are_good && !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Whether this is a part of a repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_are_good = bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    let separators = text.split(|c: char| u8::try_from(c).is_ok_and(is_word));
    ends_are_good
        && separators.filter(|s| !s.is_empty()).all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use oci_spec::distribution::Reference;
    use proptest::prelude::*;

    use super::*;

    /// What the OCI crate reads, where this reader is not stricter on purpose.
    fn theirs(text: &str) -> Option<(String, String, Option<String>, Option<String>)> {
        let read = Reference::try_from(text).ok()?;
        // Docker refuses capitals behind the registry, and nobody listens on such a port.
        let repository_is_lower = !read.repository().bytes().any(|b| b.is_ascii_uppercase());
        let port_is_good = read.registry().split_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
        let digest_is_good = read.digest().is_none_or(|digest| digest.parse::<Digest>().is_ok());
        let owned = |text: Option<&str>| text.map(str::to_owned);
        (repository_is_lower && port_is_good && digest_is_good).then(|| {
            (read.registry().to_owned(), read.repository().to_owned(), owned(read.tag()), owned(read.digest()))
        })
    }

    fn ours(text: &str) -> Option<(String, String, Option<String>, Option<String>)> {
        let RegistryReference { registry, repository, tag, digest } = text.parse().ok()?;
        Some((registry, repository, tag, digest.map(|digest| digest.to_string())))
    }

    #[test]
    fn the_edges_of_the_grammar_are_those_of_the_oci_crate() {
        let digest = Digest::of(b"x");
        let long = |n: usize| "a".repeat(n);
        for text in [
            "a",
            "a/b",
            "a/b/c",
            "A/b",
            "localhost/a",
            "LOCALHOST/a",
            "localhost:5000/a",
            "index.docker.io/a",
            "docker.io/a/b",
            "R.Example/a",
            "r.example:/a",
            "r.example:0/a",
            "r.example:65536/a",
            "r_x.example/a",
            "r_x.example:1/a",
            "r-.x/a",
            "a.b",
            "a..b",
            "a_b",
            "a__b",
            "a___b",
            "a-b",
            "a---b",
            "a.-b",
            "a-",
            "-a",
            "a_",
            "a//b",
            "/a",
            "a/",
            "a:b/c",
            "a:b:c",
            "a:",
            ":a",
            "a:_",
            "a:.",
            "a:-",
            "a:B.c-d_e",
            "a@",
            "a@b",
            "@",
            "",
            "1.2.3.4/a",
            "1.2.3.4:5/a",
            "a.b:5000",
            "a/b.c:1/d",
            &format!("a@{digest}"),
            &format!("a:b@{digest}"),
            &format!("a@{digest}:b"),
            &format!("a@{digest}0"),
            &format!("a@{digest}@{digest}"),
            &format!("a:{}", long(128)),
            &format!("a:{}", long(129)),
            &format!("r.x/{}", long(255)),
            &format!("r.x/{}", long(256)),
        ] {
            assert_eq!(ours(text), theirs(text), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn every_name_is_read_as_the_oci_crate_reads_it(
            text in "(([a-zA-Z0-9_.:/@-]{0,12})|([aA0._-]{1,4}(:[0-9]{1,5})?/)?[a0._-]{1,5}(/[a0A._-]{1,4}){0,2}(:[a0A._-]{1,3})?)"
        ) {
            prop_assert_eq!(ours(&text), theirs(&text));
        }
    }
}
