//! What manifests would change, were they what a watched folder says. Pure: nothing is read, written or started.

mod manifests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use microagent_crds::{RunPolicy, Workspace};
use serde::Serialize;
use serde_json::Value;

use self::manifests::Declared;
use crate::{
    Key, Problem, Record,
    desired::FileProblem,
    plan::RESTART_ANNOTATION,
    plan::{
        change::{Effect, FieldChange, changes},
        machine_hash,
    },
};

pub use manifests::Manifests;

/// A workspace as it is wanted now.
#[derive(Clone, Debug)]
pub struct Present {
    /// The last good manifest.
    pub workspace: Workspace,
    /// The file that declares it.
    pub file: PathBuf,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What became of it.
    pub machine: MachineNow,
}

/// What is known of the machine of a workspace without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineNow {
    /// None runs.
    None,
    /// One runs, or is being started, that was made from a spec with this [`machine_hash`].
    Runs(String),
    /// The last one ended for good; it was made from a spec with this [`machine_hash`], or from nobody knows what (empty).
    Finished(String),
}

impl Present {
    /// A workspace that is declared and that no controller has taken up yet.
    #[must_use]
    pub fn declared(workspace: Workspace, file: PathBuf) -> Self {
        Self { workspace, file, deleting: false, machine: MachineNow::None }
    }
}

impl From<Record> for Present {
    fn from(record: Record) -> Self {
        let machine = match (record.memory.boot, record.memory.finished) {
            (Some(boot), _) => MachineNow::Runs(boot.machine_hash),
            (None, Some(hash)) => MachineNow::Finished(hash),
            (None, None) => MachineNow::None,
        };
        let workspace = Workspace::clone(&record.workspace);
        Self { workspace, file: record.file, deleting: record.deleted_at.is_some(), machine }
    }
}

/// What would change, all of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Of each workspace, by name.
    pub workspaces: Vec<WorkspacePreview>,
    /// The files with documents from which not even a name could be had.
    pub files: Vec<FileProblem>,
}

impl Preview {
    /// Whether a manifest is invalid.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        !self.files.is_empty() || self.count(Action::Invalid) > 0
    }

    /// Whether something would change.
    #[must_use]
    pub fn is_change(&self) -> bool {
        [Action::Create, Action::Restart, Action::InPlace, Action::Delete].into_iter().any(|a| self.count(a) > 0)
    }

    /// How many workspaces this would happen to.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        self.workspaces.iter().filter(|workspace| workspace.action == action).count()
    }
}

/// What would happen to one workspace.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkspacePreview {
    /// Its name.
    #[serde(flatten)]
    pub key: Key,
    /// What would happen.
    pub action: Action,
    /// The manifest; of a workspace that would be deleted, the one that was.
    pub files: Vec<PathBuf>,
    /// The fields that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// What would follow, where fields differ that need a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Then>,
    /// Why the manifest is not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What would happen to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is new.
    Create,
    /// A running machine would have to be started anew.
    Restart,
    /// All takes effect while the machine runs.
    InPlace,
    /// No manifest declares it any more.
    Delete,
    /// Nothing.
    Unchanged,
    /// The manifest is not taken; what runs stays as it is.
    Invalid,
}

/// What follows when fields differ that need a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Then {
    /// The machine goes on as it is, and `RestartRequired` says so.
    RestartRequired,
    /// The restart annotation asks for a start anew.
    Restarts,
    /// The machine that runs was made from this spec: the one in between never came to it.
    UpToDate,
    /// The workload has ended for good; for the new spec it runs again.
    RunsAgain,
    /// No machine runs; the next one is made from the new spec.
    NextStart,
}

/// Compares manifests with what is wanted now. `present` has at least the workspaces that the manifests name, and for a folder all:
/// one that cannot be read has the reason in its place. `locate` gives the path that a file was read under, when it is, or was, in one
/// of the folders: what such a file declared and no manifest declares any more would be deleted.
pub fn preview(
    manifests: &Manifests,
    present: &BTreeMap<Key, Result<Present, Problem>>,
    locate: impl Fn(&Path) -> Option<PathBuf>,
) -> Preview {
    let declared = manifests.declared.iter().map(|(key, entry)| declared(key, entry, present.get(key)));
    let gone = present.iter().filter(|(key, _)| !manifests.declared.contains_key(*key)).filter_map(|(key, present)| {
        let present = present.as_ref().ok().filter(|present| !present.deleting)?;
        // A file from which no name can be had may still mean any workspace that it declared before.
        locate(&present.file).filter(|file| !manifests.problems.contains_key(file))?;
        Some(WorkspacePreview::new(key, Action::Delete, vec![present.file.clone()]))
    });
    let mut workspaces: Vec<_> = declared.chain(gone).collect();
    workspaces.sort_by(|a, b| a.key.cmp(&b.key));
    let files = manifests.problems.iter();
    let files = files.map(|(file, problem)| FileProblem { file: file.clone(), problem: problem.clone() }).collect();
    Preview { workspaces, files }
}

impl WorkspacePreview {
    fn new(key: &Key, action: Action, files: Vec<PathBuf>) -> Self {
        Self { key: key.clone(), action, files, changes: Vec::new(), then: None, problem: None }
    }
}

fn declared(key: &Key, declared: &Declared, present: Option<&Result<Present, Problem>>) -> WorkspacePreview {
    let files: BTreeSet<&PathBuf> = declared.files.iter().collect();
    let told = |action| WorkspacePreview::new(key, action, files.into_iter().cloned().collect());
    let (workspace, present) = match (&declared.manifest, present) {
        // Nothing is made anew under the name of a record that cannot be read.
        (Err(problem), _) | (_, Some(Err(problem))) => {
            return WorkspacePreview { problem: Some(problem.clone()), ..told(Action::Invalid) };
        }
        (Ok(workspace), Some(Ok(present))) if !present.deleting => (workspace, present),
        // One that is being deleted goes first.
        (Ok(_), Some(Ok(_)) | None) => return told(Action::Create),
    };
    let mut changes = metadata(&present.workspace, workspace);
    let asked = changes.iter().any(|change| change.effect == Effect::Restart);
    changes.extend(self::changes(&present.workspace.spec, &workspace.spec));
    let needed = changes.iter().any(|change| change.effect == Effect::Restart);
    let then = needed.then(|| then(present, workspace, asked));
    let action = match then {
        _ if changes.is_empty() => Action::Unchanged,
        None | Some(Then::UpToDate) => Action::InPlace,
        Some(_) => Action::Restart,
    };
    WorkspacePreview { changes, then, ..told(action) }
}

fn then(present: &Present, workspace: &Workspace, asked: bool) -> Then {
    let spec = &workspace.spec;
    if spec.run_policy == RunPolicy::Halted {
        return Then::NextStart;
    }
    match &present.machine {
        _ if asked => Then::Restarts,
        MachineNow::Runs(hash) if *hash == machine_hash(spec) => Then::UpToDate,
        MachineNow::Runs(_) => Then::RestartRequired,
        MachineNow::Finished(hash) if !hash.is_empty() && *hash != machine_hash(spec) => Then::RunsAgain,
        MachineNow::Finished(_) | MachineNow::None => Then::NextStart,
    }
}

/// The labels and annotations that differ. All are taken over at once; another text of the restart annotation is a request.
fn metadata(old: &Workspace, new: &Workspace) -> Vec<FieldChange> {
    let (old, new) = (&old.metadata, &new.metadata);
    let mut changes = Vec::new();
    for (name, old, new) in [("annotations", &old.annotations, &new.annotations), ("labels", &old.labels, &new.labels)]
    {
        let keys: BTreeSet<&String> = old.iter().chain(new).flat_map(BTreeMap::keys).collect();
        for key in keys {
            let value =
                |map: &Option<BTreeMap<String, String>>| map.as_ref()?.get(key).map(|v| Value::from(v.as_str()));
            let (old, new) = (value(old), value(new));
            if old != new {
                let asks = name == "annotations" && key == RESTART_ANNOTATION && new.is_some();
                let effect = if asks { Effect::Restart } else { Effect::InPlace };
                changes.push(FieldChange { path: format!("metadata.{name}[{key}]"), old, new, effect });
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use microagent_crds::WorkspaceSpec;

    use super::*;

    fn manifest(name: &str, more: &str) -> String {
        format!(
            "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {{name: {name}}}\nspec: {{image: one{more}}}\n"
        )
    }

    fn manifests(text: &str) -> Manifests {
        let mut manifests = Manifests::default();
        manifests.text(text, Path::new("w.yaml"));
        manifests
    }

    fn workspace(text: &str) -> Workspace {
        microagent_crds::parse(text, "w.yaml").remove(0).unwrap()
    }

    /// The workspace `a` of `text`, with this machine.
    fn present(text: &str, machine: MachineNow) -> BTreeMap<Key, Result<Present, Problem>> {
        let present = Present { machine, ..Present::declared(workspace(text), "/f/a.yaml".into()) };
        BTreeMap::from([(Key::new("default", "a"), Ok(present))])
    }

    /// Whatever was in `/f` was read as it is called there.
    fn in_f(file: &Path) -> Option<PathBuf> {
        (file.parent() == Some(Path::new("/f"))).then(|| file.to_owned())
    }

    fn one(new: &str, machine: MachineNow) -> (Action, Option<Then>, Vec<String>) {
        let preview = preview(&manifests(new), &present(&manifest("a", ""), machine), in_f);
        let [one] = &preview.workspaces[..] else { panic!("{preview:?}") };
        (one.action, one.then, one.changes.iter().map(|change| change.path.clone()).collect())
    }

    fn runs() -> MachineNow {
        MachineNow::Runs(machine_hash(&workspace(&manifest("a", "")).spec))
    }

    #[test]
    fn a_name_that_nobody_has_is_created_also_when_the_old_one_is_still_being_deleted() {
        let mut present = present(&manifest("a", ""), runs());
        for expected in [Action::Unchanged, Action::Create] {
            assert_eq!(preview(&manifests(&manifest("a", "")), &present, in_f).workspaces[0].action, expected);
            present.values_mut().for_each(|present| present.as_mut().unwrap().deleting = true);
        }
        assert_eq!(preview(&manifests(&manifest("b", "")), &BTreeMap::new(), in_f).count(Action::Create), 1);
    }

    #[test]
    fn a_field_that_a_machine_cannot_take_needs_a_restart_and_others_do_not() {
        let path = |path: &str| vec![path.to_owned()];
        let (restart, in_place) = (manifest("a", ", user: x"), manifest("a", ", runPolicy: Once"));
        assert_eq!(one(&restart, runs()), (Action::Restart, Some(Then::RestartRequired), path("spec.user")));
        assert_eq!(one(&in_place, runs()), (Action::InPlace, None, path("spec.runPolicy")));
        assert_eq!(one(&manifest("a", ""), runs()), (Action::Unchanged, None, vec![]));
    }

    #[test]
    fn what_follows_depends_on_what_the_machine_does() {
        let other = MachineNow::Finished("other".to_owned());
        let new = manifest("a", ", user: x");
        let made_from_new = MachineNow::Runs(machine_hash(&workspace(&new).spec));
        for (machine, action, then) in [
            (MachineNow::None, Action::Restart, Then::NextStart),
            (other, Action::Restart, Then::RunsAgain),
            (MachineNow::Finished(String::new()), Action::Restart, Then::NextStart),
            (made_from_new, Action::InPlace, Then::UpToDate),
            (MachineNow::Runs(String::new()), Action::Restart, Then::RestartRequired),
        ] {
            let (told, follows, _) = one(&new, machine.clone());
            assert_eq!((told, follows), (action, Some(then)), "{machine:?}");
        }
        let halted = manifest("a", ", user: x, runPolicy: Halted");
        assert_eq!(one(&halted, runs()).1, Some(Then::NextStart));
    }

    #[test]
    fn another_text_of_the_restart_annotation_restarts_and_taking_it_away_does_not() {
        let annotated = |text: &str| {
            manifest("a", "")
                .replace("{name: a}", &format!("{{name: a, annotations: {{{RESTART_ANNOTATION}: \"{text}\"}}}}"))
        };
        let path = vec![format!("metadata.annotations[{RESTART_ANNOTATION}]")];
        assert_eq!(one(&annotated("1"), runs()), (Action::Restart, Some(Then::Restarts), path));
        let had = present(&annotated("1"), runs());
        for (new, action) in [(annotated("2"), Action::Restart), (manifest("a", ""), Action::InPlace)] {
            assert_eq!(preview(&manifests(&new), &had, in_f).workspaces[0].action, action);
        }
    }

    #[test]
    fn labels_and_other_annotations_are_taken_in_place() {
        let labelled = manifest("a", "").replace("{name: a}", "{name: a, labels: {t: x}, annotations: {n: y}}");
        let (action, then, paths) = one(&labelled, runs());
        assert_eq!((action, then), (Action::InPlace, None));
        assert_eq!(paths, ["metadata.annotations[n]", "metadata.labels[t]"]);
    }

    #[test]
    fn what_a_folder_declared_and_declares_no_more_is_deleted_and_nothing_else() {
        let had = present(&manifest("a", ""), runs());
        let none = Manifests::default();
        assert_eq!(preview(&none, &had, in_f).count(Action::Delete), 1);
        assert_eq!(preview(&none, &had, |_| None).workspaces, [], "no folder was given");
        let mut broken = Manifests::default();
        broken.text("a: [", Path::new("/f/a.yaml"));
        let told = preview(&broken, &had, in_f);
        assert_eq!((told.workspaces.len(), told.files.len()), (0, 1), "the file may yet declare it");
        let mut wrong = Manifests::default();
        wrong.text(&manifest("a", ", imgae: x"), Path::new("/f/a.yaml"));
        assert_eq!(preview(&wrong, &had, in_f).count(Action::Invalid), 1);
        let mut deleting = had;
        deleting.values_mut().for_each(|present| present.as_mut().unwrap().deleting = true);
        assert_eq!(preview(&none, &deleting, in_f).workspaces, [], "it is on its way already");
    }

    #[test]
    fn a_name_that_stands_twice_is_invalid_wherever_it_stands() {
        let twice = manifests(&format!("{0}---\n{0}", manifest("a", "")));
        let mut apart = manifests(&manifest("a", ""));
        apart.text(&manifest("a", ""), Path::new("other.yaml"));
        for (manifests, files) in [(twice, 1), (apart, 2)] {
            let told = preview(&manifests, &BTreeMap::new(), in_f);
            assert_eq!(told.workspaces[0].problem.as_ref().unwrap().code, "NameConflict");
            assert_eq!(told.workspaces[0].files.len(), files);
            assert!(told.is_invalid() && !told.is_change());
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_a_problem_of_its_file() {
        let told = manifests(&manifest("../../a", ""));
        assert_eq!((told.keys().count(), told.problems.len()), (0, 1));
    }

    #[test]
    fn nothing_is_made_anew_under_the_name_of_a_record_that_cannot_be_read() {
        let problem = Problem { code: "HostError".to_owned(), message: "torn".to_owned() };
        let torn = BTreeMap::from([(Key::new("default", "a"), Err(problem.clone()))]);
        let told = preview(&manifests(&manifest("a", "")), &torn, in_f);
        assert_eq!(told.workspaces[0].problem, Some(problem));
        assert_eq!(preview(&Manifests::default(), &torn, in_f).workspaces, []);
    }

    #[test]
    fn a_record_tells_what_its_machine_does() {
        let record = |memory: &str| -> Record {
            let mut record = serde_json::json!({
                "key": {"namespace": "default", "name": "a"}, "uid": "u", "generation": 1, "specHash": "h",
                "workspace": Workspace::new("a", WorkspaceSpec::new("one")), "file": "/f/a.yaml",
                "createdAt": "2026-11-24T06:00:00Z",
            });
            record["memory"] = serde_json::from_str(memory).unwrap();
            serde_json::from_value(record).unwrap()
        };
        for (memory, machine) in [
            ("{}", MachineNow::None),
            (r#"{"finished": "f"}"#, MachineNow::Finished("f".to_owned())),
            (r#"{"boot": {"id": "b", "generation": 1, "machineHash": "h"}}"#, MachineNow::Runs("h".to_owned())),
        ] {
            assert_eq!(Present::from(record(memory)).machine, machine);
        }
    }
}
