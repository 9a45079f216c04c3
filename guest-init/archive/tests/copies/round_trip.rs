//! What was packed is unpacked as it was.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, FileTimes},
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use microagent_archive::What;
use proptest::{collection::vec, prelude::*};

use crate::{READING, how, named, packed, put};

/// Something in a tree. Names may be in it twice.
#[derive(Clone, Debug)]
enum Node {
    File { content: Vec<u8>, mode: u32, seconds: u64 },
    Link(Vec<u8>),
    Directory { mode: u32, seconds: u64, nodes: Vec<(Vec<u8>, Node)> },
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no byte of a name", |b| *b != 0 && *b != b'/');
    let any = vec(byte, 1..255).prop_filter("no name", |n| n != b"." && n != b"..");
    prop_oneof![3 => "[a-z]{1,3}".prop_map(String::into_bytes), 1 => any]
}

fn node() -> impl Strategy<Value = Node> {
    let target = vec(any::<u8>().prop_filter("no byte of a link", |b| *b != 0), 1..300);
    let seconds = 0..4_000_000_000u64;
    let leaf =
        prop_oneof![
            (vec(any::<u8>(), 0..3000), 0..0o1000u32, seconds.clone())
                .prop_map(|(content, mode, seconds)| Node::File { content, mode: mode | 0o400, seconds }),
            target.prop_map(Node::Link),
        ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        (0..0o1000u32, seconds.clone(), vec((name(), inner), 0..5)).prop_map(|(mode, seconds, nodes)| Node::Directory {
            mode: mode | 0o700,
            seconds,
            nodes,
        })
    })
}

fn make(path: &Path, node: &Node) {
    if path.symlink_metadata().is_ok() {
        return;
    }
    let (mode, seconds) = match node {
        Node::File { content, mode, seconds } => {
            fs::write(path, content).unwrap();
            (mode, seconds)
        }
        Node::Link(target) => return symlink(OsString::from_vec(target.clone()), path).unwrap(),
        Node::Directory { mode, seconds, nodes } => {
            fs::create_dir(path).unwrap();
            nodes.iter().for_each(|(name, node)| make(&path.join(OsString::from_vec(name.clone())), node));
            (mode, seconds)
        }
    };
    File::open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(*seconds)))
        .unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
}

/// All below `path` by its name: mode, time, and what is in it.
fn seen(path: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        let meta = at.symlink_metadata().unwrap();
        let content = if meta.is_dir() {
            left.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&at).unwrap().into_os_string().into_vec()
        } else {
            fs::read(&at).unwrap()
        };
        all.insert(at.strip_prefix(path).unwrap().to_owned(), (meta.mode(), meta.mtime(), content));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_tree_comes_out_as_it_went_in(node in node()) {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("src"), &node);
        let bytes = packed(dir.path(), "/src", READING);
        put(&bytes, &how(dir.path(), "/copy", named("src"))).unwrap();
        prop_assert_eq!(seen(&dir.path().join("src")), seen(&dir.path().join("copy")));
    }
}

#[test]
fn a_whole_root_is_copied_by_its_contents() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("a")).unwrap();
    fs::write(from.join("a/b"), "B").unwrap();
    let bytes = packed(&from, "/", READING);
    put(&bytes, &how(dir.path(), "/to", What::Contents)).unwrap();
    assert_eq!(crate::tree(&to), ["a/", "a/b: B"]);
}

#[test]
fn directories_that_nobody_may_write_to_are_filled_all_the_same_and_those_that_are_there_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::Directory {
        mode: 0o555,
        seconds: 7,
        nodes: vec![(b"f".to_vec(), Node::File { content: b"x".to_vec(), mode: 0o444, seconds: 8 })],
    };
    make(&dir.path().join("src"), &node);
    let bytes = packed(dir.path(), "/src", READING);
    put(&bytes, &how(dir.path(), "/copy", named("src"))).unwrap();
    assert_eq!(seen(&dir.path().join("copy")), seen(&dir.path().join("src")));
    let there = dir.path().join("there");
    fs::create_dir(&there).unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o750)).unwrap();
    put(&bytes, &how(dir.path(), "/there", What::Contents)).unwrap();
    assert_eq!(fs::metadata(&there).unwrap().mode() & 0o7777, 0o750);
    assert!(fs::metadata(&there).unwrap().mtime() > 7);
    // So that they can be removed.
    for path in ["src", "copy"] {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
