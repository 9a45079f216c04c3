//! Empty writable disks, made in an instant at any size: what a new file system needs is a few blocks, the rest is
//! holes.

use std::{fs::File, os::unix::fs::FileExt};

use crate::{
    blocks::Run,
    build::identity,
    error::Error,
    ext4::{
        BLOCK, BlockMap, DESCRIPTORS_PER_BLOCK, ExtentTree, FIRST_INODE, GROUP_BLOCKS, Group, INODE_ZEROED,
        INODES_PER_BLOCK, Inode, JOURNAL_INODE, Journal, Name, Payload, ROOT_INODE, Superblock, descriptor_table,
        directory_blocks, fs_seed, inode_seed, journal_blocks, journal_superblock, kind,
    },
    image::{Identity, publish},
    layer::Time,
};

/// The smallest disk that [`format()`] makes, in bytes.
pub const MIN_SIZE: u64 = 1 << 20;
/// The largest disk that [`format()`] makes, in bytes. The last 4 KiB of that size would need the `64bit` feature and
/// are left over.
pub const MAX_SIZE: u64 = 16 << 40;

/// One inode for every 16 KiB, as `mke2fs` has it: 8192 in a full group.
const BLOCKS_PER_INODE: u32 = 4;
/// Free blocks that make a last group worth having.
const LEAST_USE: u32 = 50;

/// What identifies an empty disk.
#[derive(Clone, Debug, Default)]
pub struct EmptyOptions {
    /// The file system's UUID. Directory hashes follow from it too.
    pub uuid: [u8; 16],
    /// The volume label, of 16 bytes at most.
    pub label: String,
    /// When the disk was made, in seconds since 1970; later than 2106 or before 1970 is moved to the nearest.
    pub created: i64,
}

/// Makes an empty file an empty `ext4` of `size` bytes, which Linux mounts for writing.
///
/// There is a journal from 8 MiB on, its blocks holes, like all else that holds nothing yet: a disk of 8 GiB takes
/// some 30 KiB.
/// A size that is not a multiple of 4 KiB is rounded down for the file system, not for the file. Durable on return.
///
/// # Errors
/// [`Error::Size`] outside of [`MIN_SIZE`] to [`MAX_SIZE`], [`Error::NotEmpty`], [`Error::Label`], and [`Error::Disk`].
pub fn format(out: &File, size: u64, options: &EmptyOptions) -> Result<(), Error> {
    let EmptyOptions { uuid, label, created } = options;
    if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
        return Err(Error::Size { size });
    }
    let identity = identity(*uuid, label, *created)?;
    let length = out.metadata().map_err(Error::disk("look at"))?.len();
    if length != 0 {
        return Err(Error::NotEmpty { length });
    }
    out.set_len(size).map_err(Error::disk("resize"))?;
    let plan = Plan::new(size);
    let write = |block: u32, bytes: &[u8]| {
        out.write_all_at(bytes, u64::from(block) * BLOCK as u64).map_err(Error::disk("write"))
    };

    let files = Files::new(&plan, &identity);
    for (block, bytes) in &files.blocks {
        write(*block, bytes)?;
    }
    write(plan.inode_table(0), &files.inodes)?;

    let seed = fs_seed(&identity.uuid);
    let used = plan.used(files.end);
    let mut groups = Vec::with_capacity(plan.groups as usize);
    let (mut free_blocks, mut free_inodes) = (0_u64, 0);
    for number in 0..plan.groups {
        let (used_inodes, directories) = if number == 0 { (FIRST_INODE, 2) } else { (0, 0) };
        let mut group = Group {
            block_bitmap: plan.block_bitmap(number),
            inode_bitmap: plan.block_bitmap(number) + 1,
            inode_table: plan.inode_table(number),
            free_blocks: plan.free(number, &used),
            free_inodes: plan.group_inodes - used_inodes,
            directories,
            flags: INODE_ZEROED,
            unused_inodes: plan.group_inodes - used_inodes,
            ..Group::default()
        };
        group.write_bitmaps(used.group(number), used_inodes, plan.group_inodes, seed, write)?;
        free_blocks += u64::from(group.free_blocks);
        free_inodes += group.free_inodes;
        groups.push(group);
    }
    let table = descriptor_table(seed, &groups);
    let superblock = Superblock {
        blocks: plan.blocks,
        // Fewer than there are blocks, which fit.
        free_blocks: free_blocks as u32,
        inodes: plan.groups * plan.group_inodes,
        free_inodes,
        group_inodes: plan.group_inodes,
        uuid: identity.uuid,
        hash_seed: identity.hash_seed,
        label: identity.label,
        created: identity.created,
        journal: files.journal,
        lost_and_found: Some(FIRST_INODE),
        copies: plan.copies,
    };
    write(1, &table)?;
    for &group in plan.copies.iter().filter(|&&group| group != 0) {
        write(group * GROUP_BLOCKS, &superblock.encode(group))?;
        write(group * GROUP_BLOCKS + 1, &table)?;
    }
    publish(out, &superblock.encode(0))
}

/// Where things are. Every group has its own bitmaps and inode table, so that a group nobody used needs not even a
/// bitmap.
#[derive(Debug)]
struct Plan {
    blocks: u32,
    groups: u32,
    group_inodes: u32,
    /// The groups with a copy of the superblock and the descriptors: the second and the last.
    copies: [u32; 2],
}

impl Plan {
    fn new(size: u64) -> Self {
        let mut blocks = u32::try_from(size / BLOCK as u64).unwrap_or(u32::MAX);
        loop {
            let groups = blocks.div_ceil(GROUP_BLOCKS);
            let group_inodes = (blocks / BLOCKS_PER_INODE)
                .div_ceil(groups)
                .next_multiple_of(INODES_PER_BLOCK)
                .max(2 * INODES_PER_BLOCK);
            let copies = match groups {
                1 => [0, 0],
                2 => [1, 0],
                _ => [1, groups - 1],
            };
            let plan = Self { blocks, groups, group_inodes, copies };
            let last = blocks - (groups - 1) * GROUP_BLOCKS;
            if groups == 1 || last >= plan.overhead(groups - 1) + LEAST_USE {
                return plan;
            }
            // A last group that its own structures would fill is not worth having.
            blocks -= last;
        }
    }

    fn has_superblock(&self, group: u32) -> bool {
        group == 0 || self.copies.contains(&group)
    }

    fn descriptor_blocks(&self) -> u32 {
        self.groups.div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    /// Blocks at the start of a group that its own structures take.
    fn overhead(&self, group: u32) -> u32 {
        let copy = if self.has_superblock(group) { 1 + self.descriptor_blocks() } else { 0 };
        copy + 2 + self.group_inodes / INODES_PER_BLOCK
    }

    fn inode_table(&self, group: u32) -> u32 {
        group * GROUP_BLOCKS + self.overhead(group) - self.group_inodes / INODES_PER_BLOCK
    }

    fn block_bitmap(&self, group: u32) -> u32 {
        self.inode_table(group) - 2
    }

    /// The bitmaps that must be written: the kernel makes the others up from the layout.
    fn used(&self, first_free: u32) -> BlockMap {
        let mut used = BlockMap::new(self.blocks);
        used.mark(0, first_free);
        for group in (1..self.groups).filter(|&group| self.has_superblock(group) || group + 1 == self.groups) {
            used.mark(group * GROUP_BLOCKS, self.overhead(group));
        }
        used
    }

    fn free(&self, group: u32, used: &BlockMap) -> u32 {
        match used.group(group) {
            Some(_) => used.free(group),
            None => GROUP_BLOCKS - self.overhead(group),
        }
    }
}

/// The files of an empty disk: the root, `lost+found`, and the journal.
struct Files {
    blocks: Vec<(u32, [u8; BLOCK])>,
    /// The block of the inode table with the inodes 1 to 16.
    inodes: [u8; BLOCK],
    journal: Option<Journal>,
    /// The first block behind all of that.
    end: u32,
}

impl Files {
    fn new(plan: &Plan, identity: &Identity) -> Self {
        let seed = fs_seed(&identity.uuid);
        let mut files = Self { blocks: Vec::new(), inodes: [0; BLOCK], journal: None, end: plan.overhead(0) };
        let lost = Name { inode: FIRST_INODE, name: b"lost+found", mode: kind::DIRECTORY };
        for (number, names, mode, links) in [(ROOT_INODE, &[lost][..], 0o755, 3), (FIRST_INODE, &[], 0o700, 2)] {
            let own_seed = inode_seed(seed, number);
            // One name at most, which fits.
            let (blocks, _) =
                directory_blocks(number, ROOT_INODE, names, own_seed, &identity.hash_seed).unwrap_or_default();
            let first = files.end;
            for block in blocks {
                files.blocks.push((files.end, block));
                files.end += 1;
            }
            files.add(number, kind::DIRECTORY | mode, links, first, files.end - first, identity);
        }
        if let Some(count) = journal_blocks(plan.blocks) {
            files.blocks.push((files.end, journal_superblock(count)));
            let map = files.add(JOURNAL_INODE, kind::FILE | 0o600, 1, files.end, count, identity);
            files.journal = Some(Journal { map, size: u64::from(count) * BLOCK as u64 });
            files.end += count;
        }
        files
    }

    /// Adds an inode whose contents are side by side; gives its block map.
    fn add(&mut self, number: u32, mode: u16, links: u16, first: u32, count: u32, identity: &Identity) -> [u8; 60] {
        let seed = inode_seed(fs_seed(&identity.uuid), number);
        let root = ExtentTree::new(&[Run { logical: 0, physical: first, count }], 0, seed).root;
        let inode = Inode {
            mode,
            uid: 0,
            gid: 0,
            size: u64::from(count) * BLOCK as u64,
            links,
            blocks: count.into(),
            time: Time { seconds: identity.created.into(), nanos: 0 },
            payload: Payload::Extents { root, indexed: false },
            attribute_block: 0,
            inline_attributes: [0; 96],
        };
        let inode = inode.encode(seed);
        let slot = (number as usize - 1) * inode.len();
        self.inodes[slot..slot + inode.len()].copy_from_slice(&inode);
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_refused_and_the_file_left_alone() {
        let out = tempfile::tempfile().unwrap();
        for size in [0, MIN_SIZE - 1, MAX_SIZE + 1] {
            assert!(matches!(format(&out, size, &EmptyOptions::default()), Err(Error::Size { .. })));
        }
        assert_eq!(out.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_plan_never_has_a_last_group_without_use() {
        for blocks in (GROUP_BLOCKS..GROUP_BLOCKS + 700).chain(5 * GROUP_BLOCKS..5 * GROUP_BLOCKS + 700) {
            let plan = Plan::new(u64::from(blocks) * BLOCK as u64);
            let last = plan.blocks - (plan.groups - 1) * GROUP_BLOCKS;
            assert!(last >= plan.overhead(plan.groups - 1) + LEAST_USE, "{plan:?}");
        }
        assert_eq!(Plan::new(MAX_SIZE).blocks, u32::MAX);
    }
}
