//! `microagent wait`

use std::{str::FromStr, time::Duration};

use microagent_controller::Key;
use microagent_crds::{ConditionStatus, ConditionType};
use tokio::time::{Instant, timeout_at};

use super::{duration, timed_out, warn_without_controller};
use crate::{
    context::Context,
    failure::{Failure, Result},
    objects::{self, Object},
    output,
    program::program,
    stages,
};

/// Wait until workspaces are as asked
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A condition counts when it is about the present generation of the spec. A workspace that is not there \
                        yet is waited for. Ends with 75 when the time is up."
)]
pub(crate) struct Args {
    /// Workspaces
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// What to wait for: condition=TYPE[=STATUS] or delete
    #[arg(long = "for", value_name = "WHAT")]
    pub(crate) what: What,
    /// How long to wait; 0 looks once
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// What a workspace should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Condition(ConditionType, ConditionStatus),
    Delete,
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("delete") {
            return Ok(Self::Delete);
        }
        let rest = text.strip_prefix("condition=").ok_or("write condition=TYPE, condition=TYPE=STATUS or delete")?;
        let (kind, status) = rest.split_once('=').unwrap_or((rest, "true"));
        let status = match status.to_ascii_lowercase().as_str() {
            "true" => ConditionStatus::True,
            "false" => ConditionStatus::False,
            "unknown" => ConditionStatus::Unknown,
            _ => return Err(format!("{status:?} is no status; the statuses are True, False and Unknown")),
        };
        Ok(Self::Condition(kind.parse()?, status))
    }
}

impl What {
    /// Whether it is so. kubectl's rule: a condition about an older generation tells nothing.
    pub(crate) fn met(self, object: Option<&Object>) -> bool {
        match (self, object) {
            (Self::Delete, object) => object.is_none(),
            (Self::Condition(..), None) => false,
            (Self::Condition(kind, status), Some(object)) => object
                .condition(kind)
                .is_some_and(|c| c.status == status && c.observed_generation.is_none_or(|g| g >= object.generation())),
        }
    }

    /// What is said when it is so.
    pub(crate) fn done(self) -> &'static str {
        if self == Self::Delete { "deleted" } else { "condition met" }
    }

    /// The condition that is waited for.
    pub(crate) fn condition(self) -> Option<ConditionType> {
        match self {
            Self::Condition(kind, _) => Some(kind),
            Self::Delete => None,
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::Condition(kind, status) => format!("{kind}={}", status.as_str()),
            Self::Delete => "its deletion".to_owned(),
        }
    }
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8> {
    let keys = args.names.iter().map(|name| context.key(name)).collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + args.timeout;
    for key in keys {
        if !args.what.met(look(context, args.what, &key)?.as_ref()) {
            warn_without_controller(context);
            let met = || Ok(args.what.met(look(context, args.what, &key)?.as_ref()));
            match timeout_at(deadline, seen(context, &key, met)).await {
                Ok(seen) => seen?,
                Err(_) => return Err(too_late(context, args, &key)?),
            }
        }
        output::line(&format!("workspace/{} {}", key.name, args.what.done()))?;
    }
    Ok(0)
}

/// What counts: for a deletion also what is declared and was not taken up yet.
fn look(context: &Context, what: What, key: &Key) -> Result<Option<Object>> {
    match what {
        What::Delete => objects::find(&context.paths, key),
        What::Condition(..) => objects::get(&context.paths, key),
    }
}

/// Ends when `met` says so. It is asked again whenever the object of `key`, or its manifest, may be another one.
pub(super) async fn seen(context: &Context, key: &Key, mut met: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut watch = objects::watch(&context.paths, key);
    watch.dir(&context.paths.manifests());
    while !met()? {
        watch.changed().await;
    }
    Ok(())
}

/// Whether a workspace is in the state that was asked for.
pub(super) fn is_ready(object: &Object) -> bool {
    What::Condition(ConditionType::Ready, ConditionStatus::True).met(Some(object))
}

fn too_late(context: &Context, args: &Args, key: &Key) -> Result<Failure> {
    let failure = timed_out(&format!("{} of workspace/{}", args.what.text(), key.name), args.timeout);
    how_far(context, key, failure, args.what.condition())
}

/// Tells with a failure how far the workspace came: why a person must act, or else how the condition stands that was awaited.
pub(super) fn how_far(context: &Context, key: &Key, failure: Failure, asked: Option<ConditionType>) -> Result<Failure> {
    let Some(object) = objects::find(&context.paths, key)? else {
        let what_to_do = match context.controller() {
            Some(_) => "list all with `microagent get -A`",
            None => "start `microagent up`, or check the name",
        };
        return Ok(failure.help(format!("there is no workspace {key}; {what_to_do}")));
    };
    Ok(standing(&object, failure, asked))
}

/// Tells with a failure why a person must act, or else how the condition stands that was awaited.
pub(crate) fn standing(object: &Object, failure: Failure, asked: Option<ConditionType>) -> Failure {
    let see = format!("see `{} describe {}`", program(), object.key.name);
    match object.stalled().or(asked.and_then(|kind| object.condition(kind))) {
        Some(condition) => failure.help(format!("{}; {see}", stages::line(condition))),
        None => failure.help(see),
    }
}

#[cfg(test)]
mod tests {
    use microagent_base::durable;
    use microagent_controller::Paths;
    use serde_json::json;

    use super::*;

    fn object(generation: i64, observed: Option<i64>, status: &str) -> Object {
        let workspace = serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": "a", "generation": generation},
            "spec": {"image": "alpine"},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": "Settled", "message": "",
                "observedGeneration": observed, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }));
        Object { key: Key::new("default", "a"), workspace: workspace.unwrap() }
    }

    #[test]
    fn a_condition_about_an_older_generation_is_not_met() {
        let ready: What = "condition=Ready".parse().unwrap();
        for (generation, observed, status, met) in [
            (1, Some(1), "True", true),
            (2, Some(1), "True", false),
            (2, Some(3), "True", true),
            (2, None, "True", true),
            (1, Some(1), "False", false),
            (1, Some(1), "Unknown", false),
        ] {
            assert_eq!(
                ready.met(Some(&object(generation, observed, status))),
                met,
                "{generation} {observed:?} {status}"
            );
        }
        assert!(!ready.met(None));
    }

    #[test]
    fn other_statuses_and_deletion_can_be_waited_for() {
        let not_ready: What = "condition=ready=false".parse().unwrap();
        assert!(not_ready.met(Some(&object(1, Some(1), "False"))));
        assert!(!not_ready.met(Some(&object(1, Some(1), "True"))));
        let healthy: What = "condition=Healthy".parse().unwrap();
        assert!(!healthy.met(Some(&object(1, Some(1), "True"))), "there is no such condition");
        let delete: What = "delete".parse().unwrap();
        assert!(delete.met(None));
        assert!(!delete.met(Some(&object(1, None, "True"))));
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_any_more_is_not_what_was_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        let context = Context { paths, namespace: "default".to_owned(), verbose: 0 };
        let object = context.paths.object(&Key::new("default", "a"));
        durable::private_dir(object.parent().unwrap()).unwrap();
        let args = Args {
            names: vec!["a".to_owned()],
            what: "condition=Ready".parse().unwrap(),
            timeout: Duration::from_secs(60),
        };
        let torn = async { durable::write(&object, b"torn").unwrap() };
        let (waited, ()) = tokio::join!(run(&context, &args), torn);
        assert!(waited.unwrap_err().to_string().contains("a.json"));
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused_with_what_can() {
        for (text, hint) in [
            ("ready", "condition=TYPE"),
            ("condition=Nonsense", "Ready"),
            ("condition=Ready=yes", "True, False and Unknown"),
            ("jsonpath={.status}", "condition=TYPE"),
        ] {
            let error = text.parse::<What>().unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }
}
