//! `microagent restart`

use std::time::Duration;

use jiff::Timestamp;
use microagent_controller::request::{self, RestartRequest};
use microagent_crds::{ConditionType, Phase, RunPolicy};
use tokio::time::{Instant, timeout_at};

use super::{duration, timed_out, wait, warn_without_controller};
use crate::{
    context::Context,
    failure::{Failure, Result},
    objects::{self, Object},
    output,
    program::program,
    stages,
};

/// Start a workspace's machine anew, from its present spec
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The machine is halted within its grace period and started again; a workspace that has finished, or was halted for \
                  being idle, runs again. The manifest is not touched. Who owns the manifest can ask for the same by giving the \
                  annotation microagent.dev/restart in its metadata another text, whatever it is.\n\n\
                  With --wait it ends when another boot is Ready, and with 75 when the time is up: the request stands all the same."
)]
pub(crate) struct Args {
    /// The workspace
    pub(crate) name: String,
    /// Wait until the new machine is Ready
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = duration, requires = "wait")]
    pub(crate) timeout: Duration,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8> {
    let key = context.key(&args.name)?;
    let before = objects::need(&context.paths, &key)?;
    let request = RestartRequest::new(can_start(&before)?, Timestamp::now());
    request::write(&context.paths, &key, &request)?;
    output::line(&format!("workspace/{} restart requested", key.name))?;
    warn_without_controller(context);
    if args.wait {
        let work = wait::seen(context, &key, || is_anew(&before, objects::get(&context.paths, &key)?.as_ref()));
        match timeout_at(Instant::now() + args.timeout, work).await {
            Ok(seen) => seen?,
            Err(_) => {
                let failure = timed_out(&format!("the restart of workspace/{}", key.name), args.timeout);
                return Err(wait::how_far(context, &key, failure, Some(ConditionType::Ready))?);
            }
        }
        output::line(&format!("workspace/{} restarted", key.name))?;
    }
    Ok(0)
}

/// The UID of a workspace that can be started anew.
pub(crate) fn can_start(object: &Object) -> Result<&str> {
    let key = &object.key;
    if object.workspace.metadata.deletion_timestamp.is_some() {
        return Err(Failure::new(format!("workspace {key} is being deleted")));
    }
    if let (None, Some(condition)) = (object.uid(), object.stalled()) {
        return Err(Failure::new(format!("workspace {key} has no spec to start: {}", stages::line(condition)))
            .help("mend its manifest"));
    }
    if object.workspace.spec.run_policy == RunPolicy::Halted {
        return Err(Failure::new(format!("workspace {key} has spec.runPolicy Halted: nothing would be started"))
            .help("set spec.runPolicy to Always, OnFailure or Once, and it starts by itself"));
    }
    object.machine_uid()
}

/// Whether another boot than before is as asked.
pub(crate) fn is_anew(before: &Object, now: Option<&Object>) -> Result<bool> {
    let key = &before.key;
    let Some(now) = now.filter(|now| now.uid() == before.uid()) else {
        return Err(Failure::new(format!("workspace {key} was deleted while its restart was awaited")));
    };
    let (old, new) = (before.status(), now.status());
    // A workload that ends at once may have ended before its boot was seen.
    let is_over = matches!(new.phase, Some(Phase::Succeeded | Phase::Failed));
    let anew = if new.boot_id.is_some() { new.boot_id != old.boot_id } else { is_over && new.result != old.result };
    match now.stalled() {
        Some(condition) if anew => {
            Err(Failure::new(format!("workspace {key} was started anew and is not ready: {}", stages::line(condition)))
                .help(format!("see `{} describe {}`", program(), key.name)))
        }
        _ => Ok(anew && wait::is_ready(now)),
    }
}

#[cfg(test)]
mod tests {
    use microagent_controller::Key;
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: Value, status: Value) -> Object {
        let workspace = serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": "web", "namespace": "default", "generation": 1, "uid": "u-1"},
            "spec": spec, "status": status,
        }));
        Object { key: Key::new("default", "web"), workspace: workspace.unwrap() }
    }

    fn status(boot: Option<&str>, phase: &str, ready: &str, stalled: &str, started: &str) -> Value {
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "Unknown", "message": "m", "observedGeneration": 1,
                "lastTransitionTime": "2026-11-24T06:00:00Z"})
        };
        json!({"bootId": boot, "phase": phase, "conditions": [condition("Ready", ready), condition("Stalled", stalled)],
            "result": {"startedAt": started}})
    }

    #[test]
    fn a_restart_is_done_when_another_boot_is_ready_or_has_ended_well() {
        const OLD: &str = "2026-11-24T05:00:00Z";
        const NEW: &str = "2026-11-24T06:00:00Z";
        let image = json!({"image": "alpine"});
        let ran = object(image.clone(), status(Some("b-1"), "Running", "True", "False", OLD));
        let ended = object(image.clone(), status(None, "Succeeded", "True", "False", OLD));
        for (before, now, done) in [
            (&ran, status(Some("b-1"), "Running", "True", "False", OLD), false),
            (&ran, status(Some("b-1"), "Halting", "False", "False", OLD), false),
            (&ran, status(None, "Starting", "False", "False", NEW), false),
            (&ran, status(Some("b-2"), "Starting", "False", "False", NEW), false),
            (&ran, status(Some("b-2"), "Running", "True", "False", NEW), true),
            (&ended, status(None, "Succeeded", "True", "False", OLD), false),
            (&ended, status(None, "Succeeded", "True", "False", NEW), true),
        ] {
            let now = object(image.clone(), now);
            assert_eq!(is_anew(before, Some(&now)).unwrap(), done, "{:?}", now.status());
        }
        let stalled = object(image.clone(), status(None, "Failed", "False", "True", NEW));
        assert!(is_anew(&ran, Some(&stalled)).unwrap_err().to_string().contains("not ready"));
        let before = object(image, status(None, "Failed", "False", "True", OLD));
        assert!(!is_anew(&before, Some(&before)).unwrap(), "it failed before it was asked to run again");
        assert!(is_anew(&ran, None).unwrap_err().to_string().contains("deleted"));
    }

    #[test]
    fn what_cannot_be_started_anew_is_refused_with_why() {
        let refused = |object: &Object| can_start(object).unwrap_err().to_string();
        let halted = object(json!({"image": "alpine", "runPolicy": "Halted"}), json!({}));
        assert!(refused(&halted).contains("nothing would be started"));
        let mut going = object(json!({"image": "alpine"}), json!({}));
        assert_eq!(can_start(&going).unwrap(), "u-1");
        going.workspace.metadata.deletion_timestamp =
            Some(microagent_crds::Time("2026-11-24T06:00:00Z".parse().unwrap()));
        assert!(refused(&going).contains("is being deleted"));
        let mut never = object(json!({"image": ""}), status(None, "Failed", "False", "True", "2026-11-24T05:00:00Z"));
        never.workspace.metadata.uid = None;
        assert!(refused(&never).contains("mend its manifest"));
        never.workspace.status = None;
        assert!(refused(&never).contains("no controller has taken it up"));
    }
}
