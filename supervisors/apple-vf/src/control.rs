//! The socket of a machine's VMM, in the machine's directory: how the shim tells it what its machine is, and what it is to do. A request is
//! one line of JSON; the answer is the line `ok`, or one of JSON with the error.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, vsock};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The socket's name.
pub(crate) const SOCKET: &str = "vm.sock";

/// How long the one who asks may take to say what it wants.
const ASKING: Duration = Duration::from_secs(5);

/// The longest request, in bytes: a machine with the most disks, each with the longest path, in JSON.
const MAX_REQUEST: u64 = 1024 * 1024;

/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// What a VMM can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Start this machine. Once in the VMM's life.
    Boot {
        /// The process that the machine ends with.
        owner: ProcessId,
        /// The machine.
        machine: Machine,
    },
    /// Have the CPUs stand still.
    Pause,
    /// Have them run on.
    Resume,
    /// Press the power button.
    PressPowerButton,
}

/// Tells the VMM whose socket this is; returns when it has done so. `patience` is for its answer.
///
/// # Errors
/// Its own, or that it does not answer.
pub(crate) fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<(), ErrorBody> {
    let told = || -> io::Result<String> {
        let mut stream = vsock::connect_within(socket, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer)?;
        Ok(answer)
    };
    let failed = |why: String| ErrorBody::new(ErrorCode::VmmFailed, format!("the VMM does not answer: {why}"));
    match told() {
        Ok(answer) if answer == "ok\n" => Ok(()),
        Ok(answer) if answer.is_empty() => Err(failed("it hung up".to_owned())),
        Ok(answer) => Err(serde_json::from_str(&answer).unwrap_or_else(|e| failed(e.to_string()))),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Answers one request.
///
/// # Errors
/// Those of the stream, and `InvalidData` for what is no request.
pub(crate) fn answer(stream: &UnixStream, carry_out: impl FnOnce(Request) -> Result<(), ErrorBody>) -> io::Result<()> {
    stream.set_read_timeout(Some(ASKING))?;
    stream.set_write_timeout(Some(ASKING))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    let mut answer = match carry_out(serde_json::from_str(&line)?) {
        Ok(()) => b"ok".to_vec(),
        Err(error) => serde_json::to_vec(&error)?,
    };
    answer.push(b'\n');
    (&mut &*stream).write_all(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, thread};

    #[test]
    fn what_is_asked_arrives_and_so_does_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET);
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = thread::spawn(move || {
            for refuse in [false, true] {
                let stream = listener.accept().unwrap().0;
                answer(&stream, |request| {
                    assert_eq!(request, Request::Pause);
                    if refuse { Err(ErrorBody::new(ErrorCode::VmmFailed, "no")) } else { Ok(()) }
                })
                .unwrap();
            }
            for _ in 0..2 {
                drop(listener.accept().unwrap());
            }
        });
        let ask = || ask(&socket, &Request::Pause, Duration::from_secs(60));
        ask().unwrap();
        assert_eq!(ask().unwrap_err().message, "no");
        assert_eq!(ask().unwrap_err().code, ErrorCode::VmmFailed);
        drop(UnixStream::connect(&socket));
        serving.join().unwrap();
        assert!(ask().unwrap_err().message.contains("does not answer"));
    }

    #[test]
    fn what_is_no_request_is_not_carried_out() {
        for line in ["{}\n", "\"halt\"\n", "{\"boot\":{}}\n", "\n", "\"pause\""] {
            let (mut client, ours) = UnixStream::pair().unwrap();
            client.write_all(line.as_bytes()).unwrap();
            drop(client);
            let mut carried_out = false;
            let result = answer(&ours, |_| {
                carried_out = true;
                Ok(())
            });
            assert!(result.is_err());
            // A line without its end was not cut short: the client said no more.
            assert_eq!(carried_out, line == "\"pause\"", "{line:?}");
        }
    }
}
