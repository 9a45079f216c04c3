//! What the tests of this crate share: a store in a temporary directory, and an HTTP server that can misbehave.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use microagent_base::{Digest, Silent};
use microagent_images::{Credentials, Error, Image, PullOptions, PullPolicy, Store, host_platform};
use microagent_tests::image_fixture::BuiltImage;
use tempfile::TempDir;

/// A store that vanishes with the test.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("images")).unwrap();
        Self { store, dir }
    }

    /// The number of files in a directory of the store.
    pub(crate) fn count(&self, part: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("images").join(part)).unwrap().count()
    }

    pub(crate) fn blob(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.path().join("images/blobs/sha256").join(digest.hex())
    }
}

pub(crate) fn anonymous() -> PullOptions {
    PullOptions { credentials: Credentials::none(), ..PullOptions::default() }
}

pub(crate) async fn pull_with(
    store: &Store,
    reference: &str,
    policy: PullPolicy,
    options: &PullOptions,
) -> Result<Image, Error> {
    store.pull(&reference.parse()?, &host_platform(), policy, options, Arc::new(Silent)).await
}

pub(crate) async fn pull(store: &Store, reference: &str) -> Result<Image, Error> {
    pull_with(store, reference, PullPolicy::Always, &anonymous()).await
}

/// A request that the server got.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: HashMap<String, String>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: String,
}

impl Request {
    /// A request without headers.
    pub(crate) fn bare(path: &str) -> Self {
        let (method, path) = ("GET".to_owned(), path.to_owned());
        Self { method, path, headers: HashMap::new(), bytes: Vec::new(), body: String::new() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The offset of a `Range: bytes=N-` header.
    pub(crate) fn offset(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What the server answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Ends the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Keeps the connection open after the cut, sending nothing.
    pub(crate) hang: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, body, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// An HTTP server on a loopback port whose answers a test chooses. Its threads end with the test program.
pub(crate) struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_cutting(answer, |_| None)
    }

    /// As [`Server::start`]. Of a request that `cut` gives a number for, only so many bytes of the body are read; it is
    /// shown to `answer`, and the connection is ended without one.
    pub(crate) fn start_cutting(
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        cut: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, cut, log) = (Arc::new(answer), Arc::new(cut), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, cut, log) = (answer.clone(), cut.clone(), log.clone());
                std::thread::spawn(move || serve(stream, answer.as_ref(), cut.as_ref(), &log));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn addr(&self) -> &str {
        &self.address
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How often a path with this part was asked for.
    pub(crate) fn asked(&self, part: &str) -> usize {
        self.requests().iter().filter(|r| r.path.contains(part)).count()
    }
}

fn serve(
    stream: TcpStream,
    answer: &dyn Fn(&Request) -> Reply,
    cut: &dyn Fn(&Request) -> Option<usize>,
    log: &Mutex<Vec<Request>>,
) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let mut request = Request { method, path, headers, bytes: Vec::new(), body: String::new() };
        let end = cut(&request);
        request.bytes = vec![0; end.unwrap_or(length)];
        if std::io::Read::read_exact(&mut reader, &mut request.bytes).is_err() {
            return;
        }
        request.body = String::from_utf8_lossy(&request.bytes).into_owned();
        log.lock().unwrap().push(request.clone());
        let reply = answer(&request);
        if end.is_some() {
            return;
        }
        // The answer to HEAD has no body, and its length may be that of another.
        let length = if request.method == "HEAD" { 0 } else { reply.body.len() };
        let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {length}\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let end = reply.cut.unwrap_or(length).min(length);
        let sent = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(b"\r\n"));
        if sent.and_then(|()| writer.write_all(&reply.body[..end])).is_err() {
            return;
        }
        if reply.hang {
            // Until the client goes away.
            let _ = reader.read_line(&mut String::new());
            return;
        }
        if reply.cut.is_some() {
            return;
        }
    }
}

/// What a faithful registry answers for one image, ranges included.
pub(crate) fn faithful(
    image: &BuiltImage,
    repository: &str,
    tag: &str,
) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let mut files: HashMap<String, (String, Vec<u8>)> = HashMap::new();
    for version in [tag.to_owned(), image.digest().to_string()] {
        files.insert(
            format!("/v2/{repository}/manifests/{version}"),
            (image.media_type.clone(), image.manifest.clone()),
        );
    }
    for blob in image.layers.iter().chain([&image.config]) {
        let path = format!("/v2/{repository}/blobs/{}", Digest::of(blob));
        files.insert(path, ("application/octet-stream".to_owned(), blob.clone()));
    }
    move |request| {
        let Some((kind, bytes)) = files.get(&request.path) else { return Reply::status(404) };
        match request.offset() {
            Some(offset) if offset < bytes.len() => Reply { status: 206, ..Reply::ok(bytes[offset..].to_vec()) }
                .with("Content-Range", format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len())),
            Some(_) => Reply::status(416),
            None => Reply::ok(bytes.clone()).with("Content-Type", kind),
        }
    }
}

/// Looks until something is so; fails the test when it is not in half a minute.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Whether a program is installed; says that the test is skipped when it is not.
pub(crate) fn has(test: &str, program: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    let found = std::env::split_paths(&dirs).chain(sbin).any(|dir| is_file(&dir.join(program)));
    if !found {
        println!("SKIP {test}: needs {program}");
    }
    found
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file())
}
