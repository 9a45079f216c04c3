//! The guest's vsock ports as a Unix socket, by the `CONNECT <port>` handshake.

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use microagent_shim::relay::{STACK, asked_port, both_ways};

use crate::framework::VirtualMachine;

/// How long a client may take to say where it wants to go. The only client is the shim.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections are carried at once: those that the shim carries, with room for its own.
const MAX_CONNECTIONS: usize = 512;

/// The connections to the guest. All copies are of one.
#[derive(Clone)]
pub(super) struct Relay {
    machine: Arc<dyn VirtualMachine>,
    count: Arc<(Mutex<Count>, Condvar)>,
}

#[derive(Default)]
struct Count {
    /// Connections.
    open: usize,
    /// Those whose guest may have more to say.
    speaking: usize,
}

impl Relay {
    pub(super) fn new(machine: Arc<dyn VirtualMachine>) -> Self {
        Self { machine, count: Arc::default() }
    }

    /// Serves the socket for as long as the process lives.
    pub(super) fn serve(&self, socket: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(socket)?;
        let relay = self.clone();
        thread::Builder::new().name("guest".to_owned()).stack_size(STACK).spawn(move || {
            for client in listener.incoming().flatten() {
                relay.accept(client);
            }
        })?;
        Ok(())
    }

    /// Waits until all that guests have said is with their clients, or the time is over. Gives whether it is so.
    pub(super) fn wait_until_heard(&self, patience: Duration) -> bool {
        let waited = self.count.1.wait_timeout_while(self.count(), patience, |count| count.speaking > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.speaking == 0
    }

    /// One that is too many is closed, which the handshake knows as refused.
    fn accept(&self, client: UnixStream) {
        if self.count().open >= MAX_CONNECTIONS {
            return;
        }
        self.count().open += 1;
        let relay = self.clone();
        let carried = thread::Builder::new().name("guest".to_owned()).stack_size(STACK).spawn(move || {
            let _ = relay.carry(&client);
            relay.count().open -= 1;
        });
        if carried.is_err() {
            self.count().open -= 1;
        }
    }

    /// Reads where the client wants to go, goes there, and copies both ways until both are done.
    fn carry(&self, client: &UnixStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let port = asked_port(&mut &*client)?;
        let guest = self.machine.connect(port)?;
        client.set_read_timeout(None)?;
        (&mut &*client).write_all(format!("OK {port}\n").as_bytes())?;
        self.count().speaking += 1;
        both_ways(client, &guest, &|| {}, || {
            self.count().speaking -= 1;
            self.count.1.notify_all();
        })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::State;
    use std::{
        io::Read,
        sync::mpsc::{Sender, channel},
    };

    /// A machine that gives its guests' ends away.
    struct Guests(Mutex<Sender<UnixStream>>);

    impl VirtualMachine for Guests {
        fn state(&self) -> State {
            State::Running
        }

        fn start(&self) -> Result<(), String> {
            Ok(())
        }

        fn pause(&self) -> Result<(), String> {
            Ok(())
        }

        fn resume(&self) -> Result<(), String> {
            Ok(())
        }

        fn request_stop(&self) -> Result<(), String> {
            Ok(())
        }

        fn stop(&self) -> Result<(), String> {
            Ok(())
        }

        fn connect(&self, port: u32) -> io::Result<UnixStream> {
            if port != 1024 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = UnixStream::pair()?;
            self.0.lock().unwrap().send(theirs).unwrap();
            Ok(ours)
        }
    }

    #[test]
    fn what_a_guest_said_last_is_heard_before_the_end_although_its_clients_stay() {
        let (sender, guests) = channel();
        let relay = Relay::new(Arc::new(Guests(Mutex::new(sender))));
        assert!(relay.wait_until_heard(Duration::ZERO), "nobody speaks");
        let (mut client, theirs) = UnixStream::pair().unwrap();
        relay.accept(theirs);
        client.write_all(b"CONNECT 1024\n").unwrap();
        let mut guest = guests.recv().unwrap();
        let mut answer = [0; 8];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"OK 1024\n");
        // The guest sends before it is waited for, so it counts as speaking.
        guest.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert!(!relay.wait_until_heard(Duration::from_millis(1)));
        let last = vec![b'y'; 1 << 20];
        let sent = last.clone();
        let speaking = thread::spawn(move || guest.write_all(&sent).unwrap());
        let waiting = thread::spawn(move || relay.wait_until_heard(Duration::from_secs(60)));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        speaking.join().unwrap();
        assert!(heard == last && waiting.join().unwrap());
    }

    #[test]
    fn a_port_where_nothing_listens_closes_the_connection_without_an_answer() {
        let (sender, _guests) = channel();
        let relay = Relay::new(Arc::new(Guests(Mutex::new(sender))));
        let (mut client, theirs) = UnixStream::pair().unwrap();
        relay.accept(theirs);
        client.write_all(b"CONNECT 9\n").unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
