//! The guest's vsock ports as a Unix socket, by the `CONNECT <port>` handshake.

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use microagent_shim::relay::{STACK, asked_port, both_ways};

use crate::framework::VirtualMachine;

/// How long a client may take to say where it wants to go. The only client is the shim.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections are carried at once: those that the shim carries, with room for its own.
const MAX_CONNECTIONS: usize = 512;

/// Serves the socket for as long as the process lives.
pub(super) fn serve(socket: &Path, machine: Arc<dyn VirtualMachine>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::Builder::new().name("guest".to_owned()).stack_size(STACK).spawn(move || {
        let open = Arc::new(AtomicUsize::new(0));
        for client in listener.incoming().flatten() {
            // One that is too many is closed, which the handshake knows as refused.
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (machine, counted) = (Arc::clone(&machine), Arc::clone(&open));
            let carried = thread::Builder::new().name("guest".to_owned()).stack_size(STACK).spawn(move || {
                let _ = carry(&client, machine.as_ref());
                counted.fetch_sub(1, Ordering::Relaxed);
            });
            if carried.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })?;
    Ok(())
}

/// Reads where the client wants to go, goes there, and copies both ways until both are done.
fn carry(client: &UnixStream, machine: &dyn VirtualMachine) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let port = asked_port(&mut &*client)?;
    let guest = machine.connect(port)?;
    client.set_read_timeout(None)?;
    (&mut &*client).write_all(format!("OK {port}\n").as_bytes())?;
    both_ways(client, &guest, &|| {})
}
