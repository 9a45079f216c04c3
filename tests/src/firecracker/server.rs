//! The stand-in as a process: its arguments, its socket, and who asks.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    panic, process,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    Asked, Description, Fault, REQUESTS, ROOT_VARIABLE, Script,
    args::{Args, check_id},
    http::{self, Answer, Request},
    inside,
    vm::Vm,
};

const WITH_VALUE: &[&str] = &[
    "api-sock",
    "id",
    "seccomp-filter",
    "start-time-us",
    "start-time-cpu-us",
    "parent-cpu-time-us",
    "config-file",
    "log-path",
    "level",
    "module",
    "metrics-path",
    "http-api-max-payload-size",
];

/// Without `no-seccomp`: no machine of ours runs without.
const FLAGS: &[&str] = &["version", "show-level", "show-log-origin", "boot-timer", "enable-pci"];

/// How long a slow one takes for each answer.
const SLOW: Duration = Duration::from_millis(100);

pub(super) fn main(args: &[String], script: Script) -> io::Result<ExitCode> {
    let args = Args::parse(args, WITH_VALUE, FLAGS, &[])?;
    if args.has("version") {
        println!("Firecracker v{}\n", script.version);
        return Ok(ExitCode::SUCCESS);
    }
    // A guest that fails fails its machine.
    panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        process::exit(101);
    }));
    let id = args.one("id").unwrap_or("anonymous-instance");
    check_id(id)?;
    match args.one("level") {
        Some("Off") => {}
        None | Some("Error" | "Warning" | "Info" | "Debug" | "Trace") => {
            println!("[{id}:main] Running Firecracker v{}", script.version)
        }
        Some(level) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("Invalid value for logger level: {level}."),
            ));
        }
    }
    match script.fault {
        Some(Fault::Dies) => return Err(io::Error::new(io::ErrorKind::OutOfMemory, "no memory for you")),
        Some(Fault::NoSocket) => loop {
            thread::park();
        },
        _ => {}
    }
    let socket = inside(args.one("api-sock").unwrap_or("/run/firecracker.socket"));
    let description = script.api.as_deref().map(Description::read).transpose().map_err(io::Error::other)?;
    let requests = if std::env::var_os(ROOT_VARIABLE).is_some() {
        REQUESTS.into()
    } else {
        std::env::current_exe()?.with_file_name(REQUESTS)
    };
    let log = OpenOptions::new().create(true).append(true).open(requests)?;
    let vm = Arc::new(Mutex::new(Vm::new(id, script)));
    let listener = UnixListener::bind(socket)?;
    for stream in listener.incoming() {
        let (stream, log) = (stream?, log.try_clone()?);
        let mut clerk = Clerk { vm: Arc::clone(&vm), description: description.clone(), log };
        thread::spawn(move || {
            let _ = clerk.serve(stream);
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves one connection.
struct Clerk {
    vm: Arc<Mutex<Vm>>,
    description: Option<Description>,
    log: File,
}

impl Clerk {
    fn serve(&mut self, mut stream: UnixStream) -> io::Result<()> {
        while let Some(request) = http::next(&mut stream)? {
            let request = match request {
                Ok(request) => request,
                Err(answer) => {
                    self.note("?", "?", Value::Null, &answer)?;
                    return answer.send(&mut stream);
                }
            };
            let fault = self.vm().fault();
            match fault {
                Some(Fault::Slow) => thread::sleep(SLOW),
                Some(Fault::Mute) => loop {
                    thread::park();
                },
                _ => {}
            }
            let answer = self.carry_out(&request);
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            self.note(&request.method, &request.path, body, &answer)?;
            match fault {
                Some(Fault::HalfAnAnswer) => {
                    let bytes = answer.bytes();
                    return stream.write_all(&bytes[..bytes.len() / 2]);
                }
                Some(Fault::Babbles) => return stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
                _ => answer.send(&mut stream)?,
            }
        }
        Ok(())
    }

    fn carry_out(&self, request: &Request) -> Answer {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        // What the stand-in lets through has to be right by the description too.
        if let Some(description) = &self.description {
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            if let Err(why) = description.check_request(method, path, &body) {
                return Answer::fault(format!("not as Firecracker's API description has it: {why}"));
            }
        }
        let answer = self.vm().carry_out(method, path, &request.body);
        if let Some(description) = &self.description
            && let Err(why) = description.check_answer(method, path, answer.status, &answer.body)
        {
            return Answer::fault(format!("the stand-in answers what Firecracker does not: {why}"));
        }
        answer
    }

    fn note(&mut self, method: &str, path: &str, body: Value, answer: &Answer) -> io::Result<()> {
        let fault = answer.body["fault_message"].as_str().map(str::to_owned);
        let asked = Asked { method: method.to_owned(), path: path.to_owned(), body, status: answer.status, fault };
        let mut line = serde_json::to_vec(&asked)?;
        line.push(b'\n');
        self.log.write_all(&line)
    }

    fn vm(&self) -> std::sync::MutexGuard<'_, Vm> {
        self.vm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
