//! Journals of every form that `debugfs` writes: what counts in them, and what does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{fs, os::unix::fs::FileExt, path::PathBuf, process::Command};

use support::{
    Disk, installed,
    overlay::{layer_of, tar_file},
};

/// A disk with the file `upper/f` of one block, and the number of that block.
struct Fixture {
    disk: Disk,
    block: String,
}

impl Fixture {
    fn new(features: &str) -> Option<Self> {
        if !installed("debugfs") || !installed("mke2fs") {
            println!("SKIP journals of debugfs: needs debugfs and mke2fs");
            return None;
        }
        let (disk, out) = Disk::new();
        out.set_len(32 << 20).unwrap();
        let arguments = ["-q", "-F", "-t", "ext4", "-b", "4096", "-O", features];
        assert!(Command::new("mke2fs").args(arguments).arg(&disk.path).status().unwrap().success());
        let mut this = Self { disk, block: String::new() };
        let old = this.content("old", &old());
        this.run(&["mkdir upper", &format!("write {} upper/f", old.display())]);
        this.block = String::from_utf8(this.disk.debugfs("blocks upper/f")?).unwrap().trim().to_owned();
        Some(this)
    }

    fn content(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.disk.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn run(&self, commands: &[&str]) {
        let script = self.content("commands", commands.join("\n").as_bytes());
        let output = Command::new("debugfs").arg("-w").arg("-f").arg(script).arg(&self.disk.path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes transactions: the content for the block, or its revocation; the last may lack its commit.
    fn journal(&self, checksums: Option<u32>, transactions: &[Option<&[u8]>], is_whole: bool) {
        let mut commands = vec![checksums.map_or("jo".to_owned(), |version| format!("jo -c -v {version}"))];
        for (number, transaction) in transactions.iter().enumerate() {
            let cut = if is_whole || number + 1 < transactions.len() { "" } else { "-c " };
            commands.push(match transaction {
                Some(content) => {
                    let path = self.content(&format!("new-{number}"), content);
                    format!("jw {cut}-b {} {}", self.block, path.display())
                }
                None => format!("jw {cut}-r {}", self.block),
            });
        }
        commands.push("jc".to_owned());
        self.run(&commands.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn file(&self) -> Vec<u8> {
        tar_file(&layer_of(&self.disk.path).unwrap_or_else(|e| panic!("{e}")).0, "f")
    }

    /// Changes every block of the journal that this finds.
    fn damage(&self, find: impl Fn(&[u8]) -> bool, change: impl Fn(&mut [u8])) {
        let mut bytes = self.disk.bytes();
        let mut found = 0;
        for block in bytes.chunks_exact_mut(4096).filter(|block| find(block)) {
            change(block);
            found += 1;
        }
        assert!(found > 0);
        fs::File::options().write(true).open(&self.disk.path).unwrap().write_all_at(&bytes, 0).unwrap();
    }
}

fn old() -> Vec<u8> {
    vec![b'A'; 4096]
}

fn new() -> Vec<u8> {
    vec![b'B'; 4096]
}

/// Content that begins as the journal's own blocks do.
fn like_a_journal() -> Vec<u8> {
    [&[0xc0, 0x3b, 0x39, 0x98][..], &[b'C'; 4092]].concat()
}

/// Whether a block is the journal's own, of this kind.
fn is(kind: u8) -> impl Fn(&[u8]) -> bool {
    move |block| block[..8] == [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, kind]
}

const FORMS: [(&str, Option<u32>); 5] = [
    ("64bit,metadata_csum", Some(3)),
    ("^64bit,metadata_csum", Some(3)),
    ("64bit,metadata_csum", Some(2)),
    ("64bit,^metadata_csum", None),
    ("^64bit,^metadata_csum", None),
];

#[test]
fn what_was_committed_counts_and_the_last_commit_wins() {
    for (features, checksums) in FORMS {
        let (new, like) = (new(), like_a_journal());
        for (transactions, is_whole, expected) in [
            (&[Some(&new[..])][..], true, &new),
            (&[Some(&new), Some(&like)], true, &like),
            (&[Some(&like), Some(&new)], true, &new),
            (&[Some(&new)], false, &old()),
            (&[Some(&new), Some(&like)], false, &new),
            (&[Some(&new), None], true, &old()),
            (&[Some(&new), None], false, &new),
            (&[Some(&new), None, Some(&like)], true, &like),
        ] {
            let Some(fixture) = Fixture::new(features) else { return };
            fixture.journal(checksums, transactions, is_whole);
            assert!(fixture.file() == *expected, "{features} {checksums:?} {} {is_whole}", transactions.len());
        }
    }
}

#[test]
fn a_torn_commit_is_none_and_a_damaged_block_before_a_commit_is_told() {
    for (kind, outcome) in [(2, Some(old())), (1, None)] {
        let Some(fixture) = Fixture::new("64bit,metadata_csum") else { return };
        fixture.journal(Some(3), &[Some(&new())], true);
        fixture.damage(is(kind), |block| block[60] ^= 1);
        match outcome {
            Some(content) => assert!(fixture.file() == content),
            None => assert_eq!(layer_of(&fixture.disk.path).unwrap_err().category(), "JournalNotReplayable"),
        }
    }
    let Some(fixture) = Fixture::new("64bit,metadata_csum") else { return };
    fixture.journal(Some(3), &[Some(&new())], true);
    fixture.damage(|block| block == new(), |block| block[60] ^= 1);
    let error = layer_of(&fixture.disk.path).unwrap_err().to_string();
    assert!(error.contains("checksum") && error.contains("start the workspace and halt it"), "{error}");
}

#[test]
fn a_journal_with_more_than_is_known_is_refused_by_its_name() {
    let name = |bit: u8| {
        let fixture = Fixture::new("64bit,^metadata_csum")?;
        fixture.journal(None, &[Some(&new())], true);
        fixture.damage(is(4), |block| block[0x2b] |= bit);
        Some(layer_of(&fixture.disk.path).unwrap_err().to_string())
    };
    for (bit, expected) in [(0x04, "asynchronous commits"), (0x20, "fast commits"), (0x40, "unknown bits 0x40")] {
        let Some(error) = name(bit) else { return };
        assert!(error.contains(expected), "{error}");
    }
}
