//! The name of a workspace among all of one host.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Namespace and name. Both are DNS labels when they come from a parsed manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The namespace; `default` when the manifest names none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key of these parts.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Key {
    type Err = std::convert::Infallible;

    /// `namespace/name`, or a name in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("default", text),
        })
    }
}
