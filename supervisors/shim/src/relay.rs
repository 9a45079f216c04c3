//! Carrying bytes between a client and a guest, once the client has said where it wants to go.

#[cfg(target_os = "linux")]
#[path = "relay/linux.rs"]
mod platform;
#[cfg(target_os = "macos")]
#[path = "relay/macos.rs"]
mod platform;

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
};

/// The longest `CONNECT` line, in bytes: the word, a 32-bit number, and the line's end, with room.
const MAX_LINE: usize = 32;

/// How much is carried at once, in bytes: the most that a frame of the guest holds.
const CHUNK: usize = 64 * 1024;

/// The stack that is enough for a thread that carries, in bytes: nothing deep happens on it but the buffer.
pub const STACK: usize = 256 * 1024;

/// Reads the line `CONNECT <port>`, and nothing behind it.
///
/// # Errors
/// Those of the stream; `InvalidData` for another line.
pub fn asked_port(client: &mut impl Read) -> io::Result<u32> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let port = std::str::from_utf8(&line).ok().and_then(|l| l.strip_prefix("CONNECT ")?.trim_end().parse().ok());
    port.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Copies both ways until both are done. An end of one way is carried over and leaves the other way open; a client that left takes the
/// guest's end with it. `note` is told of each piece that comes, and `heard` when the guest has said its last.
///
/// # Errors
/// When there is no other thread to be had.
pub fn both_ways(
    client: &UnixStream,
    guest: &UnixStream,
    note: &(impl Fn() + Sync),
    heard: impl FnOnce(),
) -> io::Result<()> {
    thread::scope(|scope| {
        let up = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
            copy(client, guest, note);
            // A client that only has no more to say waits for the answer; one that left does not.
            platform::wait_for_hang_up(client);
            let _ = guest.shutdown(Shutdown::Both);
        });
        if up.is_ok() {
            copy(guest, client, note);
        }
        heard();
        up.map(drop)
    })
}

fn copy(mut from: &UnixStream, mut to: &UnixStream, note: &impl Fn()) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                note();
                if to.write_all(&chunk[..n]).is_err() {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_connect_line_is_refused() {
        for line in ["CONNECT x\n", "CONNECT 99999999999\n", "GET / HTTP/1.1 and so on and so forth\n", "CONNECT 1"] {
            assert!(asked_port(&mut line.as_bytes()).is_err(), "{line}");
        }
    }
}
