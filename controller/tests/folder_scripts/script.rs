//! Scripts: what editors, people, mounts and operators do to two folders, and when somebody looks.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};

/// The names of files; one of two folders has each or not.
pub(crate) const FILES: [&str; 3] = ["a.yaml", "b.yml", "c.json"];
/// The names of workspaces.
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
const IMAGES: [&str; 3] = ["one", "two", "three"];

/// A file of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) dir: usize,
    pub(crate) file: usize,
}

/// One document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doc {
    pub(crate) name: usize,
    pub(crate) image: usize,
    pub(crate) look: Look,
}

/// What a document looks like; the first four are of one spec.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    Plain,
    Commented,
    Reordered,
    Labelled,
    /// A field that there is not.
    Misspelt,
    /// Another kind, of the same name.
    Pod,
}

/// The content of a file.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Docs(Vec<Doc>),
    /// Documents, and then what is no YAML.
    Broken(Vec<Doc>),
    Empty,
    Comment,
    Latin1,
}

/// What one step does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Nothing but looking.
    Look,
    /// Truncates the file and writes it in pieces.
    Write(At, Text, u8),
    /// Writes a temporary file and renames it over: `sed -i`, careful programs.
    Rename(At, Text),
    /// Probes with `4913`, moves the old file to `a.yaml~`, writes a new one, removes the backup.
    Vim(At, Text),
    /// Locks with a link that leads nowhere, autosaves to `#a.yaml#`, keeps a backup, writes in place.
    Emacs(At, Text),
    /// Writes in place beside a `.swp` file.
    Nano(At, Text),
    /// Puts what is no file there.
    Unreadable(At, Unreadable),
    Remove(At),
    Move(At, At),
    Copy(At, At),
    /// Takes a document out of one file and into another.
    MoveDoc {
        name: usize,
        to: At,
        removed_first: bool,
    },
    /// Times only.
    Touch(At),
    /// Times, to long ago.
    SetBack(At),
    /// A comment or another order of keys.
    Restyle(At, bool),
    /// The folder moves away; what was away, if anything, stays there.
    FolderAway(usize),
    /// What moved away takes the folder's place, by a rename.
    FolderBack(usize),
    FolderRemoved(usize),
    FolderMade(usize),
    /// Another directory takes the folder's place, and is filled file by file.
    FolderCopied(usize),
    /// A file in the folder's place.
    FolderIsFile(usize),
    /// The whole folder through `..data`, as the kubelet does it.
    ConfigMap(usize, [Option<Text>; 3]),
    /// The controller is killed and starts again, with what it left half written.
    Restart,
    /// `microagent delete`, of whatever runs.
    Delete(usize),
    /// What a tombstone stands for is cleaned up.
    Forget(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Unreadable {
    LeadsNowhere,
    Pipe,
    Directory,
    Loop,
    TooLarge,
}

/// An action, with the looks in its midst and the one after it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) action: Action,
    /// After which time a look comes at each place where the action can be interrupted.
    pub(crate) midst: Vec<Option<Duration>>,
    /// Whether the watcher tells of it.
    pub(crate) hints: bool,
    pub(crate) after: Option<Duration>,
}

impl Doc {
    pub(crate) fn text(self) -> String {
        let (name, image) = (NAMES[self.name], IMAGES[self.image]);
        let (version, kind) = ("apiVersion: microagent.dev/v1alpha1\n", "kind: Workspace\n");
        match self.look {
            Look::Plain => format!("{version}{kind}metadata: {{name: {name}}}\nspec: {{image: {image}}}\n"),
            Look::Commented => {
                format!("# {image}\n{version}{kind}metadata: {{name: {name}}} #\nspec: {{image: {image}}}\n")
            }
            Look::Reordered => {
                format!("spec: {{runPolicy: Always, image: {image}}}\nmetadata: {{name: {name}}}\n{kind}{version}")
            }
            Look::Labelled => {
                format!("{version}{kind}metadata: {{name: {name}, labels: {{l: x}}}}\nspec: {{image: {image}}}\n")
            }
            Look::Misspelt => format!("{version}{kind}metadata: {{name: {name}}}\nspec: {{imag: {image}}}\n"),
            Look::Pod => format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n"),
        }
    }
}

impl Text {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let join = |docs: &[Doc]| docs.iter().map(|doc| doc.text()).collect::<Vec<_>>().join("---\n");
        match self {
            Self::Docs(docs) => join(docs).into_bytes(),
            Self::Broken(docs) => format!("{}---\na: [\n", join(docs)).into_bytes(),
            Self::Empty => Vec::new(),
            Self::Comment => b"# nothing yet\n".to_vec(),
            Self::Latin1 => b"# caf\xe9\n".to_vec(),
        }
    }
}

/// Scripts, the likelier the more like what people do.
pub(crate) fn scripts() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..14)
}

fn step() -> impl Strategy<Value = Step> {
    let midst = vec(option::weighted(0.6, pause()), 0..4);
    (action(), midst, any::<bool>(), option::weighted(0.8, pause())).prop_map(|(action, midst, hints, after)| Step {
        action,
        midst,
        hints,
        after,
    })
}

/// Times round every bound of the rules.
fn pause() -> impl Strategy<Value = Duration> {
    const MS: [u64; 16] = [0, 1, 11, 12, 13, 100, 199, 200, 201, 400, 1000, 1999, 2000, 5100, 15_000, 30_000];
    prop_oneof![
        8 => select(&MS[..]).prop_map(Duration::from_millis),
        2 => Just(Duration::from_millis(200)),
        1 => Just(Duration::from_secs(3600)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let dir = || 0..2usize;
    let name = || 0..NAMES.len();
    prop_oneof![
        6 => (at(), text(), 1..4u8).prop_map(|(at, text, pieces)| Action::Write(at, text, pieces)),
        4 => (at(), text()).prop_map(|(at, text)| Action::Rename(at, text)),
        3 => (at(), text()).prop_map(|(at, text)| Action::Vim(at, text)),
        1 => (at(), text()).prop_map(|(at, text)| Action::Emacs(at, text)),
        1 => (at(), text()).prop_map(|(at, text)| Action::Nano(at, text)),
        3 => (at(), unreadable()).prop_map(|(at, how)| Action::Unreadable(at, how)),
        4 => at().prop_map(Action::Remove),
        4 => (at(), at()).prop_map(|(from, to)| Action::Move(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Action::Copy(from, to)),
        4 => (name(), at(), any::<bool>())
            .prop_map(|(name, to, removed_first)| Action::MoveDoc { name, to, removed_first }),
        1 => at().prop_map(Action::Touch),
        1 => at().prop_map(Action::SetBack),
        2 => (at(), any::<bool>()).prop_map(|(at, comment)| Action::Restyle(at, comment)),
        2 => dir().prop_map(Action::FolderAway),
        2 => dir().prop_map(Action::FolderBack),
        1 => dir().prop_map(Action::FolderRemoved),
        2 => dir().prop_map(Action::FolderMade),
        2 => dir().prop_map(Action::FolderCopied),
        1 => dir().prop_map(Action::FolderIsFile),
        2 => (dir(), [option::of(text()), option::of(text()), option::of(text())])
            .prop_map(|(dir, texts)| Action::ConfigMap(dir, texts)),
        3 => Just(Action::Restart),
        1 => name().prop_map(Action::Delete),
        2 => name().prop_map(Action::Forget),
        4 => Just(Action::Look),
    ]
}

fn at() -> impl Strategy<Value = At> {
    (0..2usize, 0..FILES.len()).prop_map(|(dir, file)| At { dir, file })
}

fn unreadable() -> impl Strategy<Value = Unreadable> {
    use Unreadable::{Directory, LeadsNowhere, Loop, Pipe, TooLarge};
    select(&[LeadsNowhere, LeadsNowhere, Pipe, Directory, Loop, TooLarge][..])
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        10 => vec(doc(), 1..4).prop_map(Text::Docs),
        2 => vec(doc(), 0..3).prop_map(Text::Broken),
        1 => Just(Text::Empty),
        1 => Just(Text::Comment),
        1 => Just(Text::Latin1),
    ]
}

fn doc() -> impl Strategy<Value = Doc> {
    use Look::{Commented, Labelled, Misspelt, Plain, Pod, Reordered};
    let look = select(&[Plain, Plain, Plain, Commented, Reordered, Labelled, Misspelt, Pod][..]);
    (0..NAMES.len(), 0..IMAGES.len(), look).prop_map(|(name, image, look)| Doc { name, image, look })
}
