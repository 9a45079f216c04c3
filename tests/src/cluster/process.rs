//! One program of the control plane: started, stopped, and ended with the test process.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, OnceLock,
        mpsc::{self, Sender},
    },
    thread,
};

/// A program with its arguments, whether it runs or not.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Its log goes to `dir`.
    pub(super) fn new(name: &'static str, program: PathBuf, args: Vec<String>, dir: &Path) -> Self {
        Self { name, program, args, log: dir.join(format!("{name}.log")), child: Mutex::new(None) }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn start(&self) {
        let mut child = self.child.lock().unwrap();
        assert!(child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        // Killed when the thread that starts it is gone, that is, when the test process is.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        *child = Some(spawn(command).unwrap_or_else(|error| panic!("setpriv {}: {error}", self.program.display())));
    }

    /// Kills it and waits for its end.
    pub(super) fn stop(&self) {
        let mut child = self.child.lock().unwrap().take().unwrap_or_else(|| panic!("{} does not run", self.name));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.lock().unwrap().as_ref().map(Child::id)
    }

    /// How it ended, if it did so on its own.
    fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// Fails the test when it has ended on its own.
    pub(super) fn assert_runs(&self) {
        if let Some(status) = self.ended() {
            panic!("{} ended: {status}\n{}", self.name, self.last_lines());
        }
    }

    pub(super) fn start_if_ended(&self) {
        if self.ended().is_some() {
            *self.child.lock().unwrap() = None;
            self.start();
        }
    }

    /// What it said last.
    pub(super) fn last_lines(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a program from a thread that lives as long as the process: the threads of tests end before.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<(Command, Sender<io::Result<Child>>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<(Command, Sender<io::Result<Child>>)>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    spawner.send((command, answer)).unwrap();
    child.recv().unwrap()
}
