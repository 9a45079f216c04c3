//! Certificates that a registry of this host's own is known by.

use std::path::Path;

use microagent_base::bounded;
use reqwest::Certificate;

use crate::{Error, Result};

/// All public authorities together have a quarter of that.
const MAX_FILE: u64 = 1 << 20;

/// The certificates of a file, at least one.
pub(super) fn roots(registry: &str, path: &Path) -> Result<Vec<Certificate>> {
    let unusable = |why: String| Error::RegistrySettings { registry: registry.to_owned(), path: path.to_owned(), why };
    let bytes = bounded::read(path, MAX_FILE).map_err(|e| unusable(e.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&bytes).map_err(|e| unusable(microagent_base::causes(&e)))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for content in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = roots("r.example", &path).unwrap_err();
            assert_eq!(error.category(), "RegistrySettingsInvalid");
            assert!(error.to_string().contains("ca.pem") && error.needs_person(), "{error}");
        }
    }
}
