//! A restart that a person asks for. User files are never written, so it is a file of its own beside the records: the command line
//! writes it, the controller acts on it and removes it.
//!
//! A controller that acts must remember the token before it removes the file: a request that is found again after a crash is then
//! known, and one restart is made of it.

use std::{fs, io, path::PathBuf};

use jiff::Timestamp;
use microagent_base::{
    bounded,
    durable::{self, DurableError},
};
use microagent_crds::name::{check_name, check_namespace};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Key, Paths};

/// The most bytes of a request that are read: many times what one has.
pub const MAX_BYTES: u64 = 4096;

/// That a workspace is to be started anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartRequest {
    /// The UID of the workspace that was meant. Another workspace of the same name is not.
    pub uid: String,
    /// Another one for each request: a UUID of version 4.
    pub token: String,
    /// When it was asked for.
    pub time: Timestamp,
}

impl RestartRequest {
    /// A request that was never made before.
    #[must_use]
    pub fn new(uid: impl Into<String>, time: Timestamp) -> Self {
        Self { uid: uid.into(), token: Uuid::new_v4().to_string(), time }
    }
}

/// Why a request cannot be read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The operating system refused.
    #[error("cannot read the restart request {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason that the system gave.
        source: io::Error,
    },
    /// It is there and no request.
    #[error("{path} is no restart request: {why}; remove the file, and ask again with `microagent restart`")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It cannot be written or removed.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// Asks for a restart. It takes the place of an earlier request that nobody has acted on: one restart serves both.
///
/// # Errors
/// Those of the operating system; an earlier request is then as it was.
pub fn write(paths: &Paths, key: &Key, request: &RestartRequest) -> Result<(), RequestError> {
    let dir = paths.requests();
    if !dir.is_dir() {
        durable::private_dir(&dir)?;
        durable::sync_dir(&paths.state)?;
    }
    Ok(durable::write_json(&paths.restart_request(key), request)?)
}

/// The restart that is asked for; `None` when there is none. Whatever is at the place of the file, this neither waits nor reads more
/// than [`MAX_BYTES`].
///
/// # Errors
/// The file cannot be read, or is no request.
pub fn read(paths: &Paths, key: &Key) -> Result<Option<RestartRequest>, RequestError> {
    let path = paths.restart_request(key);
    let bytes = match bounded::read(&path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            return Err(RequestError::Foreign { path, why: e.to_string() });
        }
        Err(source) => return Err(RequestError::Read { path, source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(request) => Ok(Some(request)),
        Err(e) => Err(RequestError::Foreign { path, why: e.to_string() }),
    }
}

/// Removes the request with this token, once it was remembered. One that was made meanwhile stays; that there is none is no error.
///
/// # Errors
/// Those of [`read`], and the file cannot be removed.
pub fn remove(paths: &Paths, key: &Key, token: &str) -> Result<(), RequestError> {
    match read(paths, key)? {
        Some(request) if request.token == token => discard(paths, key),
        _ => Ok(()),
    }
}

/// Removes whatever is at the place of a request: one for a workspace that is gone, or what is none.
///
/// # Errors
/// It cannot be removed; that there is none is no error.
pub fn discard(paths: &Paths, key: &Key) -> Result<(), RequestError> {
    Ok(durable::remove_file(&paths.restart_request(key))?)
}

/// The workspaces of which a restart is asked for, in order. A file that has not the name of a request is passed over.
///
/// # Errors
/// The directory cannot be listed; that it is not there is no error.
pub fn keys(paths: &Paths) -> Result<Vec<Key>, RequestError> {
    let dir = paths.requests();
    let failed = |source| RequestError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut keys = Vec::new();
    for entry in entries {
        keys.extend(entry.map_err(failed)?.file_name().to_str().and_then(key));
    }
    keys.sort();
    Ok(keys)
}

/// `NAMESPACE.NAME.json`. A namespace has no dot.
fn key(file: &str) -> Option<Key> {
    let (namespace, name) = file.strip_suffix(".json")?.split_once('.')?;
    (check_namespace(namespace).is_ok() && check_name(name).is_ok()).then(|| Key::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        paths: Paths,
        key: Key,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        durable::private_dir(&paths.state).unwrap();
        Fixture { _dir: dir, paths, key: Key::new("team", "web") }
    }

    fn request() -> RestartRequest {
        RestartRequest::new("uid-1", "2026-11-24T06:00:00Z".parse().unwrap())
    }

    #[test]
    fn what_was_asked_for_is_read_back_and_listed_until_it_is_removed() {
        let Fixture { paths, key, _dir } = fixture();
        assert_eq!((read(&paths, &key).unwrap(), keys(&paths).unwrap()), (None, Vec::new()));
        let asked = request();
        write(&paths, &key, &asked).unwrap();
        assert_eq!(read(&paths, &key).unwrap().as_ref(), Some(&asked));
        assert_eq!(keys(&paths).unwrap(), std::slice::from_ref(&key));
        remove(&paths, &key, &asked.token).unwrap();
        assert_eq!((read(&paths, &key).unwrap(), keys(&paths).unwrap()), (None, Vec::new()));
        remove(&paths, &key, &asked.token).unwrap();
    }

    #[test]
    fn the_form_of_the_file_is_that_of_the_documentation() {
        let asked = RestartRequest { token: "t-1".to_owned(), ..request() };
        let text = serde_json::to_string(&asked).unwrap();
        assert_eq!(text, r#"{"uid":"uid-1","token":"t-1","time":"2026-11-24T06:00:00Z"}"#);
    }

    #[test]
    fn a_request_that_was_made_meanwhile_is_not_removed() {
        let Fixture { paths, key, _dir } = fixture();
        let (first, second) = (request(), request());
        assert_ne!(first.token, second.token);
        write(&paths, &key, &first).unwrap();
        write(&paths, &key, &second).unwrap();
        remove(&paths, &key, &first.token).unwrap();
        assert_eq!(read(&paths, &key).unwrap(), Some(second));
    }

    #[test]
    fn what_is_no_request_is_an_error_that_names_the_file_and_can_be_discarded() {
        let Fixture { paths, key, _dir } = fixture();
        write(&paths, &key, &request()).unwrap();
        let path = paths.restart_request(&key);
        let good = fs::read_to_string(&path).unwrap();
        let foreign = good.replace("\"uid\"", "\"extra\": 1, \"uid\"");
        let long = " ".repeat(usize::try_from(MAX_BYTES).unwrap()) + &good;
        for bad in ["", "{", "[]", "\0\u{ff}", &foreign, &long, &good.replace("2026-", "when-")] {
            fs::write(&path, bad).unwrap();
            let message = read(&paths, &key).unwrap_err().to_string();
            assert!(message.contains("team.web.json is no restart request"), "{message}");
            assert!(remove(&paths, &key, "t").is_err(), "what is not understood is not removed unseen");
        }
        discard(&paths, &key).unwrap();
        assert_eq!(read(&paths, &key).unwrap(), None);
    }

    #[test]
    fn a_pipe_or_a_directory_in_place_of_a_request_is_not_waited_for() {
        let Fixture { paths, key, _dir } = fixture();
        let path = paths.restart_request(&key);
        fs::create_dir_all(&path).unwrap();
        assert!(read(&paths, &key).unwrap_err().to_string().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(read(&paths, &key).unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    fn a_file_that_has_not_the_name_of_a_request_is_passed_over() {
        let Fixture { paths, key, _dir } = fixture();
        write(&paths, &key, &request()).unwrap();
        for name in [".tmp-x", "web.json", "team.web", "team..json", "Team.web.json", "team.a.b.json", "..json"] {
            fs::write(paths.requests().join(name), "").unwrap();
        }
        assert_eq!(keys(&paths).unwrap(), [Key::new("team", "a.b"), key]);
    }
}
