//! `kubectl microagent exec`

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::Stdio,
    thread::JoinHandle,
};

use microagent_guest_protocol::{
    Exec, ExecInput, ExecReply, Exit, Request,
    frame::{self, Frame, Kind},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Cluster, done, guest::serve};

/// A guest for one command.
fn guest<T: Send + 'static>(
    cluster: &Cluster,
    then: impl FnOnce(UnixStream, Exec) -> T + Send + 'static,
) -> JoinHandle<T> {
    serve(cluster, |wire, request| {
        let Request::Exec(exec) = request else { unreachable!("the gate lets nothing else pass") };
        then(wire, exec)
    })
}

#[test]
fn input_goes_in_output_comes_out_and_the_code_is_the_commands_own() {
    let cluster = Cluster::new();
    let guest = guest(&cluster, |mut wire, exec| {
        let mut heard = Vec::new();
        while let Some(Frame { payload, .. }) = frame::read(&mut wire).unwrap().filter(|f| !f.payload.is_empty()) {
            frame::write(&mut wire, Kind::Stdout, &payload).unwrap();
            heard.extend(payload);
        }
        frame::write(&mut wire, Kind::Stderr, b"done\n").unwrap();
        frame::write_message(&mut wire, &ExecReply::Exited(Exit::code(7))).unwrap();
        (exec, heard)
    });
    let mut command = cluster.command("exec -i web -e A=b -- cat -n");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let sent: Vec<u8> = (0..10_000).map(|n| b'a' + (n % 26) as u8).collect();
    child.stdin.take().unwrap().write_all(&sent).unwrap();
    let done = done(&child.wait_with_output().unwrap());
    let (exec, heard) = guest.join().unwrap();
    assert_eq!((done.code, done.err.as_str()), (7, "done\n"));
    assert!(done.out.as_bytes() == sent && heard == sent);
    assert_eq!(
        (exec.process.argv, exec.process.user),
        (vec!["cat".to_owned(), "-n".to_owned()], Some("app".to_owned()))
    );
    assert_eq!(exec.process.env[0].name, "A");
}

#[test]
fn signals_reach_the_command() {
    let cluster = Cluster::new();
    let guest = guest(&cluster, |mut wire, _| {
        frame::write(&mut wire, Kind::Stdout, b"ready\n").unwrap();
        let input: ExecInput = frame::read_message(&mut wire).unwrap();
        let exit = Exit { code: None, signal: Some(15), oom_killed: false };
        frame::write_message(&mut wire, &ExecReply::Exited(exit)).unwrap();
        input
    });
    let mut child = cluster.command("exec web -- sleep 1d").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(guest.join().unwrap(), ExecInput::Signal { number: 15 });
}

#[test]
fn what_cannot_be_run_has_the_codes_of_shells() {
    let cluster = Cluster::new();
    let guest = guest(&cluster, |mut wire, _| {
        let reply = ExecReply::Failed { code: "CommandNotFound".to_owned(), message: "no such program: x".to_owned() };
        frame::write_message(&mut wire, &reply).unwrap();
    });
    let done = cluster.run("exec web x");
    assert_eq!((done.code, done.err.as_str()), (127, "error: CommandNotFound: no such program: x\n"));
    guest.join().unwrap();
}

#[test]
fn a_machine_that_ends_under_a_command_is_told() {
    let cluster = Cluster::new();
    let guest = guest(&cluster, |wire, _| drop(wire));
    let done = cluster.run("exec web ls");
    assert_eq!(done.code, 75);
    assert!(done.err.contains("ended, or the node agent that leads to it"), "{}", done.err);
    guest.join().unwrap();
}
