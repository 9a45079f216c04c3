//! A command that the host runs beside the workload.

use std::os::fd::OwnedFd;

use microagent_guest_protocol::{Exec, ExecInput, ExecReply, Exit, Process};

use crate::{
    error::Error,
    machine::Machine,
    peer::Peer,
    process::{self, Input, Role, Running},
    relay::{HostAct, Relay},
};

/// Runs `exec` for the host at the other end of `socket`, until it has the reply or is gone.
pub(crate) fn run(machine: &Machine, socket: OwnedFd, exec: Exec) {
    let Ok(mut peer) = Peer::new(socket) else { return };
    let place = machine.begin_exec();
    let counted = place.is_ok();
    let outcome = place.and_then(|(number, env)| {
        let env = process::merge(&exec.process.env, &env);
        let process = Process { env, ..exec.process };
        let input = match exec.terminal {
            Some(size) => Input::Terminal(size),
            None if exec.stdin => Input::Host,
            None => Input::Nothing,
        };
        let running = process::start(&machine.children, &process, Role::Exec, &format!("exec-{number}"), input)?;
        Ok(relay(machine, &mut peer, running, exec.stdin))
    });
    peer.message(&match outcome {
        Ok(exit) => ExecReply::Exited(exit),
        Err(e) => failed(&e),
    });
    peer.finish();
    if counted {
        machine.end_exec();
    }
}

fn failed(error: &Error) -> ExecReply {
    ExecReply::Failed { code: error.category().to_owned(), message: error.to_string() }
}

fn relay(machine: &Machine, peer: &mut Peer, running: Running, stdin: bool) -> Exit {
    let Running { child, cgroup, input, outputs, terminal } = running;
    let relay = Relay {
        peer,
        child: &child,
        // A terminal without standard input stays open: closing it would hang it up.
        input: input.filter(|_| stdin),
        outputs,
        verdicts: None,
        interactive: true,
        // The end of a session leader hangs up its terminal, so that its output has an end; a pipe's may have none.
        to_the_end: terminal.is_some(),
    };
    let mut oom_killed = false;
    let exit = relay.run(
        |act| match act {
            HostAct::Input(ExecInput::Resize(size)) => {
                if let Some(terminal) = &terminal {
                    let _ = process::set_size(terminal, size);
                }
            }
            HostAct::Input(ExecInput::Signal { number }) if (1..=64).contains(&number) => {
                machine.children.signal(&child, number.into());
            }
            HostAct::Input(ExecInput::Signal { .. }) => {}
            // As a terminal that is unplugged: commands meant to go on handle it.
            HostAct::Left => machine.children.signal(&child, libc::SIGHUP),
        },
        || oom_killed = cgroup.oom_killed(),
    );
    Exit { oom_killed, ..exit }
}
