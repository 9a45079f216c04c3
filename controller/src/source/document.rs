//! The documents of one manifest file, each with its name where it has one.

use std::{path::Path, sync::Arc};

use microagent_crds::{ManifestError, Reason, Workspace, canonical_spec_hash};

use crate::{Key, Problem};

/// One document.
#[derive(Debug)]
pub(super) enum Document {
    Valid { key: Key, workspace: Arc<Workspace>, spec_hash: Arc<str> },
    Invalid { key: Option<Key>, problem: Problem },
}

/// The documents of a file; never empty.
pub(super) fn documents(bytes: &[u8], file: &Path) -> Vec<Document> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            return vec![nameless(format!("line {line} is not UTF-8 text; save the file as UTF-8"))];
        }
    };
    let documents: Vec<_> = microagent_crds::parse(text, &file.display().to_string())
        .into_iter()
        .map(|parsed| parsed.map_or_else(|error| invalid(&error), valid))
        .collect();
    if documents.is_empty() {
        // Not taken for "none wanted any more": a file that is being written anew is empty for a moment.
        return vec![nameless("the file declares no workspace; remove the file to delete what it declared".to_owned())];
    }
    documents
}

fn valid(workspace: Workspace) -> Document {
    let namespace = workspace.metadata.namespace.as_deref().unwrap_or("default");
    let key = Key::new(namespace, workspace.metadata.name.as_deref().unwrap_or_default());
    if !is_safe(&key) {
        return nameless(format!("workspace name {key} is not made of lower-case letters, digits, '-' and '.'"));
    }
    let spec_hash = canonical_spec_hash(&workspace.spec).into();
    Document::Valid { key, workspace: Arc::new(workspace), spec_hash }
}

fn invalid(error: &ManifestError) -> Document {
    let key = error.workspace.as_ref().map(|(namespace, name)| Key::new(namespace, name));
    let problem = Problem { code: error.reason().as_str().to_owned(), message: error.to_string() };
    Document::Invalid { key: key.filter(is_safe), problem }
}

fn nameless(message: String) -> Document {
    let code = Reason::InvalidManifest.as_str().to_owned();
    Document::Invalid { key: None, problem: Problem { code, message } }
}

/// Whether both parts can be file names. The parser's rules are stricter; that a name does not lead out of the state
/// directory must not depend on them alone.
fn is_safe(key: &Key) -> bool {
    [&key.namespace, &key.name].into_iter().all(|part| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        !part.is_empty() && part.len() <= 253 && !part.starts_with('.') && part.bytes().all(allowed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_lead_out_of_the_state_directory_is_no_name() {
        let longest = "a".repeat(253);
        for name in ["a", "0", "a-1.b", &longest] {
            assert!(is_safe(&Key::new("default", name)) && is_safe(&Key::new(name, "a")), "{name}");
        }
        let too_long = "a".repeat(254);
        for name in ["", ".", "..", ".a", "a/b", "a\\b", "a b", "A", "a\0", "\u{e9}", &too_long] {
            assert!(!is_safe(&Key::new("default", name)) && !is_safe(&Key::new(name, "a")), "{name}");
        }
    }
}
