//! Firecracker's API: HTTP/1.1 on a Unix socket, one request after the other on one connection.
//!
//! The crates that speak it (fctools, firepilot, firecracker-rs-sdk and others) bring an asynchronous runtime, or are of older
//! versions of the API. A supervisor makes a dozen requests, one at a time, in a process that should stay small: the heads of answers
//! are parsed by httparse, the rest is here.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use microagent_shim::socket::connect;
use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long Firecracker may take for what it only has to write down.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long after its socket is there Firecracker may take to listen on it: the two are system calls in a row.
const LISTENING: Duration = Duration::from_secs(1);

/// How often that is tried: nothing can be waited on before.
const LISTENING_LOOK: Duration = Duration::from_millis(1);

/// The longest head of an answer, in bytes: Firecracker's have some 100.
const MAX_HEAD: usize = 8 * 1024;

/// The longest body of an answer, in bytes: the full configuration of a machine has some KiB.
const MAX_BODY: usize = 256 * 1024;

/// The most headers of an answer.
const MAX_HEADERS: usize = 32;

/// The longest fault that is passed on, in characters.
const MAX_FAULT: usize = 2048;

/// A connection to a Firecracker.
pub(crate) struct Api {
    stream: UnixStream,
}

/// Why a request was not carried out, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("its socket {socket} cannot be reached: {source}", socket = .socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("it does not answer {what} within {patience:?}")]
    Late { what: String, patience: Duration },
    #[error("it hung up on {what}: {source}")]
    Cut { what: String, source: io::Error },
    #[error("its answer to {what} is not one: {why}")]
    Broken { what: String, why: String },
    #[error("it refuses {what}: {fault}")]
    Refused { what: String, fault: String },
}

impl From<ApiError> for ErrorBody {
    fn from(error: ApiError) -> Self {
        Self::new(ErrorCode::VmmFailed, format!("Firecracker does not do as told: {error}"))
    }
}

/// How Firecracker says why.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Api {
    /// Connects to the socket of the machine's directory, and to no other that a jailed Firecracker may put in its place.
    pub(crate) fn connect(socket: &Path) -> Result<Self, ApiError> {
        let until = Instant::now() + LISTENING;
        loop {
            match connect(socket, PATIENCE) {
                Ok(stream) => return Ok(Self { stream }),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < until => {
                    thread::sleep(LISTENING_LOOK);
                }
                Err(source) => return Err(ApiError::Unreachable { socket: socket.to_owned(), source }),
            }
        }
    }

    /// Sets the resource.
    pub(crate) fn put(&mut self, path: &str, body: &impl Serialize, patience: Duration) -> Result<(), ApiError> {
        self.exchange("PUT", path, Some(body), patience).map(drop)
    }

    /// Changes the resource.
    pub(crate) fn patch(&mut self, path: &str, body: &impl Serialize, patience: Duration) -> Result<(), ApiError> {
        self.exchange("PATCH", path, Some(body), patience).map(drop)
    }

    /// The resource.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, path: &str, patience: Duration) -> Result<T, ApiError> {
        let body = self.exchange("GET", path, None::<&()>, patience)?;
        serde_json::from_slice(&body).map_err(|e| ApiError::Broken {
            what: format!("GET {path}"),
            why: format!("its body does not decode: {e}"),
        })
    }

    /// Sends one request; gives the body of the answer, which is a success.
    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> Result<Vec<u8>, ApiError> {
        let what = || format!("{method} {path}");
        let mut talk = Talk { stream: &self.stream, until: Instant::now() + patience };
        let told = |e: io::Error| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ApiError::Late { what: what(), patience },
            io::ErrorKind::InvalidData => ApiError::Broken { what: what(), why: e.to_string() },
            _ => ApiError::Cut { what: what(), source: e },
        };
        let body = body.map(serde_json::to_string).transpose().map_err(|e| told(e.into()))?;
        talk.send(&request(method, path, body.as_deref())).map_err(told)?;
        let (status, body) = talk.hear().map_err(told)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let fault = match serde_json::from_slice(&body) {
            Ok(Fault { fault_message }) => clean(&fault_message),
            Err(_) => format!("status {status} without a reason"),
        };
        Err(ApiError::Refused { what: what(), fault })
    }
}

fn request(method: &str, path: &str, body: Option<&str>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
    if let Some(body) = body {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    } else {
        text += "\r\n";
    }
    text.into_bytes()
}

/// A guest may have taken Firecracker over: its words go into records and onto terminals.
fn clean(fault: &str) -> String {
    let text: String = fault.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_FAULT).collect();
    text.trim().to_owned()
}

/// One request and its answer, which together have their time.
struct Talk<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Talk<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes)
    }

    /// The status and the body.
    fn hear(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let mut heard = Vec::new();
        let (status, length, head) = loop {
            self.more(&mut heard)?;
            if let Some(head) = parse(&heard)? {
                break head;
            }
            if heard.len() > MAX_HEAD {
                return Err(invalid("its head is too long"));
            }
        };
        let end = head + length;
        while heard.len() < end {
            self.more(&mut heard)?;
        }
        if heard.len() > end {
            return Err(invalid("more follows than it says"));
        }
        Ok((status, heard.split_off(head)))
    }

    fn more(&mut self, heard: &mut Vec<u8>) -> io::Result<()> {
        let mut chunk = [0; 4096];
        loop {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    heard.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Status, length of the body and length of the head, once the head is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(invalid(&e.to_string())),
    };
    let status = response.code.ok_or_else(|| invalid("it has no status"))?;
    let header = |name: &str| response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    if header("transfer-encoding").is_some() {
        return Err(invalid("it comes in a transfer encoding, which this API does not use"));
    }
    // One without a length has no body: 204.
    let length = match header("content-length") {
        None => 0,
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|length| *length <= MAX_BODY)
            .ok_or_else(|| invalid("its length is no number, or too large"))?,
    };
    Ok(Some((status, length, head)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What the client makes of an answer that comes in these pieces.
    fn answered(pieces: Vec<Vec<u8>>) -> Result<serde_json::Value, ApiError> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let mut peer = listener.accept().unwrap().0;
            assert!(peer.read(&mut [0; 1024]).unwrap() > 0);
            // The client may have heard enough.
            let _ = pieces.iter().try_for_each(|piece| peer.write_all(piece));
        });
        let result = Api::connect(&socket).unwrap().get("/version", Duration::from_secs(20));
        server.join().unwrap();
        result
    }

    #[test]
    fn an_answer_is_read_whole_however_it_is_cut() {
        let text = b"HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"a\":\"b\"}";
        assert_eq!(answered(vec![text.to_vec()]).unwrap()["a"], "b");
        assert_eq!(answered(text.iter().map(|byte| vec![*byte]).collect()).unwrap()["a"], "b");
    }

    #[test]
    fn a_fault_is_told_in_one_clean_line() {
        let body = r#"{"fault_message":"The kernel file\ncannot be opened\u001b[2J"}"#;
        let text = format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let error = answered(vec![text.into_bytes()]).unwrap_err();
        assert_eq!(error.to_string(), "it refuses GET /version: The kernel file cannot be opened [2J");
    }

    #[test]
    fn what_is_no_answer_is_told_as_that() {
        let long = format!("HTTP/1.1 200 \r\nX: {}", "x".repeat(2 * MAX_HEAD));
        for (text, why) in [
            ("half an answer", "its answer to GET /version is not one"),
            ("HTTP/1.1 200 \r\nContent-Le", "it hung up on GET /version"),
            ("HTTP/1.1 200 \r\nContent-Length: 10\r\n\r\n{}", "it hung up on GET /version"),
            ("HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", "too large"),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", "transfer encoding"),
            ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200", "more follows"),
            ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{x", "does not decode"),
            ("HTTP/1.1 500 \r\n\r\n", "status 500 without a reason"),
            (&long, "its head is too long"),
        ] {
            let error = answered(vec![text.as_bytes().to_vec()]).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_answer_that_does_not_come_is_waited_for_only_so_long() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = Api::connect(&socket).unwrap().put("/actions", &(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, ApiError::Late { .. }), "{error}");
    }
}
