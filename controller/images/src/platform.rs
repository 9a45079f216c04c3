//! The machine that an image is made for.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Error;

/// `os/architecture[/variant]`, with the names of the OCI image index (`image-index.md`, "platform").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// As Go names it: `amd64`, `arm64`, `riscv64`.
    pub architecture: String,
    /// The version of the architecture, such as `v8`; none means the least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Linux on the architecture of this host: what its virtual machines run.
#[must_use]
pub fn host_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
}

impl Platform {
    /// How well an image for `offered` suits a host of this platform; more is better, none is not at all.
    ///
    /// An image that names no variant suits every host of its architecture. A host that names none is the least
    /// one: it prefers images with no variant or with the least.
    #[must_use]
    pub fn suitability(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let least = match self.architecture.as_str() {
            "arm64" => "v8",
            "arm" => "v5",
            _ => "v1",
        };
        match (self.variant.as_deref(), offered.variant.as_deref().filter(|v| !v.is_empty())) {
            (wanted, Some(offered)) if wanted == Some(offered) => Some(3),
            (_, None) => Some(2),
            (_, Some(offered)) if offered == least => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_deref().filter(|v| !v.is_empty()).map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.split('/');
        let word = |part: Option<&str>| {
            part.filter(|p| !p.is_empty() && p.len() <= 32 && p.bytes().all(|b| b.is_ascii_alphanumeric()))
                .map(str::to_owned)
        };
        let (os, architecture) = (word(parts.next()), word(parts.next()));
        let variant = parts.next();
        match (os, architecture, variant.map(|v| word(Some(v))), parts.next()) {
            (Some(os), Some(architecture), None, None) => Ok(Self { os, architecture, variant: None }),
            (Some(os), Some(architecture), Some(Some(variant)), None) => {
                Ok(Self { os, architecture, variant: Some(variant) })
            }
            _ => Err(Error::InvalidReference {
                reference: text.to_owned(),
                why: "a platform is written os/architecture[/variant], such as linux/amd64".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_survives_text_and_a_broken_one_is_refused() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(platform(text).to_string(), text);
        }
        for text in ["linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "linux/arm64/"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_without_variant_takes_the_least_one_only() {
        let host = platform("linux/amd64");
        assert!(host.suitability(&platform("linux/amd64")) > host.suitability(&platform("linux/amd64/v1")));
        assert_eq!(host.suitability(&platform("linux/amd64/v3")), None);
        assert_eq!(host.suitability(&platform("linux/arm64")), None);
        assert!(platform("linux/arm64").suitability(&platform("linux/arm64/v8")).is_some());
        assert!(platform("linux/arm/v7").suitability(&platform("linux/arm/v7")) > Some(2));
    }
}
