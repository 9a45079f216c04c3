//! Images of a registry that wants a login, which Secrets of the workspace's namespace have.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use microagent_tests::{
    cluster::{Cluster, Kubectl},
    image_fixture::{Compression, ImageFixture, LayerBuilder},
    registry::{PASSWORD, Registry, USER},
};
use serde_json::json;

use super::{
    Node,
    secrets::{nowhere, told},
    wait, wait_for,
};

fn login(kubectl: &Kubectl, registry: &str, password: &str) {
    let options =
        [("server", registry), ("username", USER), ("password", password)].map(|(k, v)| format!("--docker-{k}={v}"));
    let args = ["create", "secret", "docker-registry", "login"].map(str::to_owned).into_iter().chain(options);
    kubectl.ok(args);
}

#[test]
fn an_image_is_pulled_with_the_logins_of_the_workspace_s_namespace() {
    const TEST: &str = "an_image_is_pulled_with_the_logins_of_the_workspace_s_namespace";
    let Some(cluster) = Cluster::shared(TEST) else { return };
    let Some(registry) = Registry::start_protected(TEST) else { return };
    let image = |name: &str| {
        let layer = LayerBuilder::new().file("name", 0o644, name.as_bytes()).finish();
        ImageFixture::new().layer(layer, Compression::Gzip).build().push(&registry, name, "1")
    };
    let (web, older) = (image("team/web"), image("team/older"));
    let node = Node::start(cluster, "pull-secrets");
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    let with = |image: &str, more: serde_json::Value| {
        let mut spec = more;
        spec["image"] = json!(image);
        spec
    };
    kubectl.apply(&node.manifest("none", &with(&web, json!({}))));
    told(&kubectl, "none", "ImageResolved", "RegistryDenied", &["anonymously"]);
    kubectl.ok(["delete", "workspace", "none", "--timeout=60s"]);

    let secrets = json!({ "imagePullSecrets": [{ "name": "login" }] });
    kubectl.apply(&node.manifest("web", &with(&web, secrets.clone())));
    let full = format!("{namespace}/login");
    told(&kubectl, "web", "ImageResolved", "SecretUnavailable", &[&full, "does not exist"]);
    login(&kubectl, registry.addr(), "not-the-password");
    told(&kubectl, "web", "ImageResolved", "RegistryDenied", &[&full, USER]);
    kubectl.ok(["delete", "secret", "login"]);
    login(&kubectl, registry.addr(), PASSWORD);
    wait_for(&kubectl, "web", "Ready", "180s");

    // The older form, after one that knows nothing of the registry.
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let config = json!({ registry.addr(): { "auth": auth } }).to_string();
    let form = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "older" },
        "type": "kubernetes.io/dockercfg", "stringData": { ".dockercfg": config },
    });
    kubectl.apply(&form.to_string());
    kubectl.ok([
        "create",
        "secret",
        "docker-registry",
        "elsewhere",
        "--docker-server=registry.example.com",
        "--docker-username=a",
        "--docker-password=b",
    ]);
    let secrets_of_two = json!({ "imagePullSecrets": [{ "name": "elsewhere" }, { "name": "older" }] });
    kubectl.apply(&node.manifest("older", &with(&older, secrets_of_two)));
    wait(&kubectl, "older", "Ready");

    // What a node has it gives to whoever names it, unless the registry is to be asked each time.
    let other = cluster.kubectl().in_namespace(&cluster.namespace());
    other.apply(&node.manifest("shared", &with(&web, json!({}))));
    wait(&other, "shared", "Ready");
    other.apply(&node.manifest("asks", &with(&web, json!({ "imagePullPolicy": "Always" }))));
    told(&other, "asks", "ImageResolved", "RegistryDenied", &["anonymously"]);
    // A Secret of that name is not there, though it is elsewhere.
    let mut always = secrets;
    always["imagePullPolicy"] = json!("Always");
    other.apply(&node.manifest("names", &with(&web, always)));
    told(&other, "names", "ImageResolved", "SecretUnavailable", &["does not exist"]);
    for value in [PASSWORD, &format!("{USER}:{PASSWORD}")] {
        nowhere(&node, &kubectl, value);
    }
}
