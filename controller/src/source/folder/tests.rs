//! The rules of one folder, on real files and a clock of the test's own.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

use super::*;
use crate::Key;

struct Fixture {
    root: tempfile::TempDir,
    source: FolderSource,
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
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        let source = FolderSource::new(root.path().join("folder"));
        Self { root, source, now: Instant::now() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.source.dir().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A look now.
    fn look(&mut self) -> Snapshot {
        self.source.scan(self.now)
    }

    fn after(&mut self, time: Duration) -> Snapshot {
        self.now += time;
        self.look()
    }

    /// Two looks that agree.
    fn settle(&mut self) -> Snapshot {
        self.look();
        self.after(QUIET_UNANNOUNCED)
    }

    fn finished(&mut self, name: &str) {
        let finished = BTreeSet::from([self.path(name)]);
        self.source.hint(&Hint { finished, ..Hint::default() });
    }
}

fn image(snapshot: &Snapshot, name: &str) -> Option<String> {
    match snapshot.listing.entries.get(&key(name)) {
        Some(Entry::Valid { workspace, .. }) => Some(workspace.spec.image.clone()),
        _ => None,
    }
}

fn problem<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Problem {
    match snapshot.listing.entries.get(&key(name)) {
        Some(Entry::Invalid { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_counts_when_two_looks_agree() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    let first = t.look();
    assert!(first.complete && !first.settled && first.listing.entries.is_empty());
    assert_eq!(first.retry_in, Some(QUIET_UNANNOUNCED));
    let second = t.after(QUIET_UNANNOUNCED);
    assert!(second.settled && second.retry_in.is_none());
    assert_eq!(image(&second, "a").as_deref(), Some("one"));
}

#[test]
fn a_file_that_its_writer_closed_counts_after_the_short_period() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.finished("a.yaml");
    assert_eq!(t.look().retry_in, Some(QUIET));
    assert_eq!(image(&t.after(QUIET), "a").as_deref(), Some("one"));
    // The next change needs a word of its own; one that came for nothing is not kept for it.
    t.finished("a.yaml");
    t.look();
    t.write("a.yaml", &manifest("a", "three"));
    assert_eq!(t.look().retry_in, Some(QUIET_UNANNOUNCED));
}

#[test]
fn a_file_that_is_written_again_is_not_finished_any_more() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.finished("a.yaml");
    t.look();
    let writing = BTreeSet::from([t.path("a.yaml")]);
    t.source.hint(&Hint { writing, ..Hint::default() });
    let snapshot = t.after(QUIET);
    assert!(!snapshot.settled && snapshot.listing.entries.is_empty());
}

#[test]
fn a_file_of_the_managed_folder_needs_nobodys_word() {
    let mut t = Fixture::new();
    t.source = FolderSource::managed(t.source.dir());
    t.write("a.yaml", &manifest("a", "one"));
    assert_eq!(t.look().retry_in, Some(QUIET));
    assert!(image(&t.after(QUIET), "a").is_some());
}

#[test]
fn a_truncated_write_is_not_seen_until_it_is_whole() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.settle();
    t.write("a.yaml", "");
    assert_eq!(image(&t.look(), "a").as_deref(), Some("one"));
    t.write("a.yaml", &manifest("a", "two")[..30]);
    let torn = t.after(QUIET_UNANNOUNCED);
    assert!(!torn.settled);
    assert_eq!(image(&torn, "a").as_deref(), Some("one"));
    t.write("a.yaml", &manifest("a", "two"));
    t.after(Duration::from_millis(1));
    assert_eq!(image(&t.after(QUIET_UNANNOUNCED), "a").as_deref(), Some("two"));
}

#[test]
fn a_file_that_never_rests_is_its_own_problem_and_its_last_reading_counts() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.write("b.yaml", &manifest("b", "one"));
    t.settle();
    let mut last = t.look();
    for n in 0..=PATIENCE.as_secs() + 1 {
        t.write("a.yaml", &"#".repeat(1 + usize::try_from(n).unwrap()));
        last = t.after(Duration::from_secs(1));
    }
    assert!(last.settled, "one file must not keep the whole folder unsettled");
    assert!(last.retry_in.is_some());
    assert!(last.listing.problems[&t.path("a.yaml")].message.contains("changing"));
    assert_eq!(image(&last, "a").as_deref(), Some("one"));
}

#[test]
fn a_file_that_did_not_change_is_not_parsed_again() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    let (first, second) = (t.settle(), t.after(Duration::from_secs(15)));
    match (&first.listing.entries[&key("a")], &second.listing.entries[&key("a")]) {
        (Entry::Valid { workspace: a, .. }, Entry::Valid { workspace: b, .. }) => assert!(Arc::ptr_eq(a, b)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_look_that_finds_nothing_new_gives_the_same_listing() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.write("b.yaml", "b: [");
    let first = t.settle();
    let same = |t: &mut Fixture| Arc::ptr_eq(&t.after(Duration::from_secs(15)).listing, &first.listing);
    assert!(same(&mut t));
    // A file that was only hinted at, and is not there.
    t.finished("c.yaml");
    assert!(same(&mut t));
    fs::remove_file(t.path("b.yaml")).unwrap();
    assert!(!same(&mut t));
}

#[test]
fn a_change_that_hides_behind_old_size_and_time_is_seen() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    let modified = fs::metadata(t.path("a.yaml")).unwrap().modified().unwrap();
    t.settle();
    t.write("a.yaml", &manifest("a", "two"));
    fs::File::options().write(true).open(t.path("a.yaml")).unwrap().set_modified(modified).unwrap();
    assert_eq!(image(&t.settle(), "a").as_deref(), Some("two"));
}

#[test]
fn a_vim_save_shows_the_old_manifest_or_the_new_and_nothing_of_the_editors() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.settle();
    t.write("4913", "");
    fs::remove_file(t.path("4913")).unwrap();
    fs::rename(t.path("a.yaml"), t.path("a.yaml~")).unwrap();
    let between = t.look();
    assert!(
        between.complete && between.listing.entries.is_empty(),
        "the name is really absent: one look proves nothing"
    );
    t.write("a.yaml", &manifest("a", "two"));
    t.write(".a.yaml.swp", &manifest("a", "swap"));
    t.write("#a.yaml#", &manifest("a", "emacs"));
    symlink("user@host.1", t.path(".#a.yaml")).unwrap();
    let after = t.settle();
    assert_eq!(image(&after, "a").as_deref(), Some("two"));
    assert_eq!(after.listing.files, BTreeSet::from([t.path("a.yaml").into()]));
    assert!(after.listing.problems.is_empty());
}

#[test]
fn a_configmap_swap_changes_all_files_at_once() {
    let mut t = Fixture::new();
    for (dir, image) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(t.path(dir)).unwrap();
        t.write(&format!("{dir}/a.yaml"), &manifest("a", image));
    }
    symlink("..1", t.path("..data")).unwrap();
    symlink("..data/a.yaml", t.path("a.yaml")).unwrap();
    assert_eq!(image(&t.settle(), "a").as_deref(), Some("one"));
    symlink("..2", t.path("..tmp")).unwrap();
    fs::rename(t.path("..tmp"), t.path("..data")).unwrap();
    fs::remove_dir_all(t.path("..1")).unwrap();
    assert_eq!(image(&t.look(), "a").as_deref(), Some("one"));
    assert_eq!(image(&t.after(QUIET_UNANNOUNCED), "a").as_deref(), Some("two"));
}

#[test]
fn a_folder_that_is_gone_is_no_complete_listing() {
    let mut t = Fixture::new();
    let gone = t.root.path().join("gone");
    fs::rename(t.source.dir(), &gone).unwrap();
    let snapshot = t.look();
    assert!(!snapshot.complete && snapshot.missing);
    let reason = snapshot.reason.unwrap();
    assert_eq!(reason.code, "SourceUnavailable");
    assert!(reason.message.contains("folder") && reason.message.contains("No such file"), "{}", reason.message);
    fs::rename(&gone, t.source.dir()).unwrap();
    assert!(t.look().complete);
}

#[test]
fn a_folder_that_is_a_file_is_no_complete_listing_and_not_missing() {
    let mut t = Fixture::new();
    fs::remove_dir(t.source.dir()).unwrap();
    fs::write(t.source.dir(), "").unwrap();
    let snapshot = t.look();
    assert!(!snapshot.complete && !snapshot.missing);
}

#[test]
fn a_folder_made_again_is_another_one() {
    let mut t = Fixture::new();
    let before = t.look().identity;
    assert_eq!(t.look().identity, before);
    fs::rename(t.source.dir(), t.root.path().join("old")).unwrap();
    fs::create_dir(t.source.dir()).unwrap();
    assert_ne!(t.look().identity, before);
}

#[test]
fn several_documents_of_a_file_are_several_workspaces_and_one_bad_one_spoils_no_other() {
    let mut t = Fixture::new();
    let (a, b) = (manifest("a", "one"), manifest("b", "one"));
    t.write("all.yaml", &format!("{a}---\n{b}---\n{}", manifest("c", "[1]")));
    let snapshot = t.settle();
    assert!(image(&snapshot, "a").is_some() && image(&snapshot, "b").is_some());
    assert!(problem(&snapshot, "c").message.contains("all.yaml:"), "{}", problem(&snapshot, "c").message);
    assert!(snapshot.listing.problems.is_empty());
}

#[test]
fn json_is_read() {
    let mut t = Fixture::new();
    let text = r#"{"apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "a"}, "spec": {"image": "one"}}"#;
    t.write("a.json", text);
    assert_eq!(image(&t.settle(), "a").as_deref(), Some("one"));
}

#[test]
fn a_document_of_another_kind_or_no_yaml_is_a_problem_of_the_file() {
    let mut t = Fixture::new();
    t.write("pod.yaml", "apiVersion: v1\nkind: Pod\n");
    t.write("bad.yaml", "a: [\n");
    t.write("latin1.yaml", "");
    fs::write(t.path("latin1.yaml"), b"# one\n# caf\xe9\n").unwrap();
    t.write("a.yaml", &manifest("a", "one"));
    let snapshot = t.settle();
    let files: Vec<_> = snapshot.listing.problems.keys().cloned().collect();
    assert_eq!(files, [t.path("bad.yaml"), t.path("latin1.yaml"), t.path("pod.yaml")]);
    assert!(snapshot.listing.problems[&t.path("latin1.yaml")].message.contains("line 2 is not UTF-8"));
    assert!(image(&snapshot, "a").is_some());
}

#[test]
fn a_file_without_documents_is_a_problem_and_not_an_order_to_delete() {
    let mut t = Fixture::new();
    t.write("a.yaml", "# nothing\n");
    assert!(t.settle().listing.problems[&t.path("a.yaml")].message.contains("declares no workspace"));
}

#[test]
fn a_name_in_two_files_is_wrong_in_both_until_one_goes() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.write("b.yaml", &manifest("a", "two"));
    let snapshot = t.settle();
    let told = problem(&snapshot, "a");
    assert_eq!(told.code, "NameConflict");
    let places = format!("2 times, in {} and in {}:", t.path("a.yaml").display(), t.path("b.yaml").display());
    assert!(told.message.contains(&places), "{}", told.message);
    assert_eq!(snapshot.listing.entries[&key("a")].files(), [t.path("a.yaml").into(), t.path("b.yaml").into()]);
    fs::remove_file(t.path("a.yaml")).unwrap();
    assert_eq!(image(&t.look(), "a").as_deref(), Some("two"));
}

#[test]
fn a_name_in_two_documents_of_a_file_is_wrong() {
    let mut t = Fixture::new();
    t.write("a.yaml", &format!("{}---\n{}", manifest("a", "one"), manifest("a", "two")));
    let snapshot = t.settle();
    assert!(problem(&snapshot, "a").message.contains("a.yaml (2 documents)"), "{}", problem(&snapshot, "a").message);
}

#[test]
fn pipes_directories_and_link_loops_are_problems_and_never_block() {
    let mut t = Fixture::new();
    rustix::fs::mknodat(rustix::fs::CWD, t.path("fifo.yaml"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::create_dir(t.path("dir.yaml")).unwrap();
    symlink("loop.yaml", t.path("loop.yaml")).unwrap();
    symlink("nowhere", t.path("dangling.yaml")).unwrap();
    symlink("/dev/zero", t.path("zero.yaml")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(t.path("socket.yaml")).unwrap();
    t.write("a.yaml", &manifest("a", "one"));
    let snapshot = t.settle();
    let told: Vec<_> = snapshot.listing.problems.values().map(|problem| problem.message.as_str()).collect();
    assert_eq!(told.len(), 6, "{told:#?}");
    for (name, why) in [
        ("fifo.yaml", "named pipe"),
        ("dir.yaml", "a directory"),
        ("loop.yaml", "symbolic link"),
        ("dangling.yaml", "leads nowhere"),
        ("zero.yaml", "a device"),
        ("socket.yaml", "a socket"),
    ] {
        assert!(
            snapshot.listing.problems[&t.path(name)].message.contains(why),
            "{name}: {:?}",
            snapshot.listing.problems[&t.path(name)]
        );
    }
    assert!(image(&snapshot, "a").is_some());
}

#[test]
fn a_file_over_one_mebibyte_is_not_read() {
    let mut t = Fixture::new();
    let mut text = manifest("a", "one");
    text.push('#');
    let padding = usize::try_from(super::super::MAX_FILE).unwrap() - text.len();
    t.write("a.yaml", &format!("{text}{}", "x".repeat(padding)));
    assert!(image(&t.settle(), "a").is_some(), "exactly the bound is read");
    t.write("a.yaml", &format!("{text}{}", "x".repeat(padding + 1)));
    let snapshot = t.settle();
    assert!(snapshot.listing.entries.is_empty());
    assert!(snapshot.listing.problems[&t.path("a.yaml")].message.contains("1048577 bytes"));
}

#[test]
fn a_file_that_may_not_be_read_is_a_problem_until_it_may() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        println!("SKIP a_file_that_may_not_be_read_is_a_problem_until_it_may: needs a user other than root");
        return;
    }
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    fs::set_permissions(t.path("a.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    assert!(t.settle().listing.problems[&t.path("a.yaml")].message.contains("Permission denied"));
    fs::set_permissions(t.path("a.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(image(&t.settle(), "a").is_some());
}

#[test]
fn namespaces_keep_names_apart() {
    let mut t = Fixture::new();
    let other = manifest("a", "two").replace("{name: a}", "{name: a, namespace: team}");
    t.write("a.yaml", &format!("{}---\n{other}", manifest("a", "one")));
    let snapshot = t.settle();
    assert_eq!(image(&snapshot, "a").as_deref(), Some("one"));
    assert!(matches!(snapshot.listing.entries[&Key::new("team", "a")], Entry::Valid { .. }));
}

#[test]
fn an_entry_is_the_same_one_as_long_as_its_files_and_what_was_read_of_them_are() {
    let mut t = Fixture::new();
    t.write("a.yaml", &manifest("a", "one"));
    t.write("b.yaml", &manifest("b", "[1]"));
    t.write("c.yaml", &format!("{}---\n{}", manifest("c", "one"), manifest("c", "two")));
    let mut before = t.settle();
    for (file, text, changed) in [
        ("d.yaml", manifest("d", "one"), "d"),
        ("a.yaml", manifest("a", "two"), "a"),
        ("b.yaml", manifest("b", "{}"), "b"),
        ("b.yaml", manifest("b", "one"), "b"),
    ] {
        t.write(file, &text);
        let after = t.settle();
        for (key, entry) in &before.listing.entries {
            assert_eq!(entry.is(&after.listing.entries[key]), key.name != changed, "{key} after {file}");
        }
        before = after;
    }
}
