//! One request in, one response out.

use std::{
    env,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use microagent_supervisor_protocol::{
    ErrorBody, ErrorCode, MAX_BYTES, Machine, PROTOCOL, Request, Response, Target, Verb,
};
use serde::Deserialize;

use crate::{backend::Backend, control::Wish, run, verbs};

/// The exit code for words on the command line that mean nothing here.
const USAGE: u8 = 2;

/// The `main` of a supervisor.
#[must_use]
pub fn main(backend: &impl Backend) -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    match args.as_slice() {
        [] => answer(backend),
        [mode, dir] if mode == "shim" => run::main(backend, Path::new(dir)),
        [flag] if flag == "--version" => {
            println!("{}", backend.capabilities().version);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("a supervisor takes no arguments: it reads one JSON request ({PROTOCOL}) from standard input");
            ExitCode::from(USAGE)
        }
    }
}

fn answer(backend: &impl Backend) -> ExitCode {
    let request = read(&mut io::stdin());
    let begun = Instant::now();
    let mut response = match request {
        Ok(request) => carry_out(backend, request),
        Err(error) => Response::error(error),
    };
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    response.timings.insert("total".to_owned(), took);
    let written = serde_json::to_vec(&response).map_err(io::Error::from).and_then(|mut bytes| {
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

fn read(reader: &mut impl Read) -> Result<Request, ErrorBody> {
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

fn carry_out(backend: &impl Backend, request: Request) -> Response {
    let verb = request.verb();
    if let Request::Capabilities(_) = request {
        return Response { capabilities: Some(backend.capabilities()), ..Response::ok() };
    }
    if let Request::Check(request) = &request {
        return Response { checks: backend.check(request.config.as_ref()), ..Response::ok() };
    }
    if !backend.verbs().contains(&verb) {
        let message = format!("{} does not have the verb {verb:?} yet", backend.name());
        return Response::error(ErrorBody::new(ErrorCode::UnsupportedVerb, message));
    }
    let target = target(&request).cloned();
    match on_machine(backend, request) {
        Ok(machine) => Response::machine(machine),
        Err(error) => {
            let machine = target.and_then(|t| verbs::inspect(&t).ok());
            Response { machine, ..Response::error(error) }
        }
    }
}

fn on_machine(backend: &impl Backend, request: Request) -> Result<Machine, ErrorBody> {
    match request {
        Request::Prepare(r) => verbs::prepare(backend, &r),
        Request::Start(r) => verbs::start(backend, *r),
        Request::Inspect(r) => verbs::inspect(&r.target),
        Request::Pause(r) => verbs::change(&r.target, Wish::Pause),
        Request::Resume(r) => verbs::change(&r.target, Wish::Resume),
        Request::Quarantine(r) => verbs::change(&r.target, Wish::Quarantine),
        Request::Halt(r) => verbs::halt(&r),
        Request::Kill(r) => verbs::kill(&r.target),
        Request::Delete(r) => verbs::delete(&r.target),
        Request::Capabilities(_) | Request::Check(_) => {
            Err(ErrorBody::new(ErrorCode::UnsupportedVerb, "this verb is about no machine"))
        }
    }
}

fn target(request: &Request) -> Option<&Target> {
    match request {
        Request::Capabilities(_) | Request::Check(_) => None,
        Request::Prepare(r) => Some(&r.target),
        Request::Start(r) => Some(&r.target),
        Request::Inspect(r)
        | Request::Pause(r)
        | Request::Resume(r)
        | Request::Quarantine(r)
        | Request::Kill(r)
        | Request::Delete(r) => Some(&r.target),
        Request::Halt(r) => Some(&r.target),
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
