//! A real registry for tests: the `docker-registry` program on a loopback port, its storage in a temporary directory.

#![expect(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use microagent_base::Digest;
use tempfile::TempDir;

/// The name of the program that Debian's package `docker-registry` installs.
const PROGRAM: &str = "docker-registry";
/// It starts within a second; the rest is for a busy machine.
const START: Duration = Duration::from_secs(30);

/// A running registry, stopped when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
    dir: TempDir,
    downloads: Arc<AtomicUsize>,
    /// What uploads are made with, where it asks for a login.
    authorization: Option<String>,
}

/// The only user of a registry that wants a login.
pub const USER: &str = "puller";
/// Its password.
pub const PASSWORD: &str = "pull-only";
/// The line of an htpasswd file for both, by bcrypt at its least cost.
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuuA2YqJrHVCZyfMFDak5hovHEWtgzf6t6\n";

impl Registry {
    /// Starts a registry on a free port, or prints `SKIP test: …` when the program is missing.
    ///
    /// # Panics
    /// When the program is there but does not start.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, "")
    }

    /// As [`Registry::start`], with further top-level sections in its YAML configuration, such as `auth`.
    ///
    /// # Panics
    /// When the program is there but does not start.
    #[must_use]
    pub fn start_with(test: &str, configuration: &str) -> Option<Self> {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), test, configuration, None)
    }

    /// As [`Registry::start`], for [`USER`] with [`PASSWORD`] alone.
    ///
    /// # Panics
    /// When the program is there but does not start.
    #[must_use]
    pub fn start_protected(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let users = dir.path().join("htpasswd");
        fs::write(&users, HTPASSWD).expect("the registry's users");
        let configuration = format!("auth: {{htpasswd: {{realm: test, path: {users:?}}}}}");
        let login = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        Self::start_in(dir, test, &configuration, Some(login))
    }

    fn start_in(dir: TempDir, test: &str, configuration: &str, authorization: Option<String>) -> Option<Self> {
        if crate::program(PROGRAM).is_none() {
            println!("SKIP {test}: needs {PROGRAM}");
            return None;
        }
        let file = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        // Port 0 lets the kernel choose; the log then says which.
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  delete: {{enabled: true}}\n  filesystem: {{rootdirectory: {storage:?}}}\nhttp: {{addr: '127.0.0.1:0'}}\n{configuration}\n"
        );
        fs::write(&file, text).expect("the registry's configuration");
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let log = child.stderr.take().expect("the registry's log");
        let (sender, receiver) = mpsc::channel();
        let downloads = Arc::new(AtomicUsize::new(0));
        let counted = downloads.clone();
        // The log is read to its end: a full pipe would stop the registry.
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if line.contains("http.request.method=GET")
                    && line.contains("/blobs/sha256:")
                    && line.contains("response completed")
                {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let _ = sender.send(rest.split(['"', ',', ' ']).next().unwrap_or_default().to_owned());
                }
            }
        });
        let Ok(address) = receiver.recv_timeout(START) else {
            let _ = child.kill();
            panic!("{PROGRAM} did not listen within {START:?}");
        };
        Some(Self { child, address, dir, downloads, authorization })
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.address
    }

    /// How many blobs were downloaded so far, as its log has it.
    #[must_use]
    pub fn blob_downloads(&self) -> usize {
        self.downloads.load(Ordering::Relaxed)
    }

    /// Where it keeps everything, in the layout of the distribution project.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("storage")
    }

    /// Uploads a blob; its digest.
    ///
    /// # Panics
    /// When the registry refuses it.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), None, &[]);
        assert_eq!(begun.status, 202, "the registry begins no upload: {}", begun.head);
        let location = begun.header("location").expect("the place to upload to");
        let path = location.split_once(&self.address).map_or(location.as_str(), |(_, path)| path);
        let joint = if path.contains('?') { '&' } else { '?' };
        let put =
            self.request("PUT", &format!("{path}{joint}digest={digest}"), Some("application/octet-stream"), bytes);
        assert_eq!(put.status, 201, "the registry refuses the blob: {}", put.head);
        digest
    }

    /// Uploads a manifest or an index under a tag or its digest; its digest.
    ///
    /// # Panics
    /// When the registry refuses it, for instance because it lacks a blob of it.
    pub fn put_manifest(&self, repository: &str, version: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let put = self.request("PUT", &format!("/v2/{repository}/manifests/{version}"), Some(media_type), bytes);
        assert_eq!(put.status, 201, "the registry refuses the manifest: {}", put.head);
        Digest::of(bytes)
    }

    /// The file of a blob in the registry's storage, for tests that damage it.
    #[must_use]
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.storage().join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    fn request(&self, method: &str, path: &str, content_type: Option<&str>, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("a connection to the registry");
        let content_type = content_type.map_or(String::new(), |t| format!("Content-Type: {t}\r\n"));
        let login = self.authorization.as_ref().map_or(String::new(), |login| format!("Authorization: {login}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{content_type}{login}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("a request to the registry");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer of the registry");
        let head = String::from_utf8_lossy(&answer).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { status, head }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Answer {
    status: u16,
    head: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}
