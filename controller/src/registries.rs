//! The file that says how this host reaches registries: mirrors, and which have no or another encryption.
//!
//! Read anew for every pull, so that a change needs no restart.

use std::{
    io,
    path::{Path, PathBuf},
};

use microagent_base::bounded;
use microagent_crds::yaml;
use microagent_images::Registries;

/// Names the file. It must then be there.
pub const REGISTRIES_VARIABLE: &str = "MICROAGENT_REGISTRIES";

/// Far more than all registries of a company.
const MAX_FILE: u64 = 256 << 10;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}{}: {why}; correct it, or move it away to reach every registry directly",
    position.map(|at| format!(", line {}, column {}", at.line, at.column)).unwrap_or_default())]
pub struct RegistriesError {
    path: String,
    position: Option<yaml::Position>,
    why: String,
}

impl RegistriesError {
    /// The stable code of the cause.
    #[must_use]
    pub fn category(&self) -> &'static str {
        "RegistrySettingsInvalid"
    }
}

/// The rules of this host: those of the file that `MICROAGENT_REGISTRIES` names; else of
/// `/etc/microagent/registries.yaml` for root and of `$XDG_CONFIG_HOME/microagent/registries.yaml` for others. No rules where
/// there is no such file.
///
/// # Errors
/// The file cannot be read or says something else.
pub fn registries() -> Result<Registries, RegistriesError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable(REGISTRIES_VARIABLE) {
        return read(&path, true);
    }
    let config = if rustix::process::geteuid().is_root() {
        PathBuf::from("/etc")
    } else if let Some(config) = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config"))) {
        config
    } else {
        return Ok(Registries::default());
    };
    read(&config.join("microagent/registries.yaml"), false)
}

fn read(path: &Path, required: bool) -> Result<Registries, RegistriesError> {
    let unusable = |position, why: String| RegistriesError { path: path.display().to_string(), position, why };
    let bytes = match bounded::read(path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(Registries::default()),
        Err(e) => return Err(unusable(None, e.to_string())),
    };
    let text = String::from_utf8(bytes).map_err(|e| unusable(None, e.to_string()))?;
    yaml::from_str(&text).map_err(|e| unusable(e.position, e.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_with_the_place_of_what_is_wrong_and_may_be_absent_unless_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.yaml");
        assert_eq!(read(&path, false).unwrap(), Registries::default());
        assert_eq!(read(&path, true).unwrap_err().category(), "RegistrySettingsInvalid");
        std::fs::write(&path, "registries:\n- prefix: docker.io\n  mirrors:\n  - location: m.example\n").unwrap();
        assert_ne!(read(&path, true).unwrap(), Registries::default());
        for (text, why) in [
            ("registries:\n- prefix: docker.io\n  mirror: x\n", "line 3"),
            ("registries:\n- prefix: /x\n", "prefix"),
            ("registries: [", "registries.yaml"),
            ("registries: []\n---\nregistries: []\n", "more than one"),
            ("", "registries.yaml"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path, true).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("registries.yaml"), "{error}");
        }
        std::fs::write(&path, vec![b' '; 300 << 10]).unwrap();
        assert!(read(&path, false).unwrap_err().to_string().contains("more than 262144 bytes"));
    }
}
