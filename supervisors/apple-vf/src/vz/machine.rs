//! One machine of the framework, on a queue of its own.

use std::{
    io,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use block2::{DynBlock, RcBlock};
use dispatch2::{DispatchQueue, DispatchQueueAttr, DispatchRetained};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use objc2::{AnyThread, rc::Retained, runtime::ProtocolObject};
use objc2_foundation::NSError;
use objc2_virtualization::{
    VZVirtioSocketConnection, VZVirtioSocketDevice, VZVirtualMachine, VZVirtualMachineConfiguration,
    VZVirtualMachineState,
};

use super::{delegate::Delegate, words};
use crate::framework::{End, State, VirtualMachine};

/// How long the framework may take to start a machine: it starts those of a host one after the other.
const START: Duration = Duration::from_secs(30);

/// How long it may take for anything else.
const CHANGE: Duration = Duration::from_secs(3);

/// How long a guest may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A machine of the framework.
pub(super) struct AppleMachine {
    queue: DispatchRetained<DispatchQueue>,
    held: Arc<Held>,
}

/// What lives as long as the machine.
struct Held {
    machine: Retained<VZVirtualMachine>,
    /// The machine itself holds it weakly.
    _delegate: Retained<Delegate>,
}

// SAFETY: no message is sent to these objects but on the machine's queue: see `AppleMachine::on_queue`, the only one who reads them.
// Reference counts are atomic, and the last is given back by whichever thread ends this process.
unsafe impl Send for Held {}
// SAFETY: as above.
unsafe impl Sync for Held {}

impl Held {
    /// By a method, so that a closure captures all of this and not the machine alone, which is not `Send`.
    fn machine(&self) -> &VZVirtualMachine {
        &self.machine
    }
}

/// The block that is called when something is done.
type Completion = DynBlock<dyn Fn(*mut NSError)>;

impl AppleMachine {
    pub(super) fn new(
        configuration: &VZVirtualMachineConfiguration,
        told: std::sync::mpsc::Sender<End>,
    ) -> Result<Self, ErrorBody> {
        let queue = DispatchQueue::new("dev.microagent.machine", DispatchQueueAttr::SERIAL);
        // SAFETY: the configuration was validated, and is not changed while it is copied.
        let machine =
            unsafe { VZVirtualMachine::initWithConfiguration_queue(VZVirtualMachine::alloc(), configuration, &queue) };
        let delegate = Delegate::new(told);
        let this = Self { queue, held: Arc::new(Held { machine, _delegate: delegate.clone() }) };
        let held = DelegateOf(delegate);
        this.on_queue(CHANGE, move |machine| {
            let delegate = held;
            // SAFETY: the delegate lives as long as the machine.
            unsafe { machine.setDelegate(Some(ProtocolObject::from_ref(&*delegate.0))) };
        })
        .map_err(|why| ErrorBody::new(ErrorCode::VmmFailed, format!("Virtualization.framework: {why}")))?;
        Ok(this)
    }

    /// Runs this on the machine's queue, which is the only place where the machine may be spoken to.
    fn on_queue<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce(&VZVirtualMachine) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (answer, answered) = sync_channel(1);
        let held = Arc::clone(&self.held);
        self.queue.exec_async(move || {
            let _ = answer.send(work(held.machine()));
        });
        answered.recv_timeout(patience).map_err(|e| unanswered(e, patience))
    }

    /// Asks for something that the framework tells the end of.
    fn complete(
        &self,
        patience: Duration,
        ask: impl FnOnce(&VZVirtualMachine, &Completion) + Send + 'static,
    ) -> Result<(), String> {
        let until = Instant::now() + patience;
        let (done, answered) = channel();
        self.on_queue(patience, move |machine| {
            let block = RcBlock::new(move |error: *mut NSError| {
                // SAFETY: the framework gives no error, or one that lives through this call.
                let _ = done.send(unsafe { error.as_ref() }.map(words));
            });
            ask(machine, &block);
        })?;
        match answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(None) => Ok(()),
            Ok(Some(why)) => Err(why),
            Err(e) => Err(unanswered(e, patience)),
        }
    }
}

/// A delegate on its way to the machine's queue.
struct DelegateOf(Retained<Delegate>);

// SAFETY: it only sends on a channel, from wherever it is called.
unsafe impl Send for DelegateOf {}

fn unanswered(error: RecvTimeoutError, patience: Duration) -> String {
    match error {
        RecvTimeoutError::Timeout => format!("it does not answer within {patience:?}"),
        RecvTimeoutError::Disconnected => "it gave up the request".to_owned(),
    }
}

impl VirtualMachine for AppleMachine {
    fn state(&self) -> State {
        // SAFETY: on the queue.
        match self.on_queue(CHANGE, |machine| unsafe { machine.state() }) {
            Ok(VZVirtualMachineState::Stopped) => State::Stopped,
            Ok(VZVirtualMachineState::Running) => State::Running,
            Ok(VZVirtualMachineState::Paused) => State::Paused,
            Ok(VZVirtualMachineState::Error) => State::Failed,
            Ok(VZVirtualMachineState::Stopping) => State::Stopping,
            // What does not answer is busy; nothing here saves or restores.
            Ok(_) | Err(_) => State::Changing,
        }
    }

    fn start(&self) -> Result<(), String> {
        // SAFETY: on the queue; so are those below.
        self.complete(START, |machine, done| unsafe { machine.startWithCompletionHandler(done) })
    }

    fn pause(&self) -> Result<(), String> {
        self.complete(CHANGE, |machine, done| unsafe { machine.pauseWithCompletionHandler(done) })
    }

    fn resume(&self) -> Result<(), String> {
        self.complete(CHANGE, |machine, done| unsafe { machine.resumeWithCompletionHandler(done) })
    }

    fn request_stop(&self) -> Result<(), String> {
        self.on_queue(CHANGE, |machine| unsafe { machine.requestStopWithError() }.map_err(|e| words(&e)))?
    }

    fn stop(&self) -> Result<(), String> {
        self.complete(CHANGE, |machine, done| unsafe { machine.stopWithCompletionHandler(done) })
    }

    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let (done, answered) = channel();
        let asked = self.on_queue(CONNECT, move |machine| {
            let block = RcBlock::new(move |connection: *mut VZVirtioSocketConnection, error: *mut NSError| {
                // SAFETY: the framework gives a connection or an error, which live through this call.
                let _ = done.send(unsafe { taken(connection, error) });
            });
            // SAFETY: on the queue.
            let devices = unsafe { machine.socketDevices() };
            let device = devices.firstObject().and_then(|device| device.downcast::<VZVirtioSocketDevice>().ok());
            if let Some(device) = device {
                // SAFETY: on the queue.
                unsafe { device.connectToPort_completionHandler(port, &block) };
            }
        });
        asked.map_err(io::Error::other)?;
        match answered.recv_timeout(CONNECT) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the machine has no socket device")),
        }
    }
}

/// The connection as a stream of ours: the framework closes its own descriptor with the object.
unsafe fn taken(connection: *mut VZVirtioSocketConnection, error: *mut NSError) -> io::Result<UnixStream> {
    // SAFETY: the caller's.
    let Some(connection) = (unsafe { connection.as_ref() }) else {
        // SAFETY: the caller's.
        let why = unsafe { error.as_ref() }.map_or_else(String::new, words);
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, why));
    };
    // SAFETY: the connection, which owns the descriptor, lives through this function; one that was closed has the descriptor -1.
    let descriptor = match unsafe { connection.fileDescriptor() } {
        -1 => return Err(io::ErrorKind::ConnectionReset.into()),
        descriptor => unsafe { BorrowedFd::borrow_raw(descriptor) },
    };
    let stream = UnixStream::from(descriptor.try_clone_to_owned()?);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
