//! guest-init as PID 1 of real machines, seen from the host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail tests")]

mod harness;
mod secrets;

use std::path::PathBuf;

use harness::{
    Tools,
    client::{ExecSession, Session, Told, config, exec, sh, shut_down, steps},
    image,
    vm::Vm,
};
use microagent_guest_protocol::{
    Config, Event, Exec, ExecInput, ExecReply, Exit, File, Health, Mount, Output, Probe, Root, Terminal,
};

/// The disks of one workspace.
struct Disks {
    _directory: tempfile::TempDir,
    baseline: PathBuf,
    writable: PathBuf,
}

impl Disks {
    fn new(tools: &Tools) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (baseline, writable) = (directory.path().join("baseline"), directory.path().join("writable"));
        image::baseline(tools, &baseline);
        image::empty(&writable, "64M");
        Self { _directory: directory, baseline, writable }
    }

    fn boot(&self, tools: &Tools) -> Vm {
        Vm::boot(tools, &[(&self.baseline, true), (&self.writable, false)])
    }

    /// One boot from configuration to power-off.
    fn run(&self, tools: &Tools, config: &Config) -> Told {
        let mut vm = self.boot(tools);
        let told = Session::configure(&vm, config).until_the_end(&vm);
        vm.wait_until_off();
        assert!(image::is_clean(&self.writable));
        told
    }
}

#[test]
fn a_workload_s_code_and_all_of_its_output_arrive_before_the_power_off() {
    let Some(tools) = harness::tools("a_workload_s_code_and_all_of_its_output_arrive_before_the_power_off") else {
        return;
    };
    let script = "echo started >&2; head -c 10485760 /dev/zero | tr '\\0' x; sleep 1000 & exit 7";
    let told = Disks::new(tools).run(tools, &config(sh(script)));
    assert_eq!(told.workload_exit(), Some(Exit::code(7)));
    assert_eq!(told.stdout.len(), 10 << 20);
    assert!(told.stdout.iter().all(|b| *b == b'x'));
    assert_eq!(told.stderr, b"started\n");
    let names: Vec<_> =
        told.events.iter().map(|e| format!("{e:?}").split([' ', '{']).next().unwrap().to_owned()).collect();
    assert_eq!(names, ["Configured", "Mounted", "WorkloadStarted", "WorkloadExited"]);
}

#[test]
fn setup_runs_once_in_the_life_of_the_writable_disk_and_files_come_at_every_boot() {
    let Some(tools) = harness::tools("setup_runs_once_in_the_life_of_the_writable_disk_and_files_come_at_every_boot")
    else {
        return;
    };
    let disks = Disks::new(tools);
    let script = "cat /var/steps; stat -c '%u:%g %a' /opt/deep/tool; cat /opt/deep/tool; id -u; id -g; id -G; \
                  echo $HOME $PWD $GREETING; cat /etc/hostname /run/microagent/boot-id; hostname; grep -c box /etc/hosts; \
                  ls -d /run/mysqld; ls / | grep -c overlay; readlink /dev/fd; date +%Y; cat /proc/self/oom_score_adj";
    let mut config = config(sh(script));
    config.workload.user = Some("agent".into());
    config.workload.working_dir = Some("/srv/app".into());
    config.setup =
        steps(&["mkdir -p /var; echo one $GREETING $PWD >> /var/steps", "sleep 1000 & echo two >> /var/steps"]);
    let content = b"#!/bin/sh\n".to_vec();
    config.files =
        vec![File { path: "/opt/deep/tool".into(), content, mode: 0o4750, owner: Some("agent:audio".into()) }];
    let expected = "one hello /srv/app\ntwo\n1000:29 4750\n#!/bin/sh\n1000\n1001\n1001 29\n/home/agent /srv/app hello\nbox\n\
                    boot-1\nbox\n1\n/run/mysqld\n0\n/proc/self/fd\n2023\n0\n";
    for boot in 0..2 {
        let told = disks.run(tools, &config);
        assert_eq!(told.text(), expected, "{told:?}");
        assert_eq!(told.workload_exit(), Some(Exit::code(0)));
        let ran = told.events.iter().filter(|e| matches!(e, Event::SetupStarted { .. })).count();
        assert_eq!(ran, if boot == 0 { 2 } else { 0 });
    }
    config.setup = steps(&["mkdir -p /var; echo one $GREETING $PWD >> /var/steps", "exit 3", "echo never"]);
    let told = disks.run(tools, &config);
    assert_eq!(told.workload_exit(), None);
    assert!(
        matches!(told.events.last(), Some(Event::SetupFinished { index: 1, exit, .. }) if *exit == Exit::code(3)),
        "{told:?}"
    );
}

#[test]
fn execs_run_beside_the_workload_which_gets_its_grace_at_the_end() {
    let Some(tools) = harness::tools("execs_run_beside_the_workload_which_gets_its_grace_at_the_end") else { return };
    let disks = Disks::new(tools);
    let mut vm = disks.boot(tools);
    let (_, _, reply) = ExecSession::start(&vm, exec("true")).finish();
    assert!(matches!(&reply, ExecReply::Failed { code, .. } if code == "NotConfigured"), "{reply:?}");

    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut session = Session::configure(&vm, &config(sh(script)));
    session.until(&vm, |told| told.text() == "ready\n");

    // Both streams, the environment of the workload, the code; a child left behind does not hold the reply.
    let (out, err, reply) =
        ExecSession::start(&vm, exec("echo $GREETING; echo oops >&2; sleep 1000 & exit 9")).finish();
    assert_eq!((out.as_str(), err.as_str(), reply), ("hello\n", "oops\n", ExecReply::Exited(Exit::code(9))));

    // Standard input to its end, more than a pipe holds.
    let mut counting = ExecSession::start(&vm, Exec { stdin: true, ..exec("wc -c") });
    for _ in 0..40 {
        counting.stdin(&[b'x'; 50_000]);
    }
    counting.stdin(b"");
    assert_eq!(counting.finish().0.trim(), "2000000");

    // A command that does not read its input still gets its signals.
    let mut stuck = ExecSession::start(&vm, Exec { stdin: true, ..exec("echo on; exec sleep 1000") });
    stuck.expect("on");
    (0..10).for_each(|_| stuck.stdin(&[b'x'; 60_000]));
    stuck.input(&ExecInput::Signal { number: 15 });
    let exit = Exit { code: None, signal: Some(15), oom_killed: false };
    assert_eq!(stuck.finish().2, ExecReply::Exited(exit));

    // A terminal: its size, a new size, its line discipline, another user.
    let script = "trap 'stty size' WINCH; stty size; tty; read line; echo got $line; read line; exit 4";
    let mut with_terminal = exec(script);
    with_terminal.terminal = Some(Terminal { rows: 30, columns: 100 });
    with_terminal.stdin = true;
    with_terminal.process.user = Some("agent".into());
    let mut terminal = ExecSession::start(&vm, with_terminal);
    terminal.expect("30 100\r\n/dev/pts/0\r\n");
    terminal.stdin(b"text\n");
    terminal.expect("got text\r\n");
    terminal.input(&ExecInput::Resize(Terminal { rows: 40, columns: 120 }));
    terminal.stdin(b"\n");
    let (out, _, reply) = terminal.finish();
    assert!(out.contains("40 120\r\n"), "{out:?}");
    assert_eq!(reply, ExecReply::Exited(Exit::code(4)));
    // Control-C of the terminal is a signal to its foreground.
    let mut interrupted = ExecSession::start(
        &vm,
        Exec { terminal: Some(Terminal { rows: 1, columns: 80 }), stdin: true, ..exec("echo on; exec sleep 1000") },
    );
    interrupted.expect("on");
    interrupted.stdin(&[3]);
    assert_eq!(interrupted.finish().2, ExecReply::Exited(Exit { signal: Some(2), ..exit }));

    let mut missing = exec("");
    missing.process.argv = vec!["no-such-command".into()];
    let (_, _, reply) = ExecSession::start(&vm, missing).finish();
    assert!(
        matches!(&reply, ExecReply::Failed { code, message } if code == "CommandNotFound" && message.contains("/usr/bin/no-such-command")),
        "{reply:?}"
    );

    // An exec whose host leaves is hung up.
    let mut left = ExecSession::start(&vm, exec("trap 'touch /left; exit' HUP; echo on; while :; do sleep 0.1; done"));
    left.expect("on");
    drop(left);
    let waiting = "until [ -e /left ]; do sleep 0.1; done; echo seen";
    assert_eq!(ExecSession::start(&vm, exec(waiting)).finish().0, "seen\n");

    let mut open = ExecSession::start(&vm, exec("echo on; exec sleep 1000"));
    open.expect("on");
    shut_down(&vm, 30);
    let told = session.until_the_end(&vm);
    assert_eq!((told.text().as_str(), told.workload_exit()), ("bye\n", Some(Exit::code(3))));
    assert_eq!(open.finish().2, ExecReply::Exited(Exit { signal: Some(9), ..exit }));
    vm.wait_until_off();
    assert!(image::is_clean(&disks.writable));
}

/// The verdicts that were told.
fn verdicts(told: &Told) -> Vec<(bool, String)> {
    let verdict = |e: &Event| match e {
        Event::Health { healthy, message, .. } => Some((*healthy, message.clone())),
        _ => None,
    };
    told.events.iter().filter_map(verdict).collect()
}

#[test]
fn a_command_probes_as_the_workload_and_leaves_nothing_behind() {
    let Some(tools) = harness::tools("a_command_probes_as_the_workload_and_leaves_nothing_behind") else { return };
    let disks = Disks::new(tools);
    let mut vm = disks.boot(tools);
    // Healthy while the file is there; each probe leaves a child behind, and hangs while /srv/app/hang is there.
    let probe = "sleep 1000 & [ ! -e hang ] || sleep 1000; echo $(id -u) $GREETING $PWD; [ -e up ]";
    let mut config = config(sh("touch up; trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    config.workload.user = Some("agent".into());
    config.workload.working_dir = Some("/srv/app".into());
    config.setup = steps(&["chown agent /srv/app"]);
    config.health = Some(Health {
        probe: Probe::Exec { command: vec!["sh".into(), "-c".into(), probe.into()] },
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds: 5,
        success_threshold: 1,
        failure_threshold: 2,
    });
    let mut session = Session::configure(&vm, &config);
    let told = session.until(&vm, |t| !verdicts(t).is_empty());
    let healthy = "the command exited with 0: 1000 hello /srv/app".to_owned();
    assert_eq!(verdicts(&told).last().unwrap(), &(true, healthy.clone()));
    ExecSession::start(&vm, exec("rm /srv/app/up")).finish();
    let told = session.until(&vm, |t| !verdicts(t).is_empty());
    assert_eq!(verdicts(&told), [(false, "the command exited with 1: 1000 hello /srv/app".to_owned())]);
    ExecSession::start(&vm, exec("touch /srv/app/up")).finish();
    let told = session.until(&vm, |t| !verdicts(t).is_empty());
    assert_eq!(verdicts(&told), [(true, healthy)]);
    ExecSession::start(&vm, exec("touch /srv/app/hang")).finish();
    let told = session.until(&vm, |t| !verdicts(t).is_empty());
    assert_eq!(verdicts(&told), [(false, "the command was killed at its timeout".to_owned())]);
    // One may be running; of all that ran nothing is left, and no zombie.
    let left = "ps -o args | grep -c '^sleep 1000'; ps -o stat,args | grep '^Z'";
    let (left, _, _) = ExecSession::start(&vm, exec(left)).finish();
    assert!(left.trim().parse::<u32>().is_ok_and(|n| n <= 2), "{left:?}");
    // The probe that hangs does not hold up the end.
    shut_down(&vm, 30);
    let told = session.until_the_end(&vm);
    assert_eq!(told.workload_exit(), Some(Exit::code(0)), "{told:?}");
    vm.wait_until_off();
    assert!(image::is_clean(&disks.writable));
}

#[test]
fn ports_are_probed_by_connection_and_by_request() {
    let Some(tools) = harness::tools("ports_are_probed_by_connection_and_by_request") else { return };
    let disks = Disks::new(tools);
    let serve = "mkdir -p /www; echo ok > /www/ready; httpd -p 127.0.0.1:8080 -h /www; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let http = |path: &str| Probe::HttpGet { host: None, port: 8080, path: path.into(), headers: Vec::new() };
    for (probe, expected) in [
        (Probe::TcpSocket { host: Some("localhost".into()), port: 8080 }, (true, "takes connections")),
        (http("/ready"), (true, "HTTP status 200")),
        (http("/absent"), (false, "HTTP status 404")),
    ] {
        let mut vm = disks.boot(tools);
        let mut config = config(sh(serve));
        config.health = Some(Health {
            probe,
            initial_delay_seconds: 1,
            period_seconds: 1,
            timeout_seconds: 10,
            success_threshold: 1,
            failure_threshold: 5,
        });
        let mut session = Session::configure(&vm, &config);
        let told = session.until(&vm, |t| !verdicts(t).is_empty());
        let (healthy, message) = verdicts(&told).remove(0);
        assert_eq!(healthy, expected.0, "{message}");
        assert!(message.contains(expected.1), "{message}");
        shut_down(&vm, 30);
        session.until_the_end(&vm);
        vm.wait_until_off();
    }
}

/// Names and errors of the outputs that ended.
fn outputs(told: &Told) -> Vec<(&str, Option<&str>)> {
    fn ended(event: &Event) -> Option<(&str, Option<&str>)> {
        match event {
            Event::OutputFinished { name, error } => Some((name, error.as_deref())),
            _ => None,
        }
    }
    told.events.iter().filter_map(ended).collect()
}

#[test]
fn outputs_are_copied_out_when_the_workload_has_ended_by_itself_or_by_a_shutdown() {
    let Some(tools) = harness::tools("outputs_are_copied_out_when_the_workload_has_ended_by_itself_or_by_a_shutdown")
    else {
        return;
    };
    let disks = Disks::new(tools);
    let output = |name: &str, path: &str| Output { name: name.into(), path: path.into() };
    let fill = "mkdir -p out/deep; echo result > out/deep/a; head -c 5000000 /dev/zero | tr '\\0' x > out/big; \
                ln -s /etc/passwd out/link; mkfifo out/pipe; ln -s /proc/1/root/out /magic; ln -s out /alias";
    let mut config = config(sh(&format!("{fill}; exit 3")));
    config.outputs = vec![output("all", "/alias"), output("none", "/absent"), output("escape", "/magic/deep")];
    let told = disks.run(tools, &config);
    assert_eq!(told.workload_exit(), Some(Exit::code(3)));
    let ended = outputs(&told);
    assert_eq!((ended[0], ended[1].0, ended[2].0), (("all", None), "none", "escape"), "{ended:?}");
    assert!(ended[1].1.is_some_and(|e| e.contains("No such file")) && ended[2].1.is_some(), "{ended:?}");
    let mut archive = tar::Archive::new(&told.archive[..]);
    let entry = |e: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = e.unwrap();
        (entry.path().unwrap().display().to_string(), entry.size())
    };
    let mut entries: Vec<_> = archive.entries().unwrap().map(entry).collect();
    entries.sort();
    let expected =
        [("alias/", 0), ("alias/big", 5_000_000), ("alias/deep/", 0), ("alias/deep/a", 7), ("alias/link", 0)];
    assert_eq!(entries, expected.map(|(name, size)| (name.to_owned(), size)));

    let mut vm = disks.boot(tools);
    config.workload = sh("trap 'echo late > /late; exit 0' TERM; echo ready; while :; do sleep 0.1; done");
    config.outputs = vec![output("late", "/late")];
    let mut session = Session::configure(&vm, &config);
    session.until(&vm, |told| told.text() == "ready\n");
    shut_down(&vm, 30);
    let told = session.until_the_end(&vm);
    assert_eq!((told.workload_exit(), outputs(&told)), (Some(Exit::code(0)), vec![("late", None)]));
    let text = String::from_utf8_lossy(&told.archive);
    assert!(text.starts_with("late\0") && text.contains("late\n"));
    vm.wait_until_off();
    assert!(image::is_clean(&disks.writable));
}

#[test]
fn a_workload_that_ignores_sigterm_is_killed_and_told_with_its_signal() {
    let Some(tools) = harness::tools("a_workload_that_ignores_sigterm_is_killed_and_told_with_its_signal") else {
        return;
    };
    let disks = Disks::new(tools);
    let mut vm = disks.boot(tools);
    let mut session = Session::configure(&vm, &config(sh("trap '' TERM; echo ready; while :; do sleep 0.1; done")));
    session.until(&vm, |told| told.text() == "ready\n");
    shut_down(&vm, 1);
    let exit = session.until_the_end(&vm).workload_exit();
    assert_eq!(exit, Some(Exit { code: None, signal: Some(9), oom_killed: false }));
    vm.wait_until_off();
    assert!(image::is_clean(&disks.writable));
}

#[test]
fn a_machine_whose_configurer_left_goes_on_until_it_is_shut_down() {
    let Some(tools) = harness::tools("a_machine_whose_configurer_left_goes_on_until_it_is_shut_down") else { return };
    let disks = Disks::new(tools);
    let mut vm = disks.boot(tools);
    let mut session = Session::configure(
        &vm,
        &config(sh("trap 'exit 0' TERM; while :; do echo tick; echo x >> /ticks; sleep 0.1; done")),
    );
    session.until_started(&vm);
    drop(session);
    let more = "n() { wc -l < /ticks; }; old=$(n); until [ $(n) -gt $((old + 3)) ]; do sleep 0.1; done; echo on";
    assert_eq!(ExecSession::start(&vm, exec(more)).finish().0, "on\n");
    shut_down(&vm, 30);
    vm.wait_until_off();
    assert!(image::is_clean(&disks.writable));
}

#[test]
fn a_workload_that_takes_all_memory_is_told_as_killed_for_it() {
    let Some(tools) = harness::tools("a_workload_that_takes_all_memory_is_told_as_killed_for_it") else { return };
    let told = Disks::new(tools).run(tools, &config(sh("exec tail /dev/zero")));
    assert_eq!(told.workload_exit(), Some(Exit { code: None, signal: Some(9), oom_killed: true }));
}

#[test]
fn what_cannot_be_started_is_told_with_its_code_and_where_it_was_looked_for() {
    let Some(tools) = harness::tools("what_cannot_be_started_is_told_with_its_code_and_where_it_was_looked_for") else {
        return;
    };
    let disks = Disks::new(tools);
    let failure = |change: fn(&mut Config)| {
        let mut config = config(sh("true"));
        change(&mut config);
        let told = disks.run(tools, &config);
        assert!(told.workload_exit().is_none());
        match told.events.last() {
            Some(Event::Failed { code, message, .. }) => (code.clone(), message.clone()),
            other => panic!("{other:?}"),
        }
    };
    let (code, message) = failure(|c| c.workload.argv = vec!["agentd".into()]);
    assert_eq!(code, "WorkloadNotFound");
    assert!(message.contains("/usr/local/sbin/agentd, /usr/local/bin/agentd"), "{message}");
    let (code, message) = failure(|c| c.workload.argv = vec!["no-loader".into()]);
    assert_eq!(code, "WorkloadNotExecutable");
    assert!(message.contains("\"/no/such/interpreter\""), "{message}");
    assert_eq!(failure(|c| c.workload.user = Some("nobody".into())).0, "UserNotFound");
    assert_eq!(failure(|c| c.version = 99).0, "VersionMismatch");
}

#[test]
fn a_plain_writable_root_and_a_further_disk_keep_what_is_written() {
    let Some(tools) = harness::tools("a_plain_writable_root_and_a_further_disk_keep_what_is_written") else { return };
    let disks = Disks::new(tools);
    let mut config =
        config(sh("cat /count; echo x >> /data/deep/log; wc -l < /data/deep/log; ls -A / | grep -c setup"));
    config.root = Root { baseline: 0, overlay: None };
    config.mounts = vec![Mount { disk: 1, path: "/data/deep".into(), read_only: false }];
    config.setup = steps(&["echo once >> /count"]);
    for boot in 1..=2 {
        let mut vm = Vm::boot(tools, &[(&disks.baseline, false), (&disks.writable, false)]);
        let told = Session::configure(&vm, &config).until_the_end(&vm);
        vm.wait_until_off();
        assert_eq!(told.text(), format!("once\n{boot}\n0\n"), "{told:?}");
        assert!(image::is_clean(&disks.baseline) && image::is_clean(&disks.writable));
    }
}
