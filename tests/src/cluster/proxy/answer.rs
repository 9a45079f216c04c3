//! The bodies of answers: whole, cut, or never ending.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, body::Frame, header};
use serde_json::json;

/// What an answer is made of. It may break off.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How long the part before a cut has to leave.
const LEAVE: Duration = Duration::from_millis(50);

pub(super) fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut, as the test asks for")
}

pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(super) fn streamed(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))))
}

/// The first half of this, and the end of the connection.
pub(super) fn half(bytes: Bytes) -> Body {
    let first = bytes.slice(..bytes.len() / 2);
    let cut = stream::once(async {
        tokio::time::sleep(LEAVE).await;
        Err(broken())
    });
    streamed(stream::once(async { Ok(first) }).chain(cut))
}

/// An answer that begins and never comes.
pub(super) fn silent() -> Response<Body> {
    json_answer(StatusCode::OK, streamed(stream::pending()))
}

pub(super) fn json_answer(code: StatusCode, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// A `Status` as the API server tells failures.
pub(super) fn status(code: u16, message: &str) -> serde_json::Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub(super) fn refusal(code: u16, message: &str, retry_after: Option<u32>) -> Response<Body> {
    let text = status(code, message).to_string();
    let mut answer = json_answer(StatusCode::from_u16(code).unwrap(), whole(text.into()));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}
