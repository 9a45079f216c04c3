//! `kubectl` against the cluster of a test.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
};

/// How a program ended, and what it said.
#[derive(Debug, Clone)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// `kubectl` with the kubeconfig of one user, and nothing of the user who runs the tests.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// `home` is where it may keep caches.
    pub(super) fn new(program: PathBuf, kubeconfig: PathBuf, home: &Path) -> Self {
        Self { program, kubeconfig, home: home.to_owned(), namespace: None }
    }

    /// The same as another user.
    #[must_use]
    pub fn with_kubeconfig(&self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), ..self.clone() }
    }

    /// The same in a namespace other than `default`.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// Its kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A command to add arguments to.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        self.run_with(args, "")
    }

    /// As [`Kubectl::run`], with something on its standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, input: &str) -> Said {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let mut stdin = child.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            // It may end without reading all, and says things before it has.
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        });
        Said {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it; it must end well. Gives its standard output.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.run(args).expect_success()
    }

    /// Runs it; it must fail. Gives its standard error.
    ///
    /// # Panics
    /// When it ends well.
    pub fn fails<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        let said = self.run(args);
        assert!(!said.status.success(), "kubectl ended well: {}", said.stdout);
        said.stderr
    }

    /// Applies manifests, by the server; gives what it says of each.
    ///
    /// # Panics
    /// When the API server refuses one.
    pub fn apply(&self, manifests: &str) -> String {
        self.run_with(["apply", "--server-side", "--filename", "-"], manifests).expect_success()
    }
}

impl Said {
    fn expect_success(self) -> String {
        assert!(self.status.success(), "kubectl: {}\n{}{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}
