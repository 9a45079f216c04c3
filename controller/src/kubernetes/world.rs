//! The effects of a node's agent: those of the host, and the few that concern the object itself.

use std::sync::{Arc, Mutex};

use super::{
    claims::{Claims, lock},
    cluster::{ApiError, Cluster},
    secrets,
};
use crate::{
    Paths, Record,
    memory::Fault,
    observed::Observed,
    plan::Action,
    world::{Host, World},
};

/// The host of the agent, and its API server.
pub(super) struct Node {
    pub(super) host: Arc<Host>,
    pub(super) claims: Arc<Mutex<Claims>>,
    pub(super) cluster: Cluster,
    pub(super) paths: Paths,
}

impl Node {
    /// Puts the finalizer on the object before anything of it is on the host.
    async fn hold(&self, record: &Record) -> Result<(), Fault> {
        let seen = lock(&self.claims).seen(&record.key).filter(|seen| seen.uid == record.uid).cloned();
        let is_here = || self.paths.machine(&record.uid).dir().exists();
        let known = match &seen {
            // Or an older state of it, from when something of it was here: whether it is there at all is asked.
            Some(seen) if seen.is_held() => (!is_here()).then_some(None),
            Some(seen) => Some(Some(seen.finalizers.as_slice())),
            // The API server was not heard yet, and what is here is here with the finalizer.
            None => (!is_here()).then_some(None),
        };
        let Some(known) = known else { return Ok(()) };
        match self.cluster.hold(record, known).await {
            Ok(()) => {
                lock(&self.claims).mark_held(record, true);
                Ok(())
            }
            Err(error) => {
                if matches!(error, ApiError::Gone) {
                    lock(&self.claims).doubt(record);
                }
                Err(error.into())
            }
        }
    }
}

impl World for Node {
    async fn observe(&self, record: &Record) -> Observed {
        let mut observed = self.host.observe(record).await;
        let claims = lock(&self.claims);
        let seen = claims.seen(&record.key);
        // An object whose end has come is deleted, as a finished Job is.
        observed.withdrawable = seen.is_some_and(|seen| seen.uid == record.uid && seen.deleted_at.is_none());
        observed
    }

    async fn act(&self, record: &Record, action: &Action) -> Result<(), Fault> {
        match action {
            Action::CreateDisks => {
                self.hold(record).await?;
                self.host.act(record, action).await
            }
            Action::StartMachine(_) => {
                self.hold(record).await?;
                let supplies = secrets::for_start(&self.cluster, record).await?;
                self.host.act_with(record, action, supplies).await
            }
            Action::ResolveImage => {
                let supplies = secrets::for_pull(&self.cluster, record).await?;
                self.host.act_with(record, action, supplies).await
            }
            Action::WithdrawManifest => Ok(self.cluster.delete(record).await?),
            Action::Forget => {
                self.host.act(record, action).await?;
                // Nothing is left here: the object may go.
                self.cluster.release(record).await?;
                lock(&self.claims).mark_held(record, false);
                Ok(())
            }
            _ => self.host.act(record, action).await,
        }
    }

    async fn machines(&self) -> Vec<String> {
        self.host.machines().await
    }

    async fn sweep(&self, uid: &str) -> Result<(), Fault> {
        self.host.sweep(uid).await
    }
}
