//! `microagent apply`

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use microagent_controller::Key;
use microagent_crds::Workspace;
use serde_json::json;

use super::warn_without_controller;
use crate::{
    context::Context,
    failure::{Context as _, Failure, Result},
    manifests::{self, Change},
    output::{self, OutputArgs},
};

/// The largest manifest that is read from standard input, in bytes; the parser has the same bound for files.
const MAX_BYTES: u64 = 1024 * 1024;

/// Declare workspaces, or change what is declared
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A manifest, a directory of manifests, or - for standard input
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<u8> {
    let workspaces = read_all(context, &args.filename)?;
    for (key, _) in &workspaces {
        manifests::refuse_foreign(&context.paths, key, "change")?;
    }
    context.paths.create()?;
    let mut applied = Vec::new();
    for (key, workspace) in workspaces {
        let change = manifests::write(&context.paths, &key, &workspace)?;
        applied.push((key, change));
    }
    tell(args, &applied)?;
    warn_without_controller(context);
    Ok(0)
}

fn tell(args: &Args, applied: &[(Key, Change)]) -> Result<()> {
    let items: Vec<_> = applied
        .iter()
        .map(|(key, change)| json!({"namespace": key.namespace, "name": key.name, "change": change.as_str()}))
        .collect();
    let text = match output::structured(args.output.output, &items)? {
        Some(text) => text,
        None if args.output.output == output::Format::Name => {
            applied.iter().map(|(key, _)| format!("workspace/{}\n", key.name)).collect()
        }
        None => applied.iter().map(|(key, change)| format!("workspace/{} {}\n", key.name, change.as_str())).collect(),
    };
    output::print(&text)
}

/// Reads every manifest. All that is wrong is told, and then nothing is applied.
pub(crate) fn read_all(context: &Context, filenames: &[PathBuf]) -> Result<Vec<(Key, Workspace)>> {
    let (mut workspaces, mut names, mut wrong) = (Vec::new(), BTreeSet::new(), Vec::new());
    for (text, file) in texts(filenames)? {
        for parsed in microagent_crds::parse(&text, &file) {
            match parsed {
                Ok(workspace) => {
                    let key = in_namespace(context, &text, manifests::key(&workspace))?;
                    if !names.insert(key.clone()) {
                        wrong.push(format!("error: {file}: workspace {key} is declared twice"));
                    }
                    let mut workspace = workspace;
                    workspace.metadata.namespace = Some(key.namespace.clone());
                    workspaces.push((key, workspace));
                }
                Err(e) => wrong.push(e.to_string()),
            }
        }
    }
    match wrong.is_empty() {
        true if workspaces.is_empty() => Err(Failure::new("no workspace is declared there")),
        true => Ok(workspaces),
        false => Err(Failure::verbatim(wrong.join("\n\n"))),
    }
}

/// `-n` names the namespace of manifests that name none, and must not contradict those that do.
fn in_namespace(context: &Context, text: &str, key: Key) -> Result<Key> {
    if context.namespace == "default" || context.namespace == key.namespace {
        return Ok(key);
    }
    // The parser fills the namespace in, so that only the text tells whether it was named.
    if key.namespace == "default" && !text.contains("namespace") {
        return Ok(Key { namespace: context.namespace.clone(), ..key });
    }
    Err(Failure::usage(format!("workspace {key} is not in namespace {}", context.namespace))
        .help("leave out -n, or take the namespace out of the manifest"))
}

/// The texts, each with the name that errors call it by.
fn texts(filenames: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for path in filenames {
        let mut files = vec![path.clone()];
        if path.is_dir() {
            files = fs::read_dir(path)
                .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
                .map_err(cannot_read(path))?;
            files.retain(|file| manifest_name(file));
            files.sort();
        }
        for file in files {
            texts.push(text(&file)?);
        }
    }
    Ok(texts)
}

/// The text of a file, or of standard input for `-`, with the name that errors call it by.
pub(super) fn text(file: &Path) -> Result<(String, String)> {
    if file != Path::new("-") {
        return Ok((fs::read_to_string(file).map_err(cannot_read(file))?, file.display().to_string()));
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .context(|| "cannot read standard input".to_owned())?;
    Ok((text, "standard input".to_owned()))
}

fn cannot_read(path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let path = path.display().to_string();
    move |e| {
        let failure = Failure::new(format!("cannot read {path}: {e}"));
        if e.kind() == io::ErrorKind::NotFound { failure.help("check the path") } else { failure }
    }
}

/// Whether a controller would read this file of a folder.
fn manifest_name(file: &Path) -> bool {
    let hidden = file.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
    !hidden && file.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e))
}

#[cfg(test)]
mod tests {
    use microagent_controller::Paths;

    use super::*;

    const GOOD: &str =
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {name: NAME}\nspec: {image: alpine}\n";

    fn context(dir: &Path) -> Context {
        let paths = Paths { state: dir.join("state"), cache: dir.join("cache") };
        Context { paths, namespace: "team".to_owned(), verbose: 0 }
    }

    #[test]
    fn a_directory_is_read_in_order_and_only_its_manifests() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["b.yaml", "a.yml", ".hidden.yaml", "notes.txt"] {
            fs::write(dir.path().join(file), GOOD.replace("NAME", &file[..1])).unwrap();
        }
        let read = read_all(&context(dir.path()), &[dir.path().to_owned()]).unwrap();
        let keys: Vec<_> = read.into_iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(keys, ["team/a", "team/b"]);
    }

    #[test]
    fn everything_that_is_wrong_is_told_and_nothing_applied() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.yaml");
        let bad = GOOD.replace("image", "imgae");
        fs::write(&file, format!("{}---\n{}---\n{}", GOOD.replace("NAME", "a"), bad, GOOD.replace("NAME", "a")))
            .unwrap();
        let context = context(dir.path());
        let message = read_all(&context, &[file]).unwrap_err().to_string();
        assert!(message.contains("declared twice") && message.contains("imgae"), "{message}");
        assert!(!context.paths.state.exists());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = read_all(&context(dir.path()), &[dir.path().join("no.yaml")]).unwrap_err().to_string();
        assert!(message.contains("no.yaml") && message.ends_with("help: check the path"), "{message}");
    }
}
