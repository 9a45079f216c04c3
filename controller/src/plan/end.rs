//! The end of a boot: counted once, whoever sees it and however often.

use jiff::{SignedDuration, Timestamp};
use microagent_crds::{RunPolicy, RunResult, Time};
use microagent_supervisor_protocol::{Exit, Machine, MachineState};

use super::{Input, Notes, backoff, decide::is_alive, failure::record_failure};
use crate::{
    memory::{Boot, Fault, HaltCause, Memory, Stage},
    observed::MachineSight,
};

/// A workload that ran this long did not fail at its start: the next restart is the first of a new row.
const LONG_RUN: SignedDuration = SignedDuration::from_mins(10);

/// Adopts a machine that runs, and counts the end of one that does not.
pub(super) fn take_note(input: &Input<'_>, memory: &mut Notes<'_>) {
    let MachineSight::Seen { machine, .. } = &input.observed.machine else { return };
    let Some(identity) = &machine.identity else { return };
    let known = memory.boot.as_ref().is_some_and(|boot| boot.id == identity.boot_id);
    if is_alive(machine) {
        if !known {
            let current = identity.generation == input.record.generation;
            memory.to_mut().boot = Some(Boot {
                id: identity.boot_id.clone(),
                generation: identity.generation,
                machine_hash: if current { input.machine_hash.to_owned() } else { String::new() },
            });
        }
    } else if machine.state == MachineState::Exited && memory.counted_boot.as_deref() != Some(&identity.boot_id) {
        let memory = memory.to_mut();
        memory.counted_boot = Some(identity.boot_id.clone());
        // While a boot is asked for, the end of another one says nothing: it is what an earlier boot left behind.
        if known || memory.boot.is_none() {
            let hash = memory.boot.take().map_or_else(String::new, |boot| boot.machine_hash);
            count(input, memory, machine, hash);
        }
    } else {
        return;
    }
    if machine.guest.setup_complete && !memory.setup_complete {
        memory.to_mut().setup_complete = true;
    }
}

/// When the workload ended, or its machine. The clock of a liar is not ahead of ours.
fn finished_at(input: &Input<'_>, machine: &Machine) -> Timestamp {
    machine.guest.workload_finished_at.or(machine.finished_at).unwrap_or(input.now).min(input.now)
}

/// A machine that was ended because its probe failed is one that failed, whatever its workload made of the signal.
fn count_unhealthy(input: &Input<'_>, memory: &mut Memory, machine: &Machine, hash: String, probe: &str) {
    let guest = &machine.guest;
    let finished_at = finished_at(input, machine);
    let end = guest.workload_exit.map_or_else(|| "was ended".to_owned(), describe);
    memory.result = Some(RunResult {
        exit_code: None,
        signal: guest.workload_exit.and_then(|exit| exit.signal).map(i32::from),
        oom_killed: guest.workload_exit.is_some_and(|exit| exit.oom_killed),
        started_at: guest.workload_started_at.map(Time),
        finished_at: Some(Time(finished_at)),
        message: Some(format!("the health probe failed ({probe}), and the workload then {end}")),
    });
    if input.record.workspace.spec.run_policy == RunPolicy::Once {
        memory.finished = Some(hash);
    } else {
        restart_later(input, memory, guest.workload_started_at, finished_at);
    }
}

/// What the end of this boot means.
fn count(input: &Input<'_>, memory: &mut Memory, machine: &Machine, hash: String) {
    let boot_id = machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
    let asked = memory.halt.take_if(|halt| halt.boot_id == boot_id).map(|halt| halt.cause);
    if let Some(HaltCause::Unhealthy { message }) = asked {
        return count_unhealthy(input, memory, machine, hash, &message);
    }
    if let Some(HaltCause::Idle { .. }) = asked {
        memory.idle = Some(hash.clone());
    }
    let asked = asked.is_some();
    let policy = input.record.workspace.spec.run_policy;
    let guest = &machine.guest;
    let finished_at = finished_at(input, machine);
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
