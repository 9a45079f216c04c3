//! The user's logins to registries, in the form of the Docker config file: also what a Kubernetes pull secret of
//! type `kubernetes.io/dockerconfigjson` holds.

use std::{env, fmt, path::PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use microagent_base::bounded;
use serde_json::Value;

use crate::{Error, Result};

/// The largest config file that is read: a Kubernetes secret cannot be larger.
const MAX_FILE: u64 = 1 << 20;

/// Docker Hub's name in Docker's config file, older than the registry protocol in use.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Where logins are looked for, the first match wins. What is not found is asked for anonymously.
#[derive(Clone, Default)]
pub struct Credentials {
    sources: Vec<Source>,
}

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Secret { origin: String, json: Vec<u8> },
}

/// A login for one registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Basic {
        user: String,
        password: String,
    },
    /// Exchanged for an access token at the registry's token server.
    Identity(String),
}

/// What was found for a registry, and what to tell the user when the registry then denies.
#[derive(Clone, Default)]
pub(crate) struct Found {
    pub(crate) login: Option<Login>,
    pub(crate) note: String,
}

impl Credentials {
    /// No logins: every registry is asked anonymously.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The files that container tools use: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`. Absent ones are passed over.
    #[must_use]
    pub fn from_environment() -> Self {
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let docker = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|home| home.join(".docker")));
        let files = [
            var("REGISTRY_AUTH_FILE"),
            docker.map(|dir| dir.join("config.json")),
            var("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        ];
        Self { sources: files.into_iter().flatten().map(Source::File).collect() }
    }

    /// Looks in this Docker config file too, after those before.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::File(path.into()));
        self
    }

    /// Looks in this pull secret before all others. `origin` names it in errors. Programs that the secret names as
    /// credential helpers are not run: a secret may come from somebody who may not run programs on this host.
    #[must_use]
    pub fn with_secret(mut self, origin: impl Into<String>, docker_config_json: Vec<u8>) -> Self {
        self.sources.insert(0, Source::Secret { origin: origin.into(), json: docker_config_json });
        self
    }

    /// The login for a repository. May run a credential helper: blocks.
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Result<Found> {
        let mut note = String::new();
        for source in &self.sources {
            let (origin, bytes) = match source {
                Source::Secret { origin, json } => (origin.clone(), json.clone()),
                Source::File(path) => match bounded::read(path, MAX_FILE) {
                    Ok(bytes) => (path.display().to_string(), bytes),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(unreadable(registry, &path.display().to_string(), &e.to_string())),
                },
            };
            let mut config: Value = serde_json::from_slice(&bytes)
                .map_err(|e| unreadable(registry, &origin, &format!("it is not JSON: {e}")))?;
            if let (Source::Secret { .. }, Some(config)) = (source, config.as_object_mut()) {
                config.remove("credHelpers");
                config.remove("credsStore");
            }
            let bytes = config.to_string().into_bytes();
            for server in servers(&config, registry, repository) {
                match get_credential_from_reader(bytes.as_slice(), &server) {
                    Ok(credential) => {
                        let login = Login::from(credential);
                        note = format!("with the login {}from {origin}", login.user());
                        return Ok(Found { login: Some(login), note });
                    }
                    Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                    Err(
                        e @ (CredentialRetrievalError::HelperCommunicationError
                        | CredentialRetrievalError::MalformedHelperResponse
                        | CredentialRetrievalError::HelperFailure { .. }),
                    ) => {
                        // A helper says in its own words that it has no login; public images must not need one.
                        let why: String = e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
                        tracing::debug!(registry, %origin, %why, "no login from the credential helper");
                        note = format!("anonymously, for {origin} gave no login: {why}");
                    }
                    Err(e) => return Err(unreadable(registry, &origin, &e.to_string())),
                }
            }
        }
        if note.is_empty() {
            note = "anonymously, for no login was found".to_owned();
        }
        Ok(Found { login: None, note })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins = self.sources.iter().map(|source| match source {
            Source::File(path) => path.display().to_string(),
            Source::Secret { origin, .. } => origin.clone(),
        });
        f.debug_list().entries(origins).finish()
    }
}

impl Login {
    fn user(&self) -> String {
        match self {
            Self::Basic { user, .. } => format!("of {user} "),
            Self::Identity(_) => String::new(),
        }
    }
}

impl From<DockerCredential> for Login {
    fn from(credential: DockerCredential) -> Self {
        match credential {
            DockerCredential::IdentityToken(token) => Self::Identity(token),
            DockerCredential::UsernamePassword(user, password) => Self::Basic { user, password },
        }
    }
}

fn unreadable(registry: &str, origin: &str, why: &str) -> Error {
    Error::CredentialsUnreadable { registry: registry.to_owned(), origin: origin.to_owned(), why: why.to_owned() }
}

/// The names under which a login may stand, the most special first: `host/team/image`, `host/team`, `host`.
fn servers(config: &Value, registry: &str, repository: &str) -> Vec<String> {
    let has = |name: &str| config.get("auths").is_some_and(|auths| auths.get(name).is_some());
    let mut names = Vec::new();
    let full = format!("{registry}/{repository}");
    let mut name = full.as_str();
    while name.len() > registry.len() {
        if has(name) {
            names.push(name.to_owned());
        }
        name = name.rsplit_once('/').map_or("", |(shorter, _)| shorter);
    }
    if registry == "docker.io" {
        names.push(DOCKER_HUB.to_owned());
    }
    names.push(registry.to_owned());
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn secret(config: &Value) -> Credentials {
        Credentials::none().with_secret("secret team/pull", config.to_string().into_bytes())
    }

    fn login(credentials: &Credentials, registry: &str, repository: &str) -> Option<String> {
        match credentials.find(registry, repository).unwrap().login? {
            Login::Basic { user, password } => Some(format!("{user}:{password}")),
            Login::Identity(token) => Some(token),
        }
    }

    #[test]
    fn the_most_special_name_of_a_repository_wins() {
        let credentials = secret(&json!({"auths": {
            "r.example": {"username": "host", "password": "1"},
            "r.example/team": {"username": "team", "password": "2"},
            "r.example/team/tool": {"username": "tool", "password": "3"},
        }}));
        assert_eq!(login(&credentials, "r.example", "team/tool").as_deref(), Some("tool:3"));
        assert_eq!(login(&credentials, "r.example", "team/other").as_deref(), Some("team:2"));
        assert_eq!(login(&credentials, "r.example", "else").as_deref(), Some("host:1"));
        assert_eq!(login(&credentials, "other.example", "team/tool"), None);
    }

    #[test]
    fn docker_hub_is_found_under_its_old_name_and_its_new_one() {
        for key in [DOCKER_HUB, "docker.io", "index.docker.io"] {
            let credentials = secret(&json!({"auths": {key: {"auth": "bWU6cHc="}}}));
            assert_eq!(login(&credentials, "docker.io", "library/alpine").as_deref(), Some("me:pw"), "{key}");
        }
    }

    #[test]
    fn a_secret_runs_no_program_and_its_password_is_not_shown() {
        let credentials = secret(&json!({"credsStore": "/bin/false", "auths": {"r.example": {"auth": "bWU6cHc="}}}));
        assert_eq!(login(&credentials, "r.example", "x").as_deref(), Some("me:pw"));
        assert_eq!(login(&credentials, "other.example", "x"), None);
        assert_eq!(format!("{credentials:?}"), "[\"secret team/pull\"]");
        assert!(!credentials.find("r.example", "x").unwrap().note.contains("pw"));
    }

    #[test]
    fn an_absent_file_is_passed_over_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let credentials = Credentials::none().with_file(&path);
        assert_eq!(login(&credentials, "r.example", "x"), None);
        fs::write(&path, "{").unwrap();
        let error = credentials.find("r.example", "x").err().unwrap();
        assert_eq!(error.category(), "CredentialsUnreadable");
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[test]
    fn a_credential_helper_that_is_missing_leaves_public_images_within_reach() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, json!({"credsStore": "microagent-test-absent"}).to_string()).unwrap();
        let found = Credentials::none().with_file(&path).find("r.example", "x").unwrap();
        assert!(found.login.is_none() && found.note.contains("config.json"), "{}", found.note);
    }
}
