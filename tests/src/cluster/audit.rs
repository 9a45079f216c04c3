//! What the API server notes of each request of a service account: who did what to which objects, and whether it was let.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::Cluster;

/// Something that a user did, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The verb, in the words of RBAC.
    pub verb: String,
    /// The API group; empty for the core.
    pub group: String,
    /// The resource, with its subresource behind a slash.
    pub resource: String,
    /// The namespace; empty for all of them, and for what is in none.
    pub namespace: String,
    /// The object's name; empty where none is named.
    pub name: String,
    /// Whether it was let.
    pub allowed: bool,
}

const LOG: &str = "audit.log";

/// The arguments of an API server that notes such requests, and writes each before it is answered whole.
pub(super) fn args(dir: &Path) -> [String; 2] {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [{ "level": "Metadata", "userGroups": ["system:serviceaccounts"] }, { "level": "None" }],
    });
    let path = dir.join("audit-policy.json");
    fs::write(&path, policy.to_string()).unwrap();
    [format!("--audit-policy-file={}", path.display()), format!("--audit-log-path={}", dir.join(LOG).display())]
}

impl Cluster {
    /// What this service account did so far, where [`super::Settings::audit`] is set.
    ///
    /// # Panics
    /// When nothing is noted.
    #[must_use]
    pub fn audit(&self, namespace: &str, account: &str) -> BTreeSet<Use> {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let log = fs::read_to_string(self.dir.path().join(LOG)).expect("a control plane that notes requests");
        // The last line may be on its way.
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["user"]["username"] == user).filter_map(|event| read(&event)).collect()
    }
}

/// Nothing for what is no request for a resource.
fn read(event: &Value) -> Option<Use> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = event.get("objectRef")?;
    let resource = match text(&object["subresource"]) {
        none if none.is_empty() => text(&object["resource"]),
        subresource => format!("{}/{subresource}", text(&object["resource"])),
    };
    Some(Use {
        verb: text(&event["verb"]),
        group: text(&object["apiGroup"]),
        resource,
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        allowed: event["annotations"]["authorization.k8s.io/decision"] == "allow",
    })
}
