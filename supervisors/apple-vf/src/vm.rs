//! The VMM: a process of its own for each machine, in the machine's directory.

mod power;
mod relay;

use std::{
    fs, io,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use microagent_base::process::ProcessId;
use microagent_shim::GUEST_SOCKET;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};

use crate::{
    control::{self, Request, SOCKET},
    framework::{End, Framework, VirtualMachine},
    machine::Machine,
};
use power::Wish;
use relay::Relay;

/// How long the shim may take to say what the machine is: it does so as soon as the socket is there.
const CONFIGURED: Duration = Duration::from_secs(60);

/// The socket's name until it takes connections. Like all that end so, it goes with the machine.
const NEW_SOCKET: &str = "vm.new.sock";

/// How long what a guest said last may take to reach its clients. The framework closes the guest's ends with the machine.
const IN_FLIGHT: Duration = Duration::from_millis(500);

/// Between two looks at an owner that lives. Its end is heard of at once; this only bounds one wait.
const OWNER: Duration = Duration::from_secs(3600);

/// The stack of a thread that only waits, in bytes.
const STACK: usize = 64 * 1024;

/// Why this process ends.
enum Over {
    Machine(End),
    Owner,
}

/// The VMM's `main`.
pub(crate) fn main(framework: &'static dyn Framework) -> ExitCode {
    if let Err(lacking) = framework.host().suits() {
        eprintln!("{lacking}");
        return ExitCode::FAILURE;
    }
    let listener = match listen() {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("cannot serve {SOCKET}: {e}");
            return ExitCode::FAILURE;
        }
    };
    let (told, over) = channel();
    let vmm = Arc::new(Vmm { framework, told, machine: Mutex::new(None), relay: OnceLock::new() });
    let serving = Arc::clone(&vmm);
    let served = thread::Builder::new().name("control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            serving.serve(&stream);
        }
    });
    if let Err(e) = served {
        eprintln!("cannot start a thread: {e}");
        return ExitCode::FAILURE;
    }
    let first = match over.recv_timeout(CONFIGURED) {
        Err(RecvTimeoutError::Timeout) if vmm.lock().is_none() => {
            eprintln!("nobody said within {CONFIGURED:?} what the machine is");
            return ExitCode::FAILURE;
        }
        Err(RecvTimeoutError::Timeout) => over.recv().ok(),
        first => first.ok(),
    };
    match first {
        Some(Over::Machine(End::GuestStopped)) => {
            // What the guest said last is on its way still.
            let _ = vmm.relay.get().map(|relay| relay.wait_until_heard(IN_FLIGHT));
            ExitCode::SUCCESS
        }
        Some(Over::Machine(End::Failed(why))) => {
            eprintln!("Virtualization.framework ended the machine: {why}");
            ExitCode::FAILURE
        }
        Some(Over::Owner) | None => {
            // The framework ends it with this process in any case, also one that is just being started.
            if let Ok(Some(machine)) = vmm.machine.try_lock().as_deref() {
                let _ = machine.stop();
            }
            eprintln!("the machine's owner has ended, and the machine with it");
            ExitCode::FAILURE
        }
    }
}

/// Makes the socket. It is there under its name once it takes connections: the shim, who waits for it, connects at once.
fn listen() -> io::Result<UnixListener> {
    let listener = UnixListener::bind(NEW_SOCKET)?;
    fs::rename(NEW_SOCKET, SOCKET)?;
    Ok(listener)
}

struct Vmm {
    framework: &'static dyn Framework,
    told: Sender<Over>,
    machine: Mutex<Option<Arc<dyn VirtualMachine>>>,
    relay: OnceLock<Relay>,
}

impl Vmm {
    fn serve(&self, stream: &UnixStream) {
        if let Err(e) = control::answer(stream, |request| self.carry_out(request)) {
            eprintln!("a request is not answered: {e}");
        }
    }

    fn carry_out(&self, request: Request) -> Result<(), ErrorBody> {
        let wish = match request {
            Request::Boot { owner, machine } => return self.boot(owner, &machine),
            Request::Pause => Wish::StandStill,
            Request::Resume => Wish::Run,
            Request::PressPowerButton => Wish::PressButton,
        };
        let machine = self.lock().clone();
        let Some(machine) = machine else {
            return Err(ErrorBody::new(ErrorCode::MachineNotRunning, "the VMM was not told what its machine is"));
        };
        power::carry_out(machine.as_ref(), wish)
            .map_err(|why| ErrorBody::new(ErrorCode::VmmFailed, format!("Virtualization.framework: {why}")))
    }

    fn boot(&self, owner: ProcessId, machine: &Machine) -> Result<(), ErrorBody> {
        let mut here = self.lock();
        if here.is_some() {
            return Err(ErrorBody::new(ErrorCode::InvalidRequest, "the VMM has a machine already"));
        }
        let failed =
            |what: &str, why: &dyn std::fmt::Display| ErrorBody::new(ErrorCode::VmmFailed, format!("{what}: {why}"));
        self.end_with(owner).map_err(|e| failed("cannot watch the machine's owner", &e))?;
        let (sender, ends) = channel();
        let created: Arc<dyn VirtualMachine> = self.framework.create(machine, sender)?.into();
        let told = self.told.clone();
        let heard = thread::Builder::new().name("end".to_owned()).stack_size(STACK).spawn(move || {
            if let Ok(end) = ends.recv() {
                let _ = told.send(Over::Machine(end));
            }
        });
        heard.map_err(|e| failed("cannot start a thread", &e))?;
        // Who is answered that the machine runs finds the socket.
        let relay = Relay::new(Arc::clone(&created));
        relay.serve(Path::new(GUEST_SOCKET)).map_err(|e| failed("cannot serve guest.sock", &e))?;
        let _ = self.relay.set(relay);
        *here = Some(Arc::clone(&created));
        created.start().map_err(|why| failed("Virtualization.framework does not start the machine", &why))
    }

    /// Has this process end with its owner, however that ends.
    fn end_with(&self, owner: ProcessId) -> io::Result<()> {
        let told = self.told.clone();
        thread::Builder::new().name("owner".to_owned()).stack_size(STACK).spawn(move || {
            loop {
                match owner.wait_gone(OWNER) {
                    Ok(false) => {}
                    Ok(true) => break,
                    Err(e) => {
                        eprintln!("cannot watch process {}: {e}", owner.pid);
                        break;
                    }
                }
            }
            let _ = told.send(Over::Owner);
        })?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn VirtualMachine>>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
