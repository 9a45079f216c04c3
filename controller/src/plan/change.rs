//! What a change of a spec asks of a machine that runs. The one table of it is here; the hash that is remembered of a machine and
//! the differences that people are shown are both made from it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use microagent_base::Digest;
use microagent_crds::WorkspaceSpec;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Record;

/// What a change of a field asks of a machine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing: it takes effect while the machine runs.
    InPlace,
    /// The machine must be started anew.
    Restart,
}

/// Every field of a spec; what is within a field has the effect of the field. Health probe and outputs are told to the guest at its
/// start, so they need another one.
const FIELDS: [(&str, Effect); 25] = [
    ("image", Effect::Restart),
    ("imagePullPolicy", Effect::InPlace),
    ("imagePullSecrets", Effect::InPlace),
    ("runPolicy", Effect::InPlace),
    ("powerState", Effect::InPlace),
    ("backend", Effect::Restart),
    ("acceleration", Effect::Restart),
    ("kernel", Effect::Restart),
    ("resources", Effect::Restart),
    ("rootDisk", Effect::Restart),
    ("setup", Effect::Restart),
    ("command", Effect::Restart),
    ("args", Effect::Restart),
    ("env", Effect::Restart),
    ("workingDir", Effect::Restart),
    ("user", Effect::Restart),
    ("files", Effect::Restart),
    ("disks", Effect::Restart),
    ("secrets", Effect::Restart),
    ("network", Effect::Restart),
    ("health", Effect::Restart),
    ("outputs", Effect::Restart),
    ("lifecycle", Effect::InPlace),
    ("placement", Effect::InPlace),
    ("nodeName", Effect::InPlace),
];

/// The effect of a field of the spec, or of one within it. Of a field that is not in the table nothing is known, so it needs a
/// restart.
fn effect(field: &str) -> Effect {
    FIELDS.iter().find(|(name, _)| *name == field).map_or(Effect::Restart, |(_, effect)| *effect)
}

/// The hash of the part of a spec that a running machine cannot change. While it stays the same, a changed spec takes effect in
/// place; when it changes, the machine must be started again.
#[must_use]
pub fn machine_hash(spec: &WorkspaceSpec) -> String {
    let mut fields = fields(spec);
    fields.retain(|name, _| effect(name) == Effect::Restart);
    let mut fixed = Value::Object(fields);
    // The order must not depend on the map type that the build picks.
    fixed.sort_all_objects();
    Digest::of(fixed.to_string().as_bytes()).hex()
}

/// The hashes of the workspaces that are looked at again and again: each is made once for each generation.
#[derive(Debug, Default)]
pub struct MachineHashes {
    /// By UID, of which generation, and the hash.
    known: Mutex<HashMap<String, (i64, Arc<str>)>>,
}

impl MachineHashes {
    /// [`machine_hash`] of the record's spec.
    pub fn of(&self, record: &Record) -> Arc<str> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&record.uid) {
            Some((generation, hash)) if *generation == record.generation => hash.clone(),
            _ => {
                let hash: Arc<str> = machine_hash(&record.workspace.spec).into();
                known.insert(record.uid.clone(), (record.generation, hash.clone()));
                hash
            }
        }
    }

    /// The workspace is gone.
    pub fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// One field that differs between two specs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Where: `spec.resources.memory`, `spec.setup[0].run`, and `spec.env[HOME].value` in a list whose entries have names.
    pub path: String,
    /// What it was; absent when it was not set.
    pub old: Option<Value>,
    /// What it is; absent when it is not set.
    pub new: Option<Value>,
    /// What the change asks of a machine that runs.
    pub effect: Effect,
}

/// Every field that differs, in the order of their names. None of them needs a restart exactly when both specs have the same
/// [`machine_hash`].
#[must_use]
pub fn changes(old: &WorkspaceSpec, new: &WorkspaceSpec) -> Vec<FieldChange> {
    let (old, new) = (fields(old), fields(new));
    let mut changes = Vec::new();
    for name in keys(&old, &new) {
        let mut differences = Differences { effect: effect(name), found: &mut changes };
        differences.compare(&format!("spec.{name}"), old.get(name), new.get(name));
    }
    changes
}

/// A spec as JSON. It is made of strings, numbers and lists, so it always encodes.
fn fields(spec: &WorkspaceSpec) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn keys<'a>(old: &'a Map<String, Value>, new: &'a Map<String, Value>) -> BTreeSet<&'a String> {
    old.keys().chain(new.keys()).collect()
}

/// The differences within one field of the spec.
struct Differences<'a> {
    effect: Effect,
    found: &'a mut Vec<FieldChange>,
}

impl Differences<'_> {
    fn compare(&mut self, path: &str, old: Option<&Value>, new: Option<&Value>) {
        const NONE: &[Value] = &[];
        match (old, new) {
            _ if old == new => {}
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                for name in keys(a, b) {
                    self.compare(&format!("{path}.{name}"), a.get(name), b.get(name));
                }
            }
            // An empty list is not written at all.
            (Some(Value::Array(a)), Some(Value::Array(b))) => self.lists(path, a, b),
            (None, Some(Value::Array(b))) => self.lists(path, NONE, b),
            (Some(Value::Array(a)), None) => self.lists(path, a, NONE),
            _ => self.found(path, old.cloned(), new.cloned()),
        }
    }

    fn lists(&mut self, path: &str, old: &[Value], new: &[Value]) {
        if let (Some(a), Some(b)) = (names(old, new), names(new, old)) {
            return self.named(path, (old, &a), (new, &b));
        }
        // Words that come or go move all behind them: the whole list is easier to read.
        if old.len() != new.len() && old.iter().chain(new).any(|item| !item.is_object()) {
            let list = |items: &[Value]| (!items.is_empty()).then(|| Value::from(items));
            return self.found(path, list(old), list(new));
        }
        for nth in 0..old.len().max(new.len()) {
            self.compare(&format!("{path}[{nth}]"), old.get(nth), new.get(nth));
        }
    }

    /// Lists whose entries are known by name.
    fn named(&mut self, path: &str, (old, a): (&[Value], &[&str]), (new, b): (&[Value], &[&str])) {
        let at = |names: &[&str], name: &str| names.iter().position(|other| *other == name);
        for (nth, name) in a.iter().enumerate() {
            self.compare(&format!("{path}[{name}]"), old.get(nth), at(b, name).and_then(|nth| new.get(nth)));
        }
        for (nth, name) in b.iter().enumerate().filter(|(_, name)| at(a, name).is_none()) {
            self.compare(&format!("{path}[{name}]"), None, new.get(nth));
        }
        let both = |names: &[&str], others: &[&str]| -> Value {
            names.iter().filter(|name| at(others, name).is_some()).map(|name| Value::from(*name)).collect()
        };
        let (before, after) = (both(a, b), both(b, a));
        if before != after {
            self.found(path, Some(before), Some(after));
        }
    }

    fn found(&mut self, path: &str, old: Option<Value>, new: Option<Value>) {
        self.found.push(FieldChange { path: path.to_owned(), old, new, effect: self.effect });
    }
}

/// The names of the entries of a list, when all of it and of the list that it is compared with have one, each its own.
fn names<'a>(list: &'a [Value], other: &[Value]) -> Option<Vec<&'a str>> {
    let key = ["name", "path"].into_iter().find(|key| list.iter().chain(other).all(|item| item.get(key).is_some()))?;
    let own = |list: &'a [Value]| list.iter().map(|item| item.get(key)?.as_str()).collect::<Option<Vec<_>>>();
    let names = own(list)?;
    (names.iter().collect::<BTreeSet<_>>().len() == names.len()).then_some(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Values of each field, all different; `null` is a field that is not set.
    fn samples(field: &str) -> Vec<Value> {
        let samples = match field {
            "image" => json!(["alpine:3.21", "alpine:3.22"]),
            "imagePullPolicy" => json!(["IfNotPresent", "Always", "Never"]),
            "imagePullSecrets" => json!([null, [{"name": "a"}], [{"name": "a"}, {"name": "b"}]]),
            "runPolicy" => json!(["Always", "OnFailure", "Once", "Halted"]),
            "powerState" => json!(["Running", "Paused", "Quarantined"]),
            "backend" => json!(["Auto", "Qemu"]),
            "acceleration" => json!(["Preferred", "Required"]),
            "kernel" => json!([{}, {"version": "6.1"}, {"args": ["quiet"]}, {"args": ["quiet", "nokaslr"]}]),
            "resources" => json!([{}, {"cpus": 2}, {"memory": "1Gi"}, {"disk": "1Gi"}]),
            "rootDisk" => json!([{}, {"mode": "Copy"}]),
            "setup" => json!([null, [{"run": "a"}], [{"run": "b"}], [{"run": "b"}, {"run": "a"}]]),
            "command" | "args" => json!([null, ["a"], ["a", "b"], ["b", "a"], ["a", "b", "a"]]),
            "env" => json!([
                null,
                [{"name": "A"}, {"name": "B", "value": "1"}],
                [{"name": "B", "value": "1"}, {"name": "A"}],
                [{"name": "A", "value": "2"}],
                [{"name": "A"}, {"name": "A"}],
                [{"name": "A"}, {"name": "A", "value": "1"}],
            ]),
            "workingDir" => json!([null, "/a", "/b"]),
            "user" => json!([null, "a", "a:b"]),
            "files" => json!([
                null,
                [{"path": "/a", "content": "x"}],
                [{"path": "/a", "content": "y", "mode": "0600"}, {"path": "/b", "content": ""}],
            ]),
            "disks" => json!([
                null,
                [{"name": "a", "mountPath": "/a", "source": {"empty": {"size": "1Gi"}}}],
                [{"name": "a", "mountPath": "/a", "source": {"image": {"path": "/d"}}}],
            ]),
            "secrets" => json!([null, [{"name": "a", "env": "A", "from": {"env": "A"}}]]),
            "network" => json!([
                {},
                {"ports": [{"guestPort": 80}]},
                {"ports": [{"guestPort": 80}, {"guestPort": 81}]},
                {"mode": "Mediated", "egress": {}},
                {"mode": "Mediated", "egress": {"allow": [{"host": "a.example"}]}},
            ]),
            "health" => json!([
                null,
                {"exec": {"command": ["a"]}},
                {"tcpSocket": {"port": 1}, "periodSeconds": 3},
                {"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "b"}, {"name": "a", "value": "c"}]}},
            ]),
            "outputs" => json!([null, [{"name": "a", "path": "/a"}], [{"name": "a", "path": "/b"}]]),
            "lifecycle" => json!([
                {},
                {"terminationGracePeriodSeconds": 1},
                {"expiresAt": "2027-01-31T12:00:00Z", "onDelete": "Retain", "idleTimeoutSeconds": 5},
            ]),
            "placement" => json!([
                null,
                {},
                {"nodeSelector": {"a": "b"}, "onNodeLost": "Reschedule"},
                {"tolerations": [{"key": "a", "operator": "Exists"}], "priorityClassName": "a", "schedulerName": "b"},
                {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}},
            ]),
            "nodeName" => json!([null, "a", "b"]),
            other => panic!("no samples of {other}"),
        };
        samples.as_array().unwrap().clone()
    }

    /// A spec with these samples, one of each field of the table.
    fn spec(picks: &[usize]) -> WorkspaceSpec {
        let fields: Map<String, Value> = FIELDS
            .iter()
            .zip(picks)
            .map(|((name, _), pick)| {
                let samples = samples(name);
                ((*name).to_owned(), samples[pick % samples.len()].clone())
            })
            .filter(|(_, value)| !value.is_null())
            .collect();
        serde_json::from_value(Value::Object(fields)).unwrap()
    }

    fn told(field: &str, old: usize, new: usize) -> Vec<String> {
        let picks = |pick: usize| FIELDS.map(|(name, _)| if name == field { pick } else { 0 });
        let text = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
        let changes = changes(&spec(&picks(old)), &spec(&picks(new)));
        changes.iter().map(|c| format!("{} {} {}", c.path, text(&c.old), text(&c.new))).collect()
    }

    #[test]
    fn the_table_has_every_field_of_a_spec() {
        let schema = microagent_crds::schema::openapi();
        let properties = schema.pointer("/properties/spec/properties").and_then(Value::as_object).unwrap();
        let known: BTreeSet<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(known, properties.keys().map(String::as_str).collect());
    }

    #[test]
    fn every_difference_of_every_field_is_seen_with_the_effect_of_the_table() {
        for (field, effect) in FIELDS {
            let all = samples(field);
            for (old, new) in (0..all.len()).flat_map(|old| (0..all.len()).map(move |new| (old, new))) {
                let picks = |pick: usize| FIELDS.map(|(name, _)| if name == field { pick } else { 0 });
                let changes = changes(&spec(&picks(old)), &spec(&picks(new)));
                assert_eq!(changes.is_empty(), old == new, "{field}: {} and {}", all[old], all[new]);
                let path = format!("spec.{field}");
                for change in changes {
                    assert!(change.path.starts_with(&path) && change.effect == effect, "{change:?}");
                }
            }
        }
    }

    /// A version that hashed the same spec to something else would want every machine started anew.
    #[test]
    fn a_new_field_does_not_change_the_hash_of_what_runs() {
        let spec = WorkspaceSpec::new("debian");
        assert_eq!(machine_hash(&spec), "f651f1f9d29b12a025e181d4705ef0c5f634e3e92d2dde8abf40e895dc6501bd");
        let placed = WorkspaceSpec { placement: Some(microagent_crds::Placement::default()), ..spec.clone() };
        assert_eq!(machine_hash(&placed), machine_hash(&spec));
    }

    #[test]
    fn what_the_guest_is_told_at_its_start_needs_a_restart() {
        for (field, wanted) in
            [("health", Effect::Restart), ("outputs", Effect::Restart), ("lifecycle", Effect::InPlace)]
        {
            assert_eq!(effect(field), wanted);
        }
        assert_eq!(effect("aFieldOfTomorrow"), Effect::Restart);
    }

    #[test]
    fn entries_with_names_are_compared_by_name_and_their_order_counts() {
        let b = r#"{"name":"B","value":"1"}"#;
        assert_eq!(told("env", 1, 3), [r#"spec.env[A].value "" "2""#.to_owned(), format!("spec.env[B] {b} -")]);
        assert_eq!(told("env", 1, 2), [r#"spec.env ["A","B"] ["B","A"]"#]);
        assert_eq!(told("env", 4, 5), [r#"spec.env[1].value "" "1""#], "a name that stands twice tells nothing");
        assert_eq!(told("files", 1, 2)[0], r#"spec.files[/a].content "x" "y""#);
    }

    #[test]
    fn entries_without_names_are_compared_by_place_and_words_that_move_as_a_whole() {
        assert_eq!(told("setup", 1, 3), [r#"spec.setup[0].run "a" "b""#, r#"spec.setup[1] - {"run":"a"}"#]);
        assert_eq!(told("command", 0, 1), [r#"spec.command - ["a"]"#]);
        assert_eq!(told("command", 2, 3), [r#"spec.command[0] "a" "b""#, r#"spec.command[1] "b" "a""#]);
        assert_eq!(told("command", 2, 4), [r#"spec.command ["a","b"] ["a","b","a"]"#]);
    }

    #[test]
    fn what_is_set_or_no_longer_set_is_one_change() {
        assert_eq!(told("workingDir", 0, 1), [r#"spec.workingDir - "/a""#]);
        assert_eq!(told("user", 1, 0), [r#"spec.user "a" -"#]);
    }

    fn picks() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(0..60usize, FIELDS.len())
    }

    proptest! {
        #[test]
        fn the_hash_changes_exactly_when_a_change_needs_a_restart(
            old in picks(),
            others in picks(),
            which in prop::collection::vec(prop::bool::weighted(0.2), FIELDS.len()),
        ) {
            let new: Vec<usize> =
                old.iter().zip(&others).zip(&which).map(|((old, other), change)| if *change { *other } else { *old }).collect();
            let (old, new) = (spec(&old), spec(&new));
            let changes = changes(&old, &new);
            let restarts = changes.iter().any(|change| change.effect == Effect::Restart);
            prop_assert_eq!(machine_hash(&old) != machine_hash(&new), restarts);
            prop_assert_eq!(old != new, !changes.is_empty());
        }
    }

    fn record(uid: &str, generation: i64, args: &[&str]) -> Record {
        let mut spec = WorkspaceSpec::new("image");
        spec.args = args.iter().map(ToString::to_string).collect();
        Record {
            key: crate::Key::new("default", "a"),
            uid: uid.to_owned(),
            generation,
            spec_hash: String::new(),
            workspace: microagent_crds::Workspace::new("a", spec).into(),
            file: "a.yaml".into(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            deleted_at: None,
            problem: None,
            unreserved: None,
            memory: crate::memory::Memory::default(),
        }
    }

    #[test]
    fn a_hash_is_made_once_for_each_generation_and_goes_with_its_workspace() {
        let hashes = MachineHashes::default();
        let first = hashes.of(&record("u", 1, &["a"]));
        assert_eq!(*first, *machine_hash(&record("u", 1, &["a"]).workspace.spec));
        assert!(Arc::ptr_eq(&first, &hashes.of(&record("u", 1, &["a"]))), "the same generation is not hashed again");
        assert_ne!(first, hashes.of(&record("u", 2, &["b"])));
        assert_eq!(first, hashes.of(&record("other", 1, &["a"])));
        hashes.forget("u");
        hashes.forget("other");
        assert!(hashes.known.lock().unwrap().is_empty());
    }

    #[test]
    fn the_first_and_the_last_entry_of_a_list_are_named_as_any_other() {
        let spec = |env: Value| serde_json::from_value::<WorkspaceSpec>(json!({ "image": "i", "env": env })).unwrap();
        let (none, one) = (spec(json!([])), spec(json!([{ "name": "A", "value": "b" }])));
        for (old, new) in [(&none, &one), (&one, &none)] {
            let found = changes(old, new);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].path, "spec.env[A]");
        }
    }
}
