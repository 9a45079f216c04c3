//! A machine's memory and devices in a directory, and what has to be so that a machine can go on from there.
//!
//! | name | content |
//! |---|---|
//! | `manifest.json` | the [`Manifest`]; written last |
//! | others | the VMM's own: see the backend |
//!
//! The directory is made under another name, flushed and renamed: it is there whole or not at all. The memory is not digested, which
//! would take as long as a boot; the sizes of all files are held against the manifest, and the VMM checks its own part.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use microagent_base::{Digest, durable};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig, SnapshotKind};
use serde::{Deserialize, Serialize};

use crate::{
    backend::{Backend, Launch},
    dir::{durable_error, host},
    life::Progress,
};

/// The version of [`Manifest`]'s form.
const FORMAT: u32 = 1;

const MANIFEST: &str = "manifest.json";

/// The longest manifest, in bytes.
const MAX_MANIFEST: u64 = 1024 * 1024;

/// The most snapshots that one is made of: a full one, and what changed since.
const MAX_CHAIN: usize = 64;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    /// Its own name, told apart from all others by the boot and its number.
    pub(crate) id: String,
    kind: SnapshotKind,
    /// What it needs to be of use, where it holds changes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<Base>,
    /// What must be the same where a machine goes on from it: each by name, and as text.
    facts: BTreeMap<String, String>,
    /// The other files, and their sizes in bytes.
    files: BTreeMap<String, u64>,
    /// How far the guest had come.
    progress: Progress,
}

/// The snapshot before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Base {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
}

/// A snapshot that was read, with those that it needs: the full one first.
pub(crate) struct Found {
    pub(crate) chain: Vec<PathBuf>,
    pub(crate) progress: Progress,
    facts: BTreeMap<String, String>,
}

/// What is to be written.
pub(crate) struct Draft<'a> {
    pub(crate) id: String,
    pub(crate) kind: SnapshotKind,
    pub(crate) base: Option<Base>,
    pub(crate) facts: BTreeMap<String, String>,
    pub(crate) progress: Progress,
    /// Has the VMM write its files into the directory.
    pub(crate) write: &'a dyn Fn(&Path) -> Result<(), ErrorBody>,
}

/// Makes the directory.
pub(crate) fn make(dir: &Path, draft: Draft<'_>) -> Result<(), ErrorBody> {
    check_target(dir)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.with_file_name(format!("{}{name}", durable::TEMPORARY_PREFIX));
    // One that an earlier shim left, which was killed in the middle.
    durable::remove_dir(&temporary).and_then(|()| durable::private_dir(&temporary)).map_err(|e| durable_error(&e))?;
    let made = fill(&temporary, draft).and_then(|()| durable::rename(&temporary, dir).map_err(|e| durable_error(&e)));
    if made.is_err() {
        let _ = durable::remove_dir(&temporary);
    }
    made
}

/// Whether the directory can be made.
pub(crate) fn check_target(dir: &Path) -> Result<(), ErrorBody> {
    let wrong =
        |code, why: &str| Err(ErrorBody::new(code, format!("the snapshot's directory {}: {why}", dir.display())));
    if !dir.is_absolute() || dir.file_name().is_none() {
        return wrong(ErrorCode::InvalidRequest, "it is not an absolute path");
    }
    if dir.symlink_metadata().is_ok() {
        return wrong(ErrorCode::SnapshotInvalid, "it is there already; a snapshot is never written over another");
    }
    if !dir.parent().is_some_and(Path::is_dir) {
        return wrong(ErrorCode::FileUnavailable, "the directory that it is to be in is not there");
    }
    Ok(())
}

fn fill(dir: &Path, draft: Draft<'_>) -> Result<(), ErrorBody> {
    (draft.write)(dir)?;
    let failed = |e: &io::Error| host(&format!("cannot flush {}", dir.display()), e);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|e| failed(&e))? {
        let path = entry.map_err(|e| failed(&e))?.path();
        let file = File::open(&path).map_err(|e| failed(&e))?;
        file.sync_all().map_err(|e| failed(&e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, file.metadata().map_err(|e| failed(&e))?.len());
    }
    let Draft { id, kind, base, facts, progress, .. } = draft;
    let manifest = Manifest { format: FORMAT, id, kind, base, facts, files, progress };
    durable::write_json(&dir.join(MANIFEST), &manifest).map_err(|e| durable_error(&e))
}

/// Reads a snapshot and those that it needs, and holds their files against their manifests.
///
/// # Errors
/// `SnapshotInvalid`, with what is torn or missing.
pub(crate) fn find(dir: &Path) -> Result<Found, ErrorBody> {
    let last = read(dir)?;
    let (facts, progress) = (last.facts.clone(), last.progress.clone());
    let mut chain = vec![dir.to_owned()];
    let mut base = last.base;
    while let Some(Base { id, dir }) = base.take() {
        if chain.len() == MAX_CHAIN {
            return Err(invalid(&dir, &format!("more than {MAX_CHAIN} snapshots are needed for one")));
        }
        let before = read(&dir)?;
        if before.id != id {
            return Err(invalid(&dir, "it is another one than the snapshot that needs it was made after"));
        }
        chain.push(dir);
        base = before.base;
    }
    chain.reverse();
    Ok(Found { chain, progress, facts })
}

fn read(dir: &Path) -> Result<Manifest, ErrorBody> {
    let path = dir.join(MANIFEST);
    let length = fs::metadata(&path).map_err(|e| invalid(dir, &format!("{MANIFEST}: {e}")))?.len();
    if length > MAX_MANIFEST {
        return Err(invalid(dir, &format!("{MANIFEST} has {length} bytes")));
    }
    let bytes = fs::read(&path).map_err(|e| invalid(dir, &format!("{MANIFEST}: {e}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| invalid(dir, &format!("{MANIFEST} does not decode: {e}")))?;
    if manifest.format != FORMAT {
        return Err(invalid(dir, &format!("it is of form {}, and {FORMAT} is known", manifest.format)));
    }
    for (name, size) in &manifest.files {
        if name.contains('/') {
            return Err(invalid(dir, &format!("it names the file {name:?}")));
        }
        match fs::metadata(dir.join(name)) {
            Ok(found) if found.len() == *size => {}
            Ok(found) => return Err(invalid(dir, &format!("{name} has {} bytes, not {size}", found.len()))),
            Err(e) => return Err(invalid(dir, &format!("{name}: {e}"))),
        }
    }
    Ok(manifest)
}

impl Found {
    /// Whether a machine of these facts can go on from it.
    ///
    /// # Errors
    /// `SnapshotIncompatible`, with everything that differs.
    pub(crate) fn check(&self, facts: &BTreeMap<String, String>) -> Result<(), ErrorBody> {
        let none = "nothing".to_owned();
        let names: std::collections::BTreeSet<_> = self.facts.keys().chain(facts.keys()).collect();
        let differing: Vec<_> = names
            .into_iter()
            .map(|name| (name, self.facts.get(name).unwrap_or(&none), facts.get(name).unwrap_or(&none)))
            .filter(|(_, then, now)| then != now)
            .map(|(name, then, now)| format!("{name} was {then} and is {now}"))
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(ErrorBody::new(
            ErrorCode::SnapshotIncompatible,
            format!("the machine cannot go on: {}", differing.join("; ")),
        ))
    }
}

/// What must be the same where a machine goes on: of the host, of the machine, and of the VMM.
pub(crate) fn facts(
    backend: &dyn Backend,
    launch: &Launch,
    config: &MachineConfig,
) -> Result<BTreeMap<String, String>, ErrorBody> {
    let mut facts = backend.snapshot_facts(launch, config)?;
    let uname = rustix::system::uname();
    let mut fact = |name: &str, value: String| facts.insert(name.to_owned(), value);
    fact("backend", backend.name().to_owned());
    fact("supervisor", env!("CARGO_PKG_VERSION").to_owned());
    fact("host kernel", uname.release().to_string_lossy().into_owned());
    fact("cpu", cpu());
    fact("vcpus", config.vcpus.to_string());
    fact("memory", format!("{} MiB", config.memory_mib));
    for disk in &config.disks {
        let metadata =
            fs::metadata(&disk.path).map_err(|e| host(&format!("cannot read {}", disk.path.display()), &e))?;
        let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let access = if disk.read_only { "read-only" } else { "writable" };
        let stamp = format!(
            "{access}, {} bytes, last written at {}.{:09}",
            metadata.len(),
            modified.as_secs(),
            modified.subsec_nanos()
        );
        fact(&format!("disk {}", disk.id), stamp);
    }
    Ok(facts)
}

/// The CPU's maker and model, and a digest of what it can do.
fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
        value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let flags = Digest::of(format!("{}{}", field("flags"), field("Features")).as_bytes()).to_string();
    format!("{} {} {}", field("vendor_id"), field("model name"), &flags[..flags.len().min(19)])
}

fn invalid(dir: &Path, why: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::SnapshotInvalid, format!("the snapshot {}: {why}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(write: &dyn Fn(&Path) -> Result<(), ErrorBody>) -> Draft<'_> {
        Draft {
            id: "b1-1".to_owned(),
            kind: SnapshotKind::Full,
            base: None,
            facts: BTreeMap::from([("cpu".to_owned(), "a".to_owned())]),
            progress: Progress::default(),
            write,
        }
    }

    fn memory(dir: &Path) -> Result<(), ErrorBody> {
        fs::write(dir.join("memory"), b"12345").map_err(|e| host("x", &e))
    }

    #[test]
    fn a_snapshot_is_whole_or_absent_and_never_written_over_another() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("s");
        let full = |dir: &Path| {
            memory(dir)?;
            Err(ErrorBody::new(ErrorCode::DiskFull, "full"))
        };
        assert_eq!(make(&dir, draft(&full)).unwrap_err().code, ErrorCode::DiskFull);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left");
        make(&dir, draft(&memory)).unwrap();
        assert_eq!(find(&dir).unwrap().chain, std::slice::from_ref(&dir));
        assert_eq!(make(&dir, draft(&memory)).unwrap_err().code, ErrorCode::SnapshotInvalid);
        assert_eq!(make(Path::new("s"), draft(&memory)).unwrap_err().code, ErrorCode::InvalidRequest);
        assert_eq!(make(&home.path().join("x/s"), draft(&memory)).unwrap_err().code, ErrorCode::FileUnavailable);
    }

    #[test]
    fn a_snapshot_that_is_torn_is_told_with_the_part() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("s");
        let refused = |word: &str| {
            let error = find(&dir).err().unwrap();
            assert_eq!(error.code, ErrorCode::SnapshotInvalid);
            assert!(error.message.contains(word), "{error}");
        };
        refused(MANIFEST);
        make(&dir, draft(&memory)).unwrap();
        fs::write(dir.join("memory"), b"1234").unwrap();
        refused("memory has 4 bytes, not 5");
        fs::remove_file(dir.join("memory")).unwrap();
        refused("memory: No such file");
        fs::write(dir.join(MANIFEST), b"{").unwrap();
        refused("does not decode");
    }

    #[test]
    fn changes_need_the_very_snapshot_that_they_were_made_after() {
        let home = tempfile::tempdir().unwrap();
        let (full, diff) = (home.path().join("full"), home.path().join("diff"));
        make(&full, draft(&memory)).unwrap();
        let after = |id: &str| Draft {
            kind: SnapshotKind::Diff,
            base: Some(Base { id: id.to_owned(), dir: full.clone() }),
            ..draft(&memory)
        };
        make(&diff, after("b1-1")).unwrap();
        assert_eq!(find(&diff).unwrap().chain, [full.clone(), diff.clone()]);
        fs::remove_dir_all(&diff).unwrap();
        make(&diff, after("b1-2")).unwrap();
        assert!(find(&diff).err().unwrap().message.contains("another one"));
    }

    #[test]
    fn everything_that_differs_is_told() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("s");
        make(&dir, draft(&memory)).unwrap();
        let found = find(&dir).unwrap();
        assert!(found.check(&BTreeMap::from([("cpu".to_owned(), "a".to_owned())])).is_ok());
        let other = BTreeMap::from([("cpu".to_owned(), "b".to_owned()), ("vmm".to_owned(), "2".to_owned())]);
        let error = found.check(&other).unwrap_err();
        assert_eq!(error.code, ErrorCode::SnapshotIncompatible);
        assert!(error.message.contains("cpu was a and is b; vmm was nothing and is 2"), "{error}");
    }
}
