//! Pushes to a real registry, and to ones that fail, lie, or want a login.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use microagent_base::{Digest, Progress, Silent, progress::Step};
use microagent_images::{Credentials, Error, PullOptions, Pushed, Store};
use microagent_tests::{
    image_fixture::{BuiltImage, Compression, ImageFixture, LayerBuilder, noise_layer},
    registry::{self, Registry},
};
use serde_json::json;
use support::{Fixture, Reply, Request, Server, anonymous, pull};

fn image(layers: usize) -> BuiltImage {
    let mut image = ImageFixture::new();
    for n in 0..layers {
        image = image.layer(noise_layer(&format!("file-{n}"), 700_000 + n), Compression::None);
    }
    image.build()
}

/// A store with the image, under a name of its own.
async fn stored(built: &BuiltImage) -> (Fixture, String) {
    let fixture = Fixture::new();
    let layout = fixture.dir.path().join("layout");
    built.write_layout(&layout, "v1");
    let name = format!("oci-layout:{}:v1", layout.display());
    pull(&fixture.store, &name).await.unwrap();
    (fixture, name)
}

async fn push_with(store: &Store, from: &str, to: &str, options: &PullOptions) -> Result<Pushed, Error> {
    store.push(from, Some(to), None, options, Arc::new(Silent)).await
}

async fn push(store: &Store, from: &str, to: &str) -> Result<Pushed, Error> {
    push_with(store, from, to, &anonymous()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_is_pulled_elsewhere_with_the_same_digest() {
    const TEST: &str = "what_is_pushed_is_pulled_elsewhere_with_the_same_digest";
    let Some(registry) = Registry::start(TEST) else { return };
    for docker in [false, true] {
        let mut fixture = ImageFixture::new().run("Cmd", vec!["/bin/tool"]);
        // Docker's own types have no zstd that other tools know.
        let third = if docker { Compression::Gzip } else { Compression::Zstd };
        for (name, kind) in [("a", Compression::None), ("b", Compression::Gzip), ("c", third)] {
            fixture = fixture.layer(noise_layer(name, 900_000), kind);
        }
        // The same layer twice is sent once.
        let fixture = fixture.layer(noise_layer("a", 900_000), Compression::None);
        let built = if docker { fixture.docker().build() } else { fixture.build() };
        let (from, name) = stored(&built).await;
        let target = format!("{}/team/{}:v1", registry.addr(), if docker { "docker" } else { "oci" });
        let pushed = push(&from.store, &name, &target).await.unwrap();
        assert_eq!((pushed.digest, pushed.reference.as_str()), (built.digest(), target.as_str()));
        // The layers of the second image are those of the first, but in another repository and unknown to this store.
        assert_eq!((pushed.uploaded, pushed.mounted, pushed.present), (4, 0, 0));
        let other = Fixture::new();
        assert_eq!(pull(&other.store, &target).await.unwrap().digest, built.digest());
        let again = push(&from.store, &name, &target).await.unwrap();
        assert_eq!((again.uploaded, again.mounted, again.present), (0, 0, 4));
        if support::has(TEST, "skopeo") {
            let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
            let output = Command::new("skopeo").args(inspect).arg(format!("docker://{target}")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), built.digest().to_string(), "{said}");
        }
    }
}

#[tokio::test]
async fn layers_that_the_registry_has_in_another_repository_are_not_sent() {
    let Some(registry) = Registry::start("layers_that_the_registry_has_in_another_repository_are_not_sent") else {
        return;
    };
    let (fixture, base) = (Fixture::new(), image(2));
    let first = base.push(&registry, "team/base", "v1");
    pull(&fixture.store, &first).await.unwrap();
    let target = format!("{}/other/tool:v2", registry.addr());
    let (name, digests) = fixture.store.tag(&first, &target).unwrap();
    assert_eq!((name.as_str(), digests), (target.as_str(), vec![base.digest()]));
    // Without a destination it goes to where its name says.
    let pushed = fixture.store.push(&target, None, None, &anonymous(), Arc::new(Silent)).await.unwrap();
    assert_eq!((pushed.uploaded, pushed.mounted, pushed.present), (1, 2, 0));
    assert_eq!(pull(&Fixture::new().store, &target).await.unwrap().digest, base.digest());
}

#[tokio::test]
async fn a_registry_that_wants_a_login_gets_it_and_denies_others() {
    let Some(registry) = Registry::start_protected("a_registry_that_wants_a_login_gets_it_and_denies_others") else {
        return;
    };
    let built = image(1);
    let (fixture, name) = stored(&built).await;
    let target = format!("{}/team/tool:v1", registry.addr());
    let error = push(&fixture.store, &name, &target).await.unwrap_err();
    assert_eq!((error.category(), error.needs_person()), ("RegistryDenied", true));
    assert!(error.to_string().contains("who may push") && error.to_string().contains("no login"), "{error}");
    let entry = json!({"username": registry::USER, "password": registry::PASSWORD});
    let login = login(fixture.dir.path(), registry.addr(), &entry);
    assert_eq!(push_with(&fixture.store, &name, &target, &login).await.unwrap().digest, built.digest());
}

#[tokio::test]
async fn what_cannot_be_pushed_is_told_before_anybody_is_asked() {
    let built = image(1);
    let (fixture, name) = stored(&built).await;
    for (from, to, category) in [
        ("no/such:image", Some("r.example/x:1"), "ImageNotFound"),
        (name.as_str(), None, "InvalidReference"),
        (name.as_str(), Some("oci-archive:/x.tar"), "InvalidReference"),
        (name.as_str(), Some(&format!("r.example/x@{}", built.digest())), "InvalidReference"),
    ] {
        let pushed = fixture.store.push(from, to, None, &anonymous(), Arc::new(Silent)).await;
        assert_eq!(pushed.unwrap_err().category(), category, "{from} {to:?}");
    }
    let s390x = "linux/s390x".parse().unwrap();
    let pushed = fixture.store.push(&name, Some("r.example/x:1"), Some(&s390x), &anonymous(), Arc::new(Silent)).await;
    assert_eq!(pushed.unwrap_err().category(), "PlatformNotFound");
    fs::remove_file(fixture.blob(&Digest::of(&built.layers[0]))).unwrap();
    let error = push(&fixture.store, &name, "r.example/x:1").await.unwrap_err();
    assert_eq!(error.category(), "ImageIncomplete");
}

/// A registry in memory that takes pushes, and remembers what came of interrupted ones.
#[derive(Default)]
struct Taker {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, Vec<u8>>>,
    next: AtomicUsize,
    /// Forgets uploads that were interrupted.
    forgets: bool,
}

impl Taker {
    fn answer(&self, request: &Request) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(|v| v.replace("%3A", ":"))
        };
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        match request.method.as_str() {
            "HEAD" if self.blobs.lock().unwrap().contains_key(&last) => Reply::status(200),
            "POST" => {
                let id = format!("u-{}", self.next.fetch_add(1, Ordering::SeqCst));
                self.uploads.lock().unwrap().insert(id.clone(), Vec::new());
                // Relative, with a query that must come back as it is.
                Reply::status(202).with("Location", format!("/v2/team/tool/blobs/uploads/{id}?_state=a%2Bb+c"))
            }
            "GET" if path.contains("/uploads/") && !self.forgets => match self.uploads.lock().unwrap().get(&last) {
                Some(bytes) if !bytes.is_empty() => Reply::status(204)
                    .with("Range", format!("0-{}", bytes.len() - 1))
                    .with("Location", format!("{path}?_state=a%2Bb+c")),
                _ => Reply::status(404),
            },
            "PUT" if path.contains("/uploads/") => {
                if !query.starts_with("_state=a%2Bb+c&") {
                    return Reply::status(400);
                }
                let mut uploads = self.uploads.lock().unwrap();
                let Some(bytes) = uploads.get_mut(&last) else { return Reply::status(404) };
                bytes.extend_from_slice(&request.bytes);
                let digest = Digest::of(bytes).to_string();
                if Some(&digest) != parameter("digest").as_ref() {
                    return Reply::status(400);
                }
                self.blobs.lock().unwrap().insert(digest.clone(), bytes.clone());
                Reply::status(201).with("Docker-Content-Digest", digest)
            }
            "PUT" => {
                let digest = Digest::of(&request.bytes).to_string();
                self.manifests.lock().unwrap().insert(last, request.bytes.clone());
                Reply::status(201).with("Docker-Content-Digest", digest)
            }
            "GET" => match self.manifests.lock().unwrap().get(&last) {
                Some(bytes) => Reply::ok(bytes.clone()),
                None => Reply::status(404),
            },
            _ => Reply::status(404),
        }
    }

    fn has_all_of(&self, built: &BuiltImage) -> bool {
        let blobs = self.blobs.lock().unwrap();
        let whole =
            built.layers.iter().chain([&built.config]).all(|b| blobs.get(&Digest::of(b).to_string()) == Some(b));
        whole && self.manifests.lock().unwrap().get("v1") == Some(&built.manifest)
    }
}

fn reference(server: &Server) -> String {
    format!("{}/team/tool:v1", server.addr())
}

fn is_upload(request: &Request) -> bool {
    request.method == "PUT" && request.path.contains("/uploads/")
}

/// How long the body of a request says it is.
fn length(request: &Request) -> usize {
    request.header("content-length").unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_upload_that_is_cut_goes_on_where_it_stopped_or_begins_anew() {
    for forgets in [false, true] {
        let built = image(1);
        let (fixture, name) = stored(&built).await;
        let taker = Arc::new(Taker { forgets, ..Taker::default() });
        let (answering, cuts) = (taker.clone(), AtomicUsize::new(0));
        let server = Server::start_cutting(
            move |request| answering.answer(request),
            move |request| {
                let cut = is_upload(request) && length(request) > 500_000 && cuts.fetch_add(1, Ordering::SeqCst) == 0;
                cut.then_some(200_000)
            },
        );
        push(&fixture.store, &name, &reference(&server)).await.unwrap();
        assert!(taker.has_all_of(&built));
        let sent: Vec<(usize, Option<String>)> = server
            .requests()
            .iter()
            .filter(|r| is_upload(r) && length(r) > 10_000)
            .map(|r| (length(r), r.header("content-range").map(str::to_owned)))
            .collect();
        let size = built.layers[0].len();
        let rest = if forgets { (size, None) } else { (size - 200_000, Some(format!("200000-{}", size - 1))) };
        assert_eq!(sent, [(size, None), rest]);
    }
}

#[tokio::test]
async fn a_registry_that_is_busy_for_a_moment_is_asked_again_and_one_that_refuses_is_not() {
    let built = image(1);
    for (status, category, asked) in [(503, None, 3), (413, Some("PushRefused"), 1), (307, Some("RegistryInvalid"), 1)]
    {
        let (fixture, name) = stored(&built).await;
        let (taker, failures) = (Arc::new(Taker::default()), AtomicUsize::new(0));
        let answering = taker.clone();
        let server = Server::start(move |request| {
            if is_upload(request) && length(request) > 10_000 {
                let failure = failures.fetch_add(1, Ordering::SeqCst);
                if failure < 2 {
                    return Reply::status(status).with("Location", "/elsewhere");
                }
            }
            answering.answer(request)
        });
        let pushed = push(&fixture.store, &name, &reference(&server)).await;
        assert_eq!(pushed.err().map(|e| e.category()), category);
        assert_eq!(server.requests().iter().filter(|r| is_upload(r) && length(r) > 10_000).count(), asked);
        assert_eq!(taker.has_all_of(&built), category.is_none());
        assert_eq!(server.asked("/elsewhere"), 0);
    }
}

fn login(dir: &Path, server: &str, entry: &serde_json::Value) -> PullOptions {
    let file = dir.join("config.json");
    fs::write(&file, json!({"auths": {server: entry}}).to_string()).unwrap();
    PullOptions { credentials: Credentials::none().with_file(file), ..anonymous() }
}

#[tokio::test]
async fn an_upload_to_another_host_goes_there_without_the_login() {
    let built = image(2);
    let (fixture, name) = stored(&built).await;
    let taker = Arc::new(Taker::default());
    let storing = taker.clone();
    let storage = Server::start(move |request| storing.answer(request));
    let (answering, elsewhere) = (taker.clone(), storage.addr().to_owned());
    let server = Server::start(move |request| {
        if request.header("authorization") != Some("Basic bWU6cHc=") {
            return Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        let mut reply = answering.answer(request);
        for (name, value) in &mut reply.headers {
            if name == "Location" {
                *value = format!("http://{elsewhere}{value}");
            }
        }
        reply
    });
    let options = login(fixture.dir.path(), server.addr(), &json!({"auth": "bWU6cHc="}));
    push_with(&fixture.store, &name, &reference(&server), &options).await.unwrap();
    assert!(taker.has_all_of(&built));
    let uploads = storage.requests();
    assert_eq!(uploads.len(), 3);
    assert!(uploads.iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test]
async fn storage_that_asks_for_the_login_does_not_get_it() {
    let built = image(1);
    let (fixture, name) = stored(&built).await;
    let storage = Server::start(|_| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
    let (taker, elsewhere) = (Taker::default(), storage.addr().to_owned());
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Reply::status(202).with("Location", format!("http://{elsewhere}/put")),
        _ => taker.answer(request),
    });
    let options = login(fixture.dir.path(), server.addr(), &json!({"auth": "bWU6cHc="}));
    let error = push_with(&fixture.store, &name, &reference(&server), &options).await.unwrap_err();
    assert_eq!((error.category(), storage.requests().len()), ("RegistryDenied", 1));
    assert!(storage.requests()[0].header("authorization").is_none());
}

#[tokio::test]
async fn a_token_for_pushing_is_asked_for_and_renewed_when_it_ends_during_an_upload() {
    let built = image(1);
    let (fixture, name) = stored(&built).await;
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let tokens = Server::start(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        Reply::ok(json!({"token": format!("t{n}")}).to_string().into_bytes())
    });
    let (taker, realm, ended) = (Arc::new(Taker::default()), tokens.addr().to_owned(), AtomicBool::new(false));
    let answering = taker.clone();
    let server = Server::start(move |request| {
        if is_upload(request) && length(request) > 10_000 {
            ended.store(true, Ordering::SeqCst);
        }
        let good = if ended.load(Ordering::SeqCst) { "Bearer t1" } else { "Bearer t0" };
        if request.header("authorization") != Some(good) {
            return Reply::status(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{realm}/token\""));
        }
        answering.answer(request)
    });
    push(&fixture.store, &name, &reference(&server)).await.unwrap();
    assert!(taker.has_all_of(&built));
    let asked = tokens.requests();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].path.contains("scope=repository%3Ateam%2Ftool%3Apull%2Cpush"), "{}", asked[0].path);
}

#[tokio::test]
async fn a_registry_that_stores_something_else_is_told() {
    let built = image(1);
    let (fixture, name) = stored(&built).await;
    // It says so, or says nothing and gives another manifest afterwards.
    for header in [true, false] {
        let taker = Taker::default();
        let server = Server::start(move |request| {
            let mut reply = taker.answer(request);
            if request.path.contains("/manifests/") {
                reply.headers.clear();
                if header {
                    reply = reply.with("Docker-Content-Digest", Digest::of(b"else").to_string());
                } else if request.method == "GET" {
                    reply.body.push(b' ');
                }
            }
            reply
        });
        let error = push(&fixture.store, &name, &reference(&server)).await.unwrap_err();
        assert_eq!(error.category(), "RegistryInvalid");
        assert!(error.to_string().contains("stored it as"), "{error}");
    }
}

#[tokio::test]
async fn a_blob_that_was_damaged_on_this_disk_reaches_no_registry() {
    let built = image(1);
    let (fixture, name) = stored(&built).await;
    let blob = fixture.blob(&Digest::of(&built.layers[0]));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&blob, bytes).unwrap();
    let taker = Arc::new(Taker::default());
    let answering = taker.clone();
    let server = Server::start(move |request| answering.answer(request));
    let error = push(&fixture.store, &name, &reference(&server)).await.unwrap_err();
    assert_eq!(error.category(), "ImageIncomplete");
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(taker.manifests.lock().unwrap().is_empty() && !blob.exists());
    assert_eq!(taker.blobs.lock().unwrap().len(), 1, "the config alone");
}

/// Cancels when so many bytes were sent.
#[derive(Default)]
struct CancelOnTheWay(AtomicBool, Mutex<HashSet<String>>);

impl Progress for CancelOnTheWay {
    fn step(&self, step: Step) {
        self.1.lock().unwrap().insert(step.what);
        if step.done > 100_000 {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_push_that_nobody_wants_ends_though_the_registry_is_silent() {
    let built = ImageFixture::new().layer(noise_layer("big", 30 << 20), Compression::None).build();
    let (fixture, name) = stored(&built).await;
    let taker = Taker::default();
    let server = Server::start(move |request| {
        let hang = is_upload(request) && length(request) > 10_000;
        Reply { hang, ..taker.answer(request) }
    });
    let progress = Arc::new(CancelOnTheWay::default());
    let target = reference(&server);
    let result = fixture.store.push(&name, Some(&target), None, &anonymous(), progress.clone()).await;
    assert_eq!(result.unwrap_err().category(), "Cancelled");
    assert_eq!(*progress.1.lock().unwrap(), HashSet::from([format!("pushing {target}")]));
}

#[tokio::test]
async fn an_image_of_hostile_answers_is_an_error_and_no_more() {
    let built =
        ImageFixture::new().layer(LayerBuilder::new().file("a", 0o644, b"a").finish(), Compression::Gzip).build();
    let (fixture, name) = stored(&built).await;
    for (location, category) in [
        (None, "RegistryInvalid"),
        (Some("http://[broken"), "RegistryInvalid"),
        (Some("file:///etc/passwd"), "RegistryInvalid"),
        (Some("http://127.0.0.1:1/closed"), "RegistryUnreachable"),
    ] {
        let server = Server::start(move |request| match (request.method.as_str(), location) {
            ("POST", Some(location)) => Reply::status(202).with("Location", location),
            ("POST", None) => Reply::status(202),
            _ => Reply::status(404),
        });
        let error = push(&fixture.store, &name, &reference(&server)).await.unwrap_err();
        assert_eq!(error.category(), category, "{error}");
    }
}
