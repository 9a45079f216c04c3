//! `microagent run`

mod declare;

use super::{
    Interrupt, delete,
    exec::{NOT_FOUND, NOT_RUNNABLE},
    logs, signal_code,
};
use crate::{
    context::Context,
    driver::Driver,
    failure::{FAILED, Failure, Result},
    manifests, names,
    objects::{self, Object},
    output::{self, human},
    stages::Stages,
};
use clap::ValueEnum;
use microagent_base::log::{
    cri::{self, Stream},
    tail::Tail,
};
use microagent_controller::Key;
use microagent_crds::{ConditionType, Phase, Reason};

/// Run a command once in a machine of its own, and end with its exit code
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C ends the command and deletes its machine. When no controller is up on the state directory, the \
                        same loop runs in this process until the command has ended."
)]
pub(crate) struct Args {
    /// The image: `registry/name:tag`, `name@sha256:…`, `oci-layout:DIR[:tag]`, `oci-archive:FILE` or `docker-archive:FILE[:name:tag]`
    image: String,
    /// The command and its arguments, in place of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
    /// The name [default: one that is made up]
    #[arg(long)]
    name: Option<String>,
    /// NAME=VALUE, or NAME to take our own value
    #[arg(short, long, value_name = "ENV")]
    env: Vec<String>,
    /// The working directory in the guest
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// `user[:group]`, by name or number
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// The program, in place of the image's own entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Run this by /bin/sh before the command; may be given several times
    #[arg(long, value_name = "COMMAND")]
    setup: Vec<String>,
    /// How many CPUs
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// How much memory, such as 512Mi
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// How much writable disk space, such as 2Gi
    #[arg(long, value_name = "SIZE")]
    disk: Option<String>,
    /// The kernel: default, package, or the path of one
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
    /// When the registry is asked for the image
    #[arg(long, value_enum, value_name = "WHEN")]
    pull: Option<Pull>,
    /// Keep the workspace, with its disks and logs, when the command has ended
    #[arg(long)]
    keep: bool,
    /// Print the name and leave the rest to the controller that is up
    #[arg(short, long)]
    detach: bool,
}

/// Docker's words for the pull policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pull {
    Always,
    Missing,
    Never,
}

impl Pull {
    fn policy(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::Missing => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let key = context.key(&args.name.clone().unwrap_or_else(names::generate))?;
    let workspace = declare::workspace(&key, &args)?;
    if objects::find(&context.paths, &key)?.is_some() {
        return Err(Failure::new(format!("there is a workspace {key} already"))
            .help(format!("choose another --name, or delete it with `microagent delete {}`", key.name)));
    }
    if args.detach && context.controller().is_none() {
        return Err(Failure::new("nobody would run it: no controller is up on this state directory")
            .help("start one with `microagent up`, or leave out --detach"));
    }
    context.paths.create()?;
    let mut interrupt = Interrupt::listen()?;
    manifests::write(&context.paths, &key, &workspace)?;
    if args.detach {
        output::line(&key.name)?;
        return Ok(0);
    }
    let mut driver = Driver::start(&context.paths);
    let mut uid = None;
    let result = tokio::select! {
        ended = follow(context, &key, &mut uid) => ended,
        failure = driver.failed() => Err(failure),
        number = interrupt.next() => Ok(signal_code(number)),
    };
    let kept = if args.keep {
        output::note(&format!("kept as workspace/{0}; delete it with `microagent delete {0}`", key.name));
        Ok(())
    } else {
        clean_up(context, &key, uid.as_deref(), &mut driver, &mut interrupt).await
    };
    driver.stop().await;
    // Why the command failed matters more than that something of it is left.
    match (result, kept) {
        (Ok(code), Ok(())) => Ok(code),
        (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), _) => Err(failure),
    }
}

/// Takes the workspace back and waits until nothing of it is left. A second Ctrl-C does not wait.
async fn clean_up(
    context: &Context,
    key: &Key,
    uid: Option<&str>,
    driver: &mut Driver,
    interrupt: &mut Interrupt,
) -> Result<()> {
    manifests::remove(&context.paths, key)?;
    let left = |why: &str| {
        Failure::new(format!("workspace {key} is not deleted yet: {why}"))
            .help("a controller deletes the rest: `microagent up`, or the next `microagent run`")
    };
    tokio::select! {
        gone = delete::gone(context, key, uid) => gone,
        failure = driver.failed() => Err(left(&failure.to_string())),
        number = interrupt.next() => Err(left("interrupted").code(signal_code(number))),
    }
}

/// Shows the way up and the workload's output, and gives its exit code.
async fn follow(context: &Context, key: &Key, uid: &mut Option<String>) -> Result<u8> {
    let mut watch = objects::watch(&context.paths, key);
    let mut stages = Stages::new();
    let mut log: Option<Tail> = None;
    loop {
        match objects::get(&context.paths, key)? {
            Some(object) => {
                stages.show(&object);
                if let (None, Some(made)) = (&log, object.uid()) {
                    let machine = context.paths.machine(made);
                    watch.dir(&machine.supervisor());
                    log = Some(Tail::new(machine.workload_log()));
                    *uid = Some(made.to_owned());
                }
                // What was published is older than what is in the log now: no output of an ended workload is missed.
                let end = end(&object);
                if let Some(log) = &mut log {
                    log.lines(|line| stages.suspend(|| copy(line)))?;
                    if end.is_some() {
                        log.rest(copy)?;
                    }
                }
                if let Some(end) = end {
                    stages.clear();
                    return end;
                }
            }
            None if uid.is_some() => {
                return Err(Failure::new(format!("workspace {key} was deleted while its command ran")));
            }
            None => {}
        }
        watch.changed().await;
    }
}

/// Copies one record: the workload's output to ours, what setup says to standard error.
fn copy(line: &[u8]) -> std::io::Result<()> {
    let Some(record) = cri::parse(line) else { return Ok(()) };
    let stream = if record.setup { Stream::Stderr } else { record.stream };
    logs::write(stream, &[record.text, if record.full { b"\n" } else { b"" }])
}

/// How the command ended, once it has, or why it never will.
fn end(object: &Object) -> Option<Result<u8>> {
    let status = object.status();
    let finished = matches!(status.phase, Some(Phase::Succeeded | Phase::Failed));
    if let Some(result) = status.result.as_ref().filter(|_| finished) {
        if result.oom_killed {
            output::warn("the guest's kernel ended the command for want of memory; give it more with --memory");
        }
        let code = result.exit_code.and_then(|code| u8::try_from(code).ok());
        if let Some(code) = code.or_else(|| result.signal.map(signal_code)) {
            return Some(Ok(code));
        }
    }
    if !finished && object.stalled().is_none() {
        return None;
    }
    Some(match status.phase {
        Some(Phase::Succeeded) => Ok(0),
        _ => Err(did_not_run(object)),
    })
}

/// Why the command never ran: in the guest's words where it came that far.
fn did_not_run(object: &Object) -> Failure {
    let status = object.status();
    let guest = status.result.and_then(|result| result.message);
    let telling = object.stalled().or_else(|| object.condition(ConditionType::Ready));
    let why = match (guest, telling) {
        (Some(message), _) => message,
        (None, Some(condition)) => format!("{}: {}", condition.reason, condition.message),
        (None, None) => "its workspace failed".to_owned(),
    };
    let failed_with = |reason| status.conditions.iter().any(|c| c.reason == reason);
    let code = match () {
        () if failed_with(Reason::WorkloadNotFound) => NOT_FOUND,
        () if failed_with(Reason::WorkloadNotExecutable) => NOT_RUNNABLE,
        () => FAILED,
    };
    Failure::new(format!("the command did not run: {}", human::lines(&why))).code(code)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key() -> Key {
        Key::new("default", "run-a")
    }

    fn object(status: Value) -> Object {
        let workspace = serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "run-a", "generation": 1},
            "spec": {"image": "alpine"}, "status": status,
        }));
        Object { key: key(), workspace: workspace.unwrap() }
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "ImageNotFound", "message": "no such image",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn the_end_is_the_workloads_own() {
        assert!(end(&object(json!({"phase": "Running"}))).is_none());
        assert!(
            end(&object(json!({"phase": "Starting", "result": {"exitCode": 1}}))).is_none(),
            "an older run's result"
        );
        let code = |status| end(&object(status)).unwrap().unwrap();
        assert_eq!(code(json!({"phase": "Failed", "result": {"exitCode": 7}})), 7);
        assert_eq!(code(json!({"phase": "Failed", "result": {"signal": 9, "oomKilled": true}})), 137);
        assert_eq!(code(json!({"phase": "Succeeded", "result": {"exitCode": 0}})), 0);
    }

    #[test]
    fn what_a_person_must_mend_ends_the_run() {
        let failure = end(&object(json!({"phase": "Pending", "conditions": [condition("Stalled", "True")]})))
            .unwrap()
            .unwrap_err();
        assert!(failure.to_string().contains("no such image"), "{failure}");
        assert!(end(&object(json!({"phase": "Pending", "conditions": [condition("Stalled", "False")]}))).is_none());
        let failed = json!({"phase": "Failed", "conditions": [condition("Ready", "False")]});
        assert!(end(&object(failed)).unwrap().is_err());
    }

    #[test]
    fn a_command_that_is_not_there_ends_as_shells_end() {
        let mut started = condition("MachineStarted", "False");
        started["reason"] = json!("WorkloadNotFound");
        let status = json!({"phase": "Failed", "conditions": [started], "result": {"message": "no program \"x\""}});
        let failure = end(&object(status)).unwrap().unwrap_err();
        assert_eq!(failure.to_string(), "the command did not run: no program \"x\"");
        assert_eq!(failure.report(), 127);
    }
}
