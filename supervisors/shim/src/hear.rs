//! What the programs of a machine say, read by a thread for each pipe.

use std::{
    path::Path,
    process::Child,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use microagent_supervisor_protocol::ErrorBody;

use crate::{
    console::Scanner,
    dir::{CONSOLE_LOG, VMM_LOG, host},
    log::{RotatingLog, Tail, pump},
    run::{IN_FLIGHT, Signal},
};

/// The size at which the log of the VMM and its helper is rotated, in bytes.
const VMM_LOG_BYTES: u64 = 256 * 1024;

/// The end of a stream that a thread reads.
#[derive(Clone, Default)]
pub(crate) struct Ending(Arc<Mutex<Tail>>);

impl Ending {
    fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

/// What the VMM says.
pub(crate) struct Said {
    pub(crate) console: Ending,
    pub(crate) stderr: Ending,
    /// Disconnected when the threads have read all.
    over: Receiver<()>,
}

impl Said {
    /// Waits until all is read, once the program has ended.
    pub(crate) fn wait(&self) {
        let _ = self.over.recv_timeout(IN_FLIGHT);
    }
}

/// Reads the VMM's console and its standard error.
pub(crate) fn vmm(child: &mut Child, log_bytes: u64, signals: &SyncSender<Signal>) -> Result<Said, ErrorBody> {
    let (reading, over) = sync_channel(0);
    let said = Said { console: Ending::default(), stderr: Ending::default(), over };
    if let Some(pipe) = child.stdout.take() {
        let (ending, signals, reading) = (said.console.clone(), signals.clone(), reading.clone());
        let mut log = RotatingLog::open(Path::new(CONSOLE_LOG), log_bytes);
        spawn_thread("console", move || {
            let mut scanner = Scanner::default();
            pump(pipe, |bytes| {
                log.write(bytes);
                ending.push(bytes);
                scanner.scan(bytes, |sign| {
                    let _ = signals.send(Signal::Console(sign));
                });
            });
            drop(reading);
        })?;
    }
    read_stderr(child, &said.stderr, reading)?;
    Ok(said)
}

/// Reads a helper's standard error; gives how to get its last words, once it has ended.
pub(crate) fn helper(child: &mut Child) -> Result<impl FnOnce() -> String + use<>, ErrorBody> {
    let (reading, over) = sync_channel(0);
    let ending = Ending::default();
    read_stderr(child, &ending, reading)?;
    Ok(move || {
        let _ = over.recv_timeout(IN_FLIGHT);
        ending.text()
    })
}

fn read_stderr(child: &mut Child, ending: &Ending, reading: SyncSender<()>) -> Result<(), ErrorBody> {
    let Some(pipe) = child.stderr.take() else { return Ok(()) };
    let ending = ending.clone();
    spawn_thread("stderr", move || {
        let mut log = RotatingLog::open(Path::new(VMM_LOG), VMM_LOG_BYTES);
        pump(pipe, |bytes| {
            log.write(bytes);
            ending.push(bytes);
        });
        drop(reading);
    })
}

pub(crate) fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), ErrorBody> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map(drop).map_err(|e| host("cannot start a thread", &e))
}
