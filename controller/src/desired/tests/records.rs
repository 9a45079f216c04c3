//! The records beneath: on the disk before they count, and left alone when they cannot be read.

use super::*;

#[test]
fn a_workspace_is_deleted_on_demand_whatever_its_folder_says_and_once() {
    let mut t = with_a();
    assert!(t.desired.delete(&key("a"), Timestamp::UNIX_EPOCH).unwrap());
    assert!(t.on_disk("a").unwrap().deleted_at.is_some());
    assert!(!t.desired.delete(&key("a"), Timestamp::UNIX_EPOCH).unwrap());
    assert!(!t.desired.delete(&key("nobody"), Timestamp::UNIX_EPOCH).unwrap());
    t.settle();
    assert!(t.deleted("a"));
    assert!(t.desired.forget(&key("a"), Timestamp::UNIX_EPOCH).unwrap(), "its file is still there: it is made anew");
}

#[test]
fn a_forgotten_workspace_is_gone_also_after_a_restart() {
    let mut t = with_a();
    fs::remove_file(t.path("user/a.yaml")).unwrap();
    t.look();
    t.after(GRACE);
    assert!(!t.desired.forget(&key("a"), Timestamp::UNIX_EPOCH).unwrap());
    assert!(t.desired.records().get(&key("a")).is_none());
    assert!(!t.paths.workspaces().join("default").exists());
    t.restart();
    t.settle();
    assert_eq!(t.desired.records().iter().count(), 0);
}

#[test]
fn a_record_is_written_only_when_it_changes() {
    let mut t = with_a();
    assert!(!t.desired.records_mut().update(&key("a"), |_| {}).unwrap());
    assert!(!t.desired.records_mut().update(&key("nobody"), |_| {}).unwrap());
    assert!(t.desired.records_mut().update(&key("a"), |record| record.memory.setup_complete = true).unwrap());
    assert!(t.on_disk("a").unwrap().memory.setup_complete);
}

#[test]
fn an_unreadable_record_is_named_and_hinders_no_other_and_is_not_replaced() {
    let mut t = with_a();
    t.write("user/b.yaml", &manifest("b", "one"));
    t.settle();
    let path = t.paths.record(&key("a"));
    fs::write(&path, "{").unwrap();
    let temporary = path.with_file_name(".tmp-left");
    fs::write(&temporary, "").unwrap();
    t.restart();
    t.settle();
    assert!(!temporary.exists());
    assert!(t.desired.records().get(&key("b")).is_some() && t.desired.records().get(&key("a")).is_none());
    assert!(t.desired.records().unreadable()[&key("a")].message.contains("default/a.json"));
    assert_eq!(fs::read(&path).unwrap(), b"{");
    assert_eq!(t.published()[0].file, t.path("user/a.yaml"));
}

#[test]
fn what_is_no_directory_of_records_is_passed_over_but_one_that_cannot_be_listed_is_an_error() {
    let mut t = with_a();
    fs::write(t.paths.workspaces().join("stray"), "").unwrap();
    t.restart();
    assert!(t.desired.records().get(&key("a")).is_some());
    symlink("loop", t.paths.workspaces().join("loop")).unwrap();
    assert!(Desired::load(&t.paths, [t.path("user")]).is_err(), "its records would be taken for lost");
}

#[test]
fn a_record_under_another_name_is_not_taken() {
    let mut t = with_a();
    fs::copy(t.paths.record(&key("a")), t.paths.record(&key("b"))).unwrap();
    t.restart();
    assert!(t.desired.records().unreadable()[&key("b")].message.contains("of workspace default/a"));
}

#[test]
fn what_cannot_be_written_does_not_count_and_is_tried_again() {
    let mut t = with_a();
    // A directory in the record's place: no rename over it succeeds.
    let path = t.paths.record(&key("b"));
    fs::create_dir(&path).unwrap();
    t.write("user/b.yaml", &manifest("b", "one"));
    t.write("user/c.yaml", &manifest("c", "one"));
    t.look();
    t.now += QUIET_UNANNOUNCED;
    let applied = t.desired.apply(t.sources[0].scan(t.now), Timestamp::UNIX_EPOCH);
    assert_eq!(applied.failures.len(), 1);
    assert_eq!(applied.changed, [key("c")]);
    assert!(t.desired.records().get(&key("b")).is_none());
    fs::remove_dir(&path).unwrap();
    assert_eq!(t.look().changed, [key("b")]);
}
