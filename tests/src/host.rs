//! A host of its own for a test: state and caches in a temporary directory, a watched folder, the built programs.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Deserializer, Value, json};
use tempfile::TempDir;

use microagent_base::durable::TEMPORARY_PREFIX;

use crate::{
    fake::{self, FakeDir, elf_kernel},
    image_fixture::{Compression, ImageFixture, LayerBuilder},
    program,
    registry::Registry,
};

/// How long a workspace may take for anything, as `microagent wait` has it. A guest boots in seconds, on a busy host in tens of
/// them, and a kernel is downloaded once.
const PATIENCE: &str = "300s";
/// The same, for what is not asked of `microagent wait`.
const PATIENCE_TIME: Duration = Duration::from_secs(300);

/// A registry with an image, and a host whose controller runs; none where the registry's program is missing.
///
/// # Panics
/// When something cannot be started.
#[must_use]
pub fn started(test: &str) -> Option<(Registry, String, Host)> {
    let registry = Registry::start(test)?;
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.start_controller();
    Some((registry, image, host))
}

/// A host. Its machines are ended when it is dropped.
pub struct Host {
    dir: TempDir,
    controller: Option<Child>,
    /// The supervisor of its machines.
    supervisor: PathBuf,
    guest_init: PathBuf,
    fake: Option<FakeDir>,
}

impl Host {
    /// A host with nothing on it but the kernels that all tests share, or those in the store that `MICROAGENT_TEST_KERNELS` names.
    ///
    /// # Panics
    /// When the programs were not built, or the file system refuses.
    #[must_use]
    pub fn new() -> Self {
        let given = env::var_os("MICROAGENT_TEST_KERNELS").map(PathBuf::from);
        Self::with_kernels(&given.unwrap_or_else(|| test_cache().join("kernels")))
    }

    /// A host on the lean kernel that `scripts/lean-kernel` built; or, after a line that says how to build one, none.
    ///
    /// # Panics
    /// As [`Host::new`].
    #[must_use]
    pub fn lean(test: &str) -> Option<Self> {
        let kernels = test_cache().join("lean/kernels");
        let built = fs::read_dir(kernels.join("kernels")).is_ok_and(|mut all| all.next().is_some());
        if !built {
            println!("SKIP {test}: needs a lean kernel, which `scripts/lean-kernel` builds in 5 to 30 minutes");
            return None;
        }
        Some(Self::with_kernels(&kernels))
    }

    fn with_kernels(kernels: &Path) -> Self {
        for name in ["microagent", "microagent-controller", "microagent-supervisor-qemu"] {
            assert!(bin_dir().join(name).exists(), "{name} is not in {}: run scripts/build first", bin_dir().display());
        }
        assert!(guest_init().exists(), "{} is not there: run scripts/build first", guest_init().display());
        let dir = tempfile::Builder::new().prefix("microagent-host-").tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::create_dir_all(kernels).unwrap();
        std::os::unix::fs::symlink(kernels, dir.path().join("cache/kernels")).unwrap();
        let supervisor = bin_dir().join("microagent-supervisor-qemu");
        Self { dir, controller: None, supervisor, guest_init: guest_init(), fake: None }
    }

    /// A host whose machines are processes (see [`fake`]), with the image and the kernel that [`Host::fake_manifest`] names.
    ///
    /// # Panics
    /// When the controller was not built, or the file system refuses.
    #[must_use]
    pub fn with_fake_machines() -> Self {
        for name in ["microagent", "microagent-controller"] {
            assert!(bin_dir().join(name).exists(), "{name} is not in {}: run scripts/build first", bin_dir().display());
        }
        // The directory of a machine holds a socket, whose path must be short.
        let dir = tempfile::Builder::new().prefix("microagent-host-").tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let fake = FakeDir::create(&dir.path().join("fake")).unwrap();
        let kernel = dir.path().join("kernel");
        fs::write(&kernel, elf_kernel("6.1.0-fixture")).unwrap();
        let image = ImageFixture::new().layer(LayerBuilder::new().dir("tmp", 0o1777).finish(), Compression::Gzip);
        image.build().write_layout(&dir.path().join("image"), "1");
        // Cargo builds the programs of a package beside its tests.
        let supervisor = env::current_exe().unwrap().ancestors().nth(2).unwrap().join("microagent-fake-supervisor");
        assert!(supervisor.exists(), "{} was not built", supervisor.display());
        Self { dir, controller: None, supervisor, guest_init: kernel, fake: Some(fake) }
    }

    /// What the supervisor of [`Host::with_fake_machines`] was asked, and how it lies.
    ///
    /// # Panics
    /// When the machines of this host are real.
    #[must_use]
    pub fn fake(&self) -> &FakeDir {
        self.fake.as_ref().expect("a host with fake machines")
    }

    /// The manifest of a small workspace on a host with fake machines; `spec` has what is not as usual.
    ///
    /// # Panics
    /// When `spec` is no object.
    #[must_use]
    pub fn fake_manifest(&self, name: &str, spec: &Value) -> String {
        let image = format!("oci-layout:{}:1", self.dir.path().join("image").display());
        let mut all = json!({ "command": ["stay"], "lifecycle": { "terminationGracePeriodSeconds": 1 } });
        all["kernel"] = json!({ "source": "path", "path": self.dir.path().join("kernel") });
        all["resources"] = json!({ "memory": "64Mi", "disk": "64Mi" });
        for (field, value) in spec.as_object().expect("a spec is an object") {
            all[field] = value.clone();
        }
        manifest(name, &image, &all)
    }

    /// The watched folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("folder")
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The cache directory.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A directory for whatever a test needs.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the controller on the folder. Its log goes to the file `controller.log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_controller(&mut self) {
        self.start_controller_with(|_| {});
    }

    /// As [`Host::start_controller`], with another environment or other arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_controller_with(&mut self, change: impl FnOnce(&mut Command)) {
        let folder = self.folder();
        self.start_agent_with(|command| {
            command.arg("--folder").arg(folder).args(["--relist", "1"]);
            change(command);
        });
    }

    /// Starts the controller without a folder of its own; `change` says what it is to follow. Its log goes to the file
    /// `controller.log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_agent_with(&mut self, change: impl FnOnce(&mut Command)) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("controller.log")).unwrap();
        let mut command = self.command("microagent-controller");
        command
            .env("MICROAGENT_LOG", "info,microagent_controller=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        change(&mut command);
        self.controller = Some(command.spawn().unwrap());
    }

    /// Kills the controller with SIGKILL: it gets no chance to say or save anything.
    ///
    /// # Panics
    /// When none runs.
    pub fn kill_controller(&mut self) {
        let mut child = self.controller.take().expect("a controller runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The process id of the controller.
    ///
    /// # Panics
    /// When none runs.
    #[must_use]
    pub fn controller_pid(&self) -> u32 {
        self.controller.as_ref().expect("a controller runs").id()
    }

    /// One of the built programs, with this host's directories.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(bin_dir().join(program));
        command.env("MICROAGENT_STATE_DIR", self.state()).env("MICROAGENT_CACHE_DIR", self.cache());
        command.env("MICROAGENT_GUEST_INIT", &self.guest_init);
        if let Some(fake) = &self.fake {
            command.env("MICROAGENT_SUPERVISOR_QEMU", &self.supervisor).env(fake::DIR_VARIABLE, fake.path());
        }
        command
    }

    /// Runs `microagent` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn microagent<const N: usize>(&self, args: [&str; N]) -> Output {
        self.command("microagent").args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `microagent`, which must end well; gives its standard output.
    ///
    /// # Panics
    /// When it does not end well.
    #[must_use]
    pub fn ok<const N: usize>(&self, args: [&str; N]) -> String {
        let output = self.microagent(args);
        assert!(
            output.status.success(),
            "microagent {args:?}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.report(),
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `microagent`, which must fail; gives its exit code and standard error.
    ///
    /// # Panics
    /// When it ends well, or by a signal.
    #[must_use]
    pub fn fails<const N: usize>(&self, args: [&str; N]) -> (i32, String) {
        let output = self.microagent(args);
        assert!(
            !output.status.success(),
            "microagent {args:?} ended well:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
        (
            output.status.code().expect("it was not ended by a signal"),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Waits until a condition is as asked for: `Ready`, `Stalled=True`.
    pub fn wait(&self, name: &str, condition: &str) {
        let _ = self.ok(["wait", name, &format!("--for=condition={condition}"), "--timeout", PATIENCE]);
    }

    /// Waits until a condition is as asked for (`Stalled`, `Ready=False`) and for this reason, and says each of these words; gives
    /// what it says. Conditions move on when something is tried again, so this watches every change.
    ///
    /// # Panics
    /// When it does not come to that.
    #[must_use]
    pub fn told(&self, name: &str, condition: &str, reason: &str, words: &[&str]) -> String {
        self.wait(name, condition);
        let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
        let mut watch = self
            .command("microagent")
            .args(["get", name, "--watch", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let objects = Deserializer::from_reader(watch.stdout.take().unwrap()).into_iter::<Value>();
        let (sender, receiver) = mpsc::channel();
        let reader = thread::spawn(move || objects.map_while(Result::ok).all(|object| sender.send(object).is_ok()));
        let deadline = Instant::now() + PATIENCE_TIME;
        let found =
            std::iter::from_fn(|| receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok())
                .find_map(|object| {
                    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    let told = conditions.into_iter().find(|c| c["type"] == kind && c["status"] == status)?;
                    let message = told["message"].as_str().unwrap_or_default();
                    let says = told["reason"] == reason && words.iter().all(|word| message.contains(word));
                    says.then(|| message.to_owned())
                });
        watch.kill().unwrap();
        watch.wait().unwrap();
        let _ = reader.join();
        found.unwrap_or_else(|| {
            panic!(
                "{name} is never {condition} for {reason} with {words:?}: {:#?}\n{}",
                self.conditions(name),
                self.report()
            )
        })
    }

    /// Follows what a workload says until it has said this many lines; gives them.
    ///
    /// # Panics
    /// When it ends before.
    #[must_use]
    pub fn first_lines(&self, name: &str, count: usize) -> String {
        let mut command = self.command("microagent");
        let mut logs = command.args(["logs", "-f", name]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(logs.stdout.take().unwrap()).lines().take(count);
        let text: String = lines.map(|line| line.unwrap() + "\n").collect();
        let _ = logs.kill();
        let _ = logs.wait();
        assert_eq!(text.lines().count(), count, "{text}\n{}", self.report());
        text
    }

    /// Waits until nothing of a workspace is left.
    pub fn wait_deleted(&self, name: &str) {
        let _ = self.ok(["wait", name, "--for=delete", "--timeout", PATIENCE]);
    }

    /// The object as it is published.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn object(&self, name: &str) -> Value {
        serde_json::from_str(&self.ok(["get", name, "-o", "json"])).unwrap()
    }

    /// The conditions as they are published: type to (status, reason, message).
    ///
    /// # Panics
    /// When there is no such workspace.
    #[must_use]
    pub fn conditions(&self, name: &str) -> BTreeMap<String, (String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = self.object(name);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .map(|c| (text(&c["type"]), (text(&c["status"]), text(&c["reason"]), text(&c["message"]))))
            .collect()
    }

    /// Writes a file into the watched folder, as an editor would that renames into place.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn drop_file(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join(format!("{name}.new"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.folder().join(name)).unwrap();
    }

    /// The processes that belong to the machine of this UID: those that name it in their command line.
    ///
    /// # Panics
    /// When `/proc` is not mounted.
    #[must_use]
    pub fn processes(&self, uid: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(uid) {
                found.push(line);
            }
        }
        found
    }

    /// Gives this host kernels of its own, with the distribution's among them: what is installed here no other test sees.
    ///
    /// # Panics
    /// When the distribution's kernel cannot be had, or the file system refuses.
    pub fn own_kernels(&self) {
        let kernels = self.cache().join("kernels");
        let _ = self.ok(["kernel", "install"]);
        let shared = fs::canonicalize(&kernels).unwrap();
        fs::remove_file(&kernels).unwrap();
        fs::create_dir(&kernels).unwrap();
        for part in ["kernels", "sources"] {
            let copied = Command::new("cp").arg("-R").arg(shared.join(part)).arg(&kernels).status().unwrap();
            assert!(copied.success());
        }
    }

    /// The files that are on their way to their final names, below the state and cache directories.
    #[must_use]
    pub fn half_made(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.state(), self.cache().join("images")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                    found.push(entry.path());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
        }
        found
    }

    /// The UIDs of the workspaces that have something on this host.
    #[must_use]
    pub fn machines(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state().join("machines")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Holds every ext4 image below a directory against `e2fsck -fn`. Gives how many there were.
    ///
    /// # Panics
    /// When one is not clean.
    #[must_use]
    pub fn check_disks(&self, dir: &Path) -> usize {
        let mut checked = 0;
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                checked += self.check_disks(&path);
            } else if path.extension().is_some_and(|extension| extension == "ext4") {
                let output = Command::new(program("e2fsck").expect("e2fsck is installed"))
                    .arg("-fn")
                    .arg(&path)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{}: {said}", path.display());
                checked += 1;
            }
        }
        checked
    }

    /// Everything that helps to understand a failed test.
    fn report(&self) -> String {
        let mut text = String::new();
        let _ = File::open(self.dir.path().join("controller.log")).and_then(|mut file| file.read_to_string(&mut text));
        let machines = fs::read_dir(self.state().join("machines")).into_iter().flatten().flatten();
        for machine in machines {
            for log in fs::read_dir(machine.path().join("vm")).into_iter().flatten().flatten() {
                if log.path().extension().is_some_and(|extension| extension == "log" || extension == "json") {
                    text.push_str(&format!("--- {}\n", log.path().display()));
                    text.push_str(&String::from_utf8_lossy(&fs::read(log.path()).unwrap_or_default()));
                }
            }
        }
        let last: Vec<&str> = text.lines().rev().take(200).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    /// Ends what a failed test left: first the controller, then every machine by its supervisor.
    fn drop(&mut self) {
        if let Some(mut child) = self.controller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for machine in fs::read_dir(self.state().join("machines")).into_iter().flatten().flatten() {
            let request = serde_json::json!({
                "verb": "delete",
                "protocol": "supervisor.microagent.dev/v1",
                "target": { "uid": machine.file_name().to_string_lossy(), "machineDir": machine.path().join("vm") },
            });
            let child = Command::new(&self.supervisor)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            if let Ok(mut child) = child {
                if let Some(mut stdin) = child.stdin.take() {
                    let _ = stdin.write_all(request.to_string().as_bytes());
                }
                let _ = child.wait();
            }
        }
    }
}

/// Where the built programs are: `MICROAGENT_BIN_DIR`, or the profile directory that this test was built in.
///
/// # Panics
/// Never on Linux.
#[must_use]
pub fn bin_dir() -> PathBuf {
    env::var_os("MICROAGENT_BIN_DIR")
        .map_or_else(|| env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned(), PathBuf::from)
}

/// The static guest-init that `scripts/build` made. Not the one beside the programs: `cargo test` puts one there that is not static.
#[must_use]
pub fn guest_init() -> PathBuf {
    bin_dir().join("../guest-init/microagent-guest-init")
}

/// Where tests keep what is too dear to make for each: `MICROAGENT_TEST_CACHE`, or a directory of the user's cache.
#[must_use]
pub fn test_cache() -> PathBuf {
    let cache = || {
        env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
    };
    env::var_os("MICROAGENT_TEST_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| cache().unwrap_or_else(env::temp_dir).join("microagent-test"))
}

/// An image with busybox and nothing else: a shell and the usual commands, users `root` and `app` (1000).
///
/// # Panics
/// When busybox is not installed.
#[must_use]
pub fn busybox_image() -> ImageFixture {
    let path = program("busybox").expect("busybox is installed");
    let mut layer =
        LayerBuilder::new().dir("bin", 0o755).dir("etc", 0o755).dir("tmp", 0o1777).dir("root", 0o700).dir("var", 0o755);
    layer = layer.file("bin/busybox", 0o755, &fs::read(&path).unwrap());
    let list = Command::new(&path).arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
        layer = layer.symlink(&format!("bin/{name}"), "busybox");
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
    let layer = layer.file("etc/passwd", 0o644, passwd).file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\n");
    ImageFixture::new()
        .layer(layer.finish(), Compression::Gzip)
        .run("Env", vec!["PATH=/bin", "FROM_IMAGE=yes"])
        .run("Cmd", vec!["/bin/sh", "-c", "echo the image speaks"])
}

/// The manifest of a small workspace; `spec` has what is not as usual.
///
/// # Panics
/// When `spec` is no object.
#[must_use]
pub fn manifest(name: &str, image: &str, spec: &Value) -> String {
    let mut all = json!({ "image": image, "resources": { "memory": "128Mi", "disk": "256Mi" } });
    for (field, value) in spec.as_object().expect("a spec is an object") {
        all[field] = value.clone();
    }
    json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": name }, "spec": all })
        .to_string()
}
