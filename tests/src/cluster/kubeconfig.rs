//! The file that tells a client where the API server is and who it is itself.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use super::authority::Identity;

/// Writes a kubeconfig (as JSON, which is YAML too).
pub(super) fn write(path: &Path, url: &str, authority: &str, identity: &Identity) {
    let user = match identity {
        Identity::Certificate { certificate, key } => json!({
            "client-certificate-data": BASE64_STANDARD.encode(certificate),
            "client-key-data": BASE64_STANDARD.encode(key),
        }),
        Identity::Token(token) => json!({ "token": token }),
    };
    let cluster = json!({ "server": url, "certificate-authority-data": BASE64_STANDARD.encode(authority) });
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "user" } }],
        "current-context": "test",
    });
    fs::write(path, kubeconfig.to_string()).unwrap();
}
