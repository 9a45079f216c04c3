//! One command beside the workload: its input, output and signals over one connection.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use microagent_guest_protocol::{
    Exec, ExecInput, ExecReply, Request,
    frame::{self, Kind},
};
use tokio::sync::oneshot;

use super::wire::Wire;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest said how.
    Reply(ExecReply),
    /// The guest hung up without a word: the machine ended.
    HungUp,
    /// The guest sent what the protocol does not allow, or the socket broke.
    Broken(io::Error),
    /// Our own output is closed.
    Output(io::Error),
}

type Writer = Box<dyn Write + Send>;

/// A command that runs in the guest.
pub(crate) struct Session {
    wire: Arc<Mutex<Writer>>,
    end: oneshot::Receiver<End>,
}

impl Session {
    /// Starts the command. Its output goes to `out` and `err` from now on. Blocks the thread while it sends.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) fn start(
        wire: Wire,
        exec: Exec,
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let Wire { reader, mut writer } = wire;
        frame::write_message(&mut writer, &Request::Exec(exec))?;
        writer.flush()?;
        let (tell, end) = oneshot::channel();
        thread::spawn(move || tell.send(receive(reader, out, err)));
        Ok(Self { wire: Arc::new(Mutex::new(writer)), end })
    }

    /// Sends all that `input` gives, and then its end, from a thread of its own.
    pub(crate) fn feed(&self, mut input: impl Read + Send + 'static) {
        let wire = Arc::clone(&self.wire);
        thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let n = match input.read(&mut buffer) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                let sent = send(&wire, |wire| frame::write(wire, Kind::Stdin, &buffer[..n]));
                // When the guest does not take it any longer, the end of the session tells why.
                if n == 0 || sent.is_err() {
                    return;
                }
            }
        });
    }

    /// Tells the guest something besides input. It may wait for the guest, so it has a thread of its own.
    pub(crate) fn tell(&self, input: ExecInput) {
        let wire = Arc::clone(&self.wire);
        thread::spawn(move || send(&wire, |wire| frame::write_message(wire, &input)));
    }

    /// Ends with the command.
    pub(crate) async fn end(&mut self) -> End {
        (&mut self.end).await.unwrap_or(End::HungUp)
    }
}

fn send(wire: &Mutex<Writer>, write: impl FnOnce(&mut Writer) -> io::Result<()>) -> io::Result<()> {
    let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
    write(&mut wire)?;
    wire.flush()
}

fn receive(mut wire: impl Read, mut out: impl Write, mut err: impl Write) -> End {
    loop {
        let frame = match frame::read(&mut wire) {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::HungUp,
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return End::HungUp;
            }
            Err(e) => return End::Broken(e),
        };
        let written = match frame.kind {
            Kind::Stdout => out.write_all(&frame.payload).and_then(|()| out.flush()),
            Kind::Stderr => err.write_all(&frame.payload).and_then(|()| err.flush()),
            Kind::Message => return frame.message().map_or_else(End::Broken, End::Reply),
            Kind::Stdin | Kind::Output => {
                let message = format!("the guest sent a frame of {:?} in an exec", frame.kind);
                return End::Broken(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        };
        if let Err(e) = written {
            return End::Output(e);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::BufRead,
        os::unix::net::{UnixListener, UnixStream},
        sync::mpsc::{self, Receiver},
    };

    use microagent_guest_protocol::{Exit, Process};

    use super::*;

    fn exec() -> Exec {
        let process = Process { argv: vec!["cat".to_owned()], env: Vec::new(), working_dir: None, user: None };
        Exec { process, terminal: None, stdin: true }
    }

    /// A guest that takes the handshake and the request, and then does as `then` says.
    fn guest(then: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let thread = thread::spawn(move || {
            let mut wire = listener.accept().unwrap().0;
            let mut line = String::new();
            // Unbuffered: what follows the line is the request.
            io::BufReader::with_capacity(1, wire.try_clone().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "CONNECT 1024\n");
            wire.write_all(b"OK 5\n").unwrap();
            assert_eq!(frame::read_message::<Request>(&mut wire).unwrap(), Request::Exec(exec()));
            then(wire);
        });
        (dir, thread)
    }

    struct Sent(mpsc::Sender<Vec<u8>>);
    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(dir: &tempfile::TempDir) -> (Session, Receiver<Vec<u8>>) {
        let (tx, rx) = mpsc::channel();
        (Session::start(Wire::local(&dir.path().join("s")).unwrap(), exec(), Sent(tx), io::sink()).unwrap(), rx)
    }

    #[tokio::test]
    async fn input_goes_in_output_comes_out_and_the_exit_is_told() {
        let (dir, thread) = guest(|mut wire| {
            loop {
                let frame = frame::read(&mut wire).unwrap().unwrap();
                assert_eq!(frame.kind, Kind::Stdin);
                if frame.payload.is_empty() {
                    break;
                }
                frame::write(&mut wire, Kind::Stdout, &frame.payload).unwrap();
            }
            frame::write_message(&mut wire, &ExecReply::Exited(Exit::code(7))).unwrap();
        });
        let (mut session, output) = start(&dir);
        session.feed(&b"hello"[..]);
        assert!(matches!(session.end().await, End::Reply(ExecReply::Exited(exit)) if exit.shell_code() == 7));
        assert_eq!(output.iter().flatten().collect::<Vec<_>>(), b"hello");
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_hangs_up_or_lies_ends_the_session() {
        let (dir, thread) = guest(drop);
        assert!(matches!(start(&dir).0.end().await, End::HungUp));
        thread.join().unwrap();
        let (dir, thread) = guest(|mut wire| wire.write_all(&[0, 0, 0, 0, 2, b'h', b'i']).unwrap());
        assert!(matches!(start(&dir).0.end().await, End::Broken(_)));
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_closed_output_ends_the_session() {
        let (dir, thread) = guest(|mut wire| {
            let _ = frame::write(&mut wire, Kind::Stdout, b"x");
            let _ = frame::read(&mut wire);
        });
        let (tx, rx) = mpsc::channel();
        drop(rx);
        let wire = Wire::local(&dir.path().join("s")).unwrap();
        let mut session = Session::start(wire, exec(), Sent(tx), io::sink()).unwrap();
        assert!(matches!(session.end().await, End::Output(_)));
        drop(session);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn signals_and_sizes_are_told() {
        let (dir, thread) = guest(|mut wire| {
            let input: ExecInput = frame::read_message(&mut wire).unwrap();
            assert_eq!(input, ExecInput::Signal { number: 15 });
            frame::write_message(
                &mut wire,
                &ExecReply::Exited(Exit { code: None, signal: Some(15), oom_killed: false }),
            )
            .unwrap();
        });
        let mut session = start(&dir).0;
        session.tell(ExecInput::Signal { number: 15 });
        assert!(matches!(session.end().await, End::Reply(ExecReply::Exited(exit)) if exit.shell_code() == 143));
        thread.join().unwrap();
    }
}
