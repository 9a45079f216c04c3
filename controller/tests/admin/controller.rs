//! A controller of its own for a test: the built program on a temporary directory, with a supervisor that is a script.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a busy host.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The value that no endpoint and no log may tell.
pub(crate) const SECRET: &str = "s3cr3t-of-the-env";

/// A workspace that is to be halted, and is: it needs nothing. Its environment is nobody's business.
pub(crate) fn halted(name: &str) -> String {
    format!(
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {{name: {name}}}\n\
         spec:\n  image: registry.example/{name}:1\n  runPolicy: Halted\n  env: [{{name: TOKEN, value: {SECRET}}}]\n  \
         files: [{{path: /etc/x, content: {SECRET}}}]\n"
    )
}

/// A workspace whose image and kernel are nowhere.
pub(crate) fn failing(name: &str) -> String {
    format!(
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {{name: {name}}}\n\
         spec:\n  image: oci-layout:/nowhere/{name}\n  kernel: {{source: path, path: /nowhere/kernel}}\n"
    )
}

pub(crate) struct Controller {
    /// What is logged.
    pub(crate) filter: &'static str,
    dir: TempDir,
    child: Option<Child>,
}

impl Controller {
    /// A host on which no controller runs yet and whose supervisor can start machines.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ma-admin-").tempdir().unwrap();
        for name in ["folder", "supervisor"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let host = Self { filter: "info,microagent_controller=debug", dir, child: None };
        host.let_supervisor_answer();
        host
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir().join("folder")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state().join("admin.sock")
    }

    pub(crate) fn let_supervisor_answer(&self) {
        fs::write(self.dir().join("supervisor/ready"), "").unwrap();
    }

    pub(crate) fn let_supervisor_wait(&self) {
        fs::remove_file(self.dir().join("supervisor/ready")).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microagent-controller"));
        command
            .env("MICROAGENT_STATE_DIR", self.state())
            .env("MICROAGENT_CACHE_DIR", self.dir().join("cache"))
            // Never run: nothing here comes to a start.
            .env("MICROAGENT_GUEST_INIT", self.dir().join("guest-init"))
            .env("MICROAGENT_SUPERVISOR_QEMU", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/admin/supervisor.sh"))
            .env("MICROAGENT_SUPERVISOR_FIRECRACKER", "/nowhere")
            .env("FAKE_SUPERVISOR", self.dir().join("supervisor"))
            .env("MICROAGENT_LOG", self.filter)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts the controller. What it logs goes to the file `log`.
    pub(crate) fn start<const N: usize>(&mut self, arguments: [&str; N]) {
        let log = fs::File::options().create(true).append(true).open(self.dir().join("log")).unwrap();
        let mut command = self.command();
        command.arg("--folder").arg(self.folder()).args(["--relist", "1"]).args(arguments).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Asks the controller to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("a controller runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = until("the controller ends", || child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Kills the controller: it can leave nothing in order.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a controller runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What the usual socket answers, once there is one.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let stream = until(&format!("the socket listens: {}", self.log()), || UnixStream::connect(self.socket()).ok());
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        get(stream, path)
    }

    /// Asks until the answer is as wanted; gives it.
    pub(crate) fn get_until(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
        until(&format!("{path} is as wanted"), || {
            let (status, body) = self.get(path);
            wanted(status, &body).then_some(body)
        })
    }

    /// The state as JSON.
    pub(crate) fn debug_state(&self) -> Value {
        let (status, body) = self.get("/debug/state");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a request and reads the answer to its end.
pub(crate) fn get(mut stream: impl io::Read + io::Write, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    answer(&mut stream)
}

/// Reads an answer to the end of its connection.
pub(crate) fn answer(stream: &mut impl io::Read) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
}

/// Looks again and again until there is something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
