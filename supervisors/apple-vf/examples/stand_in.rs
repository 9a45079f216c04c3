//! The supervisor with a stand-in for Virtualization.framework, for tests where there is none.
//!
//! It is as strict as the framework: a machine can only do what its state allows, files are opened when the machine is made, and a guest
//! that stands still answers nobody. How the guest behaves is said on its command line, for nothing else reaches the VMM:
//! `stand-in.guest=MODE` (see [`microagent_tests::guest`], and `crash`), `stand-in.fault=start|pause|create`.

#![allow(clippy::unwrap_used, reason = "a stand-in fails its test by panicking")]

use std::{
    fs::File,
    io::{self, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use microagent_guest_protocol::{CONTROL_PORT, LISTENING_LINE};
use microagent_supervisor_apple_vf::{
    Framework,
    framework::{End, Finding, Host, State, VirtualMachine},
    machine::Machine,
};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use microagent_tests::guest;

/// How long a guest that stands still lets a connection wait.
const CONNECT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    microagent_supervisor_apple_vf::main(&StandIn)
}

struct StandIn;

impl Framework for StandIn {
    fn host(&self) -> Host {
        Host {
            vmm: Some("a stand-in for Virtualization.framework".to_owned()),
            findings: vec![Finding { name: "Framework", found: Ok("a stand-in".to_owned()) }],
            max_vcpus: 8,
            memory_mib: 128..=4096,
        }
    }

    fn create(&self, machine: &Machine, told: Sender<End>) -> Result<Box<dyn VirtualMachine>, ErrorBody> {
        let refused =
            |why: String| ErrorBody::new(ErrorCode::UnsupportedConfig, format!("the stand-in refuses it: {why}"));
        if word(machine, "stand-in.fault") == "create" {
            return Err(refused("as was asked for".to_owned()));
        }
        let mut files = Vec::new();
        for (path, write) in [(&machine.kernel, false), (&machine.initramfs, false)]
            .into_iter()
            .chain(machine.disks.iter().map(|disk| (&disk.path, !disk.read_only)))
        {
            let opened = File::options().read(true).write(write).open(path);
            files.push(opened.map_err(|e| refused(format!("{}: {e}", path.display())))?);
        }
        let (sender, connections) = channel();
        Ok(Box::new(Machines {
            shared: Arc::new(Shared { state: Mutex::new(State::Stopped), changed: Condvar::new(), told }),
            guest: word(machine, "stand-in.guest").to_owned(),
            fault: word(machine, "stand-in.fault").to_owned(),
            sender,
            connections: Mutex::new(Some(connections)),
            _files: files,
        }))
    }
}

/// The value of a word on the kernel's command line.
fn word<'a>(machine: &'a Machine, name: &str) -> &'a str {
    let mut words = machine.command_line.split(' ');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

/// A machine, its guest a thread.
struct Machines {
    shared: Arc<Shared>,
    guest: String,
    fault: String,
    sender: Sender<UnixStream>,
    connections: Mutex<Option<Receiver<UnixStream>>>,
    _files: Vec<File>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    told: Sender<End>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From one state to another, as the framework lets it be.
    fn change(&self, from: State, to: State) -> Result<(), String> {
        let mut state = self.state();
        if *state != from {
            return Err(format!("a transition from {:?} to {to:?} is invalid", *state));
        }
        *state = to;
        self.changed.notify_all();
        eprintln!("stand-in: {from:?} to {to:?}");
        Ok(())
    }

    fn end(&self, end: End) {
        *self.state() = if end == End::GuestStopped { State::Stopped } else { State::Failed };
        self.changed.notify_all();
        let _ = self.told.send(end);
    }

    /// Returns once the CPUs run.
    fn run(&self) {
        let mut state = self.state();
        while *state == State::Paused {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl VirtualMachine for Machines {
    fn state(&self) -> State {
        *self.shared.state()
    }

    fn start(&self) -> Result<(), String> {
        if self.fault == "start" {
            return Err("internal virtualization error".to_owned());
        }
        self.shared.change(State::Stopped, State::Running)?;
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mode, shared) = (self.guest.clone(), Arc::clone(&self.shared));
        let connections = connections.ok_or("it was started before")?;
        thread::spawn(move || live(&mode, &shared, &connections));
        Ok(())
    }

    fn pause(&self) -> Result<(), String> {
        if self.fault == "pause" {
            return Err("the stand-in does not pause".to_owned());
        }
        self.shared.change(State::Running, State::Paused)
    }

    fn resume(&self) -> Result<(), String> {
        self.shared.change(State::Paused, State::Running)
    }

    /// A guest's kernel hears the button even where guest-init hears nothing.
    fn request_stop(&self) -> Result<(), String> {
        let state = self.state();
        if state != State::Running {
            return Err(format!("it cannot be asked to stop while it is {state:?}"));
        }
        say("[   12.000000] Power key pressed");
        if self.guest != "stubborn" {
            self.shared.end(End::GuestStopped);
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), String> {
        say("[   13.000000] stopped from outside");
        *self.shared.state() = State::Stopped;
        self.shared.changed.notify_all();
        Ok(())
    }

    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let state = self.shared.state();
        let waited = self.shared.changed.wait_timeout_while(state, CONNECT, |state| *state == State::Paused);
        if *waited.unwrap_or_else(PoisonError::into_inner).0 != State::Running {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if port != CONTROL_PORT {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        self.sender.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }
}

/// The guest's life.
fn live(mode: &str, shared: &Arc<Shared>, connections: &Receiver<UnixStream>) {
    say("[    0.000000] Linux version 6.1.0-fixture (stand-in) #1 SMP");
    match mode {
        "silent" => return,
        "crash" => return shared.end(End::Failed("the virtual machine stopped unexpectedly".to_owned())),
        _ => say(LISTENING_LINE),
    }
    let accept = || match connections.recv() {
        Ok(stream) => {
            shared.run();
            stream
        }
        // It is ended with its machine.
        Err(_) => loop {
            thread::park();
        },
    };
    let ending = Arc::clone(shared);
    let power_off = Arc::new(move || {
        say("[    9.999999] reboot: Power down");
        ending.end(End::GuestStopped);
    });
    guest::live(mode, &guest::Machine { accept: &accept, power_off });
}

/// Prints a line as a console does.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\r\n")).and_then(|()| out.flush()).unwrap();
}
