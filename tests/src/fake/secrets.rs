//! The secrets that a machine was started with, by their digests: whoever looks for a value in the files of a test finds none here.

use std::{fs, path::PathBuf};

use microagent_base::{Digest, durable};
use microagent_guest_protocol::{Secret, SecretPlace};
use serde::{Deserialize, Serialize};

use super::FakeDir;

/// One secret of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenSecret {
    /// Its name.
    pub name: String,
    /// Where the guest is to have it.
    pub place: SecretPlace,
    /// The digest of its value.
    pub digest: Digest,
}

impl FakeDir {
    /// The secrets of the last start of this UID.
    #[must_use]
    pub fn secrets(&self, uid: &str) -> Vec<GivenSecret> {
        durable::read_json(&self.secrets_of(uid)).ok().flatten().unwrap_or_default()
    }

    pub(super) fn given(&self, uid: &str, secrets: &[Secret]) {
        let tell = |secret: &Secret| GivenSecret {
            name: secret.name.clone(),
            place: secret.place.clone(),
            digest: Digest::of(secret.value.expose()),
        };
        let path = self.secrets_of(uid);
        let _ = fs::create_dir_all(self.path().join("secrets"));
        let all: Vec<GivenSecret> = secrets.iter().map(tell).collect();
        let _ = durable::encode(&path, &all).and_then(|bytes| durable::replace(&path, &bytes));
    }

    fn secrets_of(&self, uid: &str) -> PathBuf {
        self.path().join("secrets").join(uid)
    }
}
