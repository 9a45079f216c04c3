//! Where a node's status goes: a file of the host, as on a host without a cluster, and from there to the API server.
//!
//! The file is what the next agent begins with, also when it cannot reach the API server; and `microagent` on the node reads it.

use std::{collections::BTreeMap, sync::Arc};

use microagent_base::durable::DurableError;
use microagent_crds::WorkspaceStatus;

use super::publisher::Publisher;
use crate::{
    Key, Problem, Record,
    sink::{Sink, StatusFiles},
};

/// See the module.
pub(super) struct NodeStatus {
    pub(super) files: StatusFiles,
    pub(super) publisher: Arc<Publisher>,
}

impl Sink for NodeStatus {
    fn published(&self, record: &Record) -> WorkspaceStatus {
        self.files.published(record)
    }

    fn publish(&self, record: &Record, status: Option<&WorkspaceStatus>) -> Result<bool, DurableError> {
        let differs = self.files.publish(record, status)?;
        match status {
            Some(status) => self.publisher.want(&record.key, &record.uid, status),
            None if self.publisher.lacks(&record.key, &record.uid) => {
                self.publisher.want(&record.key, &record.uid, &self.files.published(record));
            }
            None => {}
        }
        Ok(differs)
    }

    fn retract(&self, key: &Key) -> Result<(), DurableError> {
        self.publisher.forget(key);
        self.files.retract(key)
    }

    fn publish_rejected(&self, rejected: &BTreeMap<Key, Problem>) -> Result<(), DurableError> {
        self.files.publish_rejected(rejected)
    }
}
