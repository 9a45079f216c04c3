//! Values that are in the guest's memory only.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::frame::base64_bytes;

/// How many bytes the values of all secrets of one boot may have together: 1 MiB, as a Secret of Kubernetes.
pub const MAX_SECRET_BYTES: usize = 1 << 20;

/// A value that is on no disk: neither of the host nor of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secret {
    /// The secret's name: an RFC 1123 label, each once.
    pub name: String,
    /// Where the guest has it.
    pub place: SecretPlace,
    /// The value, in base64 on the wire.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub value: SecretBytes,
}

/// Where a secret is in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum SecretPlace {
    /// A variable of every environment that has the workload's: that of the workload, its setup, its probes and of execs. It takes the
    /// place of one of the same name. The value is UTF-8 without NUL.
    Env(String),
    /// A file in memory at this absolute path, which the workload's user can read (mode 0400) and nobody can write. Missing parents
    /// are made with mode 0755; symbolic links are resolved inside the guest's root.
    Path(String),
}

/// Bytes that are shown to nobody by accident: not by `Debug`, and not by an error when they do not decode.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// The bytes. Whoever asks for them sees to it that they are written nowhere.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64_bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of the decoder quotes what it did not expect.
        base64_bytes::deserialize(deserializer).map(Self).map_err(|_| D::Error::custom("a secret is no text in base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_the_wire_and_is_not_shown() {
        let place = SecretPlace::Path("/run/token".to_owned());
        let secret = Secret { name: "token".to_owned(), place, value: b"hunter2\0".to_vec().into() };
        let text = serde_json::to_string(&secret).unwrap();
        assert_eq!(text, r#"{"name":"token","place":{"path":"/run/token"},"value":"aHVudGVyMgA="}"#);
        assert_eq!(serde_json::from_str::<Secret>(&text).unwrap(), secret);
        let shown = format!("{secret:?}");
        assert!(shown.contains("token") && !shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }

    #[test]
    fn what_does_not_decode_is_not_quoted() {
        for value in ["\"hunter2!\"", "74126", "[\"hunter2\"]"] {
            let text = format!(r#"{{"name":"a","place":{{"env":"A"}},"value":{value}}}"#);
            let error = serde_json::from_str::<Secret>(&text).unwrap_err().to_string();
            assert!(error.contains("base64") && !error.contains("hunter") && !error.contains("74126"), "{error}");
        }
    }
}
