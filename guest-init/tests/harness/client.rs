//! The host's side of the guest protocol, as plainly as can be.

use std::os::unix::net::UnixStream;

use microagent_guest_protocol::{
    Config, CopyOut, CopyReply, EnvVar, Event, Exec, ExecInput, ExecReply, Exit, Process, Request, Root, SetupStep,
    ShutdownReply,
    frame::{self, Kind},
};

use super::vm::Vm;

/// A shell script as a process.
pub(crate) fn sh(script: &str) -> Process {
    Process {
        argv: vec!["sh".into(), "-c".into(), script.into()],
        env: vec![EnvVar { name: "GREETING".into(), value: "hello".into() }],
        working_dir: None,
        user: None,
    }
}

/// A configuration with the baseline as disk 0 and the writable disk as disk 1.
pub(crate) fn config(workload: Process) -> Config {
    Config {
        hostname: "box".into(),
        realtime_ns: 1_700_000_000_000_000_000,
        root: Root { baseline: 0, overlay: Some(1) },
        grace_seconds: 5,
        ..Config::new("boot-1", workload)
    }
}

pub(crate) fn steps(runs: &[&str]) -> Vec<SetupStep> {
    runs.iter().map(|run| SetupStep { run: (*run).into() }).collect()
}

/// Copies what is at a path out of the guest: the archive, and what guest-init says at its end.
pub(crate) fn copy_out(vm: &Vm, path: &str, follow: bool) -> (Vec<u8>, CopyReply) {
    let mut socket = vm.connect();
    frame::write_message(&mut socket, &Request::CopyOut(CopyOut { path: path.to_owned(), follow })).unwrap();
    let mut archive = Vec::new();
    loop {
        let frame = frame::read(&mut socket).unwrap().expect("a reply");
        match frame.kind {
            Kind::Output => archive.extend(frame.payload),
            kind => {
                assert_eq!(kind, Kind::Message);
                return (archive, frame.message().unwrap());
            }
        }
    }
}

/// All that a session told, from one point on.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) events: Vec<Event>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// All bytes of outputs.
    pub(crate) archive: Vec<u8>,
}

impl Told {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The codes of what failed.
    pub(crate) fn failures(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|e| if let Event::Failed { code, .. } = e { Some(code.as_str()) } else { None })
            .collect()
    }

    pub(crate) fn workload_exit(&self) -> Option<Exit> {
        self.events.iter().find_map(|e| if let Event::WorkloadExited { exit, .. } = e { Some(*exit) } else { None })
    }
}

/// The connection of a configured machine.
pub(crate) struct Session(UnixStream);

impl Session {
    pub(crate) fn configure(vm: &Vm, config: &Config) -> Self {
        let mut socket = vm.connect();
        frame::write_message(&mut socket, &Request::Configure(Box::new(config.clone()))).unwrap();
        Self(socket)
    }

    /// Says that the machine went on from a snapshot, as a host would that has heard so many events.
    pub(crate) fn resume(vm: &Vm, realtime_ns: u64, seen: u64) -> Self {
        let mut socket = vm.connect();
        frame::write_message(&mut socket, &Request::Resumed { realtime_ns, seed: (0..32).collect(), seen }).unwrap();
        Self(socket)
    }

    /// Reads until `enough`, or to the end.
    pub(crate) fn until(&mut self, vm: &Vm, mut enough: impl FnMut(&Told) -> bool) -> Told {
        let mut told = Told::default();
        while !enough(&told) {
            let frame = frame::read(&mut self.0).unwrap_or_else(|e| panic!("{e}; {told:?}; console: {}", vm.console()));
            let Some(frame) = frame else { break };
            match frame.kind {
                Kind::Stdout => told.stdout.extend(frame.payload),
                Kind::Stderr => told.stderr.extend(frame.payload),
                Kind::Output => told.archive.extend(frame.payload),
                _ => told.events.push(frame.message().unwrap()),
            }
        }
        told
    }

    pub(crate) fn until_the_end(&mut self, vm: &Vm) -> Told {
        self.until(vm, |_| false)
    }

    pub(crate) fn until_started(&mut self, vm: &Vm) -> Told {
        self.until(vm, |t| t.events.iter().any(|e| matches!(e, Event::WorkloadStarted { .. })))
    }
}

pub(crate) struct ExecSession(UnixStream);

impl ExecSession {
    pub(crate) fn start(vm: &Vm, exec: Exec) -> Self {
        let mut socket = vm.connect();
        frame::write_message(&mut socket, &Request::Exec(exec)).unwrap();
        Self(socket)
    }

    pub(crate) fn stdin(&mut self, bytes: &[u8]) {
        frame::write(&mut self.0, Kind::Stdin, bytes).unwrap();
    }

    pub(crate) fn input(&mut self, input: &ExecInput) {
        frame::write_message(&mut self.0, input).unwrap();
    }

    /// Reads output until it contains `text`.
    pub(crate) fn expect(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let frame = frame::read(&mut self.0).unwrap().unwrap_or_else(|| panic!("ended after {seen:?}"));
            assert_ne!(frame.kind, Kind::Message, "{:?} before {text:?}; seen {seen:?}", frame.message::<ExecReply>());
            seen += &String::from_utf8_lossy(&frame.payload);
        }
    }

    /// The rest of the output, and the reply.
    pub(crate) fn finish(mut self) -> (String, String, ExecReply) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let frame = frame::read(&mut self.0).unwrap().expect("a reply before the end");
            match frame.kind {
                Kind::Stdout => out.extend(frame.payload),
                Kind::Stderr => err.extend(frame.payload),
                _ => {
                    assert_eq!(frame::read(&mut self.0).unwrap(), None, "nothing follows the reply");
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    return (text(out), text(err), frame.message().unwrap());
                }
            }
        }
    }
}

pub(crate) fn exec(script: &str) -> Exec {
    Exec { process: Process { env: Vec::new(), ..sh(script) }, terminal: None, stdin: false }
}

pub(crate) fn shut_down(vm: &Vm, grace_seconds: u32) {
    let mut socket = vm.connect();
    frame::write_message(&mut socket, &Request::Shutdown { grace_seconds }).unwrap();
    assert_eq!(frame::read_message::<ShutdownReply>(&mut socket).unwrap(), ShutdownReply::ShuttingDown);
}
