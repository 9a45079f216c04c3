//! `microagent logs`

use std::{
    io::{self, Write},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use microagent_base::log::{
    cri::{self, Stream},
    tail::Tail,
};
use microagent_crds::Phase;

use super::duration;
use crate::{
    context::Context,
    failure::Result,
    objects::{self, Object},
    output,
};

/// Show what a workspace's setup and workload wrote
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What went to standard output goes to standard output, what went to standard error to standard error."
)]
pub(crate) struct Args {
    /// The workspace
    pub(crate) name: String,
    /// Go on with what is written from now on, until the workload has ended for good
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines of what is there
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<usize>,
    /// Only what was written less than this ago, such as 30s or 1h
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "console")]
    since: Option<Duration>,
    /// The machine's serial console instead: its kernel and guest-init
    #[arg(long)]
    pub(crate) console: bool,
    /// Show when each line was written
    #[arg(long, conflicts_with = "console")]
    timestamps: bool,
    /// Leave out what setup commands wrote
    #[arg(long, conflicts_with = "console")]
    no_setup: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8> {
    let key = context.key(&args.name)?;
    let mut object = objects::need(&context.paths, &key)?;
    let mut watch = objects::watch(&context.paths, &key);
    while args.follow && object.uid().is_none() {
        watch.changed().await;
        object = objects::need(&context.paths, &key)?;
    }
    let uid = object.machine_uid()?.to_owned();
    let machine = context.paths.machine(&uid);
    let path = if args.console { machine.console_log() } else { machine.workload_log() };
    watch.dir(&machine.supervisor());
    let mut tail = Tail::new(&path);
    let mut printer = Printer::new(args);
    let since = args.since(Timestamp::now());
    let wanted = |line: &[u8]| since.as_deref().is_none_or(|since| !cri::is_before(line, since));
    if let Some(keep) = args.tail {
        tail.last(keep, wanted, |line| printer.print(line))?;
    }
    loop {
        let over = object_is_over(context, &object, &uid)?;
        tail.lines(|line| if wanted(line) { printer.print(line) } else { Ok(()) })?;
        if !args.follow || over {
            tail.rest(|line| printer.print(line))?;
            break;
        }
        watch.changed().await;
        match objects::get(&context.paths, &key)? {
            Some(now) => object = now,
            None => break,
        }
    }
    if path.symlink_metadata().is_err() {
        nothing_yet(&key.name);
    }
    Ok(0)
}

/// Says so, as nothing else would be seen.
pub(crate) fn nothing_yet(name: &str) {
    output::note(&format!("workspace {name} has written nothing yet"));
}

impl Args {
    /// The time before which nothing is wanted, as records have it.
    pub(crate) fn since(&self, now: Timestamp) -> Option<String> {
        // Before all times there are none to leave out.
        let then = now.checked_sub(SignedDuration::try_from(self.since?).ok()?).ok()?;
        Some(format!("{then:.9}"))
    }
}

/// Whether nothing more will be written. Asked before the log is read: all of a workload's output is in the log before its
/// end is published.
fn object_is_over(context: &Context, object: &Object, uid: &str) -> Result<bool> {
    let now = objects::get(&context.paths, &object.key)?;
    Ok(now.is_none_or(|now| {
        let phase = now.status().phase;
        now.uid() != Some(uid) || matches!(phase, Some(Phase::Succeeded | Phase::Failed | Phase::Halted))
    }))
}

/// Prints the lines of a log as they were asked for.
pub(crate) struct Printer<'a> {
    args: &'a Args,
    line_begins: bool,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(args: &'a Args) -> Self {
        Self { args, line_begins: true }
    }

    /// Prints one line of a log, without its line feed.
    pub(crate) fn print(&mut self, line: &[u8]) -> io::Result<()> {
        if self.args.console {
            return write(Stream::Stdout, &[line, b"\n"]);
        }
        let Some(record) = cri::parse(line) else { return write(Stream::Stdout, &[line, b"\n"]) };
        if record.setup && self.args.no_setup {
            return Ok(());
        }
        let time = format!("{} ", record.time);
        let time = if self.args.timestamps && self.line_begins { time.as_bytes() } else { b"" };
        self.line_begins = record.full;
        write(record.stream, &[time, record.text, if record.full { b"\n" } else { b"" }])
    }
}

/// Writes to our own output of the same name, at once.
pub(crate) fn write(stream: Stream, parts: &[&[u8]]) -> io::Result<()> {
    let bytes = parts.concat();
    match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(&bytes)?;
            out.flush()
        }
        Stream::Stderr => io::stderr().lock().write_all(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn a_time_ago_is_told_as_records_have_it() {
        let since = |line: &str| {
            let Command::Logs(args) = Cli::parse_from(line.split(' ')).command else { panic!("not logs") };
            args.since("2026-11-22T10:00:00.5Z".parse().unwrap())
        };
        assert_eq!(since("microagent logs a"), None);
        assert_eq!(since("microagent logs a --since 90s").as_deref(), Some("2026-11-22T09:58:30.500000000Z"));
        assert_eq!(since("microagent logs a --since 4294967295h"), None, "before all times");
    }
}
