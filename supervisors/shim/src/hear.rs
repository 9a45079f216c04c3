//! What the programs of a machine say, read by a thread for each pipe.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    process::Child,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use microagent_base::durable;
use microagent_supervisor_protocol::ErrorBody;

use crate::{
    backend::Launch,
    console::Scanner,
    dir::{CONSOLE_LOG, METRICS, VMM_LOG, host},
    log::{RotatingLog, Tail, pump},
    run::{IN_FLIGHT, Signal},
};

/// The VMM's log, which several threads write.
type VmmLog = Arc<Mutex<RotatingLog>>;

/// The size at which the log of the VMM and its helper is rotated, in bytes.
const VMM_LOG_BYTES: u64 = 256 * 1024;

/// The longest line of metrics that is kept, in bytes: Firecracker's has some 10 KiB.
const MAX_METRICS: u64 = 256 * 1024;

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
    /// What it said last on its standard error, or else on its console.
    pub(crate) fn last_words(&self) -> String {
        let words = self.stderr.text();
        if words.is_empty() { self.console.text() } else { words }
    }

    /// Waits until all is read, once the program has ended.
    pub(crate) fn wait(&self) {
        let _ = self.over.recv_timeout(IN_FLIGHT);
    }
}

/// Reads the VMM's console, its standard error, and the pipe that it logs on.
pub(crate) fn vmm(
    child: &mut Child,
    launch: &Launch,
    log_bytes: u64,
    signals: &SyncSender<Signal>,
) -> Result<Said, ErrorBody> {
    let (reading, over) = sync_channel(0);
    let said = Said { console: Ending::default(), stderr: Ending::default(), over };
    let log = vmm_log();
    if let Some(name) = &launch.logger {
        let pipe = pipe(name)?;
        let (log, ending) = (Arc::clone(&log), said.stderr.clone());
        spawn_thread("logger", move || pump_into(pipe, &log, &ending))?;
    }
    if let Some(name) = &launch.metrics {
        let pipe = pipe(name)?;
        spawn_thread("metrics", move || keep_last_line(pipe))?;
    }
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
    read_stderr(child, log, &said.stderr, reading)?;
    Ok(said)
}

/// Reads a helper's standard error; gives how to get its last words, once it has ended.
pub(crate) fn helper(child: &mut Child) -> Result<impl FnOnce() -> String + use<>, ErrorBody> {
    let (reading, over) = sync_channel(0);
    let ending = Ending::default();
    read_stderr(child, vmm_log(), &ending, reading)?;
    Ok(move || {
        let _ = over.recv_timeout(IN_FLIGHT);
        ending.text()
    })
}

/// Open for writing too, so that it has no end before that of the shim.
fn pipe(name: &str) -> Result<File, ErrorBody> {
    let opened = File::options().read(true).write(true).open(name);
    opened.map_err(|e| host(&format!("cannot open the pipe {name}"), &e))
}

fn keep_last_line(pipe: File) {
    let mut reader = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_METRICS).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            // The rest of a line that is too long is no line either.
            Ok(_) if line.last() == Some(&b'\n') && line.starts_with(b"{") => {
                let _ = durable::replace(Path::new(METRICS), &line);
            }
            Ok(_) => {}
        }
    }
}

fn vmm_log() -> VmmLog {
    Arc::new(Mutex::new(RotatingLog::open(Path::new(VMM_LOG), VMM_LOG_BYTES)))
}

fn read_stderr(child: &mut Child, log: VmmLog, ending: &Ending, reading: SyncSender<()>) -> Result<(), ErrorBody> {
    let Some(pipe) = child.stderr.take() else { return Ok(()) };
    let ending = ending.clone();
    spawn_thread("stderr", move || {
        pump_into(pipe, &log, &ending);
        drop(reading);
    })
}

fn pump_into(pipe: impl io::Read, log: &VmmLog, ending: &Ending) {
    pump(pipe, |bytes| {
        log.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
        ending.push(bytes);
    });
}

pub(crate) fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), ErrorBody> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map(drop).map_err(|e| host("cannot start a thread", &e))
}
