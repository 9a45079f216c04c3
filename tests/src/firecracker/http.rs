//! The server's side of HTTP/1.1, as Firecracker has it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

/// The longest body of a request, in bytes: Firecracker's `--http-api-max-payload-size` when it is not given.
const MAX_BODY: usize = 51_200;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 1024;

/// A request.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// As it came; empty without one.
    pub(super) body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `Null` for none.
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn done() -> Self {
        Self { status: 204, body: Value::Null }
    }

    pub(super) fn with(body: Value) -> Self {
        Self { status: 200, body }
    }

    pub(super) fn fault(message: impl Into<String>) -> Self {
        Self { status: 400, body: json!({ "fault_message": message.into() }) }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n", self.status);
        if self.body.is_null() {
            text += "\r\n";
        } else {
            let body = self.body.to_string();
            text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
        text.into_bytes()
    }

    pub(super) fn send(&self, stream: &mut UnixStream) -> io::Result<()> {
        stream.write_all(&self.bytes())
    }
}

/// The next request of a connection; `None` at its end. What is no request is answered by the second kind of value.
pub(super) fn next(stream: &mut UnixStream) -> io::Result<Option<Result<Request, Answer>>> {
    let mut heard = Vec::new();
    let (mut request, length, head) = loop {
        if !more(stream, &mut heard)? {
            return Ok(None);
        }
        match parse(&heard) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if heard.len() > MAX_HEAD => return Ok(Some(Err(Answer::fault("Header too long.")))),
            Ok(None) => {}
            Err(answer) => return Ok(Some(Err(answer))),
        }
    };
    while heard.len() < head + length {
        if !more(stream, &mut heard)? {
            return Ok(None);
        }
    }
    if heard.len() > head + length {
        return Ok(Some(Err(Answer::fault("More bytes than the request's length tells."))));
    }
    request.body = heard.split_off(head);
    Ok(Some(Ok(request)))
}

fn more(stream: &mut UnixStream, heard: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 4096];
    let n = stream.read(&mut chunk)?;
    heard.extend_from_slice(&chunk[..n]);
    Ok(n > 0)
}

/// The request without its body, the body's length, and the head's.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(Answer::fault(format!("Invalid HTTP: {e}"))),
    };
    if parsed.version != Some(1) {
        return Err(Answer::fault("Invalid HTTP Version"));
    }
    let header = |name: &str| parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    let length = match header("content-length") {
        None => 0,
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Answer::fault("Invalid content length."))?,
    };
    if length > MAX_BODY {
        let message =
            format!("Request payload with size {length} is larger than the limit of {MAX_BODY} allowed by server.");
        return Err(Answer { status: 413, body: json!({ "error": message }) });
    }
    if length > 0 && header("content-type") != Some(b"application/json") {
        return Err(Answer::fault("Only application/json is understood."));
    }
    let (method, path) = (parsed.method.unwrap_or_default().to_owned(), parsed.path.unwrap_or_default().to_owned());
    Ok(Some((Request { method, path, body: Vec::new() }, length, head)))
}
