//! Reads one layer: contents go to the disk, the rest becomes an index in memory.

use crate::{
    blocks::{Blocks, Run},
    build::Layer,
    compress::{Decoder, Meter, Source},
    error::{LayerError, Problem},
    ext4::{Xattr, acceptable_xattrs},
    flush::Disk,
    limits::{Budget, MAX_SYMLINK},
    path::{Meaning, meaning, normalise},
    stream::Stream,
    stripes::Stripes,
    tar::{Entry, Kind, Reader},
};

/// A point in time: seconds since 1970, and nanoseconds that count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// What all kinds of files have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits with setuid, setgid and sticky; no file type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<Xattr>,
}

/// What an entry asks for.
#[derive(Debug)]
pub(crate) enum What {
    Directory(Meta),
    File(Meta, Content),
    Symlink(Meta, Box<[u8]>),
    Device(Meta, Device),
    /// Another name of the file at this path.
    HardLink(Box<[u8]>),
    /// The lower layers' file at the entry's path is gone.
    Whiteout,
    /// What lower layers have in the directory at the entry's path is gone.
    Opaque,
}

/// A file's size in bytes, and its blocks.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) runs: Vec<Run>,
}

/// What is neither file, directory nor symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One entry: a normalised path, empty for the root, and what is there.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) path: Box<[u8]>,
    pub(crate) what: What,
}

/// A layer without its contents, in the order of its archive.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) items: Vec<Item>,
    /// Bytes of files, holes included.
    pub(crate) content_bytes: u64,
}

/// Reads, verifies and stores one layer. A blob that is `verified` elsewhere is not hashed here.
pub(crate) fn unpack(
    number: usize,
    layer: Layer,
    verified: bool,
    disk: &Disk<'_>,
    stripes: &Stripes,
    budget: &Budget,
    meter: &Meter<'_>,
) -> Result<Index, LayerError> {
    let decoder = Decoder::new(Source::new(layer.blob, layer.size, verified, meter))?;
    let mut reader = Reader::new(Stream::new(decoder, budget)?);
    let index = read_entries(&mut reader, Blocks::new(disk, stripes, number, budget), budget);
    reader.into_input().finish(layer.digest, layer.diff_id, index)
}

fn read_entries(reader: &mut Reader<Stream<'_>>, mut blocks: Blocks<'_>, budget: &Budget) -> Result<Index, LayerError> {
    let mut index = Index::default();
    while let Some(entry) = reader.next()? {
        budget.entry()?;
        let refuse = |problem| LayerError::entry(&entry.path, problem);
        let path = normalise(&entry.path).map_err(refuse)?;
        let (path, what) = match meaning(&path).map_err(refuse)? {
            Meaning::Ignored => continue,
            Meaning::Whiteout(victim) => (victim, What::Whiteout),
            Meaning::Opaque(directory) => (directory, What::Opaque),
            Meaning::Plain => {
                if path.is_empty() && entry.kind != Kind::Directory {
                    return Err(refuse(Problem::Root));
                }
                (path, what(&entry, reader, &mut blocks)?)
            }
        };
        if let What::File(_, content) = &what {
            index.content_bytes = index.content_bytes.saturating_add(content.size);
        }
        let item = Item { path, what };
        budget.metadata(item.memory())?;
        index.items.push(item);
    }
    blocks.finish()?;
    Ok(index)
}

fn what(entry: &Entry, reader: &mut Reader<Stream<'_>>, blocks: &mut Blocks<'_>) -> Result<What, LayerError> {
    let refuse = |problem| LayerError::entry(&entry.path, problem);
    let meta = Meta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: acceptable_xattrs(&entry.xattrs).map_err(refuse)?,
    };
    Ok(match entry.kind {
        Kind::Directory => What::Directory(meta),
        Kind::HardLink => What::HardLink(normalise(&entry.link).map_err(refuse)?),
        Kind::Symlink => {
            if entry.link.is_empty() || entry.link.len() > MAX_SYMLINK || entry.link.contains(&0) {
                return Err(refuse(Problem::SymlinkTarget));
            }
            What::Symlink(meta, entry.link.as_slice().into())
        }
        Kind::Fifo => What::Device(meta, Device::Fifo),
        Kind::Char | Kind::Block => {
            let (major, minor) = (entry.major, entry.minor);
            if major >= 1 << 12 || minor >= 1 << 20 {
                return Err(refuse(Problem::Device));
            }
            match entry.kind {
                Kind::Char if (major, minor) == (0, 0) => return Err(refuse(Problem::WhiteoutDevice)),
                Kind::Char => What::Device(meta, Device::Char(major, minor)),
                _ => What::Device(meta, Device::Block(major, minor)),
            }
        }
        Kind::File => {
            for &(offset, length) in &entry.map.pieces {
                let (mut at, end) = (offset, offset + length);
                while at < end {
                    at += blocks.take(at, end - at, |out| reader.read_exact(out))?;
                }
            }
            What::File(meta, Content { size: entry.map.size, runs: blocks.finish_file()? })
        }
    })
}

impl Item {
    /// Bytes of memory that the entry keeps in use until the disk is written, roughly.
    fn memory(&self) -> usize {
        let meta = |meta: &Meta| meta.xattrs.iter().map(|x| 64 + x.name.len() + x.value.len()).sum::<usize>();
        // The item, later the node and the name in its directory.
        let fixed = 2 * size_of::<Self>() + 64 + self.path.len();
        fixed
            + match &self.what {
                What::Directory(m) | What::Device(m, _) => meta(m),
                What::File(m, content) => meta(m) + content.runs.len() * size_of::<Run>(),
                What::Symlink(m, target) => meta(m) + target.len(),
                What::HardLink(target) => target.len(),
                What::Whiteout | What::Opaque => 0,
            }
    }
}
