//! CEL rules that several fields share, as (expression, message).
//!
//! The API server runs them for `kubectl`, and [`crate::validate`] runs the same text for files. The API server refuses
//! rules that could become costly, so every string and list under a rule has a bound.

/// A path in the guest or on the host.
pub(crate) const ABSOLUTE_PATH: (&str, &str) = (
    r"self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)') && !self.matches('[\\x00-\\x1f\\x7f]')",
    "must be an absolute path without `..` and without control characters",
);

/// A name within the workspace: an RFC 1123 label.
pub(crate) const LABEL: (&str, &str) = (
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "must be lower-case letters, digits and `-`, starting and ending with a letter or digit",
);

/// The name of an object of Kubernetes: an RFC 1123 subdomain. It becomes a part of a URL.
pub(crate) const OBJECT_NAME: (&str, &str) = (
    "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
    "must be lower-case letters, digits, `-` and `.`, starting and ending with a letter or digit",
);

/// A key of a Secret or a ConfigMap.
pub(crate) const OBJECT_KEY: (&str, &str) =
    ("self.matches('^[-._a-zA-Z0-9]+$')", "must be letters, digits, `-`, `_` and `.`");

/// Names in a list, each once.
pub(crate) const UNIQUE_NAMES: (&str, &str) =
    ("self.all(a, self.exists_one(b, b.name == a.name))", "every entry must have a name of its own");

/// The name of an environment variable.
pub(crate) const ENV_NAME: (&str, &str) =
    (r"self.matches('^[^=\\x00]+$')", "must be the name of an environment variable: not empty, without `=` and NUL");

/// Text that becomes an argument or a variable of a Linux program.
pub(crate) const NO_NUL: (&str, &str) = (r"!self.matches('\\x00')", "must not contain a NUL character");

/// The same for each text of a list.
pub(crate) const NO_NULS: (&str, &str) = (r"self.all(a, !a.matches('\\x00'))", "must not contain a NUL character");

/// `user[:group]` as in chown(1), by name or number.
pub(crate) const OWNER: (&str, &str) = (
    "self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$')",
    "must be `user` or `user:group`, each a name or a number",
);
