//! The life of one boot: what the guest may tell, in which order, and what its end means. No I/O.

use jiff::Timestamp;
use microagent_guest_protocol::{Config, Event, Exit};
use microagent_supervisor_protocol::{
    Artifact, ErrorBody, ErrorCode, ErrorText, GuestStatus, Health, Machine, MachineState,
};
use serde::{Deserialize, Serialize};

/// The longest message of the guest that is kept, in characters.
const MAX_MESSAGE: usize = 4096;

/// The longest code of the guest that is kept, in characters.
const MAX_CODE: usize = 64;

/// How guest-init's own lines on the console begin.
const GUEST_INIT: &str = "microagent: ";

/// How far the guest has come. The order of the variants is that of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Stage {
    #[default]
    Silent,
    Configured,
    Mounted,
    InSetup(u32),
    Workload,
    /// The workload has ended; this output is next.
    Outputs(usize),
    /// This output is being copied out.
    InOutput(usize),
    /// It has said its last; it powers off.
    Done,
}

/// How the VMM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VmmEnd {
    /// Whether it exited with 0.
    pub(crate) success: bool,
    /// Its status, for people.
    pub(crate) status: String,
    /// The end of its standard error.
    pub(crate) stderr: String,
    /// The end of the console.
    pub(crate) console: String,
}

/// What a guest of this configuration may tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) setup_steps: u32,
    /// Whether its health is probed.
    pub(crate) probed: bool,
    /// The names of its outputs.
    pub(crate) outputs: Vec<String>,
}

impl Expected {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            setup_steps: u32::try_from(config.setup.len()).unwrap_or(u32::MAX),
            probed: config.health.is_some(),
            outputs: config.outputs.iter().map(|output| output.name.clone()).collect(),
        }
    }
}

/// How far a guest had come when a snapshot of it was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Progress {
    stage: Stage,
    next_step: u32,
    seen: u64,
    guest: GuestStatus,
}

/// One boot of a machine.
pub(crate) struct Life {
    /// What is true of it.
    pub(crate) machine: Machine,
    stage: Stage,
    expected: Expected,
    next_step: u32,
    /// How many events the guest has told.
    seen: u64,
    /// The guest is to say that it goes on after a snapshot.
    resuming: bool,
    wished: bool,
    /// Outputs were given up.
    abandoned: bool,
    panic: Option<String>,
}

impl Life {
    pub(crate) fn new(machine: Machine, expected: Expected) -> Self {
        Self {
            machine,
            stage: Stage::Silent,
            expected,
            next_step: 0,
            seen: 0,
            resuming: false,
            wished: false,
            abandoned: false,
            panic: None,
        }
    }

    /// How far the guest has come, for a snapshot.
    pub(crate) fn progress(&self) -> Progress {
        Progress { stage: self.stage, next_step: self.next_step, seen: self.seen, guest: self.machine.guest.clone() }
    }

    /// The machine goes on from where a snapshot left it.
    pub(crate) fn take_up(&mut self, progress: Progress) {
        (self.stage, self.next_step, self.seen) = (progress.stage, progress.next_step, progress.seen);
        self.machine.guest = GuestStatus { ready: false, ..progress.guest };
        self.resuming = true;
    }

    /// The connection to the guest is lost by a snapshot; the guest is asked to go on by another.
    pub(crate) fn interrupt(&mut self) {
        self.resuming = true;
    }

    /// Whether the guest has yet to say that it goes on.
    pub(crate) fn is_resuming(&self) -> bool {
        self.resuming
    }

    /// How many events were heard.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    pub(crate) fn is_configured(&self) -> bool {
        self.stage >= Stage::Configured
    }

    /// Whether the guest has said its last.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    pub(crate) fn has_outputs(&self) -> bool {
        !self.expected.outputs.is_empty()
    }

    /// Whether the workload has ended and outputs are to come yet.
    pub(crate) fn is_copying(&self) -> bool {
        matches!(self.stage, Stage::Outputs(_) | Stage::InOutput(_))
    }

    pub(crate) fn panicked(&mut self, line: String) {
        self.panic.get_or_insert(line);
    }

    /// The caller wants the end.
    pub(crate) fn wish_end(&mut self) {
        self.wished = true;
        self.machine.state = MachineState::Halting;
    }

    /// Whether the machine may be paused, resumed or quarantined now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check_runs(&self) -> Result<(), ErrorBody> {
        let runs =
            matches!(self.machine.state, MachineState::Running | MachineState::Paused | MachineState::Quarantined);
        let why = match self.stage {
            _ if !runs => format!("the machine is {:?}", self.machine.state),
            _ if self.resuming && self.machine.state != MachineState::Paused => {
                "its guest has not gone on after the snapshot yet".to_owned()
            }
            Stage::Silent => "its guest has not taken its configuration yet".to_owned(),
            Stage::Outputs(_) | Stage::InOutput(_) => "its workload has ended".to_owned(),
            Stage::Done => "its guest is about to power off".to_owned(),
            _ => return Ok(()),
        };
        Err(ErrorBody::new(ErrorCode::MachineNotRunning, why))
    }

    /// The shim ends the machine for this reason; the first reason stays.
    pub(crate) fn fail(&mut self, code: ErrorCode, message: impl Into<String>, console: &str) {
        if self.machine.failure.is_none() && !self.wished {
            let error = ErrorBody::new(code, message);
            self.machine.failure = Some(if console.is_empty() { error } else { error.with_details(console) });
        }
    }

    /// Takes what the guest tells.
    ///
    /// # Errors
    /// What is wrong, where it cannot be so now.
    pub(crate) fn tell(&mut self, event: Event, now: Timestamp) -> Result<(), String> {
        if let Event::Resumed { at_ms } = event {
            if !self.resuming {
                return Err("the guest told Resumed, and was not asked to go on".to_owned());
            }
            self.resuming = false;
            self.machine.guest.ready = true;
            self.machine.guest.timings.insert("resumed".to_owned(), at_ms);
            if self.machine.state == MachineState::Starting {
                self.machine.state = MachineState::Running;
            }
            return Ok(());
        }
        self.seen += 1;
        let stage = self.stage;
        let wrong = |what: &str| Err(format!("the guest told {what} when it was {stage:?}"));
        let guest = &mut self.machine.guest;
        let mut at = |name: &str, ms: u64| {
            guest.timings.insert(name.to_owned(), ms);
        };
        match event {
            Event::Configured { init_ms, listening_ms, at_ms } => {
                if stage != Stage::Silent {
                    return wrong("Configured");
                }
                at("init", init_ms);
                at("listening", listening_ms);
                at("configured", at_ms);
                guest.ready = true;
                self.stage = Stage::Configured;
                if self.machine.state == MachineState::Starting {
                    self.machine.state = MachineState::Running;
                }
            }
            Event::Mounted { at_ms } => {
                if stage != Stage::Configured {
                    return wrong("Mounted");
                }
                at("mounted", at_ms);
                self.stage = Stage::Mounted;
            }
            Event::SetupStarted { index, at_ms } => {
                if stage != Stage::Mounted || index < self.next_step || index >= self.expected.setup_steps {
                    return wrong(&format!("SetupStarted {index} of {}", self.expected.setup_steps));
                }
                if guest.setup_index.is_none() {
                    at("setup", at_ms);
                }
                guest.setup_index = Some(index);
                self.stage = Stage::InSetup(index);
            }
            Event::SetupFinished { index, exit, at_ms: _ } => {
                if stage != Stage::InSetup(index) {
                    return wrong(&format!("SetupFinished {index}"));
                }
                check_exit(exit)?;
                self.next_step = index + 1;
                if exit.success() {
                    guest.setup_complete = self.next_step == self.expected.setup_steps;
                    self.stage = Stage::Mounted;
                } else {
                    guest.setup_failure = Some(exit);
                    self.stage = Stage::Done;
                }
            }
            Event::WorkloadStarted { pid: _, at_ms } => {
                if stage != Stage::Mounted {
                    return wrong("WorkloadStarted");
                }
                at("workload", at_ms);
                guest.setup_complete = true;
                guest.setup_index = None;
                guest.workload_started_at = Some(now);
                self.stage = Stage::Workload;
            }
            Event::Health { healthy, message, at_ms: _ } => {
                if stage != Stage::Workload || !self.expected.probed {
                    return wrong("Health");
                }
                if guest.health.as_ref().is_some_and(|told| told.healthy == healthy) {
                    return wrong(&format!("that it is healthy={healthy} twice"));
                }
                guest.health = Some(Health { healthy, message: clean_message(&message) });
            }
            Event::WorkloadExited { exit, at_ms } => {
                if stage != Stage::Workload {
                    return wrong("WorkloadExited");
                }
                check_exit(exit)?;
                at("exited", at_ms);
                guest.workload_exit = Some(exit);
                guest.workload_finished_at = Some(now);
                self.stage = self.before_output(0);
            }
            Event::OutputStarted { name } => match stage {
                Stage::Outputs(n) if self.expected.outputs.get(n) == Some(&name) => self.stage = Stage::InOutput(n),
                _ if self.abandoned => {}
                _ => return wrong("OutputStarted"),
            },
            Event::Resumed { .. } => return wrong("Resumed"),
            // The shim's own words are of the file: see `output`.
            Event::OutputFinished { .. } => return wrong("OutputFinished"),
            Event::Failed { code, message, at_ms } => {
                if stage > Stage::Workload {
                    return wrong("Failed");
                }
                at("failed", at_ms);
                guest.failure = Some(ErrorText { code: clean_code(&code), message: clean_message(&message) });
                self.stage = Stage::Done;
            }
        }
        Ok(())
    }

    /// Takes an output that was copied out, or could not be.
    ///
    /// # Errors
    /// When it is not the one that is being copied out.
    pub(crate) fn output(&mut self, artifact: Artifact) -> Result<(), String> {
        self.seen += 1;
        match self.stage {
            Stage::InOutput(n) if self.expected.outputs.get(n) == Some(&artifact.name) => {
                self.machine.artifacts.push(artifact);
                self.stage = self.before_output(n + 1);
                Ok(())
            }
            // It came while it was given up.
            _ if self.abandoned => {
                let told =
                    self.machine.artifacts.iter_mut().find(|told| told.name == artifact.name && told.path.is_none());
                if let Some(told) = told {
                    *told = artifact;
                }
                Ok(())
            }
            stage => Err(format!("the guest told OutputFinished when it was {stage:?}")),
        }
    }

    /// Gives up the outputs that have not come, for this reason.
    pub(crate) fn abandon_outputs(&mut self, why: &str) {
        if let Stage::Outputs(n) | Stage::InOutput(n) = self.stage {
            for name in self.expected.outputs.iter().skip(n) {
                let error = Some(why.to_owned());
                let artifact = Artifact { name: name.clone(), path: None, bytes: None, digest: None, error };
                self.machine.artifacts.push(artifact);
            }
            self.stage = Stage::Done;
            self.abandoned = true;
        }
    }

    fn before_output(&self, n: usize) -> Stage {
        if n < self.expected.outputs.len() { Stage::Outputs(n) } else { Stage::Done }
    }

    /// Takes the end of the VMM.
    pub(crate) fn end(&mut self, end: &VmmEnd, now: Timestamp) {
        self.abandon_outputs("the machine ended before it was copied out");
        let told = self.is_done() || self.wished || self.machine.failure.is_some();
        self.machine.state = MachineState::Exited;
        self.machine.vsock = None;
        self.machine.owner = None;
        self.machine.finished_at = Some(now);
        if told {
            return;
        }
        if let Some(line) = self.panic.take() {
            return self.fail(ErrorCode::GuestPanic, format!("the guest's kernel panicked: {line}"), &end.console);
        }
        if !self.is_configured() && end.success {
            return match guest_init_words(&end.console) {
                Some(words) => self.fail(ErrorCode::GuestFailed, format!("guest-init gave up: {words}"), &end.console),
                None => {
                    self.fail(ErrorCode::VmmFailed, "the machine powered off before its guest was ready", &end.console)
                }
            };
        }
        if self.is_configured() && end.success {
            let message = "the guest powered off and did not tell how its workload ended";
            self.fail(ErrorCode::GuestProtocol, message, &end.console);
            // A workload that may power the machine off can do this in good health.
            if let Some(failure) = &mut self.machine.failure {
                failure.retryable = true;
            }
            return;
        }
        let when = if self.is_configured() { "while the guest ran" } else { "before the guest was ready" };
        let details = if end.stderr.is_empty() { &end.console } else { &end.stderr };
        self.fail(ErrorCode::VmmFailed, format!("the VMM ended with {} {when}", end.status), details);
    }
}

/// What guest-init said last on the console: why it powers off, when nobody can hear it otherwise.
fn guest_init_words(console: &str) -> Option<String> {
    let words = console.lines().rev().find_map(|line| line.split_once(GUEST_INIT)).map(|(_, words)| words.trim())?;
    Some(clean_message(words.trim_end_matches("Powering off").trim_end_matches(['.', ' '])))
}

fn check_exit(exit: Exit) -> Result<(), String> {
    if exit.code.is_some() == exit.signal.is_some() {
        return Err("the guest told an exit that has not exactly one of code and signal".to_owned());
    }
    Ok(())
}

fn clean_code(code: &str) -> String {
    let good = !code.is_empty() && code.len() <= MAX_CODE && code.bytes().all(|b| b.is_ascii_alphanumeric());
    if good { code.to_owned() } else { "GuestFailure".to_owned() }
}

pub(crate) fn clean_message(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
