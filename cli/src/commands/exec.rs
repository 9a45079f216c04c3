//! `microagent exec`

use std::{io, path::PathBuf};

use microagent_controller::Key;
use microagent_crds::Phase;
use microagent_guest_protocol::{EnvVar, Exec, ExecInput, ExecReply, Process};
use microagent_images::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::signal_code;
use crate::{
    context::Context,
    failure::{FAILED, Failure, Result},
    guest::{
        session::{End, Session},
        terminal::{self, Raw},
        wire::Wire,
    },
    objects::{self, Object},
    output,
    program::{is_plugin, program},
};

/// What shells and Docker give for a command that is not there.
pub(crate) const NOT_FOUND: u8 = 127;
/// What shells and Docker give for a command that cannot be run.
pub(crate) const NOT_RUNNABLE: u8 = 126;
/// So many signals end us, should the command not end by them.
const PATIENCE: u32 = 3;

/// Run a command in a running workspace
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with the command's own code; 126 when it cannot be run, 127 when it is not there, 128 and the \
                        signal's number when a signal ended it."
)]
pub(crate) struct Args {
    /// The workspace
    name: String,
    /// Give the command our standard input
    #[arg(short = 'i', long = "stdin")]
    stdin: bool,
    /// Give the command our terminal
    #[arg(short, long)]
    tty: bool,
    /// `user[:group]`, by name or number [default: the workload's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// The working directory in the guest [default: the workload's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// NAME=VALUE, or NAME to take our own value; beside the workload's environment
    #[arg(short, long, value_name = "ENV")]
    env: Vec<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let key = context.key(&args.name)?;
    let (wire, object) = reach(context, &key).await?;
    converse(wire, args.exec(workload(context, &object)), &key.name).await
}

/// A connection to the guest of a workspace of this host, and what is known of it.
pub(crate) async fn reach(context: &Context, key: &Key) -> Result<(Wire, Object)> {
    let object = objects::need(&context.paths, key)?;
    let socket = context.paths.machine(object.machine_uid()?).vsock();
    if socket.symlink_metadata().is_err() {
        return Err(not_running(&object));
    }
    Ok((connect(socket, &object).await?, object))
}

async fn connect(socket: PathBuf, object: &Object) -> Result<Wire> {
    let connected = tokio::task::spawn_blocking(move || Wire::local(&socket)).await?;
    connected.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => not_running(object),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => no_answer(&object.key.name),
        _ => Failure::new(format!("cannot reach the guest of workspace {}: {e}", object.key.name)),
    })
}

/// The guest does not take a connection.
pub(crate) fn no_answer(name: &str) -> Failure {
    Failure::try_again(format!("the guest of workspace {name} does not answer"))
        .help(format!("see `{} logs --console {name}`", program()))
}

/// Runs the command over a connection to the guest, with our input, output, terminal and signals, and gives its exit code.
pub(crate) async fn converse(wire: Wire, exec: Exec, name: &str) -> Result<u8> {
    let (tty, stdin) = (exec.terminal.is_some(), exec.stdin);
    // From before the command runs: once it does, no signal is ours alone.
    let mut signals = Signals::listen()?;
    let started = tokio::task::spawn_blocking(move || Session::start(wire, exec, io::stdout(), io::stderr())).await?;
    let mut session = started.map_err(|e| Failure::new(format!("cannot reach the guest of workspace {name}: {e}")))?;
    let raw = if tty { Some(Raw::enter()?) } else { None };
    if stdin {
        session.feed(io::stdin());
    }
    let mut heard = 0;
    let end = loop {
        tokio::select! {
            end = session.end() => break end,
            number = signals.next() => {
                if number == SignalKind::window_change().as_raw_value() {
                    if tty {
                        session.tell(ExecInput::Resize(terminal::size()));
                    }
                    continue;
                }
                heard += 1;
                if heard == PATIENCE {
                    drop(raw);
                    return Ok(signal_code(number));
                }
                if let Ok(number) = u8::try_from(number) {
                    session.tell(ExecInput::Signal { number });
                }
            }
        }
    };
    drop(raw);
    code(end, name)
}

impl Args {
    /// The workspace.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What to ask of the guest, with the workload's user and working directory where they are known and no others are given. Tells
    /// when there is no terminal to give.
    pub(crate) fn exec(&self, (user, workdir): (Option<String>, Option<String>)) -> Exec {
        let tty = self.tty && terminal::usable();
        if self.tty && !tty {
            output::warn("standard input or output is no terminal; going on without one");
        }
        let mut env = environment(&self.env);
        if tty && !env.iter().any(|e| e.name == "TERM") {
            env.extend(environment(&["TERM".to_owned()]));
        }
        let process = Process {
            argv: self.command.clone(),
            env,
            working_dir: self.workdir.clone().or(workdir),
            user: self.user.clone().or(user),
        };
        Exec { process, terminal: tty.then(terminal::size), stdin: self.stdin }
    }
}

/// The workload's user and working directory: as the spec says, else as its image says.
pub(crate) fn workload(context: &Context, object: &Object) -> (Option<String>, Option<String>) {
    let spec = &object.workspace.spec;
    let digest = object.status().image.and_then(|image| image.digest.parse().ok());
    // An image that cannot be looked up is no reason not to run the command: the guest then has its own defaults.
    let image = digest.and_then(|digest| Store::open(&context.paths.images()).ok()?.image(&digest).ok()?);
    let config = image.map(|image| image.config).unwrap_or_default();
    let set = |text: String| Some(text).filter(|t| !t.is_empty());
    (spec.user.clone().or(set(config.user)), spec.working_dir.clone().or(set(config.working_dir)))
}

/// `NAME=VALUE`, or `NAME` with our own value; a name that we do not have is left out, as Docker does.
pub(crate) fn environment(given: &[String]) -> Vec<EnvVar> {
    let variable = |text: &String| {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (text.as_str(), std::env::var(text).ok()?),
        };
        Some(EnvVar { name: name.to_owned(), value })
    };
    given.iter().filter_map(variable).collect()
}

fn not_running(object: &Object) -> Failure {
    let name = &object.key.name;
    let phase = object.status().phase.unwrap_or_default();
    let failure = Failure::new(format!("workspace {name} is not running: its phase is {}", phase.as_str()));
    match phase {
        Phase::Succeeded | Phase::Failed | Phase::Halted => {
            failure.help(format!("see `{} describe {name}`", program()))
        }
        _ => failure.help(format!("wait for it with `{} wait {name} --for=condition=Running`", program())),
    }
}

fn code(end: End, name: &str) -> Result<u8> {
    match end {
        End::Reply(ExecReply::Exited(exit)) => {
            if exit.oom_killed {
                output::warn("the guest's kernel ended the command for want of memory");
            }
            Ok(exit.shell_code())
        }
        End::Reply(ExecReply::Failed { code, message }) => {
            let exit = if code.ends_with("NotFound") { NOT_FOUND } else { NOT_RUNNABLE };
            Err(Failure::new(format!("{}: {}", output::human::one_line(&code), output::human::lines(&message)))
                .code(exit))
        }
        End::HungUp => Err(Failure::try_again(format!("the machine of workspace {name} ended{}", or_its_agent()))
            .help(format!("see `{} describe {name}`", program()))),
        End::Broken(e) => Err(Failure::new(format!("the guest broke the protocol: {e}"))),
        // Who reads our output has had enough.
        End::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        End::Output(e) => Err(Failure::new(format!("cannot write the output: {e}")).code(FAILED)),
    }
}

/// Through a gate, the end of one is not known from the end of the other.
pub(crate) fn or_its_agent() -> &'static str {
    if is_plugin() { ", or the node agent that leads to it" } else { "" }
}

/// The signals that the command in the guest gets in our place.
struct Signals([Signal; 7]);

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::user_defined1())?,
            signal(SignalKind::user_defined2())?,
            signal(SignalKind::window_change())?,
        ]))
    }

    async fn next(&mut self) -> i32 {
        let [interrupt, terminate, hangup, quit, user1, user2, window] = &mut self.0;
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
            _ = quit.recv() => SignalKind::quit(),
            _ = user1.recv() => SignalKind::user_defined1(),
            _ = user2.recv() => SignalKind::user_defined2(),
            _ = window.recv() => SignalKind::window_change(),
        };
        kind.as_raw_value()
    }
}

#[cfg(test)]
mod tests {
    use microagent_guest_protocol::Exit;

    use super::*;

    #[test]
    fn variables_come_with_a_value_or_from_us() {
        let env =
            environment(&["A=b=c".to_owned(), "PATH".to_owned(), "MICROAGENT_NO_SUCH".to_owned(), "E=".to_owned()]);
        let names: Vec<_> = env.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["A", "PATH", "E"]);
        assert_eq!(env[0].value, "b=c");
    }

    #[test]
    fn the_exit_code_is_the_commands_own() {
        let signalled = Exit { code: None, signal: Some(9), oom_killed: true };
        assert_eq!(code(End::Reply(ExecReply::Exited(signalled)), "a").unwrap(), 137);
        assert_eq!(code(End::Reply(ExecReply::Exited(Exit::code(75))), "a").unwrap(), 75);
        for (name, exit) in [("CommandNotFound", 127), ("PermissionDenied", 126)] {
            let reply = ExecReply::Failed { code: name.to_owned(), message: "m".to_owned() };
            assert_eq!(code(End::Reply(reply), "a").unwrap_err().report(), exit);
        }
        assert_eq!(code(End::HungUp, "a").unwrap_err().report(), 75);
    }
}
