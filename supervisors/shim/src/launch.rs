//! The launches of a machine, from the first program that is started to the end of its VMM.

use std::{
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_base::{durable, process::ProcessId};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineState, Response};

use crate::{
    backend::{Launch, Program},
    cgroup::Groups,
    dir::{GUEST_SOCKET, VSOCK_SOCKET, durable_error},
    far::Far,
    handover::Ready,
    hear::{self, Said},
    life::VmmEnd,
    run::{Connection, IN_FLIGHT, Shim, Signal, millis},
    snapshot::{self, Found},
    timers::{Timers, due},
    vmm,
};

/// How long the last output may take to reach the disk once the machine has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(30);

/// How a launch ended.
enum Outcome {
    Ended(VmmEnd),
    Silent(String),
}

impl Shim<'_> {
    /// Launches the machine, the best way first, and stays with it until its end is recorded.
    pub(crate) fn run(&mut self, ready: &mut Ready) -> Result<(), ErrorBody> {
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
            durable::remove_file(Path::new(socket)).map_err(|e| durable_error(&e))?;
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
        let groups = Groups::of_host();
        self.group = launch.limits.map(|limits| groups.group(&self.life.machine.uid, limits)).transpose()?;
        if let Some(program) = &launch.helper {
            let mut child = self.spawn(program, Stdio::null())?;
            let said = hear::helper(&mut child)?;
            vmm::await_socket(&mut child, program).map_err(|e| e.with_details(said()))?;
            self.follow_helper(child)?;
        }
        let mut child = self.spawn(&launch.vmm, Stdio::piped())?;
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
        if self.group.take().is_some()
            && let Err(error) = Groups::of_host().remove(&self.life.machine.uid)
        {
            // `delete` tries it again.
            eprintln!("{error}");
        }
        if matches!(outcome, Outcome::Ended(_)) {
            // What the helper had taken from the guest is in the socket's buffer still; and a large output takes its time to reach
            // the disk.
            let patience = if self.life.is_copying() && !self.killed { LAST_OUTPUT } else { IN_FLIGHT };
            self.take_until(Instant::now() + patience, |shim| shim.connection != Connection::Open);
        }
        Ok(outcome)
    }

    /// Starts a program of the machine, in the machine's control group where it has one.
    fn spawn(&self, program: &Program, stdout: Stdio) -> Result<Child, ErrorBody> {
        let mut child = vmm::spawn(program, stdout)?;
        if let Some(Err(error)) = self.group.as_ref().map(|group| group.take(child.id())) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(child)
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
        let status = match &self.group {
            Some(group) if group.ran_out_of_memory() => {
                format!("{status} (the kernel ended it: it took more memory than its control group may)")
            }
            _ => status,
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
}
