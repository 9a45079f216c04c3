//! Disks, read with a reader that shares no code with the builder.

use std::{
    collections::BTreeMap,
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use mkext4::{
    reader::Fs,
    spec::inode::{FileType, Inode},
};

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// What there is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds that count forward.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) links: u32,
    /// The first path of the same inode.
    pub(crate) first: Vec<u8>,
}

/// By path; the root is the empty one.
pub(crate) type Paths = BTreeMap<Vec<u8>, Seen>;

pub(crate) fn is_file_system(disk: &File) -> bool {
    let mut magic = [0; 2];
    disk.read_exact_at(&mut magic, 1024 + 0x38).is_ok() && magic == [0x53, 0xef]
}

/// All structures must be sound, and every name must lead to an inode in use.
pub(crate) fn verify(disk: &File) -> Fs<&File> {
    let fs = Fs::open(disk).unwrap();
    let mut issues = fs.verify().unwrap();
    // Reserved inodes without use are all zero, which e2fsprogs and the kernel take for sound.
    let reserved = [1, 3, 4, 5, 6, 7, 8, 9, 10].map(|number| format!("inode {number}: corrupt inode"));
    issues.retain(|issue| !reserved.iter().any(|start| issue.what.starts_with(start.as_str())));
    assert!(issues.is_empty(), "{issues:?}");
    fs
}

/// Now and then `e2fsck` looks too, where it is installed: it counts blocks and links, which the reader does not.
fn check(disk: &File) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    if !CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
        return;
    }
    let path = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
    if let Ok(output) = Command::new("e2fsck").args(["-fn", &path]).output() {
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    }
}

/// All there is on the disk.
pub(crate) fn read(disk: &File) -> Paths {
    check(disk);
    let fs = verify(disk);
    let mut paths = Paths::new();
    let mut numbers: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut todo = vec![(Vec::new(), 2)];
    while let Some((path, number)) = todo.pop() {
        let inode = fs.inode(number).unwrap();
        assert!(fs.inode_in_use(number).unwrap());
        if inode.file_type() == FileType::Dir {
            let mut entries = fs.read_dir(number).unwrap();
            entries.retain(|entry| entry.name != b"." && entry.name != b"..");
            for entry in entries {
                let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                todo.push(([&path, separator, &entry.name].concat(), entry.inode));
            }
        }
        numbers.insert(path.clone(), number);
        paths.insert(path.clone(), seen(&fs, number, &inode));
    }
    let mut first: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for (path, number) in &numbers {
        first.entry(*number).or_insert_with(|| path.clone());
    }
    for (path, seen) in &mut paths {
        seen.first.clone_from(&first[&numbers[path]]);
    }
    paths
}

fn seen(fs: &Fs<&File>, number: u32, inode: &Inode) -> Seen {
    let device = || inode.dev_numbers().unwrap();
    let kind = match inode.file_type() {
        FileType::Dir => Kind::Directory,
        FileType::Regular => Kind::File(fs.read_file(number).unwrap()),
        FileType::Symlink => Kind::Symlink(fs.symlink_target(number).unwrap()),
        FileType::CharDev => Kind::Char(device().0, device().1),
        FileType::BlockDev => Kind::Block(device().0, device().1),
        FileType::Fifo => Kind::Fifo,
        other => panic!("inode {number} is {other:?}"),
    };
    let xattrs = fs.xattrs(number).unwrap();
    Seen {
        kind,
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime: Inode::timestamp(inode.mtime, inode.mtime_extra),
        xattrs: xattrs.into_iter().map(|xattr| (xattr.full_name().unwrap(), xattr.value)).collect(),
        links: inode.links_count.into(),
        first: Vec::new(),
    }
}

/// Says at which path two trees differ.
pub(crate) fn compare(expected: &Paths, found: &Paths) {
    for (path, seen) in expected {
        let shown = String::from_utf8_lossy(path);
        match found.get(path) {
            None => panic!("{shown:?} is missing"),
            Some(other) => assert_eq!(seen, other, "{shown:?}: expected left, found right"),
        }
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{:?} should not be there", String::from_utf8_lossy(path));
    }
}
