//! What a guest copies out when its workload has ended: tar archives in the machine's directory, within a bound of bytes. A guest may
//! lie about all of it, and fails its own outputs only.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use microagent_base::{
    digest::Hasher,
    durable::{self, TEMPORARY_PREFIX},
};
use microagent_guest_protocol::Output;
use microagent_supervisor_protocol::Artifact;

use crate::{dir::OUTPUTS, life::clean_message};

/// The outputs of one boot, as they arrive.
pub(crate) struct Outputs {
    /// The folder, seen from the working directory.
    folder: PathBuf,
    /// The same folder, absolute.
    told_folder: PathBuf,
    names: Vec<String>,
    next: usize,
    /// How many bytes all of them may still have.
    left: u64,
    limit: u64,
    open: Option<Writing>,
}

/// The one that arrives now.
struct Writing {
    temporary: PathBuf,
    /// Absent once something is wrong with it: what follows is dropped.
    file: Option<File>,
    hasher: Hasher,
    problem: Option<String>,
}

impl Outputs {
    /// `machine_dir` is the working directory, absolute.
    pub(crate) fn new(machine_dir: &Path, outputs: &[Output], limit: u64) -> Self {
        Self::below(Path::new(""), machine_dir, outputs, limit)
    }

    fn below(here: &Path, machine_dir: &Path, outputs: &[Output], limit: u64) -> Self {
        Self {
            folder: here.join(OUTPUTS),
            told_folder: machine_dir.join(OUTPUTS),
            names: outputs.iter().map(|output| output.name.clone()).collect(),
            next: 0,
            left: limit,
            limit,
            open: None,
        }
    }

    /// Whether all of them have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.next == self.names.len()
    }

    /// # Errors
    /// What is wrong with the guest's words; likewise below. What is wrong on the host is the output's own error.
    pub(crate) fn start(&mut self, name: &str) -> Result<(), String> {
        if self.open.is_some() || self.names.get(self.next).is_none_or(|expected| expected != name) {
            return Err(format!("the guest began the output {:.64?} where it may not", clean_message(name)));
        }
        let temporary = self.folder.join(format!("{TEMPORARY_PREFIX}{name}"));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        let opened = made.and_then(|()| {
            durable::remove_file(&temporary).map_err(io::Error::other)?;
            File::options().write(true).create_new(true).mode(0o600).open(&temporary)
        });
        let mut writing = Writing { temporary, file: None, hasher: Hasher::new(), problem: None };
        match opened {
            Ok(file) => writing.file = Some(file),
            Err(e) => writing.fail(format!("cannot be written: {e}")),
        }
        self.open = Some(writing);
        Ok(())
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(writing) = &mut self.open else { return Err("the guest sent a piece of no output".to_owned()) };
        let Some(file) = &mut writing.file else { return Ok(()) };
        let written = match self.left.checked_sub(bytes.len() as u64) {
            None => Err(format!("it does not fit into the {} bytes that all outputs of a boot may have", self.limit)),
            Some(left) => file.write_all(bytes).map(|()| left).map_err(|e| format!("cannot be written: {e}")),
        };
        match written {
            Ok(left) => {
                self.left = left;
                writing.hasher.update(bytes);
            }
            Err(problem) => {
                // What it had is free for the next ones.
                self.left += writing.hasher.len();
                writing.fail(problem);
            }
        }
        Ok(())
    }

    /// The artifact, which is on the disk when this returns.
    pub(crate) fn finish(&mut self, name: &str, error: Option<String>) -> Result<Artifact, String> {
        let open = self.open.take().filter(|_| self.names.get(self.next).is_some_and(|expected| expected == name));
        let Some(mut writing) = open else {
            return Err(format!("the guest ended the output {:.64?} where it may not", clean_message(name)));
        };
        self.next += 1;
        let file = format!("{name}.tar");
        let kept = match writing.file.take() {
            Some(open) if !writing.hasher.is_empty() => {
                let kept = open.sync_all().map_err(|e| e.to_string()).and_then(|()| {
                    durable::rename(&writing.temporary, &self.folder.join(&file)).map_err(|e| e.to_string())
                });
                kept.map_err(|e| writing.fail(format!("cannot be kept: {e}"))).is_ok()
            }
            Some(_) => {
                if error.is_none() {
                    writing.problem = Some("the guest sent nothing".to_owned());
                }
                false
            }
            None => false,
        };
        Ok(Artifact {
            name: name.to_owned(),
            path: kept.then(|| self.told_folder.join(&file)),
            bytes: kept.then(|| writing.hasher.len()),
            digest: kept.then(|| writing.hasher.finish().to_string()),
            error: writing.problem.take().or_else(|| error.map(|error| clean_message(&error))),
        })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Not there any more where it was kept.
        let _ = fs::remove_file(&self.temporary);
    }
}

impl Writing {
    fn fail(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
        self.file = None;
        // Room that nobody will use.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_base::Digest;

    fn outputs(dir: &tempfile::TempDir, names: &[&str], limit: u64) -> Outputs {
        let output = |name: &&str| Output { name: (*name).to_owned(), path: "/x".to_owned() };
        let all: Vec<_> = names.iter().map(output).collect();
        Outputs::below(dir.path(), Path::new("/machines/u"), &all, limit)
    }

    fn files(dir: &tempfile::TempDir) -> Vec<String> {
        let folder = fs::read_dir(dir.path().join(OUTPUTS)).into_iter().flatten();
        let mut names: Vec<_> = folder.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_output_is_a_whole_file_with_its_size_and_digest() {
        let dir = tempfile::tempdir().unwrap();
        let mut outputs = outputs(&dir, &["a", "b"], 100);
        outputs.start("a").unwrap();
        outputs.data(b"he").unwrap();
        outputs.data(b"llo").unwrap();
        assert_eq!(files(&dir), [".tmp-a"]);
        let artifact = outputs.finish("a", None).unwrap();
        assert_eq!(artifact.path.unwrap(), Path::new("/machines/u/outputs/a.tar"));
        assert_eq!((artifact.bytes, artifact.error), (Some(5), None));
        assert_eq!(artifact.digest.unwrap(), Digest::of(b"hello").to_string());
        assert!(!outputs.is_complete());
        outputs.start("b").unwrap();
        let missing = outputs.finish("b", Some("/x: no such file\n".to_owned())).unwrap();
        assert_eq!((missing.path, missing.digest, missing.error.unwrap().as_str()), (None, None, "/x: no such file "));
        assert!(outputs.is_complete());
        assert_eq!(files(&dir), ["a.tar"]);
    }

    #[test]
    fn an_archive_that_lacks_something_is_kept_with_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut outputs = outputs(&dir, &["a"], 100);
        outputs.start("a").unwrap();
        outputs.data(b"most").unwrap();
        let artifact = outputs.finish("a", Some("x/y: permission denied".to_owned())).unwrap();
        assert!(artifact.path.is_some() && artifact.error.is_some());
    }

    #[test]
    fn an_output_past_the_bound_is_an_error_and_those_that_fit_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut outputs = outputs(&dir, &["a", "b", "c"], 10);
        for (name, sizes, error) in [("a", &[4, 4][..], false), ("b", &[1, 2, 3], true), ("c", &[2], false)] {
            outputs.start(name).unwrap();
            sizes.iter().for_each(|size| outputs.data(&vec![b'x'; *size]).unwrap());
            let artifact = outputs.finish(name, None).unwrap();
            assert_eq!((artifact.error.is_some(), artifact.path.is_none()), (error, error), "{name}");
        }
        assert_eq!(files(&dir), ["a.tar", "c.tar"]);
    }

    #[test]
    fn what_comes_out_of_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let new = || outputs(&dir, &["a", "b"], 10);
        assert!(new().start("b").is_err());
        assert!(new().start("../a").is_err());
        assert!(new().data(b"x").is_err());
        assert!(new().finish("a", None).is_err());
        let mut open = new();
        open.start("a").unwrap();
        assert!(open.start("a").is_err() && open.finish("b", None).is_err());
        assert!(outputs(&dir, &[], 10).start("a").is_err());
        drop(open);
        assert!(files(&dir).is_empty());
    }

    #[test]
    fn an_output_that_cannot_be_written_is_an_error_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(OUTPUTS), "in the way").unwrap();
        let mut outputs = outputs(&dir, &["a"], 10);
        outputs.start("a").unwrap();
        outputs.data(b"x").unwrap();
        assert!(outputs.finish("a", None).unwrap().error.unwrap().contains("cannot be written"));
    }
}
