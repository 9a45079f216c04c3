//! How far work is: bars on a terminal, a plain line now and then otherwise. Always on standard error.

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use microagent_base::{Progress, progress::Step};

use super::human;

/// Plain lines about one piece of work are at least this far apart: a log stays readable.
const QUIET: Duration = Duration::from_secs(5);

/// Shows the steps of work, and lets it be cancelled.
pub(crate) struct Bars {
    cancelled: AtomicBool,
    shown: Mutex<Shown>,
}

enum Shown {
    Bars { all: MultiProgress, bars: HashMap<String, ProgressBar> },
    Lines { last: HashMap<String, Instant> },
}

impl Bars {
    /// Bars when standard error is a terminal.
    pub(crate) fn new() -> Self {
        let shown = if io::stderr().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            Shown::Bars { all, bars: HashMap::new() }
        } else {
            Shown::Lines { last: HashMap::new() }
        };
        Self { cancelled: AtomicBool::new(false), shown: Mutex::new(shown) }
    }

    /// Asks the work to end.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Removes the bars: the work is over.
    pub(crate) fn clear(&self) {
        if let Shown::Bars { all, bars } = &mut *self.shown() {
            bars.clear();
            let _ = all.clear();
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn step(&self, step: Step) {
        let what = human::one_line(&step.what);
        match &mut *self.shown() {
            Shown::Bars { all, bars } => {
                let bar = bars.entry(what.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::no_length().with_message(what));
                    bar.set_style(style(step.total.is_some()));
                    bar
                });
                if let Some(total) = step.total.filter(|&t| bar.length() != Some(t)) {
                    bar.set_style(style(true));
                    bar.set_length(total);
                }
                bar.set_position(step.done);
            }
            Shown::Lines { last } => {
                let complete = step.total.is_some_and(|t| step.done >= t);
                let now = Instant::now();
                let due = last.get(&what).is_none_or(|&then| complete || now - then >= QUIET);
                // Work that goes on telling that it is complete is told of once.
                if due && last.get(&what).is_none_or(|&then| then <= now) {
                    let until = if complete { now + Duration::from_secs(3600) } else { now };
                    last.insert(what, until);
                    super::note(&plain(&step));
                }
            }
        }
    }

    fn share(&self, what: &str, percent: u8) {
        let what = human::one_line(what);
        match &mut *self.shown() {
            Shown::Bars { all, bars } => {
                let bar = bars.entry(what.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(100).with_message(what));
                    bar.set_style(template("{msg:40!} [{bar:25}] {pos:>3} %"));
                    bar
                });
                bar.set_position(u64::from(percent));
            }
            Shown::Lines { last } => {
                let now = Instant::now();
                if last.get(&what).is_none_or(|&then| now - then >= QUIET) {
                    super::note(&format!("{what}: {percent} %"));
                    last.insert(what, now);
                }
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A step as a line: `pulling alpine: 1.0 MiB of 3.2 MiB`.
fn plain(step: &Step) -> String {
    let what = human::one_line(&step.what);
    match step.total {
        Some(0) => what,
        Some(total) => format!("{what}: {} of {}", human::bytes(step.done), human::bytes(total)),
        None if step.done == 0 => what,
        None => format!("{what}: {}", human::bytes(step.done)),
    }
}

fn style(total: bool) -> ProgressStyle {
    template(if total {
        "{msg:40!} [{bar:25}] {bytes:>11}/{total_bytes:11} {bytes_per_sec:>13}"
    } else {
        "{spinner} {msg:60!} {bytes:>11}"
    })
}

fn template(text: &str) -> ProgressStyle {
    // A template that does not parse is a fault of this file; the default bar is still a bar.
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_tells_how_much_of_how_much() {
        let step = |done, total| plain(&Step { what: "pulling x".to_owned(), done, total });
        assert_eq!(step(0, None), "pulling x");
        assert_eq!(step(1024, None), "pulling x: 1.0 KiB");
        assert_eq!(step(1024, Some(2048)), "pulling x: 1.0 KiB of 2.0 KiB");
    }

    #[test]
    fn the_templates_parse() {
        for total in [true, false] {
            let template = style(total);
            drop(template);
        }
        assert!(
            ProgressStyle::with_template("{msg:40!} [{bar:25}] {bytes:>11}/{total_bytes:11} {bytes_per_sec:>13}")
                .is_ok()
        );
    }

    #[test]
    fn cancelled_work_is_told_so() {
        let bars = Bars::new();
        assert!(!bars.cancelled());
        bars.cancel();
        assert!(bars.cancelled());
    }
}
