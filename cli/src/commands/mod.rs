//! One file for each verb.

pub(crate) mod apply;
pub(crate) mod commit;
pub(crate) mod completion;
pub(crate) mod cp;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod logs;
pub(crate) mod plan;
pub(crate) mod restart;
pub(crate) mod run;
pub(crate) mod supervisor;
pub(crate) mod up;
pub(crate) mod version;
pub(crate) mod wait;

use std::{sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{Cli, Command},
    context::Context,
    failure::{FAILED, Failure, Result},
    output::{self, progress::Bars},
};

/// Runs a command line and gives the exit code.
pub(crate) fn main(cli: Cli) -> u8 {
    in_runtime(dispatch(cli))
}

/// Runs a command and gives the exit code.
pub(crate) fn in_runtime(command: impl Future<Output = Result<u8>>) -> u8 {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::note(&format!("error: cannot start: {e}"));
            return FAILED;
        }
    };
    let code = runtime.block_on(command).unwrap_or_else(|failure| failure.report());
    // A read of standard input cannot be taken back: do not wait for it.
    runtime.shutdown_background();
    code
}

async fn dispatch(cli: Cli) -> Result<u8> {
    let context = Context::new(cli.global)?;
    // The one that stays up tells of troubles that the conditions of workspaces do not show.
    output::log(context.verbose);
    match cli.command {
        Command::Up(args) => up::run(&context, args).await,
        Command::Run(args) => run::run(&context, *args).await,
        Command::Apply(args) => apply::run(&context, &args),
        Command::Plan(args) => plan::run(&context, &args),
        Command::Get(args) => get::run(&context, &args).await,
        Command::Describe(args) => describe::run(&context, &args),
        Command::Logs(args) => logs::run(&context, &args).await,
        Command::Exec(args) => exec::run(&context, args).await,
        Command::Cp(args) => cp::run(&context, args).await,
        Command::Wait(args) => wait::run(&context, &args).await,
        Command::Restart(args) => restart::run(&context, &args).await,
        Command::Events(args) => events::run(&context, &args).await,
        Command::Delete(args) => delete::run(&context, &args).await,
        Command::Commit(args) => commit::run(&context, args).await,
        Command::Image(args) => image::run(&context, args).await,
        Command::Kernel(args) => kernel::run(&context, args).await,
        Command::Supervisor(args) => supervisor::run(&context, args).await,
        Command::Doctor(args) => doctor::run(&context, args).await,
        Command::Explain(args) => explain::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Version(args) => version::run(args),
    }
}

/// The exit code of a command that a signal ended, as shells give it.
pub(crate) fn signal_code(number: i32) -> u8 {
    u8::try_from(number.clamp(0, 127)).map_or(FAILED, |n| 128 + n)
}

/// Waits for Ctrl-C, a hang-up or a request to end, from now on. Gives the signal's number.
pub(crate) struct Interrupt([tokio::signal::unix::Signal; 3]);

impl Interrupt {
    /// Takes the signals over from their default action.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> i32 {
        let [interrupt, terminate, hangup] = &mut self.0;
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
        };
        kind.as_raw_value()
    }
}

/// Does work and shows with bars how far it is, until it ends or a signal ends it: then the number of the signal. The work is then told
/// to end, and has ended when this returns; what has come of it so far stays, and the next attempt goes on from there.
pub(crate) async fn with_bars<T, F: Future<Output = T>>(work: impl FnOnce(Arc<Bars>) -> F) -> Result<Result<T, i32>> {
    let bars = Arc::new(Bars::new());
    let mut interrupt = Interrupt::listen()?;
    let work = work(Arc::clone(&bars));
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => Ok(ended),
        number = interrupt.next() => {
            bars.cancel();
            let _ = work.await;
            Err(number)
        }
    };
    bars.clear();
    Ok(ended)
}

/// Reads a duration as kubectl does: `30s`, `5m`, `1h30m`, `500ms`, or seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write it like 30s, 5m or 1h30m");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|&n| n > 0).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        sum = one.checked_mul(number).and_then(|d| sum.checked_add(d)).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

/// Warns that what was declared waits for a controller.
pub(crate) fn warn_without_controller(context: &Context) {
    if context.controller().is_none() {
        output::warn("no controller is up on this state directory; nothing happens until `microagent up` runs");
    }
}

/// Waiting took too long.
pub(crate) fn timed_out(what: &str, after: Duration) -> Failure {
    Failure::try_again(format!("timed out after {} waiting for {what}", crate::output::human::duration(seconds(after))))
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_reads_them() {
        for (text, ms) in
            [("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("500ms", 500), ("7", 7000), ("0", 0)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "5", "5x", "-1s", "1.5s", "5m3", "99999999999s"] {
            assert_eq!(duration(text).is_ok(), text == "5", "{text}");
        }
    }

    #[test]
    fn a_signal_becomes_the_code_that_shells_give() {
        assert_eq!(signal_code(9), 137);
        assert_eq!(signal_code(2), 130);
        assert_eq!(signal_code(1000), 255);
    }
}
