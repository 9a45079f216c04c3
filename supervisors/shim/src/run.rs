//! The shim: the process that owns one machine from its start to its end.

use std::{
    env,
    io::{self},
    path::Path,
    process::{Child, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_base::{Digest, durable, lock::FileLock, process::ProcessId};
use microagent_guest_protocol::Output;
use microagent_supervisor_protocol::{
    ErrorBody, ErrorCode, Machine, MachineConfig, MachineState, Owner, Response, Restore,
};

use crate::{
    activity::Activity,
    backend::{Backend, Launch},
    bridge::Bridge,
    console::Sign,
    control::{self, Answer, Wish},
    dir::{CONTROL_SOCKET, GUEST_SOCKET, MachineDir, SHIM_LOCK, VSOCK_SOCKET, host},
    disks,
    far::Far,
    guest::{self, Bound, Hello, Line, Waiting, Word},
    handover::{Boot, Ready},
    hear::{self, Said},
    life::{Expected, Life, VmmEnd},
    record::{FORMAT, Record},
    snapshot::{self, Base, Found},
    timers::{Timers, due},
    vmm,
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

/// How long the last output may take to reach the disk once the machine has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(30);

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
    dir: MachineDir,
    pub(crate) config: MachineConfig,
    config_digest: String,
    launches: Vec<Launch>,
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
    restore: Option<Restore>,
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
    helper: Option<ProcessId>,
    /// How the helper ended before its machine.
    helper_end: Option<String>,
    started: Instant,
    alive: bool,
    ended: Option<io::Result<ExitStatus>>,
}

/// The connection to guest-init.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    None,
    Open,
    Over,
}

/// How a launch ended.
enum Outcome {
    Ended(VmmEnd),
    Silent(String),
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
            helper_end: None,
            started: Instant::now(),
            alive: false,
            ended: None,
        })
    }

    fn run(&mut self, ready: &mut Ready) -> Result<(), ErrorBody> {
        let backend = self.backend;
        let launches = std::mem::take(&mut self.launches);
        let mut given_up: Option<(&Launch, String)> = None;
        for (n, launch) in launches.iter().enumerate() {
            let last = n + 1 == launches.len();
            let why = given_up.as_ref().map(|(_, why)| why.clone());
            let mut verdict = || {
                if let Some((launch, why)) = given_up.take() {
                    backend.gave_up(launch, &why);
                }
            };
            match self.launch(launch, why, last, ready, &mut verdict)? {
                Outcome::Ended(end) => {
                    self.life.end(&end, Timestamp::now());
                    return self.save_last();
                }
                Outcome::Silent(why) => {
                    eprintln!("{:?} is given up: {why}", launch.accelerator);
                    given_up = Some((launch, why));
                }
            }
        }
        Err(ErrorBody::new(ErrorCode::Host, "there is no way to launch the machine"))
    }

    fn launch(
        &mut self,
        launch: &Launch,
        given_up: Option<String>,
        last: bool,
        ready: &mut Ready,
        alive: &mut dyn FnMut(),
    ) -> Result<Outcome, ErrorBody> {
        let sockets = launch.helper.as_ref().and_then(|h| h.socket.as_deref()).into_iter().chain([GUEST_SOCKET]);
        for socket in sockets {
            durable::remove_file(Path::new(socket)).map_err(|e| crate::dir::durable_error(&e))?;
        }
        let found = self.restore.as_ref().map(|restore| snapshot::find(&restore.dir)).transpose()?;
        if let Some(found) = &found {
            found.check(&snapshot::facts(self.backend, launch, &self.config)?)?;
        }
        self.backend.prepare(launch, &self.config)?;
        if let Some(found) = &found {
            self.backend.prepare_restore(launch, &self.config, &found.chain)?;
            self.life.take_up(found.progress.clone());
        }
        if let Some(program) = &launch.helper {
            let mut child = vmm::spawn(program, Stdio::null())?;
            let said = hear::helper(&mut child)?;
            vmm::await_socket(&mut child, program).map_err(|e| e.with_details(said()))?;
            self.follow_helper(child)?;
        }
        let mut child = vmm::spawn(&launch.vmm, Stdio::piped())?;
        let vmm = vmm::identity(&child)?;
        let said = hear::vmm(&mut child, launch, self.config.log_bytes, &self.sender)?;
        self.begin_launch(launch, given_up, last, vmm);
        if let Err(error) = self.configure(launch, &mut child, found.as_ref()) {
            let _ = child.kill();
            let _ = child.wait();
            said.wait();
            return Err(error.with_details(said.last_words()));
        }
        self.save()?;
        ready.tell(&Response::machine(self.life.machine.clone()));
        let sender = self.sender.clone();
        hear::spawn_thread("vmm", move || {
            let _ = sender.send(Signal::VmmEnded(child.wait()));
        })?;
        let outcome = self.supervise(&said, last, alive);
        if let Some(Err(e)) = self.helper.take().map(|helper| helper.signal(rustix::process::Signal::KILL)) {
            eprintln!("cannot end the program that serves vsock: {e}");
        }
        if matches!(outcome, Outcome::Ended(_)) {
            // What the helper had taken from the guest is in the socket's buffer still; and a large output takes its time to reach
            // the disk.
            let patience = if self.life.is_copying() && !self.killed { LAST_OUTPUT } else { IN_FLIGHT };
            self.take_until(Instant::now() + patience, |shim| shim.connection != Connection::Open);
        }
        Ok(outcome)
    }

    /// Hears of the helper's end. Without it the guest cannot be reached any more, so its machine is none.
    fn follow_helper(&mut self, mut child: Child) -> Result<(), ErrorBody> {
        let helper = vmm::identity(&child)?;
        self.helper = Some(helper);
        let sender = self.sender.clone();
        hear::spawn_thread("helper", move || {
            let _ = sender.send(Signal::HelperEnded(helper, child.wait()));
        })
    }

    /// Tells the VMM what its machine is.
    fn configure(&self, launch: &Launch, child: &mut Child, found: Option<&Found>) -> Result<(), ErrorBody> {
        vmm::await_socket(child, &launch.vmm)?;
        match found {
            Some(found) => self.backend.restore(launch, &self.config, &found.chain),
            None => self.backend.configure(launch, &self.config),
        }
    }

    fn begin_launch(&mut self, launch: &Launch, given_up: Option<String>, last: bool, vmm: ProcessId) {
        let now = Instant::now();
        let machine = &mut self.life.machine;
        if given_up.is_some() {
            machine.timings.insert("givenUp".to_owned(), millis(now - self.started));
        }
        machine.accelerator = Some(launch.accelerator);
        machine.accelerator_reason = given_up.or_else(|| launch.accelerator_reason.clone());
        machine.vsock = Some(self.dir.join(VSOCK_SOCKET));
        machine.started_at = Some(Timestamp::now());
        self.launch = Some(launch.clone());
        self.far = Far::of(launch);
        self.bridge.lead_to(self.far);
        self.started = now;
        self.vmm = Some(vmm);
        self.alive = false;
        self.ended = None;
        let boot = Duration::from_millis(self.config.boot_timeout_ms);
        self.timers.silence = launch.silence_ms.filter(|_| !last).map(|ms| now + Duration::from_millis(ms));
        self.timers.boot = Some(now + boot);
        // The console tells when the guest listens; this is for kernels whose console says nothing.
        self.timers.connect = Some(now + if self.life.is_resuming() { Duration::ZERO } else { boot / 2 });
    }

    /// Runs until the VMM has ended. `alive` is told after the first sign of life.
    fn supervise(&mut self, said: &Said, last: bool, alive: &mut dyn FnMut()) -> Outcome {
        let mut silent = None;
        while self.ended.is_none() {
            self.wait(self.timers.next());
            let now = Instant::now();
            if due(&mut self.timers.silence, now) && !self.alive {
                silent = Some(format!("its console was silent for {} ms", millis(now - self.started)));
                self.kill();
            }
            self.check_timers(now, said);
            self.save_or_say();
            if self.alive {
                alive();
            }
        }
        self.timers = Timers::default();
        said.wait();
        // The console's last words came before its end.
        self.take_until(Instant::now(), |_| false);
        let (success, status) = match self.ended.take() {
            Some(Ok(status)) => (status.success(), status.to_string()),
            Some(Err(e)) => (false, e.to_string()),
            None => (false, "an unknown status".to_owned()),
        };
        let wished = self.life.machine.state == MachineState::Halting;
        if !wished && silent.is_none() && !last && !self.alive {
            silent = Some(format!("the VMM ended with {status} before its first word: {}", said.stderr.text()));
        }
        match silent {
            Some(why) if !wished => Outcome::Silent(why),
            _ => Outcome::Ended(VmmEnd { success, status, stderr: said.stderr.text(), console: said.console.text() }),
        }
    }

    fn check_timers(&mut self, now: Instant, said: &Said) {
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
    fn take_until(&mut self, until: Instant, enough: impl Fn(&Self) -> bool) {
        while !enough(self) && self.wait(Some(until)) {}
    }

    /// Waits for a signal until the time; takes it and all others that wait. Gives whether there was one.
    fn wait(&mut self, until: Option<Instant>) -> bool {
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

    fn save(&mut self) -> Result<(), ErrorBody> {
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
    fn save_or_say(&mut self) {
        if let Err(e) = self.save() {
            eprintln!("{e}");
        }
    }

    fn save_last(&mut self) -> Result<(), ErrorBody> {
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
