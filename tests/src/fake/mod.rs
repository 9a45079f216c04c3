//! A supervisor whose machines are processes: real enough to be lost, leaked, doubled and counted, and up within milliseconds.
//! It speaks the whole protocol, and lies where a test's script says so.
//!
//! What a machine's workload does stands in the manifest's `command`: `["stay"]`, or `["exit", CODE, MILLISECONDS]`.

mod dir;
mod kernel;
mod machine;
mod record;
mod script;
mod secrets;
mod verbs;

pub use dir::{Boot, FakeDir};
pub use kernel::{bootable_kernel, elf_kernel};
pub use script::{Lie, Lies};
pub use secrets::GivenSecret;

use std::{
    env,
    io::{self, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::{PROTOCOL, Request, Response, server};

/// Names the directory with the log and the script. See [`FakeDir`].
pub const DIR_VARIABLE: &str = "MICROAGENT_FAKE_DIR";
/// When set, machines are records and nothing else: for benches of the controller. Its value is `PID START`, the process that all of
/// them name as their owner.
pub const INSTANT_VARIABLE: &str = "MICROAGENT_FAKE_INSTANT";

/// Bytes of an answer that is longer than the protocol allows.
const FLOOD: usize = 40 * 1024 * 1024;

/// The supervisor, a machine of it, or a process that only hangs.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["machine", _uid, dir] => machine::main(Path::new(dir)),
        ["hang"] => hang(),
        _ => answer(),
    }
}

fn answer() -> ExitCode {
    let request = match server::read(&mut io::stdin()) {
        Ok(request) => request,
        Err(error) => return server::write(&Response::error(error)),
    };
    let fake = FakeDir::from_env();
    let verb = request.verb();
    let target = request.target().cloned();
    if let (Request::Start(start), Some(fake)) = (&request, &fake) {
        fake.remember(&start.identity.uid, &start.identity.name);
        fake.given(&start.identity.uid, &start.guest.secrets);
    }
    let uid = target.as_ref().map_or("-", |target| target.uid.as_str());
    if let Some(fake) = &fake {
        fake.called(verb, uid);
    }
    let lie = fake.as_ref().and_then(|fake| fake.lie(verb, uid));
    match lie {
        Some(Lie::Mute) => return ExitCode::SUCCESS,
        Some(Lie::Hang) => return hang_with_a_child(),
        Some(Lie::Flood) => return flood(),
        _ => {}
    }
    let mut response = verbs::carry_out(request, lie).unwrap_or_else(Response::error);
    match lie {
        Some(Lie::CutShort) => {
            let text = serde_json::to_vec(&response).unwrap_or_default();
            let _ = io::stdout().write_all(&text[..text.len() / 2]);
            return ExitCode::SUCCESS;
        }
        Some(Lie::LostReply) => return ExitCode::FAILURE,
        Some(lie) => {
            if let Some(machine) = &mut response.machine {
                lie.twist(machine);
            }
        }
        None => {}
    }
    let honest = server::write(&response);
    if lie == Some(Lie::OkButFails) { ExitCode::FAILURE } else { honest }
}

fn flood() -> ExitCode {
    let _ = io::stdout().write_all(format!("{{\"protocol\":\"{PROTOCOL}\",").as_bytes());
    let _ = io::stdout().write_all(&vec![b' '; FLOOD]);
    ExitCode::SUCCESS
}

/// Never answers, and has a child that does not either: both are to be killed.
fn hang_with_a_child() -> ExitCode {
    if let Ok(exe) = env::current_exe() {
        let _ = Command::new(exe).arg("hang").stdin(Stdio::null()).spawn();
    }
    hang()
}

fn hang() -> ExitCode {
    if let (Some(fake), Ok(own)) = (FakeDir::from_env(), ProcessId::own()) {
        fake.hangs(own);
    }
    loop {
        std::thread::park();
    }
}
