//! `microagent get`

use std::collections::BTreeMap;

use jiff::Timestamp;
use microagent_controller::Key;
use microagent_crds::{ConditionType, Workspace};
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{Failure, Result},
    objects::{self, Object},
    output::{self, Format, OutputArgs, human, table::Table},
    watch::Watch,
};

/// Show workspaces
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these; `workspaces` or `ws` before them is allowed, as kubectl has it
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Go on with what changes from now on
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Args {
    /// The workspaces that are named; all when there are none.
    pub(crate) fn names(&self) -> &[String] {
        match self.names.split_first() {
            Some((kind, names)) if matches!(kind.as_str(), "workspaces" | "workspace" | "ws") => names,
            _ => &self.names,
        }
    }
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<u8> {
    let keys = args.names().iter().map(|name| context.key(name)).collect::<Result<Vec<_>>>()?;
    let format = args.output.output;
    let mut view = View::new(args, false);
    let mut watch = Watch::new();
    let first = look(context, args, &keys, |failure| output::warn(&failure.to_string()))?;
    if !args.watch {
        for key in &keys {
            objects::need(&context.paths, key)?;
        }
        output::print(&view.all(&first, !keys.is_empty())?)?;
        if first.is_empty() && matches!(format, Format::Table | Format::Wide) {
            none_found(args, &context.namespace);
        }
        warn_of_files(context)?;
        return Ok(0);
    }
    let mut shown: BTreeMap<Key, Workspace> = BTreeMap::new();
    let mut objects = first;
    loop {
        for object in &objects {
            watch.dir(&context.paths.status().join(&object.key.namespace));
            if shown.get(&object.key) != Some(&object.workspace) {
                output::print(&view.one(object)?)?;
                shown.insert(object.key.clone(), object.workspace.clone());
            }
        }
        shown.retain(|key, _| objects.iter().any(|o| o.key == *key));
        watch.dir(&context.paths.status());
        watch.dir(&context.paths.status().join(&context.namespace));
        watch.dir(&context.paths.manifests());
        watch.changed().await;
        objects = look(context, args, &keys, drop)?;
    }
}

fn look(context: &Context, args: &Args, keys: &[Key], unreadable: impl FnMut(Failure)) -> Result<Vec<Object>> {
    if keys.is_empty() {
        let namespace = (!args.all_namespaces).then_some(context.namespace.as_str());
        return objects::list(&context.paths, namespace, unreadable);
    }
    let found = keys.iter().map(|key| objects::find(&context.paths, key)).collect::<Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// Says that a table would be empty.
pub(crate) fn none_found(args: &Args, namespace: &str) {
    let place = if args.all_namespaces { String::new() } else { format!(" in namespace {namespace}") };
    output::note(&format!("No workspaces found{place}."));
}

/// Files that declare nothing must not go unseen.
fn warn_of_files(context: &Context) -> Result<()> {
    for name in objects::names(&context.paths.file_problems())? {
        let text = std::fs::read_to_string(context.paths.file_problems().join(&name)).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let part = |field: &str| value.get(field).and_then(Value::as_str).map(human::lines);
        let file = part("file").unwrap_or(name);
        output::warn(&format!("{file}: {}", part("message").unwrap_or_else(|| "it declares no workspace".to_owned())));
    }
    Ok(())
}

/// How objects are shown.
pub(crate) struct View {
    format: Format,
    columns: Columns,
    /// The rows so far, so that later ones are aligned with them.
    table: Option<Table>,
}

/// The columns that are not always there.
#[derive(Clone, Copy)]
struct Columns {
    namespace: bool,
    node: bool,
    wide: bool,
}

impl View {
    /// As the command line asks. `nodes` tells where workspaces are, too.
    pub(crate) fn new(args: &Args, nodes: bool) -> Self {
        let format = args.output.output;
        let columns = Columns { namespace: args.all_namespaces, node: nodes, wide: format == Format::Wide };
        Self { format, columns, table: None }
    }

    /// Objects as one text; `named` when they were asked for by name.
    pub(crate) fn all(&mut self, objects: &[Object], named: bool) -> Result<String> {
        let value = match objects {
            [one] if named => serde_json::to_value(&one.workspace)?,
            many => {
                let items = many.iter().map(|o| serde_json::to_value(&o.workspace)).collect::<Result<Vec<_>, _>>()?;
                json!({ "apiVersion": "v1", "kind": "List", "items": items })
            }
        };
        if let Some(text) = output::structured(self.format, &value)? {
            return Ok(text);
        }
        if self.table.is_some() || !matches!(self.format, Format::Table | Format::Wide) || objects.is_empty() {
            return objects.iter().map(|object| self.one(object)).collect();
        }
        // All rows decide how wide the columns are, so all come before the first is shown.
        let (columns, now) = (self.columns, Timestamp::now());
        let table = self.table.insert(Table::new(&header(columns)));
        objects.iter().for_each(|object| table.row(row(object, columns, now)));
        Ok(table.render(""))
    }

    /// One object: rows after the first come without a header.
    pub(crate) fn one(&mut self, object: &Object) -> Result<String> {
        Ok(match self.format {
            Format::Name => format!("workspace/{}\n", object.key.name),
            Format::Json => serde_json::to_string(&object.workspace)? + "\n",
            Format::Yaml => {
                format!("---\n{}", microagent_crds::yaml::to_string(&serde_json::to_value(&object.workspace)?)?)
            }
            Format::Table | Format::Wide => {
                let cells = row(object, self.columns, Timestamp::now());
                match &mut self.table {
                    Some(table) => {
                        table.row(cells);
                        table.render_last()
                    }
                    None => {
                        let table = self.table.insert(Table::new(&header(self.columns)));
                        table.row(cells);
                        table.render("")
                    }
                }
            }
        })
    }
}

fn header(columns: Columns) -> Vec<&'static str> {
    let mut header = vec!["NAMESPACE", "NAME", "READY", "PHASE", "RESTARTS", "BACKEND"];
    if columns.node {
        header.push("NODE");
    }
    header.push("AGE");
    if columns.wide {
        header.extend(["IMAGE", "KERNEL", "HEALTHY", "REASON", "MESSAGE"]);
    }
    header.split_off(usize::from(!columns.namespace))
}

fn row(object: &Object, columns: Columns, now: Timestamp) -> Vec<String> {
    let status = object.status();
    let ready = object.condition(ConditionType::Ready);
    let spec = &object.workspace.spec;
    let mut cells = vec![
        object.key.namespace.clone(),
        object.key.name.clone(),
        ready.map_or("Unknown", |c| c.status.as_str()).to_owned(),
        status.phase.map_or("Pending", |p| p.as_str()).to_owned(),
        status.restarts.as_ref().map_or(0, |r| r.count).to_string(),
        status.backend.map(|b| format!("{b:?}")).unwrap_or_default(),
    ];
    if columns.node {
        cells.push(status.node_name.clone().unwrap_or_default());
    }
    cells.push(object.created().map(|t| human::age(t, now)).unwrap_or_default());
    if columns.wide {
        let telling = object.stalled().or(ready);
        cells.extend([
            spec.image.clone(),
            status.kernel.as_ref().map(|k| k.version.clone()).unwrap_or_default(),
            object.condition(ConditionType::Healthy).map_or("", |c| c.status.as_str()).to_owned(),
            telling.map(|c| c.reason.to_string()).unwrap_or_default(),
            telling.map(|c| c.message.clone()).unwrap_or_default(),
        ]);
    }
    cells.split_off(usize::from(!columns.namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn object(name: &str, status: Value) -> Object {
        let workspace = serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": name, "namespace": "default", "generation": 1, "uid": "u-1",
                "creationTimestamp": "2026-11-22T10:00:00Z"},
            "spec": {"image": "alpine:3.22"},
            "status": status,
        }));
        Object { key: Key::new("default", name), workspace: workspace.unwrap() }
    }

    fn running() -> Object {
        object(
            "hello",
            json!({
                "phase": "Running", "backend": "Qemu", "nodeName": "node-1", "restarts": {"count": 2}, "kernel": {"version": "6.1.0-1", "digest": "sha256:x"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Settled", "message": "it runs",
                    "observedGeneration": 1, "lastTransitionTime": "2026-11-22T10:00:05Z"},
                    {"type": "Healthy", "status": "False", "reason": "Unhealthy", "message": "the probe fails",
                    "observedGeneration": 1, "lastTransitionTime": "2026-11-22T10:00:05Z"}],
            }),
        )
    }

    fn columns(namespace: bool, node: bool, wide: bool) -> Columns {
        Columns { namespace, node, wide }
    }

    fn render(columns: Columns) -> String {
        let now = "2026-11-22T10:05:30Z".parse().unwrap();
        let mut table = Table::new(&header(columns));
        table.row(row(&running(), columns, now));
        table.row(row(&object("new", json!({})), columns, now));
        table.render("")
    }

    #[test]
    fn the_table_is_short_and_the_wide_one_tells_why() {
        insta::assert_snapshot!(render(columns(false, false, false)), @r"
        NAME    READY     PHASE     RESTARTS   BACKEND   AGE
        hello   True      Running   2          Qemu      5m30s
        new     Unknown   Pending   0          <none>    5m30s
        ");
        insta::assert_snapshot!(render(columns(true, false, true)), @r"
        NAMESPACE   NAME    READY     PHASE     RESTARTS   BACKEND   AGE     IMAGE         KERNEL    HEALTHY   REASON    MESSAGE
        default     hello   True      Running   2          Qemu      5m30s   alpine:3.22   6.1.0-1   False     Settled   it runs
        default     new     Unknown   Pending   0          <none>    5m30s   alpine:3.22   <none>    <none>    <none>    <none>
        ");
        insta::assert_snapshot!(render(columns(false, true, false)), @r"
        NAME    READY     PHASE     RESTARTS   BACKEND   NODE     AGE
        hello   True      Running   2          Qemu      node-1   5m30s
        new     Unknown   Pending   0          <none>    <none>   5m30s
        ");
    }

    #[test]
    fn a_machine_that_is_held_shows_so_in_its_phase() {
        let phase = |phase: &str| {
            row(&object("a", json!({"phase": phase})), columns(false, false, false), Timestamp::UNIX_EPOCH).remove(2)
        };
        assert_eq!(["Paused", "Quarantined", "OfTomorrow"].map(phase), ["Paused", "Quarantined", "Unknown"]);
    }

    #[test]
    fn programs_get_a_list_unless_they_name_one() {
        let mut view = View { format: Format::Json, columns: columns(false, false, false), table: None };
        let list: Value = serde_json::from_str(&view.all(&[running()], false).unwrap()).unwrap();
        assert_eq!(list["kind"], "List");
        assert_eq!(list["items"][0]["metadata"]["name"], "hello");
        let one: Value = serde_json::from_str(&view.all(&[running()], true).unwrap()).unwrap();
        assert_eq!(one["kind"], "Workspace");
        let mut view = View { format: Format::Name, ..view };
        assert_eq!(view.all(&[running()], false).unwrap(), "workspace/hello\n");
    }
}
