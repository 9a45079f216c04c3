//! What a supervisor in Rust needs to answer a call.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use serde::Deserialize;

use crate::{ErrorBody, ErrorCode, MAX_BYTES, PROTOCOL, Request, Response, Verb};

/// Reads one request until the end of the stream, at most [`MAX_BYTES`].
///
/// # Errors
/// `InvalidRequest` for what is no request of this protocol, `UnsupportedProtocol` for one of another version, `UnsupportedVerb` for
/// a verb that there is not.
pub fn read(reader: &mut impl Read) -> Result<Request, ErrorBody> {
    let invalid = |what: String| ErrorBody::new(ErrorCode::InvalidRequest, what);
    let mut bytes = Vec::new();
    reader
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| invalid(format!("the request cannot be read: {e}")))?;
    if bytes.len() > MAX_BYTES {
        return Err(invalid(format!("the request is longer than {MAX_BYTES} bytes")));
    }
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Result<Request, ErrorBody> {
    /// What tells a request of another version, and an unknown verb, from a broken one.
    #[derive(Deserialize)]
    struct Outline {
        protocol: String,
        verb: serde_json::Value,
    }
    let outline: Outline = serde_json::from_slice(bytes)
        .map_err(|e| ErrorBody::new(ErrorCode::InvalidRequest, format!("the request is not one: {e}")))?;
    if outline.protocol != PROTOCOL {
        let message = format!("the request is of `{}`, this supervisor speaks `{PROTOCOL}`", outline.protocol);
        return Err(ErrorBody::new(ErrorCode::UnsupportedProtocol, message));
    }
    if Verb::deserialize(&outline.verb).is_err() {
        return Err(ErrorBody::new(ErrorCode::UnsupportedVerb, format!("there is no verb {}", outline.verb)));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| ErrorBody::new(ErrorCode::InvalidRequest, format!("the request is not one: {e}")))
}

/// Writes the response to standard output; gives the exit code that belongs to it.
#[must_use]
pub fn write(response: &Response) -> ExitCode {
    let written = serde_json::to_vec(response).map_err(io::Error::from).and_then(|mut bytes| {
        bytes.push(b'\n');
        io::stdout().write_all(&bytes)
    });
    match written {
        Ok(()) if response.ok => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cannot write the response: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_told_apart_by_cause() {
        for (text, code) in [
            ("", ErrorCode::InvalidRequest),
            ("{\"protocol\":", ErrorCode::InvalidRequest),
            (r#"{"protocol":"supervisor.microagent.dev/v2","verb":"check"}"#, ErrorCode::UnsupportedProtocol),
            (r#"{"protocol":"supervisor.microagent.dev/v1","verb":"dance"}"#, ErrorCode::UnsupportedVerb),
            (r#"{"protocol":"supervisor.microagent.dev/v1","verb":"check","now":1}"#, ErrorCode::InvalidRequest),
        ] {
            assert_eq!(decode(text.as_bytes()).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn a_request_without_an_end_is_refused_at_the_bound() {
        let error = read(&mut io::repeat(b' ')).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
    }
}
