//! Copies of trees, from one directory to another.
#![expect(clippy::unwrap_used, reason = "in tests")]

mod hostile;
mod places;
mod round_trip;

use std::{ffi::OsString, fs, path::Path};

use microagent_archive::{Count, Error, Owners, Reading, Source, Unpack, What, unpack};

const READING: Reading = Reading { follow: false, only_disks: false, without: None };

/// What is at `path` below `root`, as an archive.
fn packed(root: &Path, path: &str, reading: Reading) -> Vec<u8> {
    let mut bytes = Vec::new();
    let problems = Source::open(root, Path::new(path), reading).unwrap().write(&mut bytes).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    bytes
}

fn how<'a>(root: &'a Path, to: &'a str, what: What) -> Unpack<'a> {
    Unpack { root, to: Path::new(to), what, owners: Owners::Ours, special_bits: false }
}

fn named(name: &str) -> What {
    What::Named(OsString::from(name))
}

/// Unpacks, and gives how much came with what was left out.
fn put(bytes: &[u8], how: &Unpack<'_>) -> Result<(Count, Vec<String>), Error> {
    let mut count = Count::default();
    unpack(bytes, how, &mut count).map(|problems| (count, problems))
}

/// An archive of entries: kind, name, link, content.
fn archive(entries: &[(u8, &str, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(if *kind == b'5' { 0o755 } else { 0o6644 });
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The names below `path`, sorted, each with what is there.
fn tree(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![path.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(path).unwrap().display().to_string();
            let kind = entry.file_type().unwrap();
            found.push(if kind.is_dir() {
                left.push(entry.path());
                format!("{name}/")
            } else if kind.is_symlink() {
                format!("{name} -> {}", fs::read_link(entry.path()).unwrap().display())
            } else {
                format!("{name}: {}", String::from_utf8_lossy(&fs::read(entry.path()).unwrap()))
            });
        }
    }
    found.sort();
    found
}
