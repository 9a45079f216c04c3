//! Runs a program of the package manager: bounded output, each line seen as it comes, ended when cancelled.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use microagent_base::Progress;

use crate::error::{Error, Result, io_error};

/// A listing of all versions of a kernel package has some tens of KiB.
const MAX_OUTPUT: u64 = 16 << 20;
/// Lines of a failed program that are worth showing.
const LAST_LINES: usize = 8;
/// A line is cut behind this many characters in messages.
const LINE_LENGTH: usize = 300;
/// How soon a cancellation is noticed while the program is silent.
const LOOK: Duration = Duration::from_millis(100);

/// How a program ended and what it printed.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    /// The last lines of both streams that say something.
    pub(crate) last: Vec<String>,
}

/// Runs the program to its end. `line` sees each line of its standard output.
///
/// # Errors
/// It cannot be started, or the work was cancelled and the program ended.
pub(crate) fn run(
    mut command: Command,
    program: &Path,
    progress: &dyn Progress,
    mut line: impl FnMut(&str),
) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io_error("start", program))?;
    let (sender, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, true, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, false, sender);
    }
    let mut stdout = String::new();
    let mut last: Vec<String> = Vec::new();
    loop {
        if progress.cancelled() {
            // Its helpers end when they lose it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Cancelled);
        }
        let (is_stdout, text) = match lines.recv_timeout(LOOK) {
            Ok(received) => received,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if is_stdout {
            line(&text);
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

fn forward(stream: impl Read + Send + 'static, is_stdout: bool, sender: Sender<(bool, String)>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream.take(MAX_OUTPUT));
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            line.clear();
            if sender.send((is_stdout, text)).is_err() {
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
        let output = run(shell(script), Path::new("sh"), &Silent, |_| seen += 1).unwrap();
        assert_eq!((output.status.code(), seen), (Some(3), 11));
        assert_eq!(output.last.first().map(String::as_str), Some("line 2"));
        let output = run(shell("echo bad >&2"), Path::new("sh"), &Silent, |_| ()).unwrap();
        assert_eq!((output.stdout.as_str(), output.last), ("", vec!["bad".to_owned()]));
    }

    #[test]
    fn a_silent_program_is_ended_when_nobody_wants_it() {
        let cancelled = AtomicBool::new(true);
        let result = run(shell("exec sleep 60"), Path::new("sh"), &cancelled, |_| ());
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
