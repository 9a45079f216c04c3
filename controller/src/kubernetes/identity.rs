//! To which node of which cluster a state directory belongs. Objects of another cluster that are not there must not be taken for
//! deleted ones.

use std::path::{Path, PathBuf};

use microagent_base::durable::{self, DurableError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Paths, Records};

/// What is kept in `node.json` of the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    /// The node.
    pub(super) node: String,
    /// The UID of the cluster's namespace `kube-system`, once it was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<String>,
    /// Another one for each state directory: what the agent's Lease is held by.
    pub(super) holder: String,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It is another node's.
    #[error(
        "{path} says that this state directory is of node {node}, not of {asked}: give each node one of its own with --state-dir, or remove that file when \
         node {asked} is to take over what is in it"
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The node that it names.
        node: String,
        /// The node that was asked for.
        asked: String,
    },
    /// It is of another cluster.
    #[error(
        "{path} says that this state directory is of another cluster (its kube-system has the UID {known}, this one's has {found}): nothing is done to its workspaces. \
         Give this cluster another --state-dir, or remove that file when they are to end"
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// The UID that it names.
        known: String,
        /// The UID of the namespace `kube-system` of this cluster.
        found: String,
    },
    /// It has the workspaces of folders.
    #[error(
        "the state directory {0} has workspaces that folders declare, or is of a node's agent: folders and a cluster need a --state-dir each"
    )]
    Mixed(PathBuf),
    /// It cannot be read or written.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

fn file(paths: &Paths) -> PathBuf {
    paths.state.join("node.json")
}

impl Identity {
    /// Whether an agent has used this state directory.
    pub(crate) fn is_of_a_node(paths: &Paths) -> bool {
        file(paths).exists()
    }

    /// Takes the state directory for this node.
    pub(super) fn take(paths: &Paths, records: &Records, node: &str) -> Result<Self, IdentityError> {
        let path = file(paths);
        match durable::read_json::<Self>(&path)? {
            Some(known) if known.node == node => Ok(known),
            Some(known) => Err(IdentityError::OtherNode { path, node: known.node, asked: node.to_owned() }),
            None if records.iter().any(|record| record.file != Path::new("")) => {
                Err(IdentityError::Mixed(paths.state.clone()))
            }
            None => {
                let new = Self { node: node.to_owned(), cluster: None, holder: Uuid::new_v4().to_string() };
                durable::write_json(&path, &new)?;
                Ok(new)
            }
        }
    }

    /// Takes it for this cluster, or refuses.
    pub(super) fn meet(&mut self, paths: &Paths, found: &str) -> Result<(), IdentityError> {
        match &self.cluster {
            Some(known) if known == found => Ok(()),
            Some(known) => {
                Err(IdentityError::OtherCluster { path: file(paths), known: known.clone(), found: found.to_owned() })
            }
            None => {
                self.cluster = Some(found.to_owned());
                Ok(durable::write_json(&file(paths), self)?)
            }
        }
    }
}

/// Refuses the state directory of a node's agent for folders: to the folders its workspaces would all be absent.
///
/// # Errors
/// It is one.
pub(crate) fn refuse_for_folders(paths: &Paths) -> Result<(), IdentityError> {
    if Identity::is_of_a_node(paths) { Err(IdentityError::Mixed(paths.state.clone())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_stays_with_its_node_and_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        paths.create().unwrap();
        refuse_for_folders(&paths).unwrap();
        let records = Records::load(&paths).unwrap();
        let mut first = Identity::take(&paths, &records, "n-1").unwrap();
        first.meet(&paths, "c-1").unwrap();
        let mut again = Identity::take(&paths, &records, "n-1").unwrap();
        assert_eq!(again, first, "the holder stays, so that its Lease is its own after a crash");
        again.meet(&paths, "c-1").unwrap();
        let told = again.meet(&paths, "c-2").unwrap_err().to_string();
        assert!(told.contains("c-1") && told.contains("c-2"), "{told}");
        let told = Identity::take(&paths, &records, "n-2").unwrap_err().to_string();
        assert!(told.contains("n-1") && told.contains("n-2"), "{told}");
        assert!(matches!(refuse_for_folders(&paths), Err(IdentityError::Mixed(_))));
    }
}
