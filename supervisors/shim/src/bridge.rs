//! The `CONNECT <port>` handshake, served by the shim: the only way from the host to the guest's vsock ports, so that it can be
//! cut.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::{activity::Activity, far::Far, relay};

/// How long a client may take to say where it wants to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections are carried at once.
const MAX_CONNECTIONS: usize = 256;

/// The stack of each thread, in bytes.
const STACK: usize = relay::STACK;

/// The socket for clients. All copies are of one.
#[derive(Clone)]
pub(crate) struct Bridge {
    state: Arc<Mutex<State>>,
    activity: Activity,
}

#[derive(Default)]
struct State {
    far: Option<Far>,
    /// New connections are closed at once.
    closed: bool,
    next: u64,
    /// Both ends of each connection; the guest's once it is there.
    open: BTreeMap<u64, Link>,
}

struct Link {
    client: UnixStream,
    guest: Option<UnixStream>,
}

impl Bridge {
    pub(crate) fn new(activity: Activity) -> Self {
        Self { state: Arc::default(), activity }
    }

    /// Serves the socket for as long as the process lives.
    pub(crate) fn serve(&self, socket: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(socket)?;
        let bridge = self.clone();
        thread::Builder::new().name("vsock".to_owned()).stack_size(STACK).spawn(move || {
            for client in listener.incoming().flatten() {
                bridge.accept(client);
            }
        })?;
        Ok(())
    }

    /// Where connections lead from now on.
    pub(crate) fn lead_to(&self, far: Far) {
        self.lock().far = Some(far);
    }

    /// Closes each new connection at once until [`Self::join`]; those that there are stay.
    pub(crate) fn hold(&self) {
        self.lock().closed = true;
    }

    /// Closes every connection, and each new one at once, until [`Self::join`].
    pub(crate) fn cut(&self) {
        let mut state = self.lock();
        state.closed = true;
        for link in std::mem::take(&mut state.open).into_values() {
            let _ = link.client.shutdown(Shutdown::Both);
            let _ = link.guest.map(|guest| guest.shutdown(Shutdown::Both));
        }
    }

    /// Takes connections again.
    pub(crate) fn join(&self) {
        self.lock().closed = false;
    }

    fn accept(&self, client: UnixStream) {
        let Some((number, far)) = self.register(&client) else { return };
        let bridge = self.clone();
        let carried = thread::Builder::new().name("vsock".to_owned()).stack_size(STACK).spawn(move || {
            let _ = bridge.carry(number, &client, |port| far.connect(port));
            bridge.lock().open.remove(&number);
        });
        if carried.is_err() {
            self.lock().open.remove(&number);
        }
    }

    /// A number for the client, and where it is led to; `None` when it is to be closed.
    fn register(&self, client: &UnixStream) -> Option<(u64, Far)> {
        let mut state = self.lock();
        if state.closed || state.open.len() >= MAX_CONNECTIONS {
            return None;
        }
        let far = state.far?;
        let link = Link { client: client.try_clone().ok()?, guest: None };
        let number = state.next;
        state.next += 1;
        state.open.insert(number, link);
        Some((number, far))
    }

    /// Reads where the client wants to go, goes there, and copies both ways until both are done.
    fn carry(
        &self,
        number: u64,
        client: &UnixStream,
        connect: impl Fn(u32) -> io::Result<UnixStream>,
    ) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let port = relay::asked_port(&mut &*client)?;
        let guest = connect(port)?;
        match self.lock().open.get_mut(&number) {
            Some(link) => link.guest = Some(guest.try_clone()?),
            // Cut meanwhile.
            None => return Ok(()),
        }
        client.set_read_timeout(None)?;
        (&mut &*client).write_all(format!("OK {port}\n").as_bytes())?;
        relay::both_ways(client, &guest, &|| self.activity.note(), || {})
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A client, the guest it is led to, and the thread that carries between them.
    fn carried(bridge: &Bridge) -> (UnixStream, UnixStream, thread::JoinHandle<()>) {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (far, guest) = UnixStream::pair().unwrap();
        let (number, _) = bridge.register(&ours).unwrap();
        let carrying = bridge.clone();
        let far = Mutex::new(Some(far));
        let thread = thread::spawn(move || {
            carrying
                .carry(number, &ours, |port| {
                    assert_eq!(port, 1024);
                    Ok(far.lock().unwrap().take().unwrap())
                })
                .unwrap();
        });
        client.write_all(b"CONNECT 1024\n").unwrap();
        let mut answer = [0; 8];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"OK 1024\n");
        (client, guest, thread)
    }

    fn bridge() -> Bridge {
        let bridge = Bridge::new(Activity::nowhere());
        bridge.lead_to(Far::Program);
        bridge
    }

    #[test]
    fn a_client_is_led_to_the_port_it_asked_for_and_bytes_go_both_ways() {
        let (mut client, mut guest, thread) = carried(&bridge());
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        guest.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        guest.write_all(b"there").unwrap();
        guest.shutdown(Shutdown::Both).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "there");
        thread.join().unwrap();
    }

    #[test]
    fn a_client_that_leaves_is_noticed_even_when_the_guest_keeps_its_side_open() {
        let (client, _guest, thread) = carried(&bridge());
        drop(client);
        thread.join().unwrap();
    }

    #[test]
    fn a_cut_closes_what_is_open_and_what_comes_until_it_is_joined_again() {
        let bridge = bridge();
        let (client, guest, thread) = carried(&bridge);
        let (waiting, theirs) = UnixStream::pair().unwrap();
        bridge.register(&theirs).unwrap();
        bridge.cut();
        for stream in [&client, &guest, &waiting] {
            assert_eq!((&mut &*stream).read(&mut [0]).unwrap(), 0);
        }
        thread.join().unwrap();
        assert!(bridge.register(&theirs).is_none());
        bridge.join();
        let (mut again, mut guest, _thread) = carried(&bridge);
        again.write_all(b"x").unwrap();
        assert_eq!(guest.read(&mut [0]).unwrap(), 1);
    }
}
