//! The vsock device: a Unix socket on which the host says `CONNECT <port>`, and the guest behind it.

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use microagent_guest_protocol::LISTENING_LINE;

use crate::guest;

/// How long a kernel takes to its first words.
const FIRST_WORDS: Duration = Duration::from_millis(20);

/// What the device and its guest share.
#[derive(Default)]
pub(super) struct Device {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The guest's CPUs stand still.
    paused: bool,
    /// What the host sends is never delivered again.
    deaf: bool,
    /// There is a guest.
    runs: bool,
}

impl Device {
    /// Binds the socket, and gives where the guest's connections come from.
    pub(super) fn bind(self: &Arc<Self>, path: &Path) -> io::Result<Receiver<UnixStream>> {
        let listener = UnixListener::bind(path)?;
        let (sender, receiver) = channel();
        let device = Arc::clone(self);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (device, sender) = (Arc::clone(&device), sender.clone());
                thread::spawn(move || device.serve(&stream, &sender));
            }
        });
        Ok(receiver)
    }

    fn serve(&self, stream: &UnixStream, guest: &Sender<UnixStream>) {
        {
            let mut state = self.lock();
            while state.paused || state.deaf || !state.runs {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if let Ok(Some(connected)) = guest::connected(stream) {
            let _ = guest.send(connected);
        }
    }

    pub(super) fn run(&self) {
        self.change(|state| state.runs = true);
    }

    pub(super) fn pause(&self, paused: bool) {
        self.change(|state| state.paused = paused);
    }

    pub(super) fn fall_deaf(&self) {
        self.change(|state| state.deaf = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Boots a guest of this mode: it prints what a kernel prints, listens, and lives.
pub(super) fn boot(mode: String, device: &Arc<Device>, connections: Receiver<UnixStream>) {
    let device = Arc::clone(device);
    thread::spawn(move || {
        if mode == "silent" {
            return;
        }
        // No kernel speaks, or dies, before the request that started it is answered.
        thread::sleep(FIRST_WORDS);
        say("[    0.000000] Linux version 6.1.0-fixture (stand-in) #1 SMP");
        say("[    0.000000] Command line: console=ttyS0");
        if mode == "dead-kernel" {
            say("[    0.123456] Kernel panic - not syncing: No working init found.");
            process::exit(0);
        }
        say(LISTENING_LINE);
        device.run();
        live(&mode, &connections, guest::live);
    });
}

/// Goes on with a guest of this mode where a snapshot left it.
pub(super) fn go_on(mode: String, device: &Arc<Device>, connections: Receiver<UnixStream>) {
    device.run();
    thread::spawn(move || live(&mode, &connections, guest::resume));
}

fn live(mode: &str, connections: &Receiver<UnixStream>, how: impl Fn(&str, &guest::Machine<'_>)) {
    let accept = || match connections.recv() {
        Ok(stream) => stream,
        // The device is gone with the process.
        Err(_) => loop {
            thread::park();
        },
    };
    let power_off = Arc::new(|| {
        say("[    9.999999] reboot: Restarting system");
        process::exit(0);
    });
    how(mode, &guest::Machine { accept: &accept, power_off });
}

/// Prints a line as a serial console does.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\r\n")).and_then(|()| out.flush());
}
