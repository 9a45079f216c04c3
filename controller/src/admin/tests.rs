//! What is answered, without a socket.

use std::sync::{Mutex, mpsc};

use super::*;
use crate::{Paths, desired::Desired, memory::Fault, source::FolderSource, world::JobSight};

/// A host whose backend answers what is sent.
struct FakeHost(Mutex<mpsc::Receiver<Result<&'static str, Fault>>>);

impl HostView for FakeHost {
    fn jobs(&self) -> Vec<JobSight> {
        Vec::new()
    }

    fn backend(&self) -> Result<&'static str, Fault> {
        self.0.lock().unwrap().recv().unwrap()
    }
}

struct Rig {
    admin: Arc<Admin>,
    health: Arc<Health>,
    backend: mpsc::Sender<Result<&'static str, Fault>>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        let desired = Arc::new(Mutex::new(Desired::load(&paths, []).unwrap()));
        let health = Arc::new(Health::new([dir.path().join("folder")]));
        let (backend, answers) = mpsc::channel();
        let host = Arc::new(FakeHost(Mutex::new(answers)));
        let admin = Arc::new(Admin::new(Arc::default(), health.clone(), Queue::new(), desired, host));
        Self { admin, health, backend, dir }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.admin.respond(&request("GET", path, None), Audience::Owner).await;
        (response.status().as_u16(), response.into_body())
    }

    fn list(&self) {
        self.health.looked(&FolderSource::new(self.dir.path().join("folder")).scan(Instant::now()));
    }
}

fn request(method: &str, path: &str, host: Option<&str>) -> Request<()> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(host) = host {
        builder = builder.header(HOST, host);
    }
    builder.body(()).unwrap()
}

#[tokio::test]
async fn other_paths_are_not_found_and_other_methods_not_allowed() {
    let rig = Rig::new();
    for path in ["/", "/metrics/", "/metrics/x", "/../livez", "/debug", "/debug/pprof", "//metrics"] {
        assert_eq!(rig.get(path).await.0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"] {
        let response = rig.admin.respond(&request(method, "/metrics", None), Audience::Owner).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()[ALLOW], "GET");
    }
    assert_eq!(rig.get("/metrics?x=y").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_dispatcher_fails_the_liveness_probe_until_it_turns_again() {
    let rig = Rig::new();
    assert_eq!(rig.get("/livez").await, (200, "ok\n".to_owned()));
    tokio::time::advance(std::time::Duration::from_secs(31)).await;
    let (status, why) = rig.get("/livez").await;
    assert_eq!(status, 503);
    assert!(why.starts_with("dispatcher: no sign of life for 31 s"), "{why}");
    rig.health.heartbeat.while_waiting(async {}).await;
    assert_eq!(rig.get("/livez").await.0, 200);
}

#[tokio::test]
async fn it_is_ready_when_the_folder_was_listed_and_a_machine_could_start() {
    let rig = Rig::new();
    let refusal =
        Fault { code: "BackendUnavailable".to_owned(), message: "no backend\ncan start".to_owned(), retryable: false };
    rig.backend.send(Err(refusal)).unwrap();
    let (status, why) = rig.get("/readyz").await;
    let lines: Vec<&str> = why.lines().collect();
    assert_eq!(status, 503);
    assert!(lines[0].ends_with("/folder was not listed yet"), "{why}");
    assert_eq!(lines[1..], ["backend: no backend can start"], "one line each");
    rig.list();
    rig.backend.send(Ok("Qemu")).unwrap();
    assert_eq!(rig.get("/readyz").await, (200, "ok\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_does_not_answer_is_asked_once_and_waited_for_briefly() {
    let rig = Rig::new();
    rig.list();
    for _ in 0..3 {
        let admin = rig.admin.clone();
        let asked = tokio::spawn(async move { admin.respond(&request("GET", "/readyz", None), Audience::Owner).await });
        // The clock of a test does not move by itself while a blocking task runs.
        while !asked.is_finished() {
            tokio::time::advance(std::time::Duration::from_millis(100)).await;
        }
        let response = asked.await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.body().starts_with("backend: not known yet"), "{}", response.body());
    }
    // One answer is enough: nobody else waits for one.
    rig.backend.send(Ok("Qemu")).unwrap();
    rig.backend.send(Ok("Qemu")).unwrap();
    assert_eq!(rig.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn other_users_of_the_host_do_not_see_the_state() {
    let rig = Rig::new();
    assert_eq!(rig.get("/debug/state").await.0, 200);
    let response = rig.admin.respond(&request("GET", "/debug/state", Some("127.0.0.1:1")), Audience::Host).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(response.body().contains("unix:PATH"));
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_pass_as_this_host() {
    let rig = Rig::new();
    for host in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "[::1]:9464", "[::1]"] {
        let response = rig.admin.respond(&request("GET", "/livez", Some(host)), Audience::Host).await;
        assert_eq!(response.status(), StatusCode::OK, "{host}");
    }
    for host in ["evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "a b"] {
        let response = rig.admin.respond(&request("GET", "/livez", Some(host)), Audience::Host).await;
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
}
