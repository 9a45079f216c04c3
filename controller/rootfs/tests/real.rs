//! Real images: what the kernel sees of the disk, and what a reader that is not ours sees, is what `umoci` unpacks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use microagent_base::{Digest, Silent, digest::Hasher};
use microagent_rootfs::{Layer, Options, build};
use mkext4::{
    reader::Fs,
    spec::inode::{FileType, Inode},
};
use rustix::fs::{major, minor};
use serde_json::Value;
use support::{Disk, options};

/// What is compared of a file. Directories have no size, which is the file system's affair.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    /// File type and permissions.
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: (u32, u32),
    size: u64,
    links: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The digest of the contents, or the target of the link.
    content: String,
    /// The first path of the same inode.
    first: Vec<u8>,
}

type Records = BTreeMap<Vec<u8>, Record>;

/// The folder with the images, or why there is none.
fn images() -> Option<&'static Path> {
    static IMAGES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = IMAGES.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/real-images");
        let output = Command::new(script).arg("test").output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()));
        }
        Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned())
    });
    match made {
        Ok(path) => Some(path),
        Err(why) => {
            println!("SKIP real images: {why}");
            None
        }
    }
}

fn layers(image: &Path) -> Vec<Layer> {
    let path = |digest: &str| image.join("blobs").join(digest.replace(':', "/"));
    let json = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let manifest = json(path(&text(&json(image.join("index.json"))["manifests"][0]["digest"])));
    let config = json(path(&text(&manifest["config"]["digest"])));
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let layer = |(layer, diff_id): (&Value, &Value)| Layer {
        blob: Box::new(File::open(path(&text(&layer["digest"]))).unwrap()),
        digest: text(&layer["digest"]).parse().unwrap(),
        size: layer["size"].as_u64().unwrap(),
        diff_id: text(diff_id).parse().unwrap(),
    };
    manifest["layers"].as_array().unwrap().iter().zip(diff_ids).map(layer).collect()
}

/// Builds an image on several threads and on one, and compares the disk with what `umoci` makes of the image.
fn check(name: &str, least: usize, look: impl Fn(&Records)) {
    let Some(image) = images().map(|images| images.join(name)) else { return };
    let (disk, _) = Disk::build(layers(&image));
    let (again, out) = Disk::new();
    build(layers(&image), &out, &Options { threads: 1, ..options() }, &Silent).unwrap();
    assert!(disk.digest() == again.digest(), "one thread makes another disk");
    drop(again);

    let mut found = read_disk(&File::open(&disk.path).unwrap());
    assert!(found.len() >= least, "{}", found.len());
    look(&found);
    if let Some(mount) = disk.mount("ro,loop") {
        compare("the kernel", &found, &read_tree(&mount.at));
    }
    if !rustix::process::geteuid().is_root() || Command::new("umoci").arg("--version").output().is_err() {
        println!("SKIP the comparison with umoci: needs root and umoci");
        return;
    }
    let tree = disk.directory.path().join("umoci");
    let source = format!("{}:latest", image.display());
    let output = Command::new("umoci").args(["raw", "unpack", "--image", &source]).arg(&tree).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut theirs = read_tree(&tree);
    // No layer of some images names the root, whose time is then the reader's choice.
    let (our_root, their_root) = (found.get_mut(&b""[..]).unwrap(), theirs.get_mut(&b""[..]).unwrap());
    if our_root.mtime == (options().created, 0) {
        our_root.mtime = their_root.mtime;
    }
    // Go takes a record without a value for none.
    for record in found.values_mut() {
        record.xattrs.retain(|_, value| !value.is_empty());
    }
    compare("umoci", &found, &theirs);
}

fn compare(who: &str, ours: &Records, theirs: &Records) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path))) {
        if ours.get(path) != theirs.get(path) {
            let shown = String::from_utf8_lossy(path);
            differences.push(format!("{shown:?}\n  ours {:?}\n  {who} {:?}", ours.get(path), theirs.get(path)));
        }
    }
    let some = differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences:\n{some}", differences.len());
}

/// The number that the paths of an inode share, replaced by the first of them.
fn first_paths(inodes: &BTreeMap<Vec<u8>, u64>, records: &mut Records) {
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, inode) in inodes {
        first.entry(*inode).or_insert_with(|| path.clone());
    }
    for (path, record) in records {
        record.first.clone_from(&first[&inodes[path]]);
    }
}

/// A tree as the kernel shows it.
fn read_tree(root: &Path) -> Records {
    let (mut records, mut inodes) = (Records::new(), BTreeMap::new());
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        // Without a slash at the end, which would be followed.
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        if kind.is_dir() {
            todo.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        let content = match () {
            () if kind.is_symlink() => format!("{:?}", fs::read_link(&full).unwrap().as_os_str().as_bytes()),
            () if kind.is_file() => Digest::of_reader(&mut File::open(&full).unwrap()).unwrap().0.to_string(),
            () => String::new(),
        };
        let device = meta.rdev();
        inodes.insert(path.as_os_str().as_bytes().to_vec(), meta.ino());
        let record = Record {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: (major(device), minor(device)),
            size: if kind.is_dir() { 0 } else { meta.size() },
            // Not every file system counts what is in a directory.
            links: if kind.is_dir() { 0 } else { meta.nlink() },
            xattrs: xattrs(&full),
            content,
            first: Vec::new(),
        };
        records.insert(path.as_os_str().as_bytes().to_vec(), record);
    }
    first_paths(&inodes, &mut records);
    records
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// A disk as a reader that shares no code with the builder shows it.
fn read_disk(disk: &File) -> Records {
    let fs = Fs::open(disk).unwrap();
    let (mut records, mut inodes) = (Records::new(), BTreeMap::new());
    let mut todo = vec![(Vec::new(), 2)];
    while let Some((path, number)) = todo.pop() {
        let inode = fs.inode(number).unwrap();
        let kind = inode.file_type();
        if kind == FileType::Dir {
            for entry in fs.read_dir(number).unwrap() {
                if entry.name != b"." && entry.name != b".." {
                    let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    todo.push(([&path, separator, &entry.name].concat(), entry.inode));
                }
            }
        }
        let content = match kind {
            FileType::Symlink => format!("{:?}", fs.symlink_target(number).unwrap()),
            FileType::Regular => digest(&fs, number, &inode).to_string(),
            _ => String::new(),
        };
        let (seconds, nanos) = Inode::timestamp(inode.mtime, inode.mtime_extra);
        inodes.insert(path.clone(), number.into());
        let record = Record {
            mode: inode.mode.into(),
            owner: (inode.uid, inode.gid),
            mtime: (seconds, nanos.into()),
            device: inode.dev_numbers().unwrap_or_default(),
            size: if kind == FileType::Dir { 0 } else { inode.size },
            links: if kind == FileType::Dir { 0 } else { inode.links_count.into() },
            xattrs: fs
                .xattrs(number)
                .unwrap()
                .into_iter()
                .map(|xattr| {
                    let name = xattr.full_name().unwrap();
                    let acl = name.starts_with(b"system.posix_acl_");
                    let value = if acl { acl_of_disk(&xattr.value) } else { xattr.value };
                    (name, value)
                })
                .collect(),
            content,
            first: Vec::new(),
        };
        records.insert(path, record);
    }
    first_paths(&inodes, &mut records);
    records
}

fn digest(fs: &Fs<&File>, number: u32, inode: &Inode) -> Digest {
    let extents = fs.extents(number, inode).unwrap();
    let mut hasher = Hasher::new();
    let mut at = 0;
    while at < inode.size {
        let mut piece = vec![0; (inode.size - at).min(1 << 20) as usize];
        fs.read_file_at(inode, &extents, at, &mut piece).unwrap();
        hasher.update(&piece);
        at += piece.len() as u64;
    }
    hasher.finish()
}

/// An access control list as system calls give it: ext4 leaves out the ids of those entries that have none.
fn acl_of_disk(value: &[u8]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    let mut rest = &value[4..];
    while let Some((entry, more)) = rest.split_first_chunk::<4>() {
        out.extend(entry);
        let named = matches!(entry[0], 2 | 8);
        let (id, more) = if named { more.split_at(4) } else { (&[0xff; 4][..], more) };
        out.extend(id);
        rest = more;
    }
    out
}

#[test]
fn a_distribution_is_what_others_unpack() {
    check("base", 5000, |_| {});
}

#[test]
fn an_image_of_thousands_of_python_files_is_what_others_unpack() {
    check("python", 9000, |found| {
        let capable = found.values().filter(|record| record.xattrs.contains_key(&b"security.capability"[..]));
        assert!(capable.count() > 0);
        assert!(!found.contains_key(&b"var/lib/apt/lists"[..]));
    });
}

#[test]
fn every_kind_of_file_and_attribute_is_what_others_unpack() {
    check("special", 12_000, |found| {
        let of = |name: &str| &found[name.as_bytes()];
        assert_eq!(of("special/third").links, 3);
        assert_eq!(of("special/wide").device, (259, 70_000));
        assert_eq!(of("special/time1700000000.123456789").mtime, (1_700_000_000, 123_456_789));
        assert_eq!(of("special/setuid").owner, (70_000, 4_294_967_294));
        let attributes = &of("special/attributes").xattrs;
        assert!(attributes.contains_key(&b"system.posix_acl_access"[..]) && attributes.len() == 4, "{attributes:?}");
        assert_eq!(of("special/capable-for-1000").xattrs[&b"security.capability"[..]].len(), 24);
    });
}

#[test]
fn a_hundred_small_layers_are_what_others_unpack() {
    check("many", 100, |found| {
        assert!(found.contains_key(&b"link/own"[..]) && found.contains_key(&b"all/current"[..]))
    });
}
