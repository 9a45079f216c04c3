//! Where things go: the rules of `docker cp`.

use std::{fs, os::unix::fs::symlink};

use microagent_archive::{Error, What};

use crate::{READING, archive, how, named, packed, put, tree};

/// A root with a directory `there`, a file `file`, and links to both and to nothing.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("there")).unwrap();
    fs::write(dir.path().join("file"), "old").unwrap();
    symlink("/there", dir.path().join("to-there")).unwrap();
    symlink("../../file", dir.path().join("to-file")).unwrap();
    symlink("there/new", dir.path().join("to-nothing")).unwrap();
    dir
}

const BEFORE: [&str; 5] =
    ["file: old", "there/", "to-file -> ../../file", "to-nothing -> there/new", "to-there -> /there"];

/// What there is afterwards that was not before; or why not.
fn changed(bytes: &[u8], to: &str, what: What) -> String {
    let root = root();
    match put(bytes, &how(root.path(), to, what)) {
        Ok((_, problems)) => {
            assert!(problems.is_empty(), "{problems:?}");
            tree(root.path()).into_iter().filter(|l| !BEFORE.contains(&l.as_str())).collect::<Vec<_>>().join(" ")
        }
        Err(e) => {
            assert_eq!(tree(root.path()), BEFORE, "nothing is left of what failed");
            assert!(matches!(e, Error::Destination { .. } | Error::Failed { .. }), "{e:?}");
            e.to_string()
        }
    }
}

#[test]
fn a_file_goes_into_a_directory_or_gets_the_name_of_the_place() {
    let bytes = archive(&[(b'0', "src", "", b"new")]);
    for (to, expected) in [
        ("/there", "there/src: new"),
        ("/there/", "there/src: new"),
        ("/to-there", "there/src: new"),
        ("/", "src: new"),
        ("/there/other", "there/other: new"),
        ("/to-there/other", "there/other: new"),
        ("/to-there/../other", "other: new"),
        ("/file", "file: new"),
        ("/to-file", "file: new"),
        ("/to-nothing", "there/new: new"),
        ("/../../file", "file: new"),
        ("/there/..", "src: new"),
    ] {
        assert_eq!(changed(&bytes, to, named("src")), expected, "{to}");
    }
    for (to, why) in [
        ("/new/", "there is no such directory"),
        ("/file/", "there is no such directory"),
        ("/no/new", "there is no directory /no: make it first"),
        ("/file/new", "/file is no directory"),
        ("/no/..", "leads to no directory"),
    ] {
        let told = changed(&bytes, to, named("src"));
        assert!(told.contains(why), "{to}: {told}");
    }
}

#[test]
fn a_directory_goes_into_a_directory_or_becomes_the_place_and_never_a_file() {
    let bytes = archive(&[(b'5', "src/", "", b""), (b'0', "src/a", "", b"A")]);
    for (to, expected, contents) in [
        ("/there", "there/src/ there/src/a: A", "there/a: A"),
        ("/to-there", "there/src/ there/src/a: A", "there/a: A"),
        ("/new", "new/ new/a: A", "new/ new/a: A"),
        ("/new/", "new/ new/a: A", "new/ new/a: A"),
        ("/to-nothing", "there/new/ there/new/a: A", "there/new/ there/new/a: A"),
    ] {
        assert_eq!(changed(&bytes, to, named("src")), expected, "{to}");
        assert_eq!(changed(&bytes, to, What::Contents), contents, "{to}");
    }
    for what in [named("src"), What::Contents] {
        for (to, why) in [
            ("/file", "a directory cannot be copied onto a file"),
            ("/to-file", "a directory cannot be copied onto a file"),
            ("/no/new", "make it first"),
        ] {
            let told = changed(&bytes, to, what.clone());
            assert!(told.contains(why), "{to}: {told}");
        }
    }
    let told = changed(&archive(&[(b'0', "src", "", b"x")]), "/there", What::Contents);
    assert!(told.contains("has no contents"), "{told}");
}

#[test]
fn what_is_there_is_replaced_by_its_like_and_by_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("to/src/d")).unwrap();
    fs::write(root.join("to/src/f"), "old").unwrap();
    fs::write(root.join("to/src/kept"), "kept").unwrap();
    fs::hard_link(root.join("to/src/f"), root.join("other")).unwrap();
    symlink("kept", root.join("to/src/l")).unwrap();
    let bytes = archive(&[(b'5', "src", "", b""), (b'0', "src/f", "", b"new"), (b'0', "src/l", "", b"no link")]);
    let (count, _) = put(&bytes, &how(root, "/to", named("src"))).unwrap();
    assert_eq!((count.entries, count.bytes), (3, 10));
    assert_eq!(tree(&root.join("to/src")), ["d/", "f: new", "kept: kept", "l: no link"]);
    assert_eq!(fs::read(root.join("other")).unwrap(), b"old", "the file under its other name is as it was");
    for (entry, why) in [
        ((b'0', "src/d", "", &b"x"[..]), "put into place"),
        ((b'5', "src/f", "", b""), "there is no directory"),
        ((b'0', "src/f/x", "", b""), "no directory"),
    ] {
        let error = put(&archive(&[(b'5', "src", "", b""), entry]), &how(root, "/to", named("src"))).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(tree(&root.join("to/src")), ["d/", "f: new", "kept: kept", "l: no link"]);
}

#[test]
fn an_archive_is_unpacked_to_a_directory_that_is_there() {
    let bytes = archive(&[
        (b'5', "./", "", b""),
        (b'0', "./a/b/c", "", b"C"),
        (b'1', "d", "a/b/c", b""),
        (b'2', "e", "a", b""),
    ]);
    assert_eq!(changed(&bytes, "/there", What::Entries), "there/a/ there/a/b/ there/a/b/c: C there/d: C there/e -> a");
    assert_eq!(changed(&archive(&[]), "/there", What::Entries), "");
    for to in ["/file", "/new", "/new/"] {
        assert!(changed(&bytes, to, What::Entries).contains("a directory that is there"), "{to}");
    }
}

#[test]
fn a_link_is_packed_as_one_unless_it_is_to_be_followed() {
    let root = root();
    let names = |path: &str, follow| {
        let bytes = packed(root.path(), path, microagent_archive::Reading { follow, ..READING });
        let mut read = tar::Archive::new(&bytes[..]);
        let entry = read.entries().unwrap().next().unwrap().unwrap();
        format!("{} {:?}", entry.path().unwrap().display(), entry.header().entry_type())
    };
    assert_eq!(names("/to-file", false), "to-file Symlink");
    assert_eq!(names("/to-file", true), "to-file Regular");
    assert_eq!(names("/to-there", false), "to-there Symlink");
    assert_eq!(names("/to-there/", false), "to-there/ Directory", "a slash follows it");
}
