//! What an agent reads of Secrets: the values of `spec.secrets` right before a start, and the logins of `spec.imagePullSecrets` right
//! before a pull. They are kept for as long as that takes.
//!
//! An agent may read the Secrets of a namespace only where somebody has bound [`AGENT_SECRETS_ROLE`] there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Resource,
    api::{GetParams, Request},
};
use microagent_crds::{
    PullPolicy,
    kubernetes::{AGENT_ACCOUNT, AGENT_SECRETS_ROLE, SYSTEM_NAMESPACE},
};
use microagent_guest_protocol::SecretBytes;
use serde_json::{Value, json};

use super::cluster::{ApiError, Cluster};
use crate::{
    Record,
    memory::Fault,
    world::{Supplies, referenced, unavailable},
};

/// The types of Secrets that have logins to registries, and the only key of each.
const LOGINS: [(&str, &str); 2] =
    [("kubernetes.io/dockerconfigjson", ".dockerconfigjson"), ("kubernetes.io/dockercfg", ".dockercfg")];

/// What a start of the record's machine takes from Secrets.
pub(super) async fn for_start(cluster: &Cluster, record: &Record) -> Result<Supplies, Fault> {
    let mut keys = BTreeMap::new();
    for (name, wanted) in referenced(&record.workspace.spec) {
        let mut data = secret(cluster, &record.key.namespace, name).await?.data.unwrap_or_default();
        for key in wanted {
            let value = data.remove(key).ok_or_else(|| {
                let full = format!("{}/{name}", record.key.namespace);
                unavailable(format!("the Secret {full} has no key `{key}`; add it, or change spec.secrets"), true)
            })?;
            keys.insert((name.to_owned(), key.to_owned()), value.0.into());
        }
    }
    Ok(Supplies { keys, ..Supplies::default() })
}

/// What a pull of the record's image takes from Secrets, in the order of the spec. One that asks no registry takes nothing.
pub(super) async fn for_pull(cluster: &Cluster, record: &Record) -> Result<Supplies, Fault> {
    let mut logins = Vec::new();
    let (namespace, spec) = (&record.key.namespace, &record.workspace.spec);
    for reference in spec.image_pull_secrets.iter().filter(|_| spec.image_pull_policy != PullPolicy::Never) {
        let found = secret(cluster, namespace, &reference.name).await?;
        logins.push((format!("the Secret {namespace}/{}", reference.name), login(namespace, &reference.name, found)?));
    }
    Ok(Supplies { logins, ..Supplies::default() })
}

/// A Docker config file from a Secret with logins.
fn login(namespace: &str, name: &str, secret: Secret) -> Result<SecretBytes, Fault> {
    let wrong = |why: &str| {
        let how = "make it with `kubectl create secret docker-registry`";
        unavailable(format!("the Secret {namespace}/{name} of spec.imagePullSecrets {why}; {how}"), true)
    };
    let kind = secret.type_.unwrap_or_default();
    let Some((_, key)) = LOGINS.iter().find(|(known, _)| *known == kind) else {
        return Err(wrong(&format!("has the type `{kind}`, and not {} or {}", LOGINS[0].0, LOGINS[1].0)));
    };
    let bytes = secret.data.unwrap_or_default().remove(*key).ok_or_else(|| wrong(&format!("has no key `{key}`")))?;
    // What it has instead is not told: it may be a password.
    let config: Value = serde_json::from_slice(&bytes.0).map_err(|_| wrong(&format!("has no JSON in `{key}`")))?;
    if !config.is_object() {
        return Err(wrong(&format!("has no JSON object in `{key}`")));
    }
    // The older form is the part of the newer one that has the logins.
    let config = if *key == LOGINS[1].1 { json!({ "auths": config }) } else { config };
    Ok(config.to_string().into_bytes().into())
}

/// Reads one Secret. Not by [`kube::Api`]: the client logs what does not decode.
async fn secret(cluster: &Cluster, namespace: &str, name: &str) -> Result<Secret, Fault> {
    const WHAT: &str = "show a Secret";
    let failed = |message: String| fault(namespace, name, ApiError::Unreachable { what: WHAT, message });
    let path = Secret::url_path(&(), Some(namespace));
    let request = Request::new(path).get(name, &GetParams::default()).map_err(|error| failed(error.to_string()))?;
    let text = cluster.timely(WHAT, cluster.client().request_text(request)).await;
    let text = text.map_err(|error| fault(namespace, name, error))?;
    serde_json::from_str(&text).map_err(|_| failed("what it shows is no Secret".to_owned()))
}

fn fault(namespace: &str, name: &str, error: ApiError) -> Fault {
    let full = format!("{namespace}/{name}");
    match error {
        ApiError::Gone => {
            unavailable(format!("the Secret {full} does not exist; it is looked for again, so create it"), true)
        }
        ApiError::Refused { code: 403, message, .. } => unavailable(
            format!(
                "the agent may not read the Secret {full} ({message}); allow it in this namespace: kubectl --namespace {namespace} create \
                 rolebinding {AGENT_SECRETS_ROLE} --clusterrole={AGENT_SECRETS_ROLE} --serviceaccount={SYSTEM_NAMESPACE}:{AGENT_ACCOUNT}"
            ),
            false,
        ),
        other => Fault { message: format!("the Secret {full}: {other}"), ..other.into() },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn of(kind: &str, key: &str, text: &str) -> Secret {
        let data = BTreeMap::from([(key.to_owned(), ByteString(text.as_bytes().to_vec()))]);
        Secret { type_: Some(kind.to_owned()), data: Some(data), ..Secret::default() }
    }

    #[test]
    fn both_forms_of_logins_become_a_docker_config_file() {
        let logins = r#"{"r.example": {"auth": "bWU6cHc="}}"#;
        let new = format!(r#"{{"auths": {logins}}}"#);
        for secret in [of(LOGINS[0].0, LOGINS[0].1, &new), of(LOGINS[1].0, LOGINS[1].1, logins)] {
            let config = login("team", "pull", secret).unwrap();
            let config: Value = serde_json::from_slice(config.expose()).unwrap();
            assert_eq!(config["auths"]["r.example"]["auth"], "bWU6cHc=");
        }
    }

    #[test]
    fn what_is_no_login_is_told_by_its_name_and_not_by_its_content() {
        for (secret, says) in [
            (of("Opaque", LOGINS[0].1, "{}"), "has the type `Opaque`"),
            (of(LOGINS[0].0, "other", "{}"), "has no key `.dockerconfigjson`"),
            (of(LOGINS[0].0, LOGINS[0].1, "hunter2"), "has no JSON in"),
            (of(LOGINS[1].0, LOGINS[1].1, "\"hunter2\""), "has no JSON object in"),
        ] {
            let fault = login("team", "pull", secret).unwrap_err();
            assert_eq!((fault.code.as_str(), fault.retryable), ("SecretUnavailable", true));
            assert!(fault.message.contains(says) && fault.message.contains("team/pull"), "{}", fault.message);
            assert!(!fault.message.contains("hunter2"), "{}", fault.message);
        }
    }

    #[test]
    fn an_agent_without_the_right_names_the_binding_that_gives_it() {
        let message = "secrets is forbidden".to_owned();
        let told = fault("team", "db", ApiError::Refused { what: "show a Secret", code: 403, message });
        assert!(!told.retryable && told.code == "SecretUnavailable");
        let command = "kubectl --namespace team create rolebinding microagent-agent-secrets \
                       --clusterrole=microagent-agent-secrets --serviceaccount=microagent-system:microagent-agent";
        assert!(told.message.ends_with(command), "{}", told.message);
        assert!(fault("team", "db", ApiError::Gone).retryable);
        let away = ApiError::Unreachable { what: "show a Secret", message: "cut".to_owned() };
        let told = fault("team", "db", away);
        assert_eq!((told.code.as_str(), told.retryable), ("ApiServerFailed", true));
    }
}
