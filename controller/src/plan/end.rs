//! The end of a boot: counted once, whoever sees it and however often.

use jiff::{SignedDuration, Timestamp};
use microagent_crds::{RunPolicy, RunResult, Time};
use microagent_supervisor_protocol::{Exit, Machine, MachineState};

use super::{Input, backoff, failure::record_failure, machine_hash};
use crate::{
    memory::{Boot, Fault, Memory, Stage},
    observed::MachineSight,
};

/// A workload that ran this long did not fail at its start: the next restart is the first of a new row.
const LONG_RUN: SignedDuration = SignedDuration::from_mins(10);

/// Adopts a machine that runs, and counts the end of one that does not.
pub(super) fn take_note(input: &Input<'_>, memory: &mut Memory) {
    let MachineSight::Seen { machine, .. } = &input.observed.machine else { return };
    let Some(identity) = &machine.identity else { return };
    memory.setup_complete |= machine.guest.setup_complete;
    let known = memory.boot.as_ref().is_some_and(|boot| boot.id == identity.boot_id);
    match machine.state {
        MachineState::Starting | MachineState::Running | MachineState::Halting if !known => {
            let spec = &input.record.workspace.spec;
            let current = identity.generation == input.record.generation;
            memory.boot = Some(Boot {
                id: identity.boot_id.clone(),
                generation: identity.generation,
                machine_hash: if current { machine_hash(spec) } else { String::new() },
            });
        }
        MachineState::Exited if memory.counted_boot.as_deref() != Some(&identity.boot_id) => {
            let hash = memory.boot.take_if(|_| known).map_or_else(String::new, |boot| boot.machine_hash);
            memory.counted_boot = Some(identity.boot_id.clone());
            count(input, memory, machine, hash);
        }
        _ => {}
    }
}

/// What the end of this boot means.
fn count(input: &Input<'_>, memory: &mut Memory, machine: &Machine, hash: String) {
    let asked = machine
        .identity
        .as_ref()
        .is_some_and(|identity| memory.halt.take_if(|halt| halt.boot_id == identity.boot_id).is_some());
    let policy = input.record.workspace.spec.run_policy;
    let guest = &machine.guest;
    let finished_at = guest.workload_finished_at.or(machine.finished_at).unwrap_or(input.now);
    let result = |exit: Option<Exit>, message: String| RunResult {
        exit_code: exit.and_then(|e| e.code).map(i32::from),
        signal: exit.and_then(|e| e.signal).map(i32::from),
        oom_killed: exit.is_some_and(|e| e.oom_killed),
        started_at: guest.workload_started_at.map(Time),
        finished_at: Some(Time(finished_at)),
        message: Some(message),
    };
    if let Some(exit) = guest.workload_exit {
        memory.result = Some(result(Some(exit), format!("the workload {}", describe(exit))));
        if asked {
            return;
        }
        let for_good = policy == RunPolicy::Once || (policy == RunPolicy::OnFailure && exit.success());
        if for_good {
            memory.finished = Some(hash);
        } else {
            restart_later(input, memory, guest.workload_started_at, finished_at);
        }
        return;
    }
    if asked {
        return;
    }
    let fault = if let Some(exit) = guest.setup_failure {
        let index = guest.setup_index.unwrap_or(0);
        let command = input.record.workspace.spec.setup.get(index as usize).map_or("", |step| first_line(&step.run));
        let message = format!(
            "setup command {} (`{command}`) {}; read its output with `microagent logs {}`, then mend spec.setup",
            index + 1,
            describe(exit),
            input.record.key.name,
        );
        Fault { code: "SetupFailed".to_owned(), message, retryable: true }
    } else if let Some(failure) = &guest.failure {
        Fault { code: failure.code.clone(), message: failure.message.clone(), retryable: false }
    } else if let Some(failure) = &machine.failure {
        let message = format!("{}; read `microagent logs --console {}`", failure.message, input.record.key.name);
        Fault { code: failure.code.to_string(), message, retryable: failure.retryable }
    } else {
        let message = "the guest powered off before its workload ended".to_owned();
        Fault { code: "MachineLost".to_owned(), message, retryable: true }
    };
    // A workload that was to run once and did start is not run a second time; one that never started is not yet run.
    let was_the_guests =
        guest.setup_failure.is_some() || guest.failure.is_some() || guest.workload_started_at.is_some();
    if policy == RunPolicy::Once && was_the_guests {
        memory.result = Some(result(None, fault.message.clone()));
        memory.finished = Some(hash);
    }
    if guest.workload_started_at.is_some() && policy != RunPolicy::Once {
        memory.result = Some(result(None, fault.message));
        restart_later(input, memory, guest.workload_started_at, finished_at);
    } else {
        record_failure(input.record, memory, Stage::Guest, fault, input.now);
    }
}

fn restart_later(input: &Input<'_>, memory: &mut Memory, started: Option<Timestamp>, finished: Timestamp) {
    let restarts = &mut memory.restarts;
    if started.is_some_and(|started| finished.duration_since(started) >= LONG_RUN) {
        restarts.in_a_row = 0;
    }
    restarts.count = restarts.count.saturating_add(1);
    restarts.in_a_row = restarts.in_a_row.saturating_add(1);
    restarts.next_attempt = Some(backoff::next_attempt(input.now, restarts.in_a_row, &input.record.uid));
}

/// `exited with code 7`, `was ended by signal 9 (out of memory)`.
pub(super) fn describe(exit: Exit) -> String {
    let memory = if exit.oom_killed { " (the guest ran out of memory)" } else { "" };
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with code {code}{memory}"),
        (None, Some(signal)) => format!("was ended by signal {signal}{memory}"),
        (None, None) => format!("ended{memory}"),
    }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
    line.char_indices().nth(60).map_or(line, |(end, _)| &line[..end])
}
