//! The QEMU machine protocol (QMP), as far as pausing needs it: one connection a call, one command after the other. QEMU may have
//! been taken over by its guest: what it says is bounded in length and in time, and nothing of it is believed but yes or no.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use microagent_supervisor_protocol::vsock;
use serde::Deserialize;
use serde_json::{Value, json};

/// The most that is read in a call, in bytes. An answer has some hundred; QEMU tells events between them.
const MAX_READ: usize = 256 * 1024;

/// How much of QEMU's own words goes into an error, in characters.
const MAX_WORDS: usize = 200;

/// Why QEMU did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// No connection, or no answer in time.
    #[error("QEMU cannot be told by qmp.sock to `{command}`: {source}")]
    Io { command: &'static str, source: io::Error },
    /// It said what QMP does not allow.
    #[error("QEMU answered `{command}` with what is no QMP: {why}")]
    Malformed { command: &'static str, why: String },
    /// It refused.
    #[error("QEMU refused to `{command}`: {words}")]
    Refused { command: &'static str, words: String },
    /// It said yes and did not.
    #[error("QEMU took `{command}` and its status is `{status}`")]
    NotDone { command: &'static str, status: String },
}

/// Has the CPUs stand still or run on, and sees that they do.
pub(crate) fn set_paused(socket: &Path, paused: bool, patience: Duration) -> Result<(), QmpError> {
    let command = if paused { "stop" } else { "cont" };
    let mut qmp = Qmp::connect(socket, patience).map_err(|source| QmpError::Io { command, source })?;
    qmp.greeting(command)?;
    qmp.execute("qmp_capabilities")?;
    qmp.execute(command)?;
    let status: Status = serde_json::from_value(qmp.execute("query-status")?)
        .map_err(|e| QmpError::Malformed { command: "query-status", why: e.to_string() })?;
    if status.running == paused {
        return Err(QmpError::NotDone { command, status: clean(&status.status) });
    }
    Ok(())
}

/// The answer to `query-status`.
#[derive(Deserialize)]
struct Status {
    running: bool,
    status: String,
}

/// One line of QEMU. Exactly one of the fields is there.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    done: Option<Value>,
    error: Option<Refused>,
    event: Option<Value>,
}

#[derive(Deserialize)]
struct Refused {
    desc: String,
}

struct Qmp {
    stream: UnixStream,
    until: Instant,
    /// What was read past the last line.
    rest: Vec<u8>,
    read: usize,
}

impl Qmp {
    fn connect(socket: &Path, patience: Duration) -> io::Result<Self> {
        let until = Instant::now() + patience;
        let stream = vsock::connect_within(socket, patience)?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, until, rest: Vec::new(), read: 0 })
    }

    fn greeting(&mut self, command: &'static str) -> Result<(), QmpError> {
        match self.said(command)? {
            Said { greeting: Some(_), .. } => Ok(()),
            _ => Err(QmpError::Malformed { command, why: "it does not greet".to_owned() }),
        }
    }

    /// Gives what the command returns; events before that are passed over.
    fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        let line = format!("{}\n", json!({"execute": command}));
        self.stream.write_all(line.as_bytes()).map_err(|source| QmpError::Io { command, source })?;
        loop {
            match self.said(command)? {
                Said { done: Some(value), .. } => return Ok(value),
                Said { error: Some(refused), .. } => {
                    return Err(QmpError::Refused { command, words: clean(&refused.desc) });
                }
                Said { event: Some(_), .. } => {}
                _ => return Err(QmpError::Malformed { command, why: "neither a return nor an error".to_owned() }),
            }
        }
    }

    fn said(&mut self, command: &'static str) -> Result<Said, QmpError> {
        let line = self.line().map_err(|source| QmpError::Io { command, source })?;
        serde_json::from_slice(&line).map_err(|e| QmpError::Malformed { command, why: e.to_string() })
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let tail = self.rest.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.rest, tail));
            }
            if self.read >= MAX_READ {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it says too much"));
            }
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.read += n;
                    self.rest.extend_from_slice(&chunk[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
        }
    }
}

fn clean(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead, os::unix::net::UnixListener, thread};

    const GREETING: &str = "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n";
    const YES: &str = "{\"return\":{}}\n";
    const LONG: Duration = Duration::from_secs(60);

    /// What comes of a pause when QEMU greets so, and answers one line with each of these.
    fn paused(greeting: &str, answers: &[&str], patience: Duration) -> (Result<(), QmpError>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::scope(|scope| {
            let qemu = scope.spawn(|| {
                let mut peer = listener.accept().unwrap().0;
                let mut lines = io::BufReader::new(peer.try_clone().unwrap()).lines();
                // The other side may hang up at any time.
                let _ = peer.write_all(greeting.as_bytes());
                let mut heard = Vec::new();
                for answer in answers {
                    let Some(Ok(line)) = lines.next() else { break };
                    heard.push(line);
                    let _ = peer.write_all(answer.as_bytes());
                }
                // Until the other side hangs up.
                heard.extend(lines.map_while(Result::ok));
                heard
            });
            let result = set_paused(&path, true, patience);
            (result, qemu.join().unwrap())
        })
    }

    #[test]
    fn a_pause_is_asked_for_and_seen_to_be_so_with_events_in_between() {
        let event = "{\"event\":\"STOP\",\"timestamp\":{}}\n{\"return\":{}}\n";
        let status = "{\"return\":{\"running\":false,\"singlestep\":false,\"status\":\"paused\"}}\n";
        let (result, heard) = paused(GREETING, &[YES, event, status], LONG);
        result.unwrap();
        assert_eq!(
            heard,
            [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"stop"}"#, r#"{"execute":"query-status"}"#]
        );
    }

    #[test]
    fn a_qemu_that_refuses_lies_or_babbles_is_an_error_and_no_more() {
        let refusal = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\\u001b[2J\"}}\n";
        let running = "{\"return\":{\"running\":true,\"status\":\"running\"}}\n";
        let babble = "x".repeat(2 * MAX_READ);
        let events = "{\"event\":\"X\"}\n".repeat(MAX_READ / 8);
        for (greeting, answers, words) in [
            ("HTTP/1.1 400 Bad Request\n", vec![], "no QMP"),
            (YES, vec![], "does not greet"),
            (GREETING, vec![refusal], "refused to `qmp_capabilities`: no [2J"),
            (GREETING, vec![YES, "{}\n"], "neither a return nor an error"),
            (GREETING, vec![YES, &babble], "says too much"),
            (GREETING, vec![YES, &events], "says too much"),
            (GREETING, vec![YES, YES, running], "its status is `running`"),
            (GREETING, vec![YES, YES, YES], "no QMP"),
        ] {
            let error = paused(greeting, &answers, LONG).0.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_qemu_that_says_nothing_is_given_up() {
        let error = paused(GREETING, &[YES], Duration::from_millis(50)).0.unwrap_err();
        assert!(matches!(error, QmpError::Io { command: "stop", .. }), "{error}");
    }

    #[test]
    fn a_real_qemu_stands_still_and_runs_on_as_often_as_it_is_told() {
        let Some(qemu) = crate::host::qemu() else {
            println!("SKIP a_real_qemu_stands_still_and_runs_on_as_often_as_it_is_told: needs QEMU");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(qemu)
            .args(["-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"])
            .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
            .args(["-qmp", "unix:qmp.sock,server=on,wait=off"])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let socket = dir.path().join("qmp.sock");
        let until = Instant::now() + LONG;
        // It listens on it a moment after it made it.
        while UnixStream::connect(&socket).is_err() && Instant::now() < until {
            thread::yield_now();
        }
        let results: Vec<_> = [true, true, false, false, true].map(|paused| set_paused(&socket, paused, LONG)).into();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}
