//! The shim: the process that owns one machine from its start to its end.

use std::{
    env,
    io::{self},
    path::Path,
    process::{ExitCode, ExitStatus},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use microagent_base::{Digest, lock::FileLock, process::ProcessId};
use microagent_guest_protocol::Output;
use microagent_supervisor_protocol::{
    ErrorBody, ErrorCode, Machine, MachineConfig, MachineState, Owner, Response, Restore,
};

use crate::{
    activity::Activity,
    backend::{Backend, Launch},
    bridge::Bridge,
    cgroup::Group,
    console::Sign,
    control::{self, Answer, Wish},
    dir::{CONTROL_SOCKET, MachineDir, SHIM_LOCK, VSOCK_SOCKET, host},
    disks,
    far::Far,
    guest::{self, Bound, Hello, Line, Waiting, Word},
    handover::{Boot, Ready},
    hear::Said,
    life::{Expected, Life},
    record::{FORMAT, Record},
    snapshot::Base,
    timers::{Timers, due},
};

/// Something that happened.
pub(crate) enum Signal {
    Console(Sign),
    VmmEnded(io::Result<ExitStatus>),
    HelperEnded(ProcessId, io::Result<ExitStatus>),
    Guest(Word),
    /// Guest-init could not be asked to shut down.
    Deaf,
    /// Answered when it is recorded.
    Wish(Wish, SyncSender<Answer>),
}

/// How many signals may wait. A guest that tells faster than is recorded waits itself.
const QUEUE: usize = 64;

/// How long a machine may run on after its connection was lost, or after its kernel panicked, before it is ended.
pub(crate) const LOST: Duration = Duration::from_secs(30);

/// Between two tries to reach a guest that should listen, or a VMM that should stand still or run.
pub(crate) const RETRY: Duration = Duration::from_secs(2);

/// How long a guest that listens may take to be configured, however late it came.
const CONFIGURE: Duration = Duration::from_secs(30);

/// What is in flight when the VMM ends has this long to arrive.
pub(crate) const IN_FLIGHT: Duration = Duration::from_millis(500);

/// How often, a second apart, the last record is tried: a full disk may get room.
const RECORD_TRIES: u32 = 60;

/// The shim's `main`.
pub(crate) fn main(backend: &impl Backend, dir: &Path) -> ExitCode {
    let mut ready = Ready::new();
    match begin(backend, dir, &mut ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ready.tell(&Response::error(error));
            ExitCode::FAILURE
        }
    }
}

fn begin(backend: &impl Backend, dir: &Path, ready: &mut Ready) -> Result<(), ErrorBody> {
    // Fails only for a group leader, which a process that `start` spawned is not.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    env::set_current_dir(dir).map_err(|e| host(&format!("cannot enter {}", dir.display()), &e))?;
    let boot: Boot = serde_json::from_reader(io::BufReader::new(io::stdin())).map_err(|e| {
        ErrorBody::new(ErrorCode::InvalidRequest, format!("the shim was started without a machine: {e}"))
    })?;
    let _lock = FileLock::try_exclusive(Path::new(SHIM_LOCK))
        .map_err(|e| ErrorBody::new(ErrorCode::MachineBusy, format!("a shim of this machine still runs: {e}")))?;
    let _disks = disks::hold(&boot.config)?;
    let mut shim = Shim::new(backend, boot)?;
    shim.dir.clean_sockets()?;
    shim.dir.clean_outputs()?;
    control::serve(Path::new(CONTROL_SOCKET), shim.sender.clone())
        .map_err(|e| host("cannot serve control.sock", &e))?;
    shim.bridge.serve(Path::new(VSOCK_SOCKET)).map_err(|e| host("cannot serve vsock.sock", &e))?;
    let result = shim.run(ready);
    let _ = shim.dir.clean_sockets();
    result
}

/// What the shim knows.
pub(crate) struct Shim<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) dir: MachineDir,
    pub(crate) config: MachineConfig,
    config_digest: String,
    pub(crate) launches: Vec<Launch>,
    own: ProcessId,
    pub(crate) life: Life,
    pub(crate) bridge: Bridge,
    activity: Activity,
    /// The way to the guest in the present launch.
    pub(crate) far: Far,
    /// Whether the end was asked for at once.
    pub(crate) killed: bool,
    /// Whether the CPUs stand still; not known when the VMM did not say what it did.
    pub(crate) paused: Option<bool>,
    /// What the record on disk says.
    saved: Option<Machine>,
    waiting: Waiting,
    /// What is expected of the guest, for a connection that replaces the first.
    outputs: Vec<Output>,
    /// The connection to the guest.
    pub(crate) line: Line,
    pub(crate) restore: Option<Restore>,
    /// The present launch.
    pub(crate) launch: Option<Launch>,
    /// The snapshot that was made last, and how many there were.
    pub(crate) last_snapshot: (Option<Base>, u32),
    pub(crate) sender: SyncSender<Signal>,
    signals: Receiver<Signal>,
    /// Wishes that are answered once they are recorded.
    pub(crate) unanswered: Vec<SyncSender<Answer>>,
    pub(crate) connection: Connection,
    /// Why the guest could not be reached the last time.
    pub(crate) refusal: Option<io::Error>,
    pub(crate) timers: Timers,
    pub(crate) vmm: Option<ProcessId>,
    pub(crate) helper: Option<ProcessId>,
    /// The control group of the present launch.
    pub(crate) group: Option<Group>,
    /// How the helper ended before its machine.
    helper_end: Option<String>,
    pub(crate) started: Instant,
    pub(crate) alive: bool,
    pub(crate) ended: Option<io::Result<ExitStatus>>,
}

/// The connection to guest-init.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    None,
    Open,
    Over,
}

impl<'a> Shim<'a> {
    fn new(backend: &'a dyn Backend, boot: Boot) -> Result<Self, ErrorBody> {
        let own = ProcessId::own().map_err(|e| host("cannot read /proc", &e))?;
        let encoded =
            serde_json::to_vec(&boot.config).map_err(|e| host("cannot encode the configuration", &e.into()))?;
        let (sender, signals) = sync_channel(QUEUE);
        let mut machine = Machine::bare(&boot.identity.uid, MachineState::Starting);
        machine.identity = Some(boot.identity);
        machine.owner = Some(Owner { pid: own.pid, start_time: own.start_time });
        let activity = Activity::begin().map_err(|e| host("cannot make the file activity", &e))?;
        let expected = Expected::of(&boot.guest);
        Ok(Self {
            backend,
            dir: MachineDir::new(&boot.machine_dir)?,
            config: boot.config,
            config_digest: Digest::of(&encoded).to_string(),
            launches: boot.launches,
            own,
            life: Life::new(machine, expected),
            bridge: Bridge::new(activity.clone()),
            activity,
            far: Far::Program,
            killed: false,
            paused: Some(false),
            saved: None,
            outputs: boot.guest.outputs.clone(),
            waiting: Arc::new(Mutex::new(Some(boot.guest))),
            line: Line::default(),
            restore: boot.restore,
            launch: None,
            last_snapshot: (None, 0),
            sender,
            signals,
            unanswered: Vec::new(),
            connection: Connection::None,
            refusal: None,
            timers: Timers::default(),
            vmm: None,
            helper: None,
            group: None,
            helper_end: None,
            started: Instant::now(),
            alive: false,
            ended: None,
        })
    }

    pub(crate) fn check_timers(&mut self, now: Instant, said: &Said) {
        if due(&mut self.timers.boot, now) && (!self.life.is_configured() || self.life.is_resuming()) {
            let refusal =
                self.refusal.as_ref().map_or_else(String::new, |e| format!("; its port could not be reached: {e}"));
            let message = format!("the guest was not ready {} ms after its start{refusal}", millis(now - self.started));
            self.life.fail(ErrorCode::GuestTimeout, message, &said.console.text());
            self.kill();
        }
        if due(&mut self.timers.connect, now) && self.connection == Connection::None {
            self.connection = Connection::Open;
            let activity = self.activity.clone();
            let hello = if self.life.is_resuming() {
                Hello::Resumed { seen: self.life.seen(), outputs: self.outputs.clone() }
            } else {
                Hello::Configure(Arc::clone(&self.waiting))
            };
            let hello = (hello, Arc::clone(&self.line));
            let outputs = Bound { machine_dir: self.dir.path().to_owned(), bytes: self.config.output_bytes };
            let tried = guest::connect(self.far, hello, self.config.log_bytes, outputs, activity, self.sender.clone());
            if let Err(e) = tried {
                eprintln!("cannot start a thread: {e}");
                self.connection = Connection::None;
                self.timers.connect = Some(now + RETRY);
            }
        }
        if due(&mut self.timers.power, now) {
            self.restore_power(now);
        }
        if due(&mut self.timers.bereft, now) && self.ended.is_none() {
            let status = self.helper_end.as_deref().unwrap_or("an unknown status");
            let message = format!("the program that serves the machine's vsock ended with {status}");
            if !self.life.is_done() {
                self.life.fail(ErrorCode::VmmFailed, message, &said.console.text());
            }
            self.kill();
        }
        if due(&mut self.timers.end, now) {
            if self.life.is_copying() {
                self.life.abandon_outputs("it was not copied out in time");
            } else if !self.life.is_done() {
                let message = "the guest's connection was lost, or its kernel panicked, and it did not end by itself";
                self.life.fail(ErrorCode::GuestProtocol, message, &said.console.text());
            }
            self.kill();
        }
    }

    /// Takes signals until the time, or until it is enough.
    pub(crate) fn take_until(&mut self, until: Instant, enough: impl Fn(&Self) -> bool) {
        while !enough(self) && self.wait(Some(until)) {}
    }

    /// Waits for a signal until the time; takes it and all others that wait. Gives whether there was one.
    pub(crate) fn wait(&mut self, until: Option<Instant>) -> bool {
        let first = match until {
            Some(at) => self.signals.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let Ok(first) = first else { return false };
        self.take(first);
        while let Ok(signal) = self.signals.try_recv() {
            self.take(signal);
        }
        true
    }

    fn take(&mut self, signal: Signal) {
        let now = Instant::now();
        match signal {
            Signal::VmmEnded(status) => self.ended = Some(status),
            // It may end with its VMM, whose own end then counts. One of an earlier launch is nobody's.
            Signal::HelperEnded(helper, status) if self.helper == Some(helper) => {
                self.helper_end = Some(status.map_or_else(|e| e.to_string(), |status| status.to_string()));
                self.timers.bereft = Some(now + IN_FLIGHT);
            }
            Signal::HelperEnded(..) => {}
            Signal::Console(Sign::Alive) => {
                self.alive = true;
                self.timers.silence = None;
                self.stage("console", now);
            }
            Signal::Console(Sign::Listening) => {
                self.stage("listening", now);
                self.timers.connect = Some(now);
                self.timers.boot = self.timers.boot.map(|at| at.max(now + CONFIGURE));
            }
            Signal::Console(Sign::Panic(line)) => {
                self.life.panicked(line);
                if !self.life.is_configured() {
                    self.timers.end_by(now + LOST);
                }
            }
            Signal::Guest(word) => self.take_word(word, now),
            Signal::Deaf => self.backend.press_power_button(),
            Signal::Wish(wish, answer) => self.take_wish(wish, answer, now),
        }
    }

    pub(crate) fn stage(&mut self, name: &str, now: Instant) {
        self.life.machine.timings.insert(name.to_owned(), millis(now - self.started));
    }

    pub(crate) fn kill(&self) {
        if let Some(Err(e)) = self.vmm.map(|vmm| vmm.signal(rustix::process::Signal::KILL)) {
            eprintln!("cannot end the VMM: {e}");
        }
    }

    pub(crate) fn save(&mut self) -> Result<(), ErrorBody> {
        if self.saved.as_ref() != Some(&self.life.machine) {
            let record = Record {
                format: FORMAT,
                machine: self.life.machine.clone(),
                config_digest: self.config_digest.clone(),
                shim: self.own,
                vmm: self.vmm,
                helper: self.helper,
            };
            record.save(&self.dir)?;
            self.saved = Some(record.machine);
        }
        for recorded in self.unanswered.drain(..) {
            let _ = recorded.try_send(Ok(()));
        }
        Ok(())
    }

    /// What cannot be recorded now is recorded with the next change.
    pub(crate) fn save_or_say(&mut self) {
        if let Err(e) = self.save() {
            eprintln!("{e}");
        }
    }

    pub(crate) fn save_last(&mut self) -> Result<(), ErrorBody> {
        self.vmm = None;
        for _ in 1..RECORD_TRIES {
            match self.save() {
                Ok(()) => return Ok(()),
                Err(e) => eprintln!("{e}"),
            }
            thread::sleep(Duration::from_secs(1));
        }
        self.save()
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
