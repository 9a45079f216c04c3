//! `microagent events`.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    sync::mpsc,
    thread,
};

use microagent_controller::journal::{Event, EventType, Journal, MAX_FILE, MAX_MESSAGE};

use super::*;

fn event(name: &str, message: &str) -> Event {
    Event {
        time: "2026-11-24T06:00:00Z".parse().unwrap(),
        key: Key::new("default", name),
        uid: "u-1".to_owned(),
        type_: EventType::Normal,
        reason: "Running".to_owned(),
        message: message.to_owned(),
    }
}

/// Ended when the test ends, however it does.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_watch_gives_each_event_of_the_workspace_once_as_a_line_of_json_also_across_rotations() {
    let host = Host::new();
    let mut journal = Journal::open(&host.paths.journal()).unwrap();
    journal.append(&event("other", "not wanted")).unwrap();
    journal.append(&event("web", "0")).unwrap();
    let mut watching = Watching(host.command("events web -w -o json").stdout(Stdio::piped()).spawn().unwrap());
    let output = BufReader::new(watching.0.stdout.take().unwrap());
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let next = || {
        let value: Value = serde_json::from_str(&lines.recv_timeout(DEADLINE).expect("no event came")).unwrap();
        assert_eq!(value["name"], "web");
        value["message"].as_str().unwrap().trim_start_matches('.').to_owned()
    };
    assert_eq!(next(), "0");
    // Enough that the journal is put aside twice. Each is read before the next is written, so that nothing is lost by a reader that
    // is slow.
    let long = ".".repeat(MAX_MESSAGE - 100);
    for nth in 1..=2 * MAX_FILE / long.len() as u64 + 10 {
        journal.append(&event("other", "not wanted")).unwrap();
        journal.append(&event("web", &format!("{long}{nth}"))).unwrap();
        assert_eq!(next(), nth.to_string());
    }
    let older = host.paths.journal().with_extension("1.jsonl");
    assert!(fs::metadata(older).unwrap().len() > MAX_FILE / 2, "the journal was put aside");
}

#[test]
fn without_watching_programs_get_a_list_and_people_are_told_of_none() {
    let host = Host::new();
    let mut journal = Journal::open(&host.paths.journal()).unwrap();
    journal.append(&event("other", "not wanted")).unwrap();
    let list = |line: &str| -> usize {
        let value: Value = serde_json::from_str(&host.run(line).out).unwrap();
        value["items"].as_array().unwrap().len()
    };
    assert_eq!((list("events web -o json"), list("events -o json"), list("events -n team -o json")), (0, 1, 0));
    assert_eq!(list("events -A -n team -o json"), 1);
    assert_eq!(host.run("events web").err, "No events of workspace web\n");
}
