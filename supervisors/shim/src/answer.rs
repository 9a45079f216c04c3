//! One request in, one response out.

use std::{env, ffi::OsString, io, path::Path, process::ExitCode, time::Instant};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode, PROTOCOL, Request, Response, server};

#[cfg(target_os = "linux")]
use crate::confine;
use crate::{backend::Backend, control::Wish, gc, run, verbs};

/// The exit code for words on the command line that mean nothing here.
const USAGE: u8 = 2;

/// The `main` of a supervisor.
#[must_use]
pub fn main(backend: &impl Backend) -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    match args.as_slice() {
        [] => answer(backend),
        [mode, dir] if mode == "shim" => run::main(backend, Path::new(dir)),
        #[cfg(target_os = "linux")]
        [mode, confined, program @ ..] if mode == confine::OUTER => {
            confine::outer(&confined.to_string_lossy(), &texts(program))
        }
        #[cfg(target_os = "linux")]
        [mode, program @ ..] if mode == confine::INNER => confine::inner(&texts(program)),
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

/// Paths come from JSON, so all of them are text.
#[cfg(target_os = "linux")]
fn texts(args: &[OsString]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

fn answer(backend: &impl Backend) -> ExitCode {
    let request = server::read(&mut io::stdin());
    let begun = Instant::now();
    let mut response = match request {
        Ok(request) => carry_out(backend, request),
        Err(error) => Response::error(error),
    };
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    response.timings.insert("total".to_owned(), took);
    server::write(&response)
}

fn carry_out(backend: &impl Backend, request: Request) -> Response {
    let verb = request.verb();
    if !backend.verbs().contains(&verb) {
        let message = format!("backend {} does not have the verb `{}`", backend.name(), verb.as_str());
        return Response::error(ErrorBody::new(ErrorCode::UnsupportedVerb, message));
    }
    let target = request.target().cloned();
    fulfil(backend, request).unwrap_or_else(|error| {
        let machine = target.and_then(|target| verbs::inspect(&target).ok());
        Response { machine, ..Response::error(error) }
    })
}

fn fulfil(backend: &impl Backend, request: Request) -> Result<Response, ErrorBody> {
    let machine = match request {
        Request::Capabilities(_) => {
            return Ok(Response { capabilities: Some(backend.capabilities()), ..Response::ok() });
        }
        Request::Check(r) => return Ok(Response { checks: backend.check(r.config.as_ref()), ..Response::ok() }),
        Request::Gc(r) => return Ok(Response { removed: gc::gc(&r)?, ..Response::ok() }),
        Request::Console(r) => {
            let (machine, console) = verbs::console(&r)?;
            return Ok(Response { console: Some(console), ..Response::machine(machine) });
        }
        Request::Prepare(r) => verbs::prepare(backend, &r),
        Request::Start(r) => verbs::start(backend, *r),
        Request::Inspect(r) => verbs::inspect(&r.target),
        Request::Pause(r) => verbs::change(&r.target, Wish::Pause),
        Request::Resume(r) => verbs::change(&r.target, Wish::Resume),
        Request::Quarantine(r) => verbs::change(&r.target, Wish::Quarantine),
        Request::Halt(r) => verbs::halt(&r),
        Request::Kill(r) => verbs::kill(&r.target),
        Request::Delete(r) => verbs::delete(&r.target),
        Request::Snapshot(r) => verbs::snapshot(&r),
    };
    machine.map(Response::machine)
}
