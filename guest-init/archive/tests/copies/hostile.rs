//! Archives that want to be somewhere else.

use std::{fs, os::unix::fs::symlink, path::Path};

use microagent_archive::{Error, What};

use crate::{archive, how, named, put, tree};

/// Unpacks below `in` of a directory that has also `out`, with a file; gives the error. Nothing outside may have changed.
fn refused(entries: &[(u8, &str, &str, &[u8])], what: What) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("in")).unwrap();
    fs::create_dir(root.join("out")).unwrap();
    fs::write(root.join("out/secret"), "secret").unwrap();
    symlink("../out", root.join("in/up")).unwrap();
    symlink(root.join("out"), root.join("in/absolute")).unwrap();
    let error = put(&archive(entries), &how(&root, "/in", what)).unwrap_err();
    assert_eq!(tree(&root.join("out")), ["secret: secret"]);
    assert_eq!(tree(dir.path()).iter().filter(|l| !l.starts_with("root/in") && !l.starts_with("root/out")).count(), 1);
    assert!(tree(&root.join("in")).iter().all(|line| !line.contains(".microagent-cp-")), "{:?}", tree(&root));
    error
}

#[test]
fn a_name_that_leads_out_ends_it() {
    for name in ["../x", "/x", "a/../../x", "..", "src/../../out/secret"] {
        let error = refused(&[(b'0', name, "", b"evil")], What::Entries);
        assert!(matches!(error, Error::Refused { .. }), "{name}: {error}");
        let error = refused(&[(b'5', "src", "", b""), (b'0', name, "", b"evil")], named("src"));
        assert!(matches!(error, Error::Refused { .. }), "{name}: {error}");
    }
    let error = refused(&[(b'5', "src", "", b""), (b'0', "other", "", b"evil")], named("src"));
    assert!(error.to_string().contains("does not lie below the first"), "{error}");
    let error = refused(&[(b'0', "a/b", "", b"evil")], named("src"));
    assert!(error.to_string().contains("not the top"), "{error}");
}

#[test]
fn no_link_is_followed_whether_it_was_there_or_came_with_the_archive() {
    for link in ["up", "absolute"] {
        let error = refused(&[(b'0', &format!("{link}/secret"), "", b"evil")], What::Entries);
        assert!(error.to_string().contains("links are not followed"), "{error}");
        let error = refused(&[(b'5', link, "", b"")], What::Entries);
        assert!(error.to_string().contains("links are not followed"), "{error}");
    }
    for target in ["../out", "/out", "/"] {
        let entries = [(b'2', "l", target, &b""[..]), (b'0', "l/secret", "", b"evil")];
        assert!(refused(&entries, What::Entries).to_string().contains("links are not followed"));
        let entries = [(b'5', "s", "", &b""[..]), (b'2', "s/l", target, b""), (b'0', "s/l/secret", "", b"evil")];
        assert!(refused(&entries, named("s")).to_string().contains("links are not followed"));
    }
}

#[test]
fn a_hard_link_leads_to_nothing_outside() {
    for target in ["../out/secret", "/out/secret", "up/secret", "absolute/secret", "none", "up", ""] {
        let error = refused(&[(b'1', "mine", target, b"")], What::Entries);
        assert!(matches!(error, Error::Refused { .. } | Error::Failed { doing: "link", .. }), "{target}: {error:?}");
    }
    let error = refused(&[(b'5', "s", "", b""), (b'1', "s/mine", "up/secret", b"")], named("s"));
    assert!(error.to_string().contains("other name does not lie below"), "{error}");
}

#[test]
fn a_file_that_was_replaced_by_a_link_is_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("victim"), "as it was").unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    let entries = archive(&[(b'2', "f", "../victim", b""), (b'0', "f", "", b"evil")]);
    put(&entries, &how(dir.path(), "/in", What::Entries)).unwrap();
    assert_eq!(tree(dir.path()), ["in/", "in/f: evil", "victim: as it was"]);
}

#[test]
fn what_is_no_file_is_left_out_and_told_and_special_bits_are_not_given() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let entries = archive(&[(b'3', "c", "", b""), (b'4', "b", "", b""), (b'6', "p", "", b""), (b'0', "f", "", b"x")]);
    let (count, problems) = put(&entries, &how(dir.path(), "/", What::Entries)).unwrap();
    assert_eq!((count.entries, problems.len()), (1, 3));
    assert!(problems[0].contains("/c: a device is not copied"), "{problems:?}");
    assert_eq!(tree(dir.path()), ["f: x"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&dir.path().join("f")), 0o644);
    put(&entries, &microagent_archive::Unpack { special_bits: true, ..how(dir.path(), "/", What::Entries) }).unwrap();
    assert_eq!(mode(&dir.path().join("f")), 0o6644);
}

#[test]
fn a_cut_leaves_what_was_whole_and_no_part_of_a_file() {
    let bytes = archive(&[(b'5', "s", "", b""), (b'0', "s/a", "", b"whole"), (b'0', "s/b", "", &[b'b'; 2000])]);
    let end = bytes.len() - 1024;
    for cut in (0..end).step_by(100).chain([end]) {
        let dir = tempfile::tempdir().unwrap();
        let mut count = microagent_archive::Count::default();
        let error =
            microagent_archive::unpack(&bytes[..cut], &how(dir.path(), "/", named("s")), &mut count).unwrap_err();
        assert!(matches!(error, Error::Broken { .. }), "cut at {cut}: {error}");
        let left = tree(dir.path());
        assert!(
            left.iter().all(|line| ["s/", "s/a: whole"].contains(&line.as_str()) || line.len() == 2005),
            "cut at {cut}: {left:?}"
        );
        assert_eq!(left.len() as u64, count.entries, "cut at {cut}");
    }
}

#[test]
fn arbitrary_bytes_are_an_error_and_never_more() {
    use proptest::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let whole =
        archive(&[(b'5', "s", "", b""), (b'0', "s/a", "", b"a"), (b'L', "x", "", b"long\0"), (b'0', "s/b", "", b"b")]);
    proptest!(ProptestConfig::with_cases(500), |(at in 0..whole.len(), with: Vec<u8>)| {
        let mut bytes = whole.clone();
        for (to, from) in bytes[at..].iter_mut().zip(&with) {
            *to = *from;
        }
        let _ = put(&bytes, &how(dir.path(), "/", What::Entries));
    });
}
