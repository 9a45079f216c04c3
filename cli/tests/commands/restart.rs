//! `microagent restart`: the request that it leaves, and what it waits for.

use std::{thread, time::Instant};

use microagent_controller::request::{self, RestartRequest};

use super::*;

fn asked(host: &Host) -> Option<RestartRequest> {
    request::read(&host.paths, &Key::new("default", "web")).unwrap()
}

#[test]
fn a_request_names_the_workspace_that_was_meant_and_each_is_another() {
    let host = Host::new();
    host.publish(&manifest("web", ""), &booted("b-1", "True"));
    let done = host.run("restart web");
    assert_eq!((done.code, done.out.as_str()), (0, "workspace/web restart requested\n"));
    assert!(done.err.contains("nothing happens until `microagent up` runs"), "{}", done.err);
    let first = asked(&host).unwrap();
    assert_eq!((first.uid.as_str(), first.token.len()), ("u-1", 36));
    assert_eq!(host.run("restart web").code, 0);
    assert_ne!(asked(&host).unwrap().token, first.token);
    assert!(host.run("describe web").out.contains("\nRestart:         asked for "));
}

#[test]
fn what_cannot_be_started_anew_is_refused_and_no_request_left() {
    let host = Host::new();
    let done = host.run("restart web");
    assert_eq!(done.code, 1);
    assert!(done.err.contains("not found"), "{}", done.err);
    host.publish(&manifest("web", "  runPolicy: Halted\n"), &booted("b-1", "True"));
    let done = host.run("restart web");
    assert_eq!(done.code, 1);
    assert!(done.err.contains("Halted: nothing would be started"), "{}", done.err);
    assert_eq!(host.run("restart ../web").code, 2);
    assert_eq!(host.run("restart web --timeout 1s").code, 2, "there is nothing to wait for");
    assert_eq!(asked(&host), None);
    assert_eq!(std::fs::read_dir(host.paths.requests()).into_iter().flatten().count(), 0);
}

#[test]
fn waiting_ends_when_another_boot_is_ready() {
    let host = Host::new();
    let web = manifest("web", "");
    host.publish(&web, &booted("b-1", "True"));
    let child = host.command("restart web --wait --timeout 60s").stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + DEADLINE;
    while asked(&host).is_none() {
        assert!(Instant::now() < deadline, "no request came");
        thread::yield_now();
    }
    host.publish(&web, &booted("b-2", "False"));
    host.publish(&web, &booted("b-2", "True"));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out, "workspace/web restart requested\nworkspace/web restarted\n");
}

#[test]
fn waiting_in_vain_is_75_and_the_request_stands() {
    let host = Host::new();
    host.publish(&manifest("web", ""), &booted("b-1", "True"));
    let done = host.run("restart web --wait --timeout 0");
    assert_eq!(done.code, 75);
    assert!(done.err.contains("the restart of workspace/web"), "{}", done.err);
    assert!(asked(&host).is_some());
}
