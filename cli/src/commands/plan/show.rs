//! How people see a preview.

use microagent_controller::{
    plan::change::Effect,
    preview::{Action, Preview, Then, WorkspacePreview},
};
use serde_json::Value;

use crate::output::human;

/// A value that is longer, in characters, is cut for people. Most of a line, with the path before it and the old value.
const LONG: usize = 60;

/// What is shown.
pub(super) struct View {
    /// With colours.
    pub(super) colour: bool,
    /// Values are not cut.
    pub(super) whole: bool,
    /// Also what stays as it is.
    pub(super) unchanged: bool,
}

/// The workspaces that something would happen to, one name a line.
pub(super) fn names(preview: &Preview) -> String {
    let changed = preview.workspaces.iter().filter(|w| !matches!(w.action, Action::Unchanged | Action::Invalid));
    changed.map(|workspace| format!("workspace/{}\n", workspace.key.name)).collect()
}

impl View {
    /// All of it, and a line that counts.
    pub(super) fn all(&self, preview: &Preview) -> String {
        let mut text = String::new();
        for workspace in &preview.workspaces {
            if self.unchanged || workspace.action != Action::Unchanged {
                self.workspace(workspace, &mut text);
            }
        }
        for file in &preview.files {
            let name = human::one_line(&file.file.display().to_string());
            text.push_str(&self.head(Action::Invalid, &name));
            text.push_str(&indented(&file.problem.message));
        }
        text.push_str(&counts(preview));
        text
    }

    fn head(&self, action: Action, name: &str) -> String {
        let (sign, word, colour) = match action {
            Action::Create => ('+', "create", "32"),
            Action::Restart => ('~', "restart", "33"),
            Action::InPlace => ('~', "in-place", "36"),
            Action::Delete => ('-', "delete", "31"),
            Action::Unchanged => ('=', "unchanged", "2"),
            Action::Invalid => ('!', "invalid", "1;31"),
        };
        let (on, off) = if self.colour { (format!("\x1b[{colour}m"), "\x1b[0m") } else { (String::new(), "") };
        format!("{on}{sign} {name}: {word}{off}\n")
    }

    fn workspace(&self, workspace: &WorkspacePreview, text: &mut String) {
        text.push_str(&self.head(workspace.action, &workspace.key.to_string()));
        for change in &workspace.changes {
            let effect = match change.effect {
                Effect::Restart => "restart",
                Effect::InPlace => "in-place",
            };
            let (path, old, new) = (human::one_line(&change.path), self.value(&change.old), self.value(&change.new));
            text.push_str(&format!("    {effect:8}  {path}: {old} → {new}\n"));
        }
        if let Some(problem) = &workspace.problem {
            text.push_str(&indented(&problem.message));
        }
        if let Some(then) = workspace.then {
            text.push_str(&indented(&follows(then, &workspace.key.name)));
        }
    }

    /// A value as JSON on one line.
    fn value(&self, value: &Option<Value>) -> String {
        let Some(value) = value else { return "none".to_owned() };
        let text = human::one_line(&value.to_string());
        let length = text.chars().count();
        if self.whole || length <= LONG {
            return text;
        }
        let begin: String = text.chars().take(LONG - 20).collect();
        format!("{begin}… ({length} characters)")
    }
}

/// What follows, as a sentence.
fn follows(then: Then, name: &str) -> String {
    match then {
        Then::RestartRequired => format!(
            "the machine goes on as it is, and RestartRequired says so, until `microagent restart {name}` starts it anew"
        ),
        Then::Restarts => "its restart annotation has another text: the machine is started anew".to_owned(),
        Then::UpToDate => "the machine that runs was made from this spec: nothing is started anew".to_owned(),
        Then::RunsAgain => "its workload has ended; for the new spec it runs again".to_owned(),
        Then::NextStart => "the next machine is made from the new spec".to_owned(),
    }
}

fn indented(text: &str) -> String {
    human::lines(text).lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect()
}

/// How many of each, nothing of none.
fn counts(preview: &Preview) -> String {
    let mut counts: Vec<String> = [
        (Action::Create, "to create"),
        (Action::Restart, "to restart"),
        (Action::InPlace, "to change in place"),
        (Action::Delete, "to delete"),
        (Action::Unchanged, "unchanged"),
    ]
    .into_iter()
    .filter_map(|(action, what)| match preview.count(action) {
        0 => None,
        count => Some(format!("{count} {what}")),
    })
    .collect();
    match preview.count(Action::Invalid) + preview.files.len() {
        0 => {}
        count => counts.push(format!("{count} invalid")),
    }
    match &counts[..] {
        [] => "nothing is declared, and nothing would change\n".to_owned(),
        counts => counts.join(", ") + "\n",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use microagent_controller::preview::{Manifests, Present, preview};

    use super::*;

    fn shown(new: &str, view: &View) -> String {
        let manifest = |spec: &str| {
            format!("apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {{name: a}}\nspec: {spec}\n")
        };
        let old = manifest("{image: one, env: [{name: A, value: x}]}");
        let old = microagent_crds::parse(&old, "a.yaml").remove(0).unwrap();
        let key = microagent_controller::Key::new("default", "a");
        let present = [(key, Ok(Present::declared(old, "a.yaml".into())))].into();
        let mut manifests = Manifests::default();
        manifests.text(&manifest(new), Path::new("a.yaml"));
        view.all(&preview(&manifests, &present, |_| None))
    }

    const PLAIN: View = View { colour: false, whole: false, unchanged: false };

    #[test]
    fn long_values_are_cut_unless_they_are_asked_for() {
        let new = format!("{{image: one, env: [{{name: A, value: {}}}]}}", "y".repeat(100));
        insta::assert_snapshot!(shown(&new, &PLAIN), @r#"
        ~ default/a: restart
            restart   spec.env[A].value: "x" → "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy… (102 characters)
            the next machine is made from the new spec
        1 to restart
        "#);
        assert!(shown(&new, &View { whole: true, ..PLAIN }).contains(&"y".repeat(100)));
    }

    #[test]
    fn what_is_the_same_is_shown_when_asked_for_and_colours_only_then() {
        let same = "{image: one, env: [{name: A, value: x}]}";
        assert_eq!(shown(same, &PLAIN), "1 unchanged\n");
        assert_eq!(shown(same, &View { unchanged: true, ..PLAIN }), "= default/a: unchanged\n1 unchanged\n");
        let coloured = shown("{image: two}", &View { colour: true, ..PLAIN });
        assert!(coloured.starts_with("\x1b[33m~ default/a: restart\x1b[0m\n"), "{coloured:?}");
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        let text = shown(r#"{image: one, env: [{name: A, value: "\u009b2J"}]}"#, &PLAIN);
        assert!(!text.contains('\u{9b}'), "{text:?}");
    }
}
