//! The shim's connection to guest-init.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use microagent_guest_protocol::{
    CONTROL_PORT, Config, Event, Output, Request, ShutdownReply,
    frame::{self, Kind},
};
use microagent_supervisor_protocol::Artifact;

use crate::{
    activity::Activity,
    dir::WORKLOAD_LOG,
    far::Far,
    log::{CriLog, Stream},
    outputs::Outputs,
    run::Signal,
};

/// How long the guest may take to answer a request, translated on a busy host.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two verdicts of the health probe that are taken: probes are a second apart at least, and each verdict is recorded. A guest
/// that tells them faster waits.
const VERDICTS: Duration = Duration::from_millis(500);

/// How long a guest may let its configuration wait in the pipe.
const CONFIGURE: Duration = Duration::from_secs(60);

/// What came of the connection.
#[derive(Debug)]
pub(crate) enum Word {
    /// Nothing listens yet.
    NotYet(io::Error),
    /// The guest tells this.
    Event(Event),
    /// An output was copied out, or could not be.
    Output(Artifact),
    /// The connection is over; why, where the guest broke the protocol.
    Over(Option<String>),
}

/// The configuration until it is sent; it may hold secrets and is forgotten then.
pub(crate) type Waiting = Arc<Mutex<Option<Box<Config>>>>;

/// The connection to the guest, for the shim to cut.
pub(crate) type Line = Arc<Mutex<Option<UnixStream>>>;

/// What the guest is told first.
#[derive(Clone)]
pub(crate) enum Hello {
    /// What it is to become.
    Configure(Waiting),
    /// That it goes on after a snapshot, and how many of its events were heard; its outputs, which its configuration had.
    Resumed { seen: u64, outputs: Vec<Output> },
}

/// How many bytes a guest gets for its random numbers: as many as the kernel's generator holds.
const SEED: usize = 32;

/// Where outputs go, and how many bytes they may have.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) machine_dir: PathBuf,
    pub(crate) bytes: u64,
}

/// Tries once to connect and, where the guest listens, configures it and listens to it until it is over.
pub(crate) fn connect(
    far: Far,
    (hello, line): (Hello, Line),
    log_bytes: u64,
    outputs: Bound,
    activity: Activity,
    signals: SyncSender<Signal>,
) -> io::Result<()> {
    let tell = move |word| signals.send(Signal::Guest(word)).is_ok();
    thread::Builder::new().name("guest".to_owned()).spawn(move || {
        let stream = match far.connect(CONTROL_PORT) {
            Ok(stream) => stream,
            Err(e) => {
                tell(Word::NotYet(e));
                return;
            }
        };
        let (request, outputs) = match hello {
            Hello::Configure(waiting) => {
                let Some(mut config) = waiting.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
                config.realtime_ns = realtime_ns();
                let outputs = (config.outputs.clone(), outputs);
                (Ok(Request::Configure(config)), outputs)
            }
            Hello::Resumed { seen, outputs: expected } => {
                let request = seed().map(|seed| Request::Resumed { realtime_ns: realtime_ns(), seed, seen });
                (request, (expected, outputs))
            }
        };
        let mut outputs = Outputs::new(&outputs.1.machine_dir, &outputs.0, outputs.1.bytes);
        *line.lock().unwrap_or_else(PoisonError::into_inner) = stream.try_clone().ok();
        let sent = request.and_then(|request| {
            stream.set_write_timeout(Some(CONFIGURE))?;
            frame::write_message(&mut &stream, &request)
        });
        let over = match sent {
            Ok(()) => listen(&mut &stream, log_bytes, &mut outputs, &activity, &tell).err(),
            Err(e) => Some(format!("the guest did not take its configuration: {e}")),
        };
        // The guest hears that its last word arrived by the end of the connection, of which this is the other half.
        *line.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(stream);
        tell(Word::Over(over));
    })?;
    Ok(())
}

fn listen(
    reader: &mut impl io::Read,
    log_bytes: u64,
    outputs: &mut Outputs,
    activity: &Activity,
    tell: &impl Fn(Word) -> bool,
) -> Result<(), String> {
    let mut log = CriLog::open(Path::new(WORKLOAD_LOG), log_bytes);
    let result = listen_with(reader, &mut log, outputs, activity, tell);
    log.flush(Timestamp::now());
    result
}

fn listen_with(
    reader: &mut impl io::Read,
    log: &mut CriLog,
    outputs: &mut Outputs,
    activity: &Activity,
    tell: &impl Fn(Word) -> bool,
) -> Result<(), String> {
    let mut ended = false;
    let mut verdict_at = Instant::now();
    loop {
        let frame = match frame::read(reader) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(e.to_string()),
            // The VMM or its vsock ended in the middle of a frame: whatever ended it is told elsewhere.
            Err(_) => return Ok(()),
        };
        if matches!(frame.kind, Kind::Stdout | Kind::Stderr) {
            activity.note();
        }
        match frame.kind {
            Kind::Stdout => log.write(Stream::Stdout, &frame.payload, Timestamp::now()),
            Kind::Stderr => log.write(Stream::Stderr, &frame.payload, Timestamp::now()),
            Kind::Output => outputs.data(&frame.payload)?,
            Kind::Stdin => return Err("the guest sent a frame of standard input".to_owned()),
            Kind::Message => {
                let event: Event = frame.message().map_err(|e| format!("the guest told what is no event: {e}"))?;
                match event {
                    Event::SetupStarted { .. } => log.set_setup(true, Timestamp::now()),
                    Event::SetupFinished { .. } => log.set_setup(false, Timestamp::now()),
                    _ => {}
                }
                if let Event::Health { .. } = event {
                    thread::sleep(verdict_at.saturating_duration_since(Instant::now()));
                    verdict_at = Instant::now() + VERDICTS;
                }
                let exited = matches!(event, Event::WorkloadExited { .. });
                let failed = matches!(event, Event::Failed { .. });
                if exited || failed {
                    // Whoever reads of the end must find all of the output.
                    log.flush(Timestamp::now());
                }
                let mut last = failed || (exited && outputs.is_complete());
                let word = match event {
                    Event::OutputStarted { name } => {
                        if !ended {
                            return Err("the guest began an output before its workload had ended".to_owned());
                        }
                        outputs.start(&name)?;
                        Word::Event(Event::OutputStarted { name })
                    }
                    Event::OutputFinished { name, error } => {
                        let artifact = outputs.finish(&name, error)?;
                        last = outputs.is_complete();
                        Word::Output(artifact)
                    }
                    event => Word::Event(event),
                };
                ended |= exited;
                // Hanging up after the last word tells the guest that it arrived.
                if !tell(word) || last {
                    return Ok(());
                }
            }
        }
    }
}

/// Asks guest-init to shut down. Tells when it could not be asked.
pub(crate) fn shutdown(far: Far, grace_seconds: u32, signals: SyncSender<Signal>) {
    let ask = move || -> io::Result<()> {
        let stream = far.connect(CONTROL_PORT)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        frame::write_message(&mut &stream, &Request::Shutdown { grace_seconds })?;
        frame::read_message::<ShutdownReply>(&mut &stream)?;
        Ok(())
    };
    let asked = thread::Builder::new().name("shutdown".to_owned()).spawn(move || {
        if let Err(e) = ask() {
            eprintln!("the guest cannot be asked to shut down: {e}; it is ended when its grace period is over");
            let _ = signals.send(Signal::Deaf);
        }
    });
    if let Err(e) = asked {
        eprintln!("cannot start a thread: {e}");
    }
}

fn seed() -> io::Result<Vec<u8>> {
    let mut seed = vec![0; SEED];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

fn realtime_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(0))
}
