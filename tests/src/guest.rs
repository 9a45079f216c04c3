//! A guest without a machine: it speaks guest-init's part of the protocol, for VMMs that are stand-ins.
//!
//! The mode says what becomes of the guest:
//!
//! | mode | the guest |
//! |---|---|
//! | `stay` | runs until it is asked to shut down |
//! | `deaf` | hears nothing after its configuration |
//! | `stubborn` | says that it shuts down, and does not |
//! | `workload`, `kvmless` | says a few lines, ends with 7, and powers off |
//! | `echo` | gives back what each client says |
//! | `healthy` | has a health probe with an opinion |
//! | `garbage`, `huge`, `disorder` | breaks the protocol |
//! | `outputs-…`, `stay-outputs` | copies out `a` and `b`, in one way or another |

#![expect(clippy::unwrap_used, clippy::panic, reason = "a stand-in fails its test by panicking")]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use microagent_guest_protocol::{
    CONTROL_PORT, Event, Exit, Request, ShutdownReply,
    frame::{self, Kind},
};

/// What the guest has of its machine.
pub struct Machine<'a> {
    /// The next connection to the guest's control port, past the handshake.
    pub accept: &'a dyn Fn() -> UnixStream,
    /// Ends the machine.
    pub power_off: Arc<dyn Fn() + Send + Sync>,
}

/// Reads where a host's connection wants to go and, where it is the control port, answers that it got there; gives `None` where it is
/// another one.
///
/// # Errors
/// Those of the connection.
pub fn connected(stream: &UnixStream) -> io::Result<Option<UnixStream>> {
    let mut stream = stream.try_clone()?;
    let mut line = String::new();
    // One line is all that the host says before it is answered.
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    if line != format!("CONNECT {CONTROL_PORT}\n") {
        return Ok(None);
    }
    stream.write_all(b"OK 1073741824\n")?;
    Ok(Some(stream))
}

/// Lives until the end of the guest.
///
/// # Panics
/// When the host breaks the protocol.
pub fn live(mode: &str, machine: &Machine<'_>) {
    let mut configured = (machine.accept)();
    let Request::Configure(config) = frame::read_message(&mut configured).unwrap() else { panic!("not configured") };
    assert!(config.realtime_ns > 1_700_000_000_000_000_000, "the clock is refreshed when it is sent");
    match mode {
        "garbage" => configured.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap(),
        "huge" => configured.write_all(&[0, 255, 255, 255, 255]).unwrap(),
        "disorder" => tell(&mut configured, &Event::WorkloadExited { exit: Exit::code(0), at_ms: 1 }),
        _ => {
            tell(&mut configured, &Event::Configured { init_ms: 1, listening_ms: 2, at_ms: 3 });
            tell(&mut configured, &Event::Mounted { at_ms: 4 });
            tell(&mut configured, &Event::WorkloadStarted { pid: 9, at_ms: 5 });
        }
    }
    go_on(mode, machine, configured);
}

/// Goes on where a snapshot left the guest, once it is asked to.
///
/// # Panics
/// When the host breaks the protocol.
pub fn resume(mode: &str, machine: &Machine<'_>) {
    let configured = loop {
        let mut stream = (machine.accept)();
        if let Ok(request @ Request::Resumed { .. }) = frame::read_message(&mut stream) {
            resumed(&mut stream, &request);
            break stream;
        }
    };
    go_on(mode, machine, configured);
}

/// Answers a host that says that the guest goes on.
fn resumed(stream: &mut UnixStream, request: &Request) {
    let Request::Resumed { realtime_ns, seed, seen } = request else { panic!("not a resumption") };
    assert!(*realtime_ns > 1_700_000_000_000_000_000, "the clock is refreshed");
    assert_eq!(seed.len(), 32, "so are the random numbers");
    assert!(seed.iter().any(|byte| *byte != seed[0]));
    println!("the guest goes on; the host has heard {seen} events\r");
    tell(stream, &Event::Resumed { at_ms: 7 });
}

/// What is left of a guest's life once its workload runs.
fn go_on(mode: &str, machine: &Machine<'_>, mut configured: UnixStream) {
    if mode == "healthy" {
        let health = |healthy, message: &str| Event::Health { healthy, message: message.to_owned(), at_ms: 6 };
        tell(&mut configured, &health(false, "HTTP status 503"));
        // Flips faster than any probe can.
        for n in 0..4 {
            tell(&mut configured, &health(n % 2 == 0, &format!("probe {n}\n")));
        }
    }
    if mode == "workload" || mode == "kvmless" {
        frame::write(&mut configured, Kind::Stdout, b"hel").unwrap();
        frame::write(&mut configured, Kind::Stdout, b"lo\n").unwrap();
        frame::write(&mut configured, Kind::Stderr, b"bye").unwrap();
        tell(&mut configured, &Event::WorkloadExited { exit: Exit::code(7), at_ms: 6 });
        // The host hangs up when it has heard all.
        assert_eq!(configured.read(&mut [0]).unwrap(), 0);
        return (machine.power_off)();
    }
    if mode == "echo" {
        return echo(machine);
    }
    if mode == "outputs-early" {
        tell(&mut configured, &Event::OutputStarted { name: "a".to_owned() });
    }
    if mode.starts_with("outputs-") {
        tell(&mut configured, &Event::WorkloadExited { exit: Exit::code(0), at_ms: 6 });
        outputs(&mut configured, mode);
        // The host hangs up when it has heard all, or too much.
        if mode != "outputs-cut" {
            let _ = configured.read(&mut [0]);
        }
        return (machine.power_off)();
    }
    if mode == "deaf" {
        // It is ended with its machine.
        loop {
            thread::park();
        }
    }
    // One that says nothing, or breaks off, is disconnected.
    let mut shutdown = loop {
        let mut stream = (machine.accept)();
        match frame::read_message(&mut stream) {
            Ok(Request::Shutdown { .. }) => break stream,
            Ok(request @ Request::Resumed { .. }) => {
                resumed(&mut stream, &request);
                configured = stream;
            }
            _ => {}
        }
    };
    frame::write_message(&mut shutdown, &ShutdownReply::ShuttingDown).unwrap();
    if mode == "stay-outputs" {
        tell(&mut configured, &Event::WorkloadExited { exit: Exit::code(143), at_ms: 6 });
        outputs(&mut configured, mode);
    }
    if mode != "stubborn" {
        return (machine.power_off)();
    }
    drop((machine.accept)());
}

/// What the guest sends as outputs `a` and `b`.
fn outputs(stream: &mut UnixStream, mode: &str) {
    let start = |name: &str| Event::OutputStarted { name: name.to_owned() };
    let finish = |name: &str, error: Option<&str>| Event::OutputFinished {
        name: name.to_owned(),
        error: error.map(str::to_owned),
    };
    // The host may hang up on what it does not take.
    let mut say = |event: &Event| drop(frame::write_message(stream, event));
    match mode {
        "outputs-unnamed" => return drop(frame::write(stream, Kind::Output, b"x")),
        "outputs-other" => return say(&start("../../a")),
        "outputs-twice" => {
            say(&start("a"));
            return say(&start("a"));
        }
        _ => say(&start("a")),
    }
    let pieces = if mode == "outputs-huge" { 64 } else { 2 };
    for _ in 0..pieces {
        let _ = frame::write(stream, Kind::Output, &[b'x'; 50_000]);
    }
    if mode == "outputs-cut" {
        return;
    }
    let mut say = |event: &Event| drop(frame::write_message(stream, event));
    say(&finish("a", None));
    say(&start("b"));
    say(&finish("b", Some("/x: No such file\n")));
}

/// Gives back what each client says, until one asks for the shutdown.
fn echo(machine: &Machine<'_>) {
    loop {
        let mut client = (machine.accept)();
        let power_off = Arc::clone(&machine.power_off);
        thread::spawn(move || {
            while let Ok(Some(frame)) = frame::read(&mut client) {
                match frame.message() {
                    Ok(Request::Shutdown { .. }) => {
                        frame::write_message(&mut client, &ShutdownReply::ShuttingDown).unwrap();
                        power_off();
                    }
                    Ok(request @ Request::Resumed { .. }) => {
                        resumed(&mut client, &request);
                        continue;
                    }
                    _ => {}
                }
                frame::write(&mut client, frame.kind, &frame.payload).unwrap();
            }
        });
    }
}

fn tell(stream: &mut UnixStream, event: &Event) {
    frame::write_message(stream, event).unwrap();
}
