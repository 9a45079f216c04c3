//! Runs a program of the host: bounded output, each line seen as it comes, ended with all that it started when cancelled.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use microagent_base::Progress;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result, io_error};

/// A listing of all versions of a kernel package has some tens of KiB.
const MAX_OUTPUT: u64 = 16 << 20;
/// Lines of a failed program that are worth showing.
const LAST_LINES: usize = 8;
/// A line is cut behind this many characters in messages.
const LINE_LENGTH: usize = 300;
/// How long a program that is to end has for it: make removes the files that it has half written.
const GRACE: Duration = Duration::from_secs(5);
/// How soon a cancellation is noticed while the program is silent.
const LOOK: Duration = Duration::from_millis(100);

/// How a program ended and what it printed.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    /// The last lines of both streams that say something.
    pub(crate) last: Vec<String>,
}

/// Where a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Runs the program to its end, in a process group of its own. `line` sees each line as it comes.
///
/// # Errors
/// It cannot be started, or the work was cancelled and the program ended.
pub(crate) fn run(
    mut command: Command,
    program: &Path,
    progress: &dyn Progress,
    line: impl FnMut(Stream, &str),
) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command, program)?;
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, Stream::Stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, Stream::Stderr, sender);
    }
    follow(child, program, &lines, progress, line)
}

/// As [`run`], with all that is printed as one stream, that of standard output: its lines come in the order in which they were printed.
///
/// # Errors
/// As those of [`run`].
pub(crate) fn run_as_one(
    mut command: Command,
    program: &Path,
    progress: &dyn Progress,
    mut line: impl FnMut(&str),
) -> Result<Output> {
    let (reader, writer) = io::pipe().map_err(io_error("make a pipe for", program))?;
    command.stdout(writer.try_clone().map_err(io_error("make a pipe for", program))?).stderr(writer);
    let child = start(command, program)?;
    let (sender, lines) = mpsc::channel();
    forward(reader, Stream::Stdout, sender);
    follow(child, program, &lines, progress, |_, text| line(text))
}

/// Starts the program. The command goes, and with it its ends of pipes.
fn start(mut command: Command, program: &Path) -> Result<Child> {
    command.stdin(Stdio::null()).process_group(0).spawn().map_err(io_error("start", program))
}

fn follow(
    mut child: Child,
    program: &Path,
    lines: &Receiver<(Stream, String)>,
    progress: &dyn Progress,
    mut line: impl FnMut(Stream, &str),
) -> Result<Output> {
    let mut stdout = String::new();
    let mut last: Vec<String> = Vec::new();
    loop {
        if progress.cancelled() {
            end(&mut child);
            return Err(Error::Cancelled);
        }
        let (stream, text) = match lines.recv_timeout(LOOK) {
            Ok(received) => received,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        line(stream, &text);
        if stream == Stream::Stdout {
            stdout.push_str(&text);
            stdout.push('\n');
        }
        if !text.trim().is_empty() && !text.starts_with("dlstatus:") && !text.starts_with("pmstatus:") {
            if last.len() == LAST_LINES {
                last.remove(0);
            }
            last.push(text.trim().chars().take(LINE_LENGTH).collect());
        }
    }
    let status = child.wait().map_err(io_error("wait for", program))?;
    Ok(Output { status, stdout, last })
}

/// Asks the program and all that it started to end, and ends what does not.
fn end(child: &mut Child) {
    let group = Pid::from_child(child);
    let _ = kill_process_group(group, Signal::TERM);
    let patience = Instant::now() + GRACE;
    while Instant::now() < patience {
        // Once it is waited for, its number may be another's.
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(LOOK);
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

fn forward(stream: impl Read + Send + 'static, which: Stream, sender: Sender<(Stream, String)>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream.take(MAX_OUTPUT));
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            line.clear();
            if sender.send((which, text)).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_base::Silent;
    use std::sync::atomic::AtomicBool;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_are_read_and_the_last_lines_that_say_something_are_kept() {
        let script = "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; echo; echo dlstatus:1:2:x; exit 3";
        let mut seen = 0;
        let output =
            run(shell(script), Path::new("sh"), &Silent, |stream, _| seen += u32::from(stream == Stream::Stdout))
                .unwrap();
        assert_eq!((output.status.code(), seen), (Some(3), 11));
        assert_eq!(output.last.first().map(String::as_str), Some("line 2"));
        let output = run(shell("echo bad >&2"), Path::new("sh"), &Silent, |_, _| ()).unwrap();
        assert_eq!((output.stdout.as_str(), output.last), ("", vec!["bad".to_owned()]));
    }

    #[test]
    fn what_is_read_as_one_comes_in_its_order() {
        let script = "for n in 1 2 3 4 5 6 7 8 9; do echo out $n; echo err $n >&2; done";
        let mut lines = Vec::new();
        let output = run_as_one(shell(script), Path::new("sh"), &Silent, |text| lines.push(text.to_owned())).unwrap();
        assert!(output.status.success());
        let expected: Vec<String> = (1..=9).flat_map(|n| [format!("out {n}"), format!("err {n}")]).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_silent_program_is_ended_when_nobody_wants_it() {
        let cancelled = AtomicBool::new(true);
        let result = run(shell("exec sleep 60"), Path::new("sh"), &cancelled, |_, _| ());
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
