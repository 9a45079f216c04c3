//! Trees of any attributes: what is written must be what is read.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};

use super::{
    CREATED,
    archive::{Spec, dir, entry, file, hard, symlink},
    disk, layer,
    readback::{self, Kind, Paths, Seen},
};

/// A tree in one layer or in several that add to each other; the disk must be it.
pub fn tree(data: &[u8]) -> bool {
    let mut u = Unstructured::new(data);
    let mut tree = Tree::new();
    let mut layers = Vec::new();
    while !u.is_empty() && layers.len() < 3 {
        // What the bytes were too few for is left out.
        let _ = tree.grow(&mut u);
        layers.push(layer(&mut u, &std::mem::take(&mut tree.entries)));
    }
    let disk = disk(layers).unwrap_or_else(|e| panic!("{e}"));
    readback::compare(&tree.paths, &readback::read(&disk));
    true
}

struct Tree {
    entries: Vec<Spec>,
    paths: Paths,
    directories: Vec<Vec<u8>>,
    /// Paths that hard links can be made to.
    files: Vec<Vec<u8>>,
}

impl Tree {
    fn new() -> Self {
        let root = Seen {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (CREATED, 0),
            xattrs: BTreeMap::new(),
            links: 2,
            first: Vec::new(),
        };
        Self {
            entries: Vec::new(),
            paths: Paths::from([(Vec::new(), root)]),
            directories: vec![Vec::new()],
            files: Vec::new(),
        }
    }

    fn grow(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..u.int_in_range(0..=40)? {
            let parent = u.choose(&self.directories)?.clone();
            if u.ratio(1, 20)? {
                // Enough for a directory of several blocks.
                for i in 0..u.int_in_range(0..=900)? {
                    self.put(&parent, format!("a name of some length {i}").as_bytes(), plain());
                }
                continue;
            }
            let Some(name) = name(u)? else { continue };
            if !self.files.is_empty() && u.ratio(1, 8)? {
                let target = u.choose(&self.files)?.clone();
                self.link(&parent, &name, &target);
            } else {
                let seen = seen(u)?;
                self.put(&parent, &name, seen);
            }
        }
        Ok(())
    }

    fn put(&mut self, parent: &[u8], name: &[u8], seen: Seen) {
        let path = join(parent, name);
        if path.len() > 4000 || path.split(|&b| b == b'/').count() > 200 || self.paths.contains_key(&path) {
            return;
        }
        self.entries.push(spec(&path, &seen));
        if seen.kind == Kind::Directory {
            self.directories.push(path.clone());
            if let Some(parent) = self.paths.get_mut(parent) {
                parent.links += 1;
            }
        } else {
            self.files.push(path.clone());
        }
        self.paths.insert(path.clone(), Seen { first: path, ..seen });
    }

    fn link(&mut self, parent: &[u8], name: &[u8], target: &[u8]) {
        let path = join(parent, name);
        if path.len() > 4000 || self.paths.contains_key(&path) {
            return;
        }
        self.entries.push(long(hard(&path, target), &path));
        let old = self.paths[target].first.clone();
        let mut linked = self.paths[target].clone();
        linked.links += 1;
        linked.first = old.clone().min(path.clone());
        self.paths.insert(path, Seen { first: old.clone(), ..linked.clone() });
        for seen in self.paths.values_mut().filter(|seen| seen.first == old) {
            seen.clone_from(&linked);
        }
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Any bytes that can be a name, but for those that mean a whiteout.
fn name(u: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
    let length = u.int_in_range(1..=255)?;
    let name: Vec<u8> = u.bytes(length.min(u.len()))?.iter().filter(|&&b| b != 0 && b != b'/').copied().collect();
    let bad = name.is_empty() || name == b"." || name == b".." || name.starts_with(b".wh.");
    Ok((!bad).then_some(name))
}

fn plain() -> Seen {
    Seen {
        kind: Kind::File(Vec::new()),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (1_600_000_000, 0),
        xattrs: BTreeMap::new(),
        links: 1,
        first: Vec::new(),
    }
}

fn seen(u: &mut Unstructured<'_>) -> Result<Seen> {
    let kind = match u.int_in_range(0..=9)? {
        0..=2 => Kind::Directory,
        3..=5 => Kind::File(content(u)?),
        6 | 7 => {
            let length = *u.choose(&[1, 59, 60, 100, 101, 4095])?;
            let byte = u.int_in_range(1..=255_u8)?;
            Kind::Symlink(vec![byte; length])
        }
        8 => match (u.arbitrary::<bool>()?, u.int_in_range(0..=0xfff)?, u.int_in_range(1..=0xf_ffff)?) {
            (true, major, minor) => Kind::Char(major, minor),
            (false, major, minor) => Kind::Block(major, minor),
        },
        _ => Kind::Fifo,
    };
    let links = if kind == Kind::Directory { 2 } else { 1 };
    let mut xattrs = BTreeMap::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let prefix = *u.choose(&["user.", "trusted.", "security."])?;
        let length = *u.choose(&[0_usize, 1, 4, 20, 300, 900])?;
        let name = format!("{prefix}{}", u.int_in_range(0..=99_999)?);
        xattrs.insert(name.into_bytes(), vec![u.arbitrary()?; length]);
    }
    Ok(Seen {
        kind,
        mode: u.int_in_range(0..=0o7777)?,
        uid: u.arbitrary()?,
        gid: u.arbitrary()?,
        // What ext4 can hold: 1901 to 2446.
        mtime: (
            u.int_in_range(i64::from(i32::MIN)..=(1 << 34) + i64::from(i32::MIN) - 1)?,
            u.int_in_range(0..=999_999_999)?,
        ),
        xattrs,
        links,
        first: Vec::new(),
    })
}

/// Runs of zeros and of other bytes, on and off the boundaries of blocks and holes.
fn content(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    for _ in 0..u.int_in_range(0..=4)? {
        let length = *u.choose(&[1, 511, 4095, 4096, 4097, 65_535, 65_536, 65_537, 131_072])?;
        let byte = if u.ratio(1, 2)? { 0 } else { u.arbitrary()? };
        content.resize(content.len() + length, byte);
    }
    Ok(content)
}

fn spec(path: &[u8], seen: &Seen) -> Spec {
    let device = |kind, major: u32, minor: u32| {
        entry(kind, path).pax("SCHILY.devmajor", major.to_string()).pax("SCHILY.devminor", minor.to_string())
    };
    let spec = match &seen.kind {
        Kind::Directory => dir(path),
        Kind::File(content) => file(path, content),
        Kind::Symlink(target) => symlink(path, target),
        Kind::Char(major, minor) => device(b'3', *major, *minor),
        Kind::Block(major, minor) => device(b'4', *major, *minor),
        Kind::Fifo => entry(b'6', path),
    };
    let mut spec = long(spec.mode(seen.mode.into()), path)
        .pax("uid", seen.uid.to_string())
        .pax("gid", seen.gid.to_string())
        .pax("mtime", decimal(seen.mtime));
    for (name, value) in &seen.xattrs {
        spec = spec.xattr(std::str::from_utf8(name).unwrap(), value);
    }
    spec
}

/// The path as a record, for those that a header would take apart or take for a directory.
fn long(spec: Spec, path: &[u8]) -> Spec {
    if path.len() > 100 { spec } else { spec.pax("path", path) }
}

/// Seconds and nanoseconds that count forward, as a signed decimal.
fn decimal((seconds, nanos): (i64, u32)) -> String {
    match (seconds, nanos) {
        (0.., _) => format!("{seconds}.{nanos:09}"),
        (_, 0) => format!("{seconds}"),
        _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}
