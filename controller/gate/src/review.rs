//! Who asks, what for, and whether the cluster lets them.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

/// A user of the cluster, as the API server knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The name. Never empty.
    pub name: String,
    /// What tells users of one name apart, where there is something.
    pub uid: Option<String>,
    /// The groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// What else the authenticator found.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request does, in the words of RBAC: `verb` on `workspaces/subresource` of the group `microagent.dev`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// `get` or `create`.
    pub verb: &'static str,
    /// `log` or `exec`.
    pub subresource: &'static str,
    /// The workspace's namespace.
    pub namespace: String,
    /// The workspace's name.
    pub name: String,
}

/// Whether a user may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allowed,
    /// They may not; with the reason that the authoriser gave, if any.
    Denied(String),
}

/// Why the cluster gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The agent itself lacks a right.
    #[error("the node agent may not {what}: {why}; grant that to its service account")]
    NotPermitted {
        /// What it tried, as verb and resource.
        what: &'static str,
        /// What the API server said.
        why: String,
    },
    /// The API server was not reached, or did not answer as it should.
    #[error("the API server did not answer when it was asked to {what}: {why}")]
    NoAnswer {
        /// What it was asked.
        what: &'static str,
        /// The reason.
        why: String,
    },
}

/// What the gate asks the API server.
pub trait Reviews: Send + Sync + 'static {
    /// Whose token this is; `None` when it is nobody's.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>>;

    /// Whether `user` may.
    fn authorise<'a>(&'a self, user: &'a User, access: &'a Access) -> BoxFuture<'a, Result<Decision, ReviewError>>;

    /// The certificates of the CA that signs those of users, as PEM; `None` when the cluster has no such CA.
    fn client_ca(&self) -> BoxFuture<'_, Result<Option<String>, ReviewError>>;
}
