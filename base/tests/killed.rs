//! A writer of many files that is killed in the midst.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use microagent_base::durable::{TEMPORARY_PREFIX, read_json, write_all_json};

/// Where the writer that this test starts writes.
const WRITER: &str = "MICROAGENT_TEST_WRITER";

/// Enough to be flushed together.
const FILES: usize = 200;

fn path(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("{n}.json"))
}

/// The generations of the whole files, and how many temporary ones there are.
type Found = (BTreeSet<u64>, usize);

/// What is there; names may come and go meanwhile.
fn found(dir: &Path) -> Found {
    let (mut generations, mut temporary) = (BTreeSet::new(), 0);
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with(TEMPORARY_PREFIX) {
            temporary += 1;
        } else if let Some(numbers) = read_json::<Vec<u64>>(&dir.join(&name)).unwrap() {
            assert!(numbers.len() == 500 && numbers.iter().all(|n| *n == numbers[0]), "{name} is torn");
            generations.insert(numbers[0]);
        }
    }
    (generations, temporary)
}

#[test]
fn a_writer_that_is_killed_leaves_each_file_as_it_was_or_as_it_was_to_be() {
    if let Some(dir) = std::env::var_os(WRITER) {
        for generation in 1.. {
            let value = vec![generation; 500];
            let files = (0..FILES).map(|n| (path(Path::new(&dir), n), &value));
            assert!(write_all_json(files).iter().all(Result::is_ok));
        }
    }
    // While the first, and while a later, generation is written to temporary names; and while one is renamed.
    let moments: [fn(&Found) -> bool; 4] = [
        |(generations, temporary)| generations.is_empty() && *temporary > 10,
        |(generations, temporary)| generations.len() == 1 && *temporary > 10,
        |(generations, _)| generations.len() == 2,
        |(generations, _)| generations.contains(&3),
    ];
    for moment in moments {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_writer_that_is_killed_leaves_each_file_as_it_was_or_as_it_was_to_be"])
            .env(WRITER, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !moment(&found(dir.path())) {
            assert!(Instant::now() < deadline, "the writer did not get that far");
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        let (generations, _) = found(dir.path());
        let span = generations.last().unwrap_or(&0) - generations.first().unwrap_or(&0);
        assert!(span <= 1, "{generations:?}: a generation was begun before the one before it was done");
    }
}
