//! The rules of the store, fed by real folders on a clock of the test's own.

mod records;

use std::{fs, os::unix::fs::symlink, time::Instant};

use microagent_base::durable;

use super::*;
use crate::source::{FolderSource, QUIET_UNANNOUNCED};

struct Fixture {
    root: tempfile::TempDir,
    paths: Paths,
    sources: Vec<FolderSource>,
    desired: Desired,
    now: Instant,
}

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {{name: {name}}}\nspec: {{image: {image}}}\n"
    )
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

impl Fixture {
    /// With the folders `user` and `managed`.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths { state: root.path().join("state"), cache: root.path().join("cache") };
        let dirs = ["user", "managed"].map(|name| root.path().join(name));
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
        }
        let desired = Desired::load(&paths, dirs.clone()).unwrap();
        Self { root, paths, sources: dirs.map(FolderSource::new).into(), desired, now: Instant::now() }
    }

    fn restart(&mut self) {
        let dirs: Vec<_> = self.sources.iter().map(|source| source.dir().to_owned()).collect();
        self.sources = dirs.iter().map(FolderSource::new).collect();
        self.desired = Desired::load(&self.paths, dirs).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// One look at all folders.
    fn look(&mut self) -> Applied {
        let snapshots: Vec<_> = self.sources.iter_mut().map(|source| source.scan(self.now)).collect();
        let applied = self.desired.apply_all(snapshots, Timestamp::UNIX_EPOCH);
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
        applied
    }

    fn after(&mut self, time: Duration) -> Applied {
        self.now += time;
        self.look()
    }

    /// Until all files are read.
    fn settle(&mut self) -> Vec<Key> {
        let mut changed = self.look().changed;
        changed.extend(self.after(QUIET_UNANNOUNCED).changed);
        changed
    }

    fn record(&self, name: &str) -> &Record {
        self.desired.records().get(&key(name)).unwrap()
    }

    fn deleted(&self, name: &str) -> bool {
        self.record(name).deleted_at.is_some()
    }

    fn on_disk(&self, name: &str) -> Option<Record> {
        durable::read_json(&self.paths.record(&key(name))).unwrap()
    }

    fn published(&self) -> Vec<FileProblem> {
        let names = crate::records::list(&self.paths.file_problems()).unwrap();
        names.iter().map(|name| durable::read_json(&self.paths.file_problems().join(name)).unwrap().unwrap()).collect()
    }
}

/// One workspace, settled.
fn with_a() -> Fixture {
    let mut t = Fixture::new();
    t.write("user/a.yaml", &manifest("a", "one"));
    assert_eq!(t.settle(), [key("a")]);
    t
}

#[test]
fn a_new_manifest_makes_a_record_that_is_on_the_disk() {
    let t = with_a();
    let record = t.record("a");
    assert_eq!((record.generation, record.file.clone()), (1, t.path("user/a.yaml")));
    assert_eq!(Uuid::parse_str(&record.uid).unwrap().get_version_num(), 7);
    assert_eq!(t.on_disk("a").as_ref(), Some(record));
}

#[test]
fn a_look_that_finds_nothing_new_writes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let mut t = with_a();
    let inode = |t: &Fixture| fs::metadata(t.paths.record(&key("a"))).unwrap().ino();
    let before = inode(&t);
    for _ in 0..3 {
        assert!(t.after(Duration::from_secs(15)).changed.is_empty());
    }
    assert_eq!(inode(&t), before);
}

#[test]
fn uid_and_generation_survive_a_restart() {
    let mut t = with_a();
    let before = t.record("a").clone();
    t.restart();
    assert_eq!(t.record("a"), &before);
    assert!(t.settle().is_empty());
    assert_eq!(t.record("a"), &before);
}

#[test]
fn the_generation_rises_with_the_spec_only() {
    let mut t = with_a();
    let uid = t.record("a").uid.clone();
    t.write("user/a.yaml", &format!("# a comment\n{}", manifest("a", "one")));
    t.settle();
    assert_eq!(t.record("a").generation, 1);
    let labelled = manifest("a", "one").replace("{name: a}", "{name: a, labels: {team: blue}}");
    t.write("user/a.yaml", &labelled);
    assert_eq!(t.settle(), [key("a")]);
    assert_eq!(t.record("a").generation, 1);
    assert!(t.record("a").workspace.metadata.labels.is_some());
    t.write("user/a.yaml", &manifest("a", "two"));
    assert_eq!(t.settle(), [key("a")]);
    assert_eq!((t.record("a").generation, t.record("a").workspace.spec.image.as_str()), (2, "two"));
    assert_eq!(t.record("a").uid, uid);
}

#[test]
fn a_renamed_or_moved_file_keeps_uid_and_generation() {
    let mut t = with_a();
    let before = t.record("a").clone();
    let mut at = t.path("user/a.yaml");
    for next in ["user/b.yaml", "managed/c.yaml"] {
        fs::rename(&at, t.path(next)).unwrap();
        at = t.path(next);
        for _ in 0..5 {
            t.after(GRACE);
        }
        let record = t.record("a");
        assert_eq!(record, &Record { file: at.clone(), ..before.clone() });
    }
}

#[test]
fn a_removed_file_deletes_after_two_listings_a_grace_apart() {
    let mut t = with_a();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    let first = t.look();
    assert_eq!(first.recheck_in, Some(GRACE));
    assert!(first.changed.is_empty() && !t.deleted("a"));
    assert!(t.after(GRACE - Duration::from_millis(1)).changed.is_empty());
    // The other folder must have been seen since, which the same look does after this one.
    t.after(Duration::from_millis(1));
    assert!(t.deleted("a"));
    assert!(t.on_disk("a").unwrap().deleted_at.is_some());
    assert!(t.after(GRACE).recheck_in.is_none());
}

#[test]
fn a_file_that_comes_back_within_the_grace_deletes_nothing() {
    let mut t = with_a();
    let before = t.record("a").clone();
    for _ in 0..5 {
        fs::rename(t.path("user/a.yaml"), t.path("user/a.yaml~")).unwrap();
        t.look();
        t.now += GRACE / 2;
        fs::rename(t.path("user/a.yaml~"), t.path("user/a.yaml")).unwrap();
        t.settle();
    }
    assert_eq!(t.record("a"), &before);
}

#[test]
fn a_file_that_is_not_read_yet_keeps_everything_that_is_absent() {
    for restarted in [false, true] {
        let mut t = with_a();
        fs::rename(t.path("user/a.yaml"), t.path("user/b.yaml")).unwrap();
        if restarted {
            t.restart();
        }
        for n in 0..8 {
            t.write("user/b.yaml", &"#".repeat(n));
            t.after(GRACE + GRACE / 2);
        }
        assert!(!t.deleted("a"), "the file may yet declare it");
        t.write("user/b.yaml", &manifest("a", "one"));
        t.settle();
        t.after(GRACE);
        assert!(!t.deleted("a"));
        assert_eq!(t.record("a").file, t.path("user/b.yaml"));
    }
}

#[test]
fn a_file_that_is_still_there_but_lost_the_document_waits_longer() {
    let mut t = with_a();
    t.write("user/a.yaml", &format!("{}---\n{}", manifest("a", "one"), manifest("b", "one")));
    t.settle();
    t.write("user/a.yaml", &manifest("a", "one"));
    t.settle();
    assert!(!t.deleted("b"));
    t.after(GRACE_DOCUMENT - Duration::from_millis(1));
    assert!(!t.deleted("b"));
    t.after(Duration::from_millis(1));
    assert!(t.deleted("b") && !t.deleted("a"));
}

#[test]
fn a_file_that_comes_back_without_the_document_within_the_grace_waits_longer() {
    let mut t = with_a();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.look();
    t.write("user/a.yaml", &manifest("b", "one"));
    t.after(Duration::from_millis(1));
    t.after(QUIET_UNANNOUNCED);
    t.after(GRACE_DOCUMENT - Duration::from_secs(1));
    assert!(!t.deleted("a"));
    t.after(Duration::from_secs(1));
    assert!(t.deleted("a"));
}

#[test]
fn an_emptied_file_deletes_nothing_and_says_so() {
    let mut t = with_a();
    t.write("user/a.yaml", "");
    t.settle();
    t.after(Duration::from_secs(60));
    t.after(Duration::from_secs(60));
    assert!(!t.deleted("a"));
    assert!(t.record("a").problem.as_ref().unwrap().message.contains("declares no workspace"));
}

#[test]
fn a_folder_that_disappears_deletes_nothing() {
    let mut t = with_a();
    fs::remove_dir_all(t.path("user")).unwrap();
    for _ in 0..5 {
        let applied = t.after(Duration::from_secs(60));
        assert!(applied.changed.is_empty() && applied.recheck_in.is_none());
    }
    assert!(!t.deleted("a"));
    assert_eq!(t.published()[0].problem.code, "SourceUnavailable");
}

#[test]
fn a_folder_that_was_missing_for_a_moment_starts_the_count_anew() {
    let mut t = with_a();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.look();
    fs::rename(t.path("user"), t.path("away")).unwrap();
    t.after(GRACE);
    fs::rename(t.path("away"), t.path("user")).unwrap();
    t.after(GRACE);
    assert!(!t.deleted("a"), "one listing since the folder is back");
    t.after(GRACE);
    assert!(t.deleted("a"));
}

#[test]
fn a_folder_made_again_deletes_only_after_two_listings_of_its_own_far_apart() {
    for restarted in [false, true] {
        let mut t = with_a();
        t.after(GRACE_REPLACED);
        fs::remove_file(t.path("user/a.yaml")).unwrap();
        t.look();
        fs::rename(t.path("user"), t.path("old")).unwrap();
        fs::create_dir(t.path("user")).unwrap();
        if restarted {
            t.restart();
        }
        t.after(GRACE);
        t.after(GRACE_REPLACED - Duration::from_millis(1));
        assert!(!t.deleted("a"));
        t.after(Duration::from_millis(1));
        assert!(t.deleted("a"));
    }
}

#[test]
fn a_folder_made_again_is_as_good_as_the_old_one_once_it_was_there_for_long() {
    let mut t = with_a();
    fs::rename(t.path("user"), t.path("old")).unwrap();
    fs::create_dir(t.path("user")).unwrap();
    fs::copy(t.path("old/a.yaml"), t.path("user/a.yaml")).unwrap();
    t.settle();
    t.after(GRACE_REPLACED);
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    assert_eq!(t.look().recheck_in, Some(GRACE));
    t.after(GRACE);
    assert!(t.deleted("a"));
}

#[test]
fn a_folder_made_again_and_filled_slowly_deletes_nothing() {
    let mut t = with_a();
    t.write("user/b.yaml", &manifest("b", "one"));
    t.settle();
    let before: Vec<_> = t.desired.records().iter().cloned().collect();
    fs::rename(t.path("user"), t.path("old")).unwrap();
    fs::create_dir(t.path("user")).unwrap();
    t.look();
    for name in ["a", "b"] {
        t.write(&format!("user/{name}.yaml"), &manifest(name, "one"));
        t.settle();
        t.after(Duration::from_secs(5));
    }
    assert_eq!(t.desired.records().iter().cloned().collect::<Vec<_>>(), before);
}

#[test]
fn a_workspace_of_a_folder_that_is_not_watched_stays() {
    let mut t = with_a();
    t.sources.remove(0);
    t.restart();
    for _ in 0..3 {
        t.after(Duration::from_secs(60));
    }
    assert!(!t.deleted("a"));
}

#[test]
fn nothing_is_deleted_before_every_folder_was_looked_into_but_a_missing_one_hinders_nothing() {
    let mut t = with_a();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    fs::rename(t.path("managed"), t.path("away")).unwrap();
    fs::write(t.path("managed"), "a file, so it cannot be listed").unwrap();
    for _ in 0..3 {
        t.after(GRACE);
    }
    assert!(!t.deleted("a"));
    fs::remove_file(t.path("managed")).unwrap();
    t.after(GRACE);
    t.look();
    assert!(t.deleted("a"));
}

#[test]
fn a_file_that_is_renamed_and_broken_at_once_deletes_nothing_until_it_is_mended() {
    for (restarted, in_other_folder) in [(false, false), (true, false), (false, true)] {
        let mut t = with_a();
        let to = if in_other_folder { "managed/b.yaml" } else { "user/b.yaml" };
        fs::rename(t.path("user/a.yaml"), t.path(to)).unwrap();
        t.write(to, &format!("{}: [\n", manifest("a", "one")));
        if restarted {
            t.restart();
        }
        t.settle();
        for _ in 0..5 {
            t.after(Duration::from_secs(60));
        }
        assert!(!t.deleted("a"), "the broken file may declare it");
        let problem = t.record("a").problem.as_ref().unwrap();
        assert!(problem.message.contains(to) && problem.message.contains("removed"), "{}", problem.message);
        t.write(to, &manifest("a", "one"));
        t.settle();
        assert_eq!((t.deleted("a"), t.record("a").problem.clone(), t.record("a").generation), (false, None, 1));
    }
}

#[test]
fn a_broken_file_that_came_when_a_workspace_went_holds_it_only_as_long_as_it_is_broken() {
    let mut t = with_a();
    t.write("user/b.yaml", "b: [");
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.settle();
    t.after(Duration::from_secs(60));
    assert!(!t.deleted("a"));
    fs::remove_file(t.path("user/b.yaml")).unwrap();
    t.after(GRACE);
    t.after(GRACE - Duration::from_millis(1));
    assert!(!t.deleted("a"), "the grace begins when nothing hides it any more");
    t.after(Duration::from_millis(1));
    assert!(t.deleted("a"));
}

#[test]
fn a_file_that_was_broken_before_hinders_no_deletion() {
    let mut t = with_a();
    t.write("user/b.yaml", "b: [");
    t.settle();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.after(Duration::from_millis(1));
    t.after(GRACE);
    assert!(t.deleted("a"));
}

#[test]
fn a_file_that_breaks_while_the_workspaces_own_is_rewritten_holds_it() {
    let mut t = with_a();
    t.write("user/a.yaml", &manifest("b", "one"));
    symlink("nowhere", t.path("managed/x.yaml")).unwrap();
    t.after(Duration::from_millis(1));
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    for _ in 0..3 {
        t.after(GRACE);
    }
    assert!(!t.deleted("a"), "x.yaml came when a.yaml did not declare it any more, though that was not read yet");
}

#[test]
fn a_listing_counts_only_when_the_files_of_all_folders_are_read() {
    let mut t = with_a();
    fs::rename(t.path("user/a.yaml"), t.path("managed/b.yaml")).unwrap();
    t.look();
    fs::remove_file(t.path("managed/b.yaml")).unwrap();
    t.after(Duration::from_millis(1));
    t.after(GRACE - Duration::from_millis(1));
    assert!(!t.deleted("a"), "it was in the other folder one look ago");
    t.after(Duration::from_millis(1));
    assert!(t.deleted("a"));
}

#[test]
fn a_name_removed_from_two_folders_at_once_is_not_taken_from_either() {
    let mut t = with_a();
    t.write("managed/x.yaml", &manifest("a", "two"));
    t.settle();
    let before = t.record("a").clone();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    fs::remove_file(t.path("managed/x.yaml")).unwrap();
    assert!(t.look().changed.is_empty());
    assert_eq!(t.record("a"), &before, "no look saw only one of the two");
}

#[test]
fn what_runs_stays_while_its_own_file_cannot_be_read_and_another_says_otherwise() {
    let mut t = with_a();
    let before = t.record("a").clone();
    t.write("user/b.yaml", &manifest("a", "two"));
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    symlink("nowhere", t.path("user/a.yaml")).unwrap();
    t.settle();
    let problem = t.record("a").problem.clone().unwrap();
    assert!(problem.message.contains("a.yaml") && problem.message.contains("b.yaml"), "{}", problem.message);
    assert_eq!(t.record("a"), &Record { problem: Some(problem), ..before.clone() });
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.look();
    assert_eq!((t.record("a").generation, t.record("a").problem.clone()), (2, None));
}

#[test]
fn a_file_that_only_moved_is_followed_although_something_unreadable_took_its_place() {
    let mut t = with_a();
    fs::rename(t.path("user/a.yaml"), t.path("user/b.yaml")).unwrap();
    symlink("nowhere", t.path("user/a.yaml")).unwrap();
    t.settle();
    assert_eq!((t.record("a").file.clone(), t.record("a").problem.clone()), (t.path("user/b.yaml"), None));
}

#[test]
fn many_new_manifests_are_records_on_the_disk_in_namespaces_of_their_own() {
    let mut t = Fixture::new();
    let text = |n: usize| manifest("x", "one").replace("{name: x}", &format!("{{name: n{n}, namespace: s{}}}", n % 3));
    let all: Vec<String> = (0..150).map(text).collect();
    t.write("user/all.yaml", &all.join("---\n"));
    assert_eq!(t.settle().len(), 150);
    let before: Vec<Record> = t.desired.records().iter().cloned().collect();
    assert_eq!(before.len(), 150);
    t.restart();
    assert_eq!(t.desired.records().iter().cloned().collect::<Vec<_>>(), before);
    assert!(t.settle().is_empty());
    t.write("user/all.yaml", &all.join("---\n").replace("one", "two"));
    assert_eq!(t.settle().len(), 150);
    assert!(t.desired.records().iter().all(|record| record.generation == 2));
}

#[test]
fn records_and_readings_are_one_in_memory_also_after_a_restart() {
    let mut t = with_a();
    t.restart();
    t.look();
    t.now += QUIET_UNANNOUNCED;
    let snapshot = t.sources[0].scan(t.now);
    let crate::source::Entry::Valid { workspace, .. } = snapshot.listing.entries[&key("a")].clone() else { panic!() };
    assert!(t.desired.apply(snapshot, Timestamp::UNIX_EPOCH).changed.is_empty());
    assert!(Arc::ptr_eq(&workspace, &t.record("a").workspace));
}

#[test]
fn a_broken_manifest_keeps_the_last_good_spec_and_its_problem_until_it_is_cured() {
    let mut t = with_a();
    let before = t.record("a").clone();
    for broken in [manifest("a", "[1]"), "a: [".to_owned(), manifest("a", "one").replace("spec", "sepc")] {
        t.write("user/a.yaml", &broken);
        assert_eq!(t.settle(), [key("a")]);
        t.after(Duration::from_secs(60));
        let record = t.record("a").clone();
        assert!(record.problem.is_some());
        assert_eq!(record, Record { problem: record.problem.clone(), ..before.clone() });
        t.restart();
        assert_eq!(t.record("a"), &record);
        t.settle();
        assert_eq!(t.record("a"), &record);
        t.write("user/a.yaml", &manifest("a", "one"));
        assert_eq!(t.settle(), [key("a")]);
        assert_eq!(t.record("a"), &before);
    }
}

#[test]
fn a_link_that_leads_nowhere_deletes_nothing() {
    let mut t = Fixture::new();
    t.write("real", &manifest("a", "one"));
    symlink(t.path("real"), t.path("user/a.yaml")).unwrap();
    t.settle();
    fs::remove_file(t.path("real")).unwrap();
    for _ in 0..3 {
        t.after(Duration::from_secs(60));
    }
    assert!(!t.deleted("a") && t.record("a").problem.is_some());
}

#[test]
fn a_name_in_two_folders_is_wrong_in_both_and_what_runs_stays() {
    let mut t = with_a();
    let before = t.record("a").clone();
    t.write("managed/x.yaml", &manifest("a", "two"));
    assert_eq!(t.settle(), [key("a")]);
    let problem = t.record("a").problem.clone().unwrap();
    assert_eq!(problem.code, "NameConflict");
    assert!(
        problem.message.contains("user/a.yaml") && problem.message.contains("managed/x.yaml"),
        "{}",
        problem.message
    );
    assert_eq!(t.record("a"), &Record { problem: Some(problem), ..before.clone() });
    fs::remove_file(t.path("managed/x.yaml")).unwrap();
    t.settle();
    assert_eq!(t.record("a"), &before);
}

#[test]
fn a_manifest_that_never_was_good_is_told_by_its_name_or_else_by_its_file_until_cured() {
    let mut t = Fixture::new();
    t.write("user/a.yaml", &manifest("a", "[1]"));
    t.write("user/b.yaml", "b: [");
    t.settle();
    assert_eq!(t.desired.records().iter().count(), 0);
    assert_eq!(t.desired.rejected().keys().cloned().collect::<Vec<_>>(), [key("a")]);
    let files: Vec<_> = t.published().into_iter().map(|problem| problem.file).collect();
    assert_eq!(files, [t.path("user/b.yaml")]);
    t.restart();
    t.write("user/a.yaml", &manifest("a", "one"));
    fs::remove_file(t.path("user/b.yaml")).unwrap();
    t.settle();
    assert_eq!(t.published(), []);
    assert!(t.desired.rejected().is_empty());
}

#[test]
fn a_name_that_comes_back_while_its_tombstone_is_held_is_another_workspace() {
    let mut t = with_a();
    let old = t.record("a").clone();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.look();
    t.after(GRACE);
    assert!(t.deleted("a"));
    t.write("user/a.yaml", &manifest("a", "two"));
    t.settle();
    assert!(t.deleted("a"));
    assert_eq!(t.record("a").workspace, old.workspace, "the old one is still being cleaned up");
    assert!(t.desired.forget(&key("a"), Timestamp::UNIX_EPOCH).unwrap());
    let new = t.record("a");
    assert_ne!(new.uid, old.uid);
    assert_eq!((new.generation, new.deleted_at), (1, None));
    assert_eq!(t.on_disk("a").as_ref(), Some(new));
}
