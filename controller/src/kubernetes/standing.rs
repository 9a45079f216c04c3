//! Whether the API server can be believed when it refuses: in the first moments after its start it refuses with 403 even those who may,
//! because it has not read yet who may do what.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long after it could not be reached, or failed, a refusal may be of that kind. It reads its roles within seconds.
const SETTLES: Duration = Duration::from_secs(60);

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing(Arc<Mutex<Option<Instant>>>);

impl Standing {
    /// It cannot be reached, or says that it fails.
    pub(super) fn trouble(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it was in trouble a moment ago.
    pub(super) fn is_new(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < SETTLES)
    }
}

/// What to do about a refusal with 403 or 422, by what the server says of it: the code alone does not tell a missing role from a policy.
/// Nothing where that does not tell either.
pub(super) fn advice(message: &str) -> Option<&'static str> {
    // As admission policies and webhooks are told, whatever the code that they choose.
    if is_denied(message) {
        return Some(
            "an admission policy or webhook of the cluster denies it: see what it asks for, and exempt the agent's service account",
        );
    }
    // `User "…" cannot patch resource "…" in API group …`, as every authorizer is told.
    if message.contains(" cannot ") && message.contains(" resource ") {
        return Some(match message.contains("not found") {
            true => "install the ClusterRole of the agent, which its binding names",
            false => "bind the ClusterRole of the agent to its service account",
        });
    }
    None
}

/// Whether admission said no, and neither RBAC nor the schema.
pub(super) fn is_denied(message: &str) -> bool {
    message.contains("denied request") || message.contains("denied the request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_is_new_for_a_minute_after_its_last_trouble() {
        let standing = Standing::default();
        assert!(!standing.is_new());
        standing.trouble();
        tokio::time::advance(SETTLES / 2).await;
        assert!(standing.clone().is_new());
        standing.trouble();
        tokio::time::advance(SETTLES / 2).await;
        assert!(standing.is_new());
        tokio::time::advance(SETTLES / 2).await;
        assert!(!standing.is_new());
    }

    #[test]
    fn the_advice_is_about_who_refuses() {
        let forbidden = r#"workspaces.microagent.dev "a" is forbidden: "#;
        for (message, word) in [
            (
                r#"User "n" cannot patch resource "workspaces" in API group "microagent.dev" in the namespace "d""#,
                "bind",
            ),
            (
                r#"User "n" cannot get resource "leases": RBAC: clusterrole.rbac.authorization.k8s.io "microagent-agent" not found"#,
                "install",
            ),
            (r"ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no", "policy"),
            (r#"admission webhook "w.example.com" denied the request: no"#, "webhook"),
        ] {
            let told = advice(&format!("{forbidden}{message}")).unwrap();
            assert!(told.contains(word), "{message}: {told}");
        }
        assert_eq!(advice("exceeded quota"), None);
    }
}
