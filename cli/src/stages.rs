//! How a workspace comes up, told from its conditions.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use microagent_crds::{Condition, ConditionType, Phase, Reason, WorkspaceStatus};

use crate::{
    objects::Object,
    output::{self, human},
};

/// Plain lines that only tell of progress within one stage are at least this far apart.
const QUIET: Duration = Duration::from_secs(5);

/// The conditions on the way up, in their order.
const WAY_UP: [ConditionType; 7] = [
    ConditionType::ImageResolved,
    ConditionType::RootfsBuilt,
    ConditionType::KernelInstalled,
    ConditionType::MachineStarted,
    ConditionType::GuestReady,
    ConditionType::SetupComplete,
    ConditionType::Running,
];

/// The conditions whose status or reason is another one than before. A condition that is new counts once it holds: that
/// something has not happened yet is no news.
fn transitions<'a>(before: &WorkspaceStatus, now: &'a WorkspaceStatus) -> Vec<&'a Condition> {
    let news = |c: &&Condition| match before.conditions.iter().find(|old| old.type_ == c.type_) {
        Some(old) => old.status != c.status || old.reason != c.reason,
        None => c.is_true(),
    };
    let mut changed: Vec<_> = now.conditions.iter().filter(news).collect();
    changed.sort_by_key(|c| c.type_);
    changed
}

/// The steps of the way up that were done between two looks; a step that the spec does not have is none.
fn milestones<'a>(before: &WorkspaceStatus, now: &'a WorkspaceStatus) -> Vec<&'a Condition> {
    let mut done = transitions(before, now);
    done.retain(|c| c.is_true() && WAY_UP.contains(&c.type_) && c.reason != Reason::NoSetup);
    done
}

/// A condition as a line: what holds by its type, what does not by the reason why.
pub(crate) fn line(condition: &Condition) -> String {
    let head = if condition.is_true() { condition.type_.to_string() } else { condition.reason.to_string() };
    match human::one_line(&condition.message) {
        message if message.is_empty() => head,
        message => format!("{head}: {message}"),
    }
}

/// The stage that a workspace is in: the first condition on the way up that does not hold.
fn stage(status: &WorkspaceStatus) -> Option<&Condition> {
    WAY_UP.iter().filter_map(|kind| status.condition(*kind)).find(|c| !c.is_true())
}

/// Shows on standard error how one workspace comes up: a line that changes on a terminal, lines otherwise.
pub(crate) struct Stages {
    bar: Option<ProgressBar>,
    before: WorkspaceStatus,
    told: Option<(Instant, String)>,
}

impl Stages {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style(false));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, before: WorkspaceStatus::default(), told: None }
    }

    /// Shows what is new.
    pub(crate) fn show(&mut self, object: &Object) {
        let now = object.status();
        // A workload that has ended is not on its way up, though its conditions have the same form.
        let on_the_way = matches!(now.phase, None | Some(Phase::Pending | Phase::Building | Phase::Starting));
        let stage = stage(&now).filter(|_| on_the_way);
        match (&self.bar, stage) {
            (Some(bar), Some(stage)) => draw(bar, stage),
            (Some(bar), None) => bar.finish_and_clear(),
            (None, stage) => {
                for condition in milestones(&self.before, &now) {
                    output::note(&line(condition));
                }
                self.tell_progress(stage);
            }
        }
        self.before = now;
    }

    /// Removes the line that changes.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Runs `write` so that what it writes to the terminal does not mix with the line that changes.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.suspend(write),
            _ => write(),
        }
    }

    /// Tells now and then how far a stage is that takes long.
    fn tell_progress(&mut self, stage: Option<&Condition>) {
        let Some(stage) = stage.filter(|s| !s.message.is_empty()) else { return };
        let (message, now) = (line(stage), Instant::now());
        match &self.told {
            Some((then, old)) if *old != message && now - *then >= QUIET => {
                output::note(&message);
                self.told = Some((now, message));
            }
            Some(_) => {}
            // The first stages of a warm start pass at once and need no telling.
            None => self.told = Some((now, message)),
        }
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A bar where the stage tells how much there is to do, a spinner otherwise.
fn draw(bar: &ProgressBar, stage: &Condition) {
    let message = human::one_line(&stage.message);
    if let Some((what, done, total)) = measured(&message) {
        if bar.length() != Some(total) {
            bar.set_style(style(true));
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(what.to_owned());
        return;
    }
    if bar.length().is_some() {
        bar.set_style(style(false));
        bar.unset_length();
    }
    bar.set_message(if message.is_empty() { format!("{} ({})", stage.type_, stage.reason) } else { message });
}

/// Reads `pulling web: 1.0 of 3.0 MiB`, the controller's form of progress: what, and how many bytes of how many.
fn measured(message: &str) -> Option<(&str, u64, u64)> {
    let (what, amount) = message.rsplit_once(": ")?;
    let (done, total) = amount.strip_suffix(" MiB")?.split_once(" of ")?;
    let bytes = |text: &str| {
        let (whole, tenth) = text.split_once('.')?;
        let tenths = whole.parse::<u64>().ok()?.checked_mul(10)?.checked_add(tenth.parse().ok()?)?;
        Some(tenths.checked_mul(1 << 20)? / 10)
    };
    Some((what, bytes(done)?, bytes(total)?))
}

fn style(measured: bool) -> ProgressStyle {
    let template = if measured {
        "{spinner} {msg:40!} [{bar:25}] {bytes:>11}/{total_bytes:11} {elapsed}"
    } else {
        "{spinner} {wide_msg} {elapsed}"
    };
    // A template that does not parse is a fault of this file; the default is still a sign of life.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> WorkspaceStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({ "conditions": conditions })).unwrap()
    }

    fn told(before: &WorkspaceStatus, now: &WorkspaceStatus) -> Vec<String> {
        transitions(before, now).into_iter().map(|c| format!("{}={}", c.type_, c.status.as_str())).collect()
    }

    #[test]
    fn only_news_are_told_in_the_order_of_a_start() {
        let first = status(&[("Running", "False", "WaitingForMachine"), ("ImageResolved", "True", "ImageReady")]);
        assert_eq!(told(&WorkspaceStatus::default(), &first), ["ImageResolved=True"]);
        assert!(told(&first, &first).is_empty());
    }

    #[test]
    fn the_steps_that_are_done_are_the_milestones() {
        let now = status(&[
            ("ImageResolved", "True", "ImageResolved"),
            ("SetupComplete", "True", "NoSetup"),
            ("MachineStarted", "False", "StartingMachine"),
            ("Ready", "True", "Running"),
        ]);
        let done: Vec<_> = milestones(&WorkspaceStatus::default(), &now).iter().map(|c| c.type_).collect();
        assert_eq!(done, [ConditionType::ImageResolved]);
    }

    #[test]
    fn progress_is_read_from_the_words_of_the_controller() {
        assert_eq!(measured("pulling a:1: 1.5 of 3.0 MiB"), Some(("pulling a:1", 1_572_864, 3_145_728)));
        for message in ["", "on its way", "pulling web: 1.0 MiB", "x: 1 of 2 MiB", "x: a.b of c.d MiB"] {
            assert_eq!(measured(message), None, "{message}");
        }
    }

    #[test]
    fn the_stage_is_the_first_step_that_does_not_hold() {
        let now = status(&[("Running", "False", "WaitingForMachine"), ("ImageResolved", "True", "ImageReady")]);
        assert_eq!(stage(&now).map(|c| c.type_), Some(ConditionType::Running));
    }
}
