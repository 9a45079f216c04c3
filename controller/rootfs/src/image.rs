//! Writes a merged tree as a file system around the contents that are on the disk already.
//!
//! From the front: superblock and group descriptors, the contents of all layers in their stripes, then directories,
//! long symbolic links, attributes and extent nodes, then the inode table, then the bitmaps. The superblock goes last,
//! once all the rest is on stable storage: before that the disk is no file system at all.

use std::{fs::File, os::unix::fs::FileExt};

use crate::{
    blocks::{Run, push_run},
    error::Error,
    ext4::{
        BLOCK, BlockMap, ExtentTree, Group, INODE_ZEROED, INODES_PER_BLOCK, Inode, MAX_LEAVES, Name, Payload,
        Superblock, attribute_block, descriptor_table, directory_blocks, fs_seed, inline_attributes, inode_seed, kind,
    },
    layer::Device,
    layout::{FIRST_DATA_BLOCK, Layout, TOO_MANY_BLOCKS},
    numbering::Numbering,
    tree::{Id, Node, NodeKind, Tree},
};

/// More subdirectories than this are not counted: `dir_nlink`.
const MAX_DIRECTORY_LINKS: u32 = 65_000;
/// Structures are written this much at a time, in bytes.
const BATCH: usize = 1 << 20;

/// What identifies a file system.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u8; 16],
    pub(crate) label: [u8; 16],
    pub(crate) created: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Bytes of the disk, holes included.
    pub(crate) size: u64,
    /// Inodes in use, the reserved ones not counted but for the root.
    pub(crate) inodes: u64,
}

/// Writes blocks one after the other.
struct Appender<'a> {
    disk: &'a File,
    next: u32,
    buffer: Vec<u8>,
}

impl<'a> Appender<'a> {
    fn new(disk: &'a File, first: u32) -> Self {
        Self { disk, next: first, buffer: Vec::with_capacity(BATCH) }
    }

    fn push(&mut self, block: &[u8; BLOCK]) -> Result<(), Error> {
        self.buffer.extend_from_slice(block);
        self.next = self.next.checked_add(1).ok_or(TOO_MANY_BLOCKS)?;
        if self.buffer.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let end = u64::from(self.next) * BLOCK as u64;
        self.disk.write_all_at(&self.buffer, end - self.buffer.len() as u64).map_err(Error::disk("write"))?;
        self.buffer.clear();
        Ok(())
    }
}

/// The blocks that belong to an inode besides its contents, side by side on the disk: first those that hold its
/// directory or link target, then its attributes, then its extent nodes.
#[derive(Clone, Copy, Debug)]
struct Extra {
    first: u32,
    content: u32,
    indexed: bool,
}

/// Writes everything but the contents of files, and makes it durable.
pub(crate) fn write(tree: &Tree, disk: &File, identity: &Identity) -> Result<Written, Error> {
    let numbering = Numbering::new(tree)?;
    let seed = fs_seed(&identity.uuid);
    let live_files = || {
        tree.nodes.iter().filter(|node| node.links > 0).flat_map(|node| match &node.kind {
            NodeKind::File(content) => content.runs.as_slice(),
            _ => &[],
        })
    };
    let data_end = live_files().map(|run| run.physical + run.count).max().unwrap_or(FIRST_DATA_BLOCK);
    let mut appender = Appender::new(disk, data_end);
    let mut extras = Vec::with_capacity(numbering.order.len());
    for &id in &numbering.order {
        extras.push(write_extra(tree, id, &numbering, seed, identity, &mut appender)?);
    }
    appender.flush()?;

    let layout = Layout::new(appender.next, numbering.last())?;
    let mut used = BlockMap::new(layout.blocks);
    used.mark(0, 1 + layout.descriptor_blocks());
    used.mark(data_end, layout.end() - data_end);
    for run in live_files() {
        used.mark(run.physical, run.count);
    }
    // Nothing was written behind the structures but, perhaps, contents that no name leads to any longer.
    disk.set_len(u64::from(layout.blocks) * BLOCK as u64).map_err(Error::disk("resize"))?;

    let directories = write_inodes(tree, &numbering, &extras, seed, &layout, disk)?;
    let superblock = write_groups(&layout, &numbering, &directories, &used, seed, disk, identity)?;
    publish(disk, &superblock.encode(0))?;
    Ok(Written { size: u64::from(layout.blocks) * BLOCK as u64, inodes: numbering.order.len() as u64 })
}

/// Makes all that was written durable, then the superblock.
pub(crate) fn publish(disk: &File, superblock: &[u8]) -> Result<(), Error> {
    disk.sync_data().map_err(Error::disk("flush"))?;
    disk.write_all_at(superblock, 1024).map_err(Error::disk("write"))?;
    disk.sync_all().map_err(Error::disk("flush"))
}

fn write_extra(
    tree: &Tree,
    id: Id,
    numbering: &Numbering,
    seed: u32,
    identity: &Identity,
    appender: &mut Appender<'_>,
) -> Result<Extra, Error> {
    let node = tree.node(id);
    let number = numbering.of(id);
    let own_seed = inode_seed(seed, number);
    let mut extra = Extra { first: appender.next, content: 0, indexed: false };
    match &node.kind {
        NodeKind::Directory(directory) => {
            let names: Vec<Name<'_>> = directory
                .children
                .iter()
                .map(|(name, &child)| Name { inode: numbering.of(child), name, mode: file_type(tree.node(child)) })
                .collect();
            let parent = numbering.of(directory.parent);
            let (blocks, indexed) = directory_blocks(number, parent, &names, own_seed, &identity.hash_seed)
                .ok_or(Error::TooLarge { what: "blocks of names in one directory", limit: MAX_LEAVES as u64 })?;
            extra.indexed = indexed;
            extra.content = blocks.len() as u32;
            for block in &blocks {
                appender.push(block)?;
            }
        }
        NodeKind::Symlink(target) if target.len() >= 60 => {
            let mut block = [0; BLOCK];
            block[..target.len()].copy_from_slice(target);
            extra.content = 1;
            appender.push(&block)?;
        }
        _ => {}
    }
    if let Some(block) = attribute_block(&node.meta.xattrs, appender.next, seed) {
        appender.push(&block)?;
    }
    if let NodeKind::File(content) = &node.kind {
        for block in &ExtentTree::new(&content.runs, appender.next, own_seed).blocks {
            appender.push(block)?;
        }
    }
    Ok(extra)
}

/// Writes the inode table; gives the number of directories of each group.
fn write_inodes(
    tree: &Tree,
    numbering: &Numbering,
    extras: &[Extra],
    seed: u32,
    layout: &Layout,
    disk: &File,
) -> Result<Vec<u32>, Error> {
    let mut directories = vec![0; layout.groups as usize];
    let mut appender = Appender::new(disk, layout.inode_table);
    let mut block = [0; BLOCK];
    let mut at = 0;
    for (&id, extra) in numbering.order.iter().zip(extras) {
        let node = tree.node(id);
        let number = numbering.of(id);
        // Reserved inodes without use stay zero.
        while at / INODES_PER_BLOCK < (number - 1) / INODES_PER_BLOCK {
            appender.push(&std::mem::replace(&mut block, [0; BLOCK]))?;
            at += INODES_PER_BLOCK;
        }
        let inode = inode(tree, node, extra, inode_seed(seed, number));
        let slot = ((number - 1) % INODES_PER_BLOCK) as usize * inode.len();
        block[slot..slot + inode.len()].copy_from_slice(&inode);
        if tree.directory(id).is_some() {
            directories[((number - 1) / layout.group_inodes) as usize] += 1;
        }
    }
    appender.push(&block)?;
    appender.flush()?;
    Ok(directories)
}

fn inode(tree: &Tree, node: &Node, extra: &Extra, seed: u32) -> [u8; 256] {
    let mut next = extra.first + extra.content;
    let mut blocks = u64::from(extra.content);
    let inline_attributes = inline_attributes(&node.meta.xattrs);
    // The checksum does not matter here: only whether there is a block.
    let attribute_block = attribute_block(&node.meta.xattrs, next, 0).map_or(0, |_| next);
    if attribute_block != 0 {
        next += 1;
        blocks += 1;
    }
    let own = |indexed| {
        let mut runs = Vec::new();
        push_run(&mut runs, Run { logical: 0, physical: extra.first, count: extra.content });
        Payload::Extents { root: ExtentTree::new(&runs, 0, seed).root, indexed }
    };
    let mut links = node.links;
    let (size, payload) = match &node.kind {
        NodeKind::Directory(directory) => {
            let children = directory.children.values();
            let subdirectories = children.filter(|&&child| tree.directory(child).is_some()).count() as u32;
            links = match subdirectories + 2 {
                more if more > MAX_DIRECTORY_LINKS => 1,
                links => links,
            };
            (u64::from(extra.content) * BLOCK as u64, own(extra.indexed))
        }
        NodeKind::File(content) => {
            let tree = ExtentTree::new(&content.runs, next, seed);
            blocks += tree.blocks.len() as u64;
            blocks += content.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
            (content.size, Payload::Extents { root: tree.root, indexed: false })
        }
        NodeKind::Symlink(target) if extra.content > 0 => (target.len() as u64, own(false)),
        NodeKind::Symlink(target) => {
            let mut bytes = [0; 60];
            bytes[..target.len()].copy_from_slice(target);
            (target.len() as u64, Payload::Target(bytes))
        }
        NodeKind::Device(Device::Char(major, minor) | Device::Block(major, minor)) => {
            (0, Payload::Device(*major, *minor))
        }
        NodeKind::Device(Device::Fifo) => (0, Payload::Nothing),
    };
    let inode = Inode {
        mode: file_type(node) | node.meta.mode,
        uid: node.meta.uid,
        gid: node.meta.gid,
        size,
        // 65,000 at most.
        links: links as u16,
        blocks,
        time: node.meta.mtime,
        payload,
        attribute_block,
        inline_attributes,
    };
    inode.encode(seed)
}

fn file_type(node: &Node) -> u16 {
    match &node.kind {
        NodeKind::Directory(_) => kind::DIRECTORY,
        NodeKind::File(_) => kind::FILE,
        NodeKind::Symlink(_) => kind::SYMLINK,
        NodeKind::Device(Device::Char(..)) => kind::CHAR,
        NodeKind::Device(Device::Block(..)) => kind::BLOCK,
        NodeKind::Device(Device::Fifo) => kind::FIFO,
    }
}

/// Writes bitmaps and descriptors; gives the superblock that goes with them.
fn write_groups(
    layout: &Layout,
    numbering: &Numbering,
    directories: &[u32],
    used: &BlockMap,
    seed: u32,
    disk: &File,
    identity: &Identity,
) -> Result<Superblock, Error> {
    let write = |block: u32, bytes: &[u8]| {
        disk.write_all_at(bytes, u64::from(block) * BLOCK as u64).map_err(Error::disk("write"))
    };
    let mut groups = Vec::with_capacity(directories.len());
    let (mut free_blocks, mut free_inodes) = (0_u64, 0);
    for (number, &directories) in (0..layout.groups).zip(directories) {
        let before = number * layout.group_inodes;
        let used_inodes = numbering.last().saturating_sub(before).min(layout.group_inodes);
        let mut group = Group {
            block_bitmap: layout.block_bitmaps + number,
            inode_bitmap: layout.inode_bitmaps + number,
            inode_table: layout.inode_table + before / INODES_PER_BLOCK,
            free_blocks: used.free(number),
            free_inodes: layout.group_inodes - used_inodes,
            directories,
            flags: INODE_ZEROED,
            unused_inodes: layout.group_inodes - used_inodes,
            ..Group::default()
        };
        group.write_bitmaps(used.group(number), used_inodes, layout.group_inodes, seed, write)?;
        free_blocks += u64::from(group.free_blocks);
        free_inodes += group.free_inodes;
        groups.push(group);
    }
    write(1, &descriptor_table(seed, &groups))?;
    Ok(Superblock {
        blocks: layout.blocks,
        // Fewer than there are blocks, which fit.
        free_blocks: free_blocks as u32,
        inodes: layout.groups * layout.group_inodes,
        free_inodes,
        group_inodes: layout.group_inodes,
        uuid: identity.uuid,
        hash_seed: identity.hash_seed,
        label: identity.label,
        created: identity.created,
        journal: None,
        lost_and_found: None,
        copies: [0, 0],
    })
}
