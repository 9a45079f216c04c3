//! `microagent describe`

use jiff::Timestamp;
use microagent_base::durable;
use microagent_controller::{
    Record,
    journal::{self, Event},
    request,
};
use serde_json::{Value, json};

use super::events;
use crate::{
    context::Context,
    failure::Result,
    objects::{self, Object},
    output::{self, Format, OutputArgs, human, table::Table},
};

/// So many events are shown, the last ones.
pub(crate) const EVENTS: usize = 25;

/// Show all that is known of workspaces
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Workspaces
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<u8> {
    let mut texts = Vec::new();
    for name in &args.names {
        let key = context.key(name)?;
        let object = objects::need(&context.paths, &key)?;
        // The record is the controller's own; its absence, or a newer form of it, hides only where the manifest is.
        let record: Option<Record> = durable::read_json(&context.paths.record(&key)).unwrap_or_default();
        let mut events = journal::read(&context.paths.journal(), |e| e.key == key)?;
        events.drain(..events.len().saturating_sub(EVENTS));
        texts.push(match args.output.output {
            Format::Name => format!("workspace/{}\n", key.name),
            format => match output::structured(format, &json!({ "workspace": object.workspace, "events": events }))? {
                Some(text) => text,
                None => describe(context, &object, record.as_ref(), &events, Timestamp::now())?,
            },
        });
    }
    output::print(&texts.join("\n"))?;
    Ok(0)
}

fn describe(
    context: &Context,
    object: &Object,
    record: Option<&Record>,
    events: &[Event],
    now: Timestamp,
) -> Result<String> {
    let host = Host { context, record };
    let events = (!events.is_empty()).then(|| events::table(events, false, now));
    page(object, Some(&host), events, now)
}

/// What this host knows of a workspace of its own.
pub(crate) struct Host<'a> {
    context: &'a Context,
    record: Option<&'a Record>,
}

/// All that is known, as one page.
pub(crate) fn page(object: &Object, host: Option<&Host<'_>>, events: Option<Table>, now: Timestamp) -> Result<String> {
    let record = host.and_then(|host| host.record);
    let mut page = Page::default();
    identity(&mut page, object, record);
    spec(&mut page, &serde_json::to_value(&object.workspace.spec)?);
    status(&mut page, object, now);
    if let Some(host) = host {
        restart(&mut page, host.context, object, now);
    }
    artifacts(&mut page, object);
    conditions(&mut page, object, now);
    if let Some(host) = host {
        places(&mut page, host.context, object);
    }
    if let Some(problem) = problem(object, record) {
        page.section("Problem");
        page.text.extend(human::lines(&problem).lines().map(|line| format!("  {line}\n")));
    }
    page.section("Events");
    page.text.push_str(&events.map_or("  <none>\n".to_owned(), |events| events.render("  ")));
    Ok(page.text)
}

/// What a person must mend: why the manifest as it is now is not taken, or what is said in more than the line that the table
/// of conditions has for it.
fn problem(object: &Object, record: Option<&Record>) -> Option<String> {
    let manifest = record.and_then(|r| r.problem.as_ref()).map(|p| p.message.clone());
    manifest.or_else(|| object.stalled().map(|c| c.message.clone()).filter(|m| m.trim_end().contains('\n')))
}

/// Text that grows: named values, and sections of them.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn section(&mut self, title: &str) {
        self.text.push_str(&format!("{title}:\n"));
    }

    fn value(&mut self, name: &str, value: impl AsRef<str>) {
        self.text.push_str(&format!("{:17}{}\n", format!("{name}:"), human::one_line(value.as_ref())));
    }

    fn some(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value.filter(|v| !v.as_ref().is_empty()) {
            self.value(name, value);
        }
    }
}

fn identity(page: &mut Page, object: &Object, record: Option<&Record>) {
    let metadata = &object.workspace.metadata;
    page.value("Name", &object.key.name);
    page.value("Namespace", &object.key.namespace);
    page.some("UID", object.uid());
    let pairs = metadata.labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
    page.some("Labels", Some(pairs.join(", ")));
    page.some("Created", object.created().map(|t| format!("{t:.0}")));
    page.some("Deleting since", metadata.deletion_timestamp.as_ref().map(|t| format!("{:.0}", t.0)));
    page.some("Declared in", record.map(|r| r.file.display().to_string()));
    page.some("Generation", metadata.generation.map(|g| g.to_string()));
}

/// The parts of the spec that people ask for first; all of it is in `microagent get -o yaml`.
fn spec(page: &mut Page, spec: &Value) {
    let text = |path: &str| spec.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let words = |path: &str| {
        let words = spec.pointer(path).and_then(Value::as_array).into_iter().flatten();
        words
            .filter_map(Value::as_str)
            .map(|w| if w.contains(' ') { format!("{w:?}") } else { w.to_owned() })
            .collect::<Vec<_>>()
    };
    let count = |path: &str| {
        let n = spec.pointer(path).and_then(Value::as_array).map_or(0, Vec::len);
        (n > 0).then(|| n.to_string())
    };
    page.some("Image", text("/image"));
    page.some("Run policy", text("/runPolicy"));
    let resource = |name: &str| {
        let value = spec.pointer(&format!("/resources/{name}"))?;
        Some(format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    };
    let resources: Vec<_> = ["cpus", "memory", "disk"].iter().filter_map(|name| resource(name)).collect();
    page.some("Resources", Some(resources.join(", ")));
    page.some("Command", Some([words("/command"), words("/args")].concat().join(" ")));
    page.some("User", text("/user"));
    page.some("Directory", text("/workingDir"));
    page.some("Setup steps", count("/setup"));
    page.some("Files", count("/files"));
    page.some("Disks", count("/disks"));
}

fn status(page: &mut Page, object: &Object, now: Timestamp) {
    let status = object.status();
    page.value("Phase", status.phase.map_or("Pending", |p| p.as_str()));
    page.some("Node", status.node_name.as_deref());
    page.some("Backend", status.backend.map(|b| format!("{b:?}")));
    page.some("Digest", status.image.as_ref().map(|i| i.digest.clone()));
    page.some("Kernel", status.kernel.as_ref().map(|k| format!("{} ({})", k.version, k.digest)));
    page.some("Boot ID", status.boot_id.as_deref());
    page.some("Runs generation", status.running_generation.map(|g| g.to_string()));
    if let Some(restarts) = status.restarts.as_ref().filter(|r| r.count > 0 || r.next_attempt.is_some()) {
        let next = restarts.next_attempt.as_ref().map(|t| {
            let wait = t.0.as_second() - now.as_second();
            format!(", next in {}", human::duration(wait))
        });
        page.value("Restarts", format!("{}{}", restarts.count, next.unwrap_or_default()));
    }
    if let Some(result) = &status.result {
        let how = match (result.exit_code, result.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "did not run".to_owned(),
        };
        let oom = if result.oom_killed { ", for want of memory" } else { "" };
        page.value("Result", format!("{how}{oom}"));
        page.some("Message", result.message.as_deref());
        page.some("Started", result.started_at.as_ref().map(|t| format!("{:.0}", t.0)));
        page.some("Finished", result.finished_at.as_ref().map(|t| format!("{:.0}", t.0)));
    }
    if !status.timings.is_empty() {
        page.section("Timings");
        let mut table = Table::new(&["STAGE", "TIME"]);
        let mut stages: Vec<_> = status.timings.iter().collect();
        stages.sort_by_key(|(stage, _)| STAGES.iter().position(|known| known == stage).unwrap_or(STAGES.len()));
        for (stage, ms) in stages {
            table.row([stage.clone(), human::milliseconds(*ms)]);
        }
        page.text.push_str(&table.render("  "));
    }
}

/// The restart that was asked for and that no controller has acted on.
fn restart(page: &mut Page, context: &Context, object: &Object, now: Timestamp) {
    match request::read(&context.paths, &object.key) {
        Ok(Some(asked)) if object.uid() == Some(&asked.uid) => {
            page.value("Restart", format!("asked for {} ago", human::age(asked.time, now)));
        }
        Ok(_) => {}
        Err(e) => page.value("Restart", e.to_string()),
    }
}

fn artifacts(page: &mut Page, object: &Object) {
    let artifacts = object.status().artifacts;
    if artifacts.is_empty() {
        return;
    }
    page.section("Artifacts");
    let mut table = Table::new(&["NAME", "SIZE", "PATH"]);
    for artifact in artifacts {
        let place = artifact.error.map(|error| format!("not copied out: {error}")).or(artifact.path);
        let size = artifact.bytes.map(human::bytes).unwrap_or_default();
        table.row([artifact.name, size, place.unwrap_or_default()]);
    }
    page.text.push_str(&table.render("  "));
}

/// The stages of a start in their order; others come behind. Those of the machine count from the VMM's start, those of the guest from
/// its kernel's.
const STAGES: [&str; 14] = [
    "image",
    "rootfs",
    "kernel",
    "prepare",
    "start",
    "machine.console",
    "machine.listening",
    "machine.configured",
    "guest.init",
    "guest.listening",
    "guest.configured",
    "guest.mounted",
    "guest.setup",
    "guest.workload",
];

fn conditions(page: &mut Page, object: &Object, now: Timestamp) {
    page.section("Conditions");
    let mut conditions = object.status().conditions;
    if conditions.is_empty() {
        page.text.push_str("  <none>\n");
        return;
    }
    conditions.sort_by_key(|c| c.type_);
    let mut table = Table::new(&["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"]);
    for condition in conditions {
        table.row([
            condition.type_.as_str().to_owned(),
            condition.status.as_str().to_owned(),
            condition.reason.to_string(),
            human::age(condition.last_transition_time.0, now),
            condition.message,
        ]);
    }
    page.text.push_str(&table.render("  "));
}

fn places(page: &mut Page, context: &Context, object: &Object) {
    let Some(uid) = object.uid() else { return };
    let machine = context.paths.machine(uid);
    page.section("On this host");
    for (name, path) in
        [("Logs", machine.workload_log()), ("Console", machine.console_log()), ("Disks", machine.disks())]
    {
        let there = if path.exists() { "" } else { " (not there yet)" };
        page.text.push_str(&format!("  {:9}{}{there}\n", format!("{name}:"), path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use microagent_controller::{Key, Paths, journal::EventType, request::RestartRequest};
    use microagent_crds::{Workspace, WorkspaceSpec};

    use super::*;

    fn context(dir: &Path) -> Context {
        let paths = Paths { state: dir.join("state"), cache: dir.join("cache") };
        Context { paths, namespace: "default".to_owned(), verbose: 0 }
    }

    #[test]
    fn a_restart_that_is_asked_for_is_shown_for_the_workspace_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        context.paths.create().unwrap();
        let mut workspace = Workspace::new("hello", WorkspaceSpec::new("alpine"));
        workspace.metadata.uid = Some("u-1".to_owned());
        let object = Object { key: Key::new("default", "hello"), workspace };
        let now: Timestamp = "2026-11-22T10:01:21Z".parse().unwrap();
        let shown = || {
            let text = describe(&context, &object, None, &[], now).unwrap();
            text.lines().find_map(|line| line.strip_prefix("Restart:").map(|rest| rest.trim().to_owned()))
        };
        assert_eq!(shown(), None);
        for (uid, line) in [("u-1", Some("asked for 21s ago")), ("u-0", None)] {
            let asked = RestartRequest::new(uid, "2026-11-22T10:01:00Z".parse().unwrap());
            request::write(&context.paths, &object.key, &asked).unwrap();
            assert_eq!(shown().as_deref(), line);
        }
        std::fs::write(context.paths.restart_request(&object.key), "torn").unwrap();
        assert!(shown().unwrap().contains("is no restart request"));
    }

    #[test]
    fn everything_that_is_known_is_on_one_page() {
        let workspace = serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": "hello", "namespace": "default", "uid": "u-1", "generation": 2, "labels": {"team": "a"},
                "creationTimestamp": "2026-11-22T10:00:00Z"},
            "spec": {"image": "alpine:3.22", "runPolicy": "Once", "command": ["sh", "-c"], "args": ["exit 7"],
                "setup": [{"run": "true"}]},
            "status": {"phase": "Failed", "backend": "Qemu", "bootId": "b-1", "image": {"digest": "sha256:abc"},
                "kernel": {"version": "6.1", "digest": "sha256:def"},
                "result": {"exitCode": 7, "startedAt": "2026-11-22T10:00:20Z", "finishedAt": "2026-11-22T10:00:21Z"},
                "timings": {"pull": 1200, "boot": 2405},
                "artifacts": [{"name": "report", "bytes": 1536, "path": "/out/report"},
                    {"name": "log", "error": "it is not there"}],
                "conditions": [
                    {"type": "Ready", "status": "False", "reason": "WorkloadFailed", "message": "it exited with 7\u{1b}[31m",
                     "observedGeneration": 2, "lastTransitionTime": "2026-11-22T10:00:21Z"},
                    {"type": "ImageResolved", "status": "True", "reason": "ImageResolved", "message": "",
                     "observedGeneration": 2, "lastTransitionTime": "2026-11-22T10:00:05Z"}]},
        }));
        let object = Object { key: Key::new("default", "hello"), workspace: workspace.unwrap() };
        let context = context(Path::new("/nowhere"));
        let events = [Event {
            time: "2026-11-22T10:00:21Z".parse().unwrap(),
            key: object.key.clone(),
            uid: "u-1".to_owned(),
            type_: EventType::Warning,
            reason: "WorkloadFailed".to_owned(),
            message: "it exited with 7".to_owned(),
        }];
        let now = "2026-11-22T10:01:21Z".parse().unwrap();
        insta::assert_snapshot!(describe(&context, &object, None, &events, now).unwrap());
    }
}
