//! The way to a machine: its workspace names the node, the node tells the address and the certificate of its agent's gate.

use std::{io, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE as UPGRADE_HEADER},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt};
use microagent_base::Digest;
use microagent_controller::Key;
use microagent_crds::kubernetes::{GATE_ANNOTATION, GATE_CERTIFICATE_ANNOTATION, SYSTEM_NAMESPACE};
use microagent_gate::{UPGRADE, VERSION};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, pki_types::ServerName},
};

use super::{Cluster, pin, refused, secret::Secret};
use crate::{
    failure::{Failure, Result},
    objects,
    output::human,
    program::program,
};

/// How long a connection, and its handshake, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of a refusal is read, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;

/// A gate that was found, for one workspace.
pub(super) struct Gate {
    key: Key,
    node: String,
    /// `HOST:PORT`.
    address: String,
    secret: Secret,
}

impl Cluster {
    /// Finds the gate that leads to the machine of a workspace.
    pub(super) async fn gate(&self, key: &Key) -> Result<Gate> {
        let workspace = self.raw(key).await?.ok_or_else(|| objects::not_found(key))?;
        let node = node_of(key, &workspace.data)?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = nodes.get_metadata_opt(&node).await;
        let found =
            found.map_err(|e| refused(e, &format!("find the agent of node {node}"), &format!("get nodes/{node}")))?;
        let found = found.ok_or_else(|| {
            Failure::new(format!("workspace {} is on node {node}, which is not in the cluster any more", key.name))
                .help(format!("see `{} describe {}`", program(), key.name))
        })?;
        let annotation = |name: &str| found.annotations().get(name).map(String::as_str);
        let told = told(&node, annotation(GATE_ANNOTATION), annotation(GATE_CERTIFICATE_ANNOTATION))?;
        let secret = Secret::of(&self.config, told.digest).await?;
        let address = self.gate.clone().unwrap_or(told.address);
        Ok(Gate { key: key.clone(), node, address, secret })
    }
}

/// The node that has the machine.
fn node_of(key: &Key, workspace: &Value) -> Result<String> {
    let text = |path: &str| workspace.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(node) = text("/status/nodeName") {
        return Ok(node.to_owned());
    }
    let name = &key.name;
    let see = format!("see `{} describe {name}`", program());
    let condition = |kind: &str| {
        let all = workspace.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let field = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        all.filter(|c| c["type"] == kind && c["status"] != "True")
            .map(|c| format!("{}: {}", field(c, "reason"), human::one_line(&field(c, "message"))))
            .next()
    };
    Err(match (text("/spec/nodeName"), condition("Scheduled").or_else(|| condition("Ready"))) {
        (Some(node), _) => {
            Failure::try_again(format!("the agent of node {node} has not taken workspace {name} up yet"))
                .help(format!("see `kubectl -n {SYSTEM_NAMESPACE} get pods -o wide`, and {see}"))
        }
        (None, Some(why)) => Failure::try_again(format!("workspace {name} is on no node yet: {why}")).help(see),
        (None, None) => Failure::try_again(format!("workspace {name} is on no node yet")).help(see),
    })
}

/// What a node tells of its gate.
#[derive(Debug, PartialEq)]
struct Told {
    address: String,
    digest: Digest,
}

fn told(node: &str, gate: Option<&str>, certificate: Option<&str>) -> Result<Told> {
    let (Some(gate), Some(certificate)) = (gate, certificate) else {
        let missing = if gate.is_none() { GATE_ANNOTATION } else { GATE_CERTIFICATE_ANNOTATION };
        return Err(Failure::try_again(format!(
            "the agent of node {node} tells no way to it: the annotation {missing} is missing"
        ))
        .help(format!("it is not up, or too old; see `kubectl -n {SYSTEM_NAMESPACE} get pods -o wide`")));
    };
    let wrong = |annotation: &str, text: &str| {
        Failure::new(format!("node {node} has {text:?} as annotation {annotation}, which leads nowhere"))
            .help("its agent writes it anew when it is restarted")
    };
    let digest = certificate.parse().map_err(|_| wrong(GATE_CERTIFICATE_ANNOTATION, certificate))?;
    let uri: Option<Uri> = gate.parse().ok();
    let uri = uri.filter(|uri| uri.scheme_str() == Some("https") && uri.port().is_some());
    let address = uri.as_ref().and_then(Uri::authority).map(ToString::to_string);
    Ok(Told { address: address.ok_or_else(|| wrong(GATE_ANNOTATION, gate))?, digest })
}

impl Gate {
    /// The log, from what the query asks for.
    pub(super) async fn log(self, query: &str) -> Result<Response<Incoming>> {
        let path = format!("{}/log?{query}", self.path());
        let response = self.ask(Method::GET, &path).await?;
        if response.status() == StatusCode::OK { Ok(response) } else { Err(self.refusal(response, "get", "log").await) }
    }

    /// A connection over which the guest's protocol is spoken, by the way of the gate for commands (`exec`) or copies (`cp`).
    pub(super) async fn session(self, way: &str) -> Result<Upgraded> {
        let response = self.ask(Method::POST, &format!("{}/{way}", self.path())).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response, "create", "exec").await);
        }
        hyper::upgrade::on(response).await.map_err(|e| self.broken(&Failure::from(e).to_string()))
    }

    fn path(&self) -> String {
        format!("/{VERSION}/namespaces/{}/workspaces/{}", self.key.namespace, self.key.name)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Response<Incoming>> {
        let is_session = method == Method::POST;
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.address);
        if let Some(authorization) = &self.secret.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if is_session {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE_HEADER, UPGRADE);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&Failure::from(e).to_string()))?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|e| self.broken(&Failure::from(e).to_string()))
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let out_of_time = || io::Error::from(io::ErrorKind::TimedOut);
        let tcp = timeout(PATIENCE, TcpStream::connect(&self.address)).await.unwrap_or_else(|_| Err(out_of_time()));
        let tcp = tcp.map_err(|e| {
            Failure::try_again(format!("cannot connect to the agent of node {} at {}: {e}", self.node, self.address)).help(
                "its port must be open from here; where it is not, make a tunnel, such as with `kubectl port-forward` to the agent's Pod, \
                 and name its near end with --gate",
            )
        })?;
        tcp.set_nodelay(true)?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // Only the certificate counts; the name must merely be one.
        let name = ServerName::try_from(host).or_else(|_| ServerName::try_from("gate"))?;
        let connector = TlsConnector::from(Arc::new(self.secret.tls.clone()));
        let tls = timeout(PATIENCE, connector.connect(name, tcp)).await.unwrap_or_else(|_| Err(out_of_time()));
        tls.map_err(|e| {
            let why = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if why == Some(&pin::ANOTHER) { self.another() } else { self.broken(&e.to_string()) }
        })
    }

    fn another(&self) -> Failure {
        Failure::new(format!(
            "who answers at {} is not the agent of node {}: it serves another certificate than the node tells",
            self.address, self.node
        ))
        .help(format!(
            "an agent that was just set up anew tells its new one within a minute: try again; if it stays so, something stands between \
             here and the node, or the address is another node's. Compare the annotation {GATE_CERTIFICATE_ANNOTATION} with the \
             agent's log"
        ))
    }

    fn broken(&self, why: &str) -> Failure {
        Failure::try_again(format!(
            "the connection to the agent of node {} at {} broke: {why}",
            self.node, self.address
        ))
        .help(format!("see `kubectl -n {SYSTEM_NAMESPACE} get pods -o wide`"))
    }

    /// The connection ended where it should not.
    pub(super) fn cut(node: &str, why: &str) -> Failure {
        Failure::try_again(format!("the connection to the agent of node {node} broke: {why}"))
            .help("the agent may have been restarted: ask again")
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    async fn refusal(&self, response: Response<Incoming>, verb: &str, subresource: &str) -> Failure {
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = status["message"].as_str().map(human::lines);
        refusal(&self.key, &self.node, code, message, verb, subresource)
    }
}

/// What a gate refused, and what to do.
fn refusal(key: &Key, node: &str, code: u16, message: Option<String>, verb: &str, subresource: &str) -> Failure {
    let message = message.unwrap_or_else(|| format!("the agent of node {node} answered with the HTTP status {code}"));
    let name = &key.name;
    match code {
        401 => Failure::new(format!("the agent of node {node} does not know who asks: {message}")).help(
            "it takes tokens of this cluster and certificates of its client CA: log in anew, or use another context",
        ),
        403 => Failure::new(message).help(format!(
            "ask for the right to {verb} workspaces/{subresource} of the API group microagent.dev in namespace {}",
            key.namespace
        )),
        404 => Failure::try_again(message)
            .help(format!("it may have moved or just begun; see `{} describe {name}`", program())),
        409 => Failure::new(message).help(format!("see `{} describe {name}`", program())),
        504 => Failure::try_again(message).help(format!("see `{} logs --console {name}`", program())),
        429 | 503 => Failure::try_again(message),
        _ => Failure::new(message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key() -> Key {
        Key::new("team", "web")
    }

    const PIN: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_workspace_that_is_nowhere_says_why() {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
        let scheduled =
            condition("Scheduled", "False", "Unschedulable", "0/3 nodes are available: 3 Insufficient memory.");
        let ready = condition("Ready", "False", "Pending", "it waits for a node");
        let failures: Vec<_> = [
            json!({"status": {"conditions": [ready, scheduled]}}),
            json!({"status": {"conditions": [ready, condition("Scheduled", "True", "Scheduled", "")]}}),
            json!({"spec": {"nodeName": "node-7"}}),
            json!({}),
        ]
        .iter()
        .map(|workspace| {
            let failure = node_of(&key(), workspace).unwrap_err();
            assert_eq!(failure.report(), 75);
            failure.to_string()
        })
        .collect();
        insta::assert_snapshot!(failures.join("\n"), @r"
        workspace web is on no node yet: Unschedulable: 0/3 nodes are available: 3 Insufficient memory.
          help: see `microagent describe web`
        workspace web is on no node yet: Pending: it waits for a node
          help: see `microagent describe web`
        the agent of node node-7 has not taken workspace web up yet
          help: see `kubectl -n microagent-system get pods -o wide`, and see `microagent describe web`
        workspace web is on no node yet
          help: see `microagent describe web`
        ");
        assert_eq!(node_of(&key(), &json!({"status": {"nodeName": "node-1"}})).unwrap(), "node-1");
    }

    #[test]
    fn what_a_node_tells_is_an_address_and_a_digest() {
        for (gate, address) in [
            ("https://10.0.0.7:9443", "10.0.0.7:9443"),
            ("https://[fd00::7]:9443/", "[fd00::7]:9443"),
            ("https://n.example:1", "n.example:1"),
        ] {
            assert_eq!(told("n", Some(gate), Some(PIN)).unwrap().address, address);
        }
        let failures: Vec<_> = [
            (None, Some(PIN)),
            (Some("https://10.0.0.7:9443"), None),
            (Some("http://10.0.0.7:9443"), Some(PIN)),
            (Some("https://10.0.0.7"), Some(PIN)),
            (Some("https://10.0.0.7:9443"), Some("sha256:00")),
        ]
        .into_iter()
        .map(|(gate, certificate)| told("node-1", gate, certificate).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(failures.join("\n"), @r#"
        the agent of node node-1 tells no way to it: the annotation microagent.dev/gate is missing
          help: it is not up, or too old; see `kubectl -n microagent-system get pods -o wide`
        the agent of node node-1 tells no way to it: the annotation microagent.dev/gate-certificate is missing
          help: it is not up, or too old; see `kubectl -n microagent-system get pods -o wide`
        node node-1 has "http://10.0.0.7:9443" as annotation microagent.dev/gate, which leads nowhere
          help: its agent writes it anew when it is restarted
        node node-1 has "https://10.0.0.7" as annotation microagent.dev/gate, which leads nowhere
          help: its agent writes it anew when it is restarted
        node node-1 has "sha256:00" as annotation microagent.dev/gate-certificate, which leads nowhere
          help: its agent writes it anew when it is restarted
        "#);
    }

    #[test]
    fn a_refusal_says_what_to_do_and_whether_to_try_again() {
        let said =
            |code, message: Option<&str>| refusal(&key(), "node-1", code, message.map(str::to_owned), "create", "exec");
        let told: Vec<_> = [
            (401, Some("the bearer token is not valid in this cluster")),
            (403, Some("workspaces.microagent.dev \"web\" is forbidden: User \"joe\" cannot create …")),
            (404, Some("workspace web in namespace team has no machine on this node")),
            (409, Some("workspace web in namespace team is not running: its phase is Halted")),
            (503, Some("the API server did not answer")),
            (502, None),
        ]
        .into_iter()
        .map(|(code, message)| {
            let failure = said(code, message);
            format!("{failure}\n  exit {}", failure.report())
        })
        .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        the agent of node node-1 does not know who asks: the bearer token is not valid in this cluster
          help: it takes tokens of this cluster and certificates of its client CA: log in anew, or use another context
          exit 1
        workspaces.microagent.dev "web" is forbidden: User "joe" cannot create …
          help: ask for the right to create workspaces/exec of the API group microagent.dev in namespace team
          exit 1
        workspace web in namespace team has no machine on this node
          help: it may have moved or just begun; see `microagent describe web`
          exit 75
        workspace web in namespace team is not running: its phase is Halted
          help: see `microagent describe web`
          exit 1
        the API server did not answer
          exit 75
        the agent of node node-1 answered with the HTTP status 502
          exit 1
        "#);
    }
}
