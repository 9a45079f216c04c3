//! The published problems of manifest files from which no workspace could be made.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use microagent_base::{
    Digest,
    durable::{self, DurableError},
};
use serde::{Deserialize, Serialize};

use crate::{Paths, Problem};

/// What is published of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileProblem {
    /// The manifest file, or the folder that cannot be listed.
    pub file: PathBuf,
    /// Why.
    #[serde(flatten)]
    pub problem: Problem,
}

/// What is published now.
#[derive(Debug)]
pub(super) struct FileProblems {
    dir: PathBuf,
    /// By file name; what was published by an earlier controller and cannot be read is `None`.
    published: BTreeMap<String, Option<FileProblem>>,
}

impl FileProblems {
    pub(super) fn load(paths: &Paths) -> Self {
        let dir = paths.file_problems();
        let names =
            fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let published = names.map(|name| (name.clone(), durable::read_json(&dir.join(name)).ok().flatten())).collect();
        Self { dir, published }
    }

    /// Makes `problems` what is published. Gives what failed; it is tried again the next time.
    pub(super) fn publish(&mut self, problems: Vec<(PathBuf, Problem)>) -> Vec<DurableError> {
        let mut wanted: BTreeMap<String, FileProblem> = BTreeMap::new();
        for (file, problem) in problems {
            match wanted.get_mut(&name(&file)) {
                Some(told) if !told.problem.message.contains(&problem.message) => {
                    told.problem.message = format!("{}\n{}", told.problem.message, problem.message);
                }
                Some(_) => {}
                None => {
                    wanted.insert(name(&file), FileProblem { file, problem });
                }
            }
        }
        let mut failures = Vec::new();
        let cured: Vec<String> = self.published.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in cured {
            match durable::remove_file(&self.dir.join(&name)) {
                Ok(()) => drop(self.published.remove(&name)),
                Err(e) => failures.push(e),
            }
        }
        for (name, problem) in wanted {
            if self.published.get(&name).is_some_and(|told| told.as_ref() == Some(&problem)) {
                continue;
            }
            let path = self.dir.join(&name);
            match durable::private_dir(&self.dir).and_then(|()| durable::write_json(&path, &problem)) {
                Ok(()) => drop(self.published.insert(name, Some(problem))),
                Err(e) => failures.push(e),
            }
        }
        failures
    }
}

/// The file name for people, and a piece of the path's digest: two folders may have files of one name.
fn name(file: &Path) -> String {
    let plain = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let plain: String = plain.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(100).collect();
    let digest = Digest::of(file.as_os_str().as_encoded_bytes());
    format!("{}-{}.json", plain.trim_start_matches('.'), digest.short())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn problem(message: &str) -> Problem {
        Problem { code: "InvalidManifest".to_owned(), message: message.to_owned() }
    }

    /// What is published, by file name, with the inode of each.
    fn published(dir: &Path) -> Vec<(String, u64, FileProblem)> {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        let mut all: Vec<_> = entries
            .map(|entry| {
                let told: FileProblem = durable::read_json(&entry.path()).unwrap().unwrap();
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino(), told)
            })
            .collect();
        all.sort_by(|a, b| a.2.file.cmp(&b.2.file));
        all
    }

    #[test]
    fn the_problems_of_one_file_are_told_together_each_once_and_written_when_they_change() {
        let root = tempfile::tempdir().unwrap();
        let mut problems = FileProblems { dir: root.path().to_owned(), published: BTreeMap::new() };
        let mut inodes = Vec::new();
        for (told, message) in [(&["one", "two", "one"][..], "one\ntwo"), (&["two"], "two"), (&["two"], "two")] {
            let file = PathBuf::from("/x/a.yaml");
            assert!(problems.publish(told.iter().map(|told| (file.clone(), problem(told))).collect()).is_empty());
            let [(_, inode, told)] = &published(root.path())[..] else { panic!("one file tells it") };
            assert_eq!(told.problem.message, message);
            inodes.push(*inode);
        }
        assert!(inodes[0] != inodes[1] && inodes[1] == inodes[2], "what stays is not written again");
    }

    #[test]
    fn files_of_one_name_in_two_folders_are_told_apart_and_no_name_is_hidden() {
        let root = tempfile::tempdir().unwrap();
        let mut problems = FileProblems { dir: root.path().to_owned(), published: BTreeMap::new() };
        let files = ["/x/a.yaml", "/y/a.yaml", "/z/.\u{e9}/.b c.yaml"].map(PathBuf::from);
        assert!(problems.publish(files.iter().map(|file| (file.clone(), problem("one"))).collect()).is_empty());
        let told = published(root.path());
        assert_eq!(told.iter().map(|(_, _, told)| &told.file).collect::<Vec<_>>(), files.iter().collect::<Vec<_>>());
        for ((name, ..), plain) in told.iter().zip(["a.yaml-", "a.yaml-", "bc.yaml-"]) {
            assert!(name.starts_with(plain) && name.ends_with(".json"), "{name}");
        }
    }
}
