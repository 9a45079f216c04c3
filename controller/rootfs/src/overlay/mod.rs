//! The upper directory of an overlay as a layer: OCI image specification, `layer.md`; kernel,
//! `Documentation/filesystems/overlayfs.rst`.
//!
//! | in the upper directory | in the layer |
//! |---|---|
//! | a character device 0:0, or an empty file with `trusted.overlay.whiteout` | `.wh.NAME` |
//! | a directory with `trusted.overlay.opaque` = `y` | the directory, and `.wh..wh..opq` in it |
//! | names of one inode | a file, and hard links to it |
//! | a socket | nothing: whoever listened on it is gone |
//! | extended attributes of overlayfs (`trusted.overlay.*`, `user.overlay.*`) and of this system (`trusted.microagent.*`) | nothing |
//! | a redirect, or a file without its data | refused: overlays are mounted so that there are none |
//!
//! `user.overlay.*` mean nothing on an overlay that is mounted without `userxattr`, and anybody may write them, so they are
//! not followed; nor are they passed on, for elsewhere they might be.
//!
//! Entries come in the order of their names, a directory before what is in it, so that the same disk gives the same layer.
//! Holes become zeros, which every reader understands; they compress to next to nothing.

mod archive;
mod error;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::Write,
};

use microagent_base::{Progress, progress::Step};

pub use error::{Misfit, OverlayError};

use crate::{
    limits::{Limits, MAX_DEPTH, MAX_PATH},
    path::WHITEOUT,
    reader::{Entry, FileSystem, Inode, InodeKind},
};
use archive::{Archive, Attributes, Kind};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const XATTR_WHITEOUT: &[u8] = b"trusted.overlay.whiteout";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";
/// What begins so says something to overlayfs or to guest-init, and is none of the workload's.
const OWN: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"trusted.microagent."];

/// Progress is told, and cancelling looked for, each time this many bytes were written.
const TELL: u64 = 1 << 20;

/// What of a disk becomes a layer.
#[derive(Clone, Debug)]
pub struct LayerOptions<'a> {
    /// The upper directory, a name in the root of the disk.
    pub upper: &'a str,
    /// Paths, without a slash in front, at which an empty file or an empty directory is left out: mount points.
    pub mount_points: &'a [&'a str],
    /// Files whose names begin with the first and end with the second are left out: ones that were never finished.
    pub unfinished: (&'a str, &'a str),
    /// What the layer may cost: bytes of the archive, entries, and bytes of memory for names.
    pub limits: Limits,
}

/// What a layer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerContents {
    /// Files of all kinds, but for whiteouts.
    pub entries: u64,
    /// Names of lower layers that are gone, and directories of which all that lower layers have is.
    pub whiteouts: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
}

/// Writes the upper directory on a disk as the uncompressed archive of a layer. The disk is only read. Blocking; memory
/// follows the names of the directories that are open at one time, not the contents.
///
/// # Errors
/// See [`OverlayError`]; what was written then is of no use.
pub fn write_layer(
    disk: &File,
    out: &mut dyn Write,
    options: &LayerOptions<'_>,
    progress: &dyn Progress,
) -> Result<LayerContents, OverlayError> {
    let fs = FileSystem::open(disk)?;
    let upper = fs.find(&fs.root()?, options.upper.as_bytes())?;
    let upper = upper.filter(|inode| inode.kind == InodeKind::Directory).ok_or(OverlayError::Empty)?;
    let mut walk = Walk {
        fs: &fs,
        options,
        progress,
        archive: Archive::new(out),
        contents: LayerContents::default(),
        links: HashMap::new(),
        directories: HashSet::new(),
        memory: 0,
        told: 0,
    };
    walk.tree(&upper)?;
    let Walk { archive, contents, .. } = walk;
    archive.finish()?;
    Ok(contents)
}

/// A directory that is being written: its names, the first last.
struct Level {
    names: Vec<(Box<[u8]>, u32)>,
    /// Bytes of its path, with the slash.
    path: usize,
    /// Bytes of memory for the names.
    memory: u64,
}

struct Walk<'a> {
    fs: &'a FileSystem<'a>,
    options: &'a LayerOptions<'a>,
    progress: &'a dyn Progress,
    archive: Archive<'a>,
    contents: LayerContents,
    /// The first path of each file with more names than one.
    links: HashMap<u32, Box<[u8]>>,
    /// All directories so far: none is met twice on a sound disk, and on no disk does the walk go in a circle.
    directories: HashSet<u32>,
    memory: u64,
    told: u64,
}

impl Walk<'_> {
    fn tree(&mut self, upper: &Inode) -> Result<(), OverlayError> {
        let mut path = Vec::new();
        let mut levels = Vec::new();
        if let Some(level) = self.directory(upper, &mut path)? {
            levels.push(level);
        }
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let Some((name, number)) = level.names.pop() else {
                self.memory -= level.memory;
                levels.pop();
                continue;
            };
            path.extend_from_slice(&name);
            if path.len() >= MAX_PATH || levels.len() > MAX_DEPTH as usize {
                return Err(OverlayError::entry(&path, Misfit::TooLong));
            }
            let inode = self.fs.inode(number)?;
            if inode.kind == InodeKind::Directory {
                levels.extend(self.directory(&inode, &mut path)?);
            } else {
                self.file(&inode, &path, name.len())?;
            }
        }
        Ok(())
    }

    /// Writes the entry of a directory, unless it is a mount point; gives its names. The path, which is empty for the root,
    /// gets its slash.
    fn directory(&mut self, inode: &Inode, path: &mut Vec<u8>) -> Result<Option<Level>, OverlayError> {
        if !self.directories.insert(inode.number) {
            return Err(OverlayError::entry(path, Misfit::Twice));
        }
        let xattrs = self.fs.xattrs(inode)?;
        if xattrs.contains_key(REDIRECT) {
            return Err(OverlayError::entry(path, Misfit::Redirect));
        }
        let level = self.names(inode, path)?;
        if level.names.is_empty() && self.is_mount_point(path) {
            return Ok(None);
        }
        let name: &[u8] = if path.is_empty() { b"./" } else { path };
        self.entry(inode, name, Kind::Directory, &xattrs)?;
        // The value `x` says that there are whiteouts among the attributes of its files, no more.
        if xattrs.get(OPAQUE).is_some_and(|value| value == b"y") {
            self.whiteout(&[path.as_slice(), WHITEOUT, WHITEOUT, b".opq"].concat())?;
        }
        Ok(Some(level))
    }

    /// The names in a directory, in order, the first last. The path gets its slash.
    fn names(&mut self, inode: &Inode, path: &mut Vec<u8>) -> Result<Level, OverlayError> {
        let limit = self.options.limits.max_metadata_bytes;
        let (mut names, mut memory) = (Vec::new(), 0);
        let taken = self.memory;
        self.fs.names::<OverlayError>(inode, &mut |Entry { name, inode }| {
            memory += 48 + name.len() as u64;
            if taken + memory > limit {
                return Err(OverlayError::Limit { what: "bytes of names in memory", limit });
            }
            names.push((name.into(), inode));
            Ok(())
        })?;
        self.memory += memory;
        names.sort_by(|a: &(Box<[u8]>, u32), b| b.cmp(a));
        if let Some(pair) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(OverlayError::entry(&pair[0].0, Misfit::Twice));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        Ok(Level { names, path: path.len(), memory })
    }

    /// Writes the entry of what is no directory. `name` is the length of the last component of the path.
    fn file(&mut self, inode: &Inode, path: &[u8], name: usize) -> Result<(), OverlayError> {
        let (directory, name) = path.split_at(path.len() - name);
        if inode.kind == InodeKind::Char(0, 0) {
            return self.whiteout(&[directory, WHITEOUT, name].concat());
        }
        let (begin, end) = self.options.unfinished;
        let unfinished = name.starts_with(begin.as_bytes()) && name.ends_with(end.as_bytes());
        let is_empty = inode.kind == InodeKind::File && inode.size == 0;
        if inode.kind == InodeKind::Socket || unfinished || is_empty && self.is_mount_point(path) {
            return Ok(());
        }
        let xattrs = self.fs.xattrs(inode)?;
        if is_empty && xattrs.contains_key(XATTR_WHITEOUT) {
            return self.whiteout(&[directory, WHITEOUT, name].concat());
        }
        if xattrs.contains_key(METACOPY) {
            return Err(OverlayError::entry(path, Misfit::Metacopy));
        }
        if xattrs.contains_key(REDIRECT) {
            return Err(OverlayError::entry(path, Misfit::Redirect));
        }
        if inode.links > 1 {
            if let Some(first) = self.links.get(&inode.number).cloned() {
                return self.entry(inode, path, Kind::HardLink(&first), &BTreeMap::new());
            }
            self.remember(inode.number, path)?;
        }
        match inode.kind {
            InodeKind::File => {
                self.entry(inode, path, Kind::File(inode.size), &xattrs)?;
                self.fs.contents::<OverlayError>(inode, &mut |piece| {
                    self.archive.data(piece)?;
                    self.told += piece.len() as u64;
                    if self.told >= TELL { tell(self.progress, &mut self.told, &self.contents) } else { Ok(()) }
                })
            }
            InodeKind::Symlink => self.entry(inode, path, Kind::Symlink(&self.fs.target(inode)?), &xattrs),
            InodeKind::Char(major, minor) => self.entry(inode, path, Kind::Char(major, minor), &xattrs),
            InodeKind::Block(major, minor) => self.entry(inode, path, Kind::Block(major, minor), &xattrs),
            InodeKind::Fifo => self.entry(inode, path, Kind::Fifo, &xattrs),
            InodeKind::Directory | InodeKind::Socket => Ok(()),
        }
    }

    fn entry(
        &mut self,
        inode: &Inode,
        path: &[u8],
        kind: Kind<'_>,
        xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), OverlayError> {
        let name = path.strip_suffix(b"/").unwrap_or(path).rsplit(|&b| b == b'/').next().unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            return Err(OverlayError::entry(path, Misfit::WhiteoutName));
        }
        let kept: BTreeMap<_, _> = xattrs
            .iter()
            .filter(|(name, _)| !OWN.iter().any(|own| name.starts_with(own)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if let Some(name) = kept.keys().find(|name| name.contains(&b'=')) {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(OverlayError::entry(path, Misfit::Xattr(name)));
        }
        self.contents.entries += 1;
        if let Kind::File(size) = kind {
            let limit = self.options.limits.max_content_bytes;
            self.contents.bytes = self.contents.bytes.saturating_add(size);
            if self.contents.bytes > limit {
                return Err(OverlayError::Limit { what: "bytes of files, holes included", limit });
            }
        }
        self.counted()?;
        let attributes =
            Attributes { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs: Some(&kept) };
        self.archive.entry(path, kind, &attributes)
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), OverlayError> {
        self.contents.whiteouts += 1;
        self.counted()?;
        self.archive.entry(path, Kind::File(0), &Attributes::default())
    }

    /// One entry more: within the limit, and nobody cancelled.
    fn counted(&mut self) -> Result<(), OverlayError> {
        let limit = self.options.limits.max_entries;
        if self.contents.entries + self.contents.whiteouts > limit {
            return Err(OverlayError::Limit { what: "entries", limit });
        }
        // Headers take room too, so that a tree of empty files can be cancelled as well.
        self.told += 512;
        if self.told >= TELL { tell(self.progress, &mut self.told, &self.contents) } else { Ok(()) }
    }

    fn remember(&mut self, number: u32, path: &[u8]) -> Result<(), OverlayError> {
        self.memory += 48 + path.len() as u64;
        let limit = self.options.limits.max_metadata_bytes;
        if self.memory > limit {
            return Err(OverlayError::Limit { what: "bytes of names in memory", limit });
        }
        self.links.insert(number, path.into());
        Ok(())
    }

    fn is_mount_point(&self, path: &[u8]) -> bool {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        self.options.mount_points.iter().any(|point| point.as_bytes() == path)
    }
}

fn tell(progress: &dyn Progress, told: &mut u64, contents: &LayerContents) -> Result<(), OverlayError> {
    *told = 0;
    if progress.cancelled() {
        return Err(OverlayError::Cancelled);
    }
    progress.step(Step { what: "writing the layer".to_owned(), done: contents.bytes, total: None });
    Ok(())
}
