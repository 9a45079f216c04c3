//! The values of `spec.secrets`, read right before a machine starts. They pass from here to the supervisor and are kept nowhere: not
//! in records, status, events or logs. What is told of one is its name and where it is to come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    io::ErrorKind,
    os::unix::ffi::OsStringExt,
    path::Path,
};

use microagent_base::bounded;
use microagent_crds::{
    Reason, WorkspaceSpec,
    secrets::{SecretSource, SecretSpec},
};
use microagent_guest_protocol::{MAX_SECRET_BYTES, Secret, SecretBytes, SecretPlace};

use crate::memory::Fault;

/// The longest variable, `NAME=VALUE` with the NUL at its end: `MAX_ARG_STRLEN` of Linux.
const MAX_VARIABLE: usize = 128 * 1024;

/// What only a cluster can give to a start or a pull. Empty for the workspaces of a folder.
#[derive(Debug, Default)]
pub(crate) struct Supplies {
    /// The values that the spec refers to, by name of the Secret and key in it.
    pub(crate) keys: BTreeMap<(String, String), SecretBytes>,
    /// Logins to registries: where each is from, and a Docker config file.
    pub(crate) logins: Vec<(String, SecretBytes)>,
}

/// A value that cannot be had. One that is merely not there yet may come.
pub(crate) fn unavailable(message: String, retryable: bool) -> Fault {
    Fault { code: Reason::SecretUnavailable.as_str().to_owned(), message, retryable }
}

/// The Secrets that the spec takes values from, each once.
pub(crate) fn referenced(spec: &WorkspaceSpec) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for reference in spec.secrets.iter().filter_map(|secret| secret.from.secret_key_ref.as_ref()) {
        all.entry(&reference.name).or_default().insert(&reference.key);
    }
    all
}

/// Every value of the spec, from the host and from what a cluster gave.
pub(super) fn read(spec: &WorkspaceSpec, supplies: &Supplies) -> Result<Vec<Secret>, Fault> {
    read_with(spec, supplies, |name| env::var_os(name))
}

fn read_with(
    spec: &WorkspaceSpec,
    supplies: &Supplies,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Secret>, Fault> {
    let mut all = Vec::with_capacity(spec.secrets.len());
    let mut total = 0_usize;
    for secret in &spec.secrets {
        let value = value(secret, supplies, &variable)?;
        total = total.saturating_add(value.expose().len());
        if total > MAX_SECRET_BYTES {
            let message = format!(
                "the secrets have more than {MAX_SECRET_BYTES} bytes together, from `{}` on; take away some, or give large files by a disk",
                secret.name
            );
            return Err(unavailable(message, false));
        }
        all.push(Secret { name: secret.name.clone(), place: place(secret, &value)?, value });
    }
    Ok(all)
}

fn place(secret: &SecretSpec, value: &SecretBytes) -> Result<SecretPlace, Fault> {
    match (&secret.env, &secret.path) {
        (Some(name), _) => {
            let wrong = match std::str::from_utf8(value.expose()) {
                Err(_) => Some("is not UTF-8"),
                Ok(text) if text.contains('\0') => Some("has a NUL character"),
                Ok(text) if name.len() + text.len() + 2 > MAX_VARIABLE => Some("is longer than 128 KiB"),
                Ok(_) => None,
            };
            match wrong {
                Some(wrong) => Err(unavailable(
                    format!(
                        "the secret `{}`, from {}, cannot be the variable {name}: it {wrong}; use `path`",
                        secret.name,
                        origin(&secret.from)
                    ),
                    false,
                )),
                None => Ok(SecretPlace::Env(name.clone())),
            }
        }
        (None, Some(path)) => Ok(SecretPlace::Path(path.clone())),
        // The rules of the manifest refuse it.
        (None, None) => Err(unavailable(format!("the secret `{}` has neither `env` nor `path`", secret.name), false)),
    }
}

fn value(
    secret: &SecretSpec,
    supplies: &Supplies,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<SecretBytes, Fault> {
    let missing = |why: &str, retryable| {
        unavailable(
            format!("the secret `{}` cannot be had from {}: {why}", secret.name, origin(&secret.from)),
            retryable,
        )
    };
    match &secret.from {
        SecretSource { file: Some(path), .. } => match bounded::read(Path::new(path), MAX_SECRET_BYTES as u64) {
            Ok(bytes) => Ok(bytes.into()),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(missing("it does not exist; put it there", true)),
            Err(e) => Err(missing(&e.to_string(), false)),
        },
        SecretSource { env: Some(name), .. } => match variable(name) {
            Some(value) => Ok(value.into_vec().into()),
            None => Err(missing("it is not set; start the controller with it", false)),
        },
        SecretSource { secret_key_ref: Some(key), .. } => {
            let found = supplies.keys.get(&(key.name.clone(), key.key.clone()));
            found.cloned().ok_or_else(|| missing("there are no Secrets here", false))
        }
        _ => Err(missing("nothing says where it is", false)),
    }
}

fn origin(from: &SecretSource) -> String {
    match from {
        SecretSource { file: Some(path), .. } => format!("the file {path}"),
        SecretSource { env: Some(name), .. } => format!("the controller's variable {name}"),
        SecretSource { secret_key_ref: Some(key), .. } => format!("the key `{}` of the Secret `{}`", key.key, key.name),
        _ => "nowhere".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn spec(secrets: Value) -> WorkspaceSpec {
        serde_json::from_value(json!({ "image": "a", "secrets": secrets })).unwrap()
    }

    fn variable(name: &str) -> Option<OsString> {
        match name {
            "SET" => Some("hunter2".into()),
            "BINARY" => Some(OsString::from_vec(vec![b'q', 0xff])),
            "LONG" => Some("q".repeat(MAX_VARIABLE).into()),
            _ => None,
        }
    }

    fn supplies() -> Supplies {
        let keys = BTreeMap::from([(("db".to_owned(), "password".to_owned()), b"tr0ub4dor\0".to_vec().into())]);
        Supplies { keys, ..Supplies::default() }
    }

    #[test]
    fn values_come_from_files_variables_and_secrets_as_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "line\n").unwrap();
        let spec = spec(json!([
            { "name": "a", "env": "A", "from": { "env": "SET" } },
            { "name": "b", "path": "/b", "from": { "file": file } },
            { "name": "c", "path": "/c", "from": { "secretKeyRef": { "name": "db", "key": "password" } } },
            { "name": "d", "path": "/d", "from": { "env": "BINARY" } },
        ]));
        let all = read_with(&spec, &supplies(), variable).unwrap();
        let values: Vec<_> = all.iter().map(|secret| secret.value.expose()).collect();
        assert_eq!(values, [&b"hunter2"[..], b"line\n", b"tr0ub4dor\0", b"q\xff"]);
        assert_eq!(all[0].place, SecretPlace::Env("A".to_owned()));
        assert_eq!(all[1].place, SecretPlace::Path("/b".to_owned()));
        assert_eq!(referenced(&spec), BTreeMap::from([("db", BTreeSet::from(["password"]))]));
        assert!(!format!("{all:?} {:?}", supplies()).contains("tr0ub4dor"));
    }

    #[test]
    fn what_cannot_be_had_is_told_by_its_name_and_its_source_and_never_by_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large");
        fs::write(&large, vec![b'q'; MAX_SECRET_BYTES + 1]).unwrap();
        let half = dir.path().join("half");
        fs::write(&half, vec![b'q'; MAX_SECRET_BYTES / 2 + 1]).unwrap();
        let absent = dir.path().join("absent");
        let secret = |place: &str, from: Value| json!([{ "name": "the-one", place: "/x", "from": from }]);
        for (secrets, says, retryable) in [
            (secret("path", json!({ "file": absent })), "does not exist", true),
            (secret("path", json!({ "file": dir.path() })), "not a regular file", false),
            (secret("path", json!({ "file": large })), "more than 1048576 bytes", false),
            (secret("path", json!({ "env": "UNSET" })), "variable UNSET: it is not set", false),
            (secret("env", json!({ "env": "BINARY" })), "is not UTF-8", false),
            (secret("env", json!({ "env": "LONG" })), "128 KiB", false),
            (secret("env", json!({ "secretKeyRef": { "name": "db", "key": "password" } })), "NUL", false),
            (
                secret("env", json!({ "secretKeyRef": { "name": "db", "key": "user" } })),
                "key `user` of the Secret `db`",
                false,
            ),
            (
                json!([
                    { "name": "first", "path": "/x", "from": { "file": half } },
                    { "name": "the-one", "path": "/y", "from": { "file": half } },
                ]),
                "together",
                false,
            ),
        ] {
            let fault = read_with(&spec(secrets), &supplies(), variable).unwrap_err();
            assert_eq!((fault.code.as_str(), fault.retryable), ("SecretUnavailable", retryable), "{}", fault.message);
            assert!(fault.message.contains(says) && fault.message.contains("the-one"), "{}", fault.message);
            assert!(!fault.message.contains("qq") && !fault.message.contains("tr0ub"), "{}", fault.message);
        }
    }
}
