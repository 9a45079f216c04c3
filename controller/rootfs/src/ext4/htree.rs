//! Hash trees: the index of directories with more than one block.

use super::{
    BLOCK, checksum,
    dir::{Name, ROOM, TYPE_DIRECTORY, leaf},
    hash::half_md4,
    put,
};

/// Where the entries of the root and of the nodes below it begin.
const ROOT_ENTRIES: usize = 32;
const NODE_ENTRIES: usize = 8;
/// How many there can be; the first has no hash, for it stands for all below the second.
const ROOT_LIMIT: usize = (BLOCK - ROOT_ENTRIES - 8) / 8;
const NODE_LIMIT: usize = (BLOCK - NODE_ENTRIES - 8) / 8;
/// Blocks of names that the root and one level below it reach.
pub(crate) const MAX_LEAVES: usize = ROOT_LIMIT * NODE_LIMIT;
const HALF_MD4: u8 = 1;

/// Points to a block that holds names from this hash on.
#[derive(Clone, Copy, Debug)]
struct Pointer {
    hash: u32,
    block: u32,
}

/// The blocks of an indexed directory: the root, the leaves, then nodes between them where the root alone does not do.
///
/// `None` when there are more leaves than two levels reach: 3.8 million of the longest names.
pub(crate) fn blocks(
    own: u32,
    parent: u32,
    names: &[Name<'_>],
    inode_seed: u32,
    hash_seed: &[u8; 16],
) -> Option<Vec<[u8; BLOCK]>> {
    let mut hashed: Vec<(u32, Name<'_>)> = names.iter().map(|name| (half_md4(name.name, hash_seed), *name)).collect();
    hashed.sort_by(|a, b| (a.0, a.1.name).cmp(&(b.0, b.1.name)));
    let mut blocks = vec![[0; BLOCK]];
    let mut pointers = Vec::new();
    let mut rest = hashed.as_slice();
    let mut last_hash = None;
    while let Some((hash, _)) = rest.first() {
        let mut room = ROOM;
        let count = rest
            .iter()
            .take_while(|(_, name)| {
                let fits = name.size() <= room;
                if fits {
                    room -= name.size();
                }
                fits
            })
            .count();
        let (mine, others) = rest.split_at(count);
        // The lowest bit tells a search to look into the block before as well.
        let going_on = u32::from(last_hash == Some(*hash));
        pointers.push(Pointer { hash: hash | going_on, block: blocks.len() as u32 });
        let names: Vec<Name<'_>> = mine.iter().map(|(_, name)| *name).collect();
        blocks.push(leaf(&names, inode_seed));
        last_hash = mine.last().map(|(hash, _)| *hash);
        rest = others;
    }
    let (levels, pointers) = index(pointers, &mut blocks, inode_seed)?;
    blocks[0] = root(own, parent, levels, &pointers, inode_seed);
    Some(blocks)
}

/// What the root points to, and how many levels of nodes are below it; the nodes are added to the blocks.
fn index(leaves: Vec<Pointer>, blocks: &mut Vec<[u8; BLOCK]>, seed: u32) -> Option<(u8, Vec<Pointer>)> {
    if leaves.len() <= ROOT_LIMIT {
        return Some((0, leaves));
    }
    if leaves.len() > MAX_LEAVES {
        return None;
    }
    let mut nodes = Vec::new();
    for children in leaves.chunks(NODE_LIMIT) {
        nodes.push(Pointer { hash: children.first().map_or(0, |c| c.hash), block: blocks.len() as u32 });
        blocks.push(node(children, seed));
    }
    Some((1, nodes))
}

fn root(own: u32, parent: u32, levels: u8, pointers: &[Pointer], seed: u32) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    put(&mut out, 0, own.to_le_bytes());
    put(&mut out, 4, 12_u16.to_le_bytes());
    put(&mut out, 6, [1, TYPE_DIRECTORY, b'.']);
    put(&mut out, 12, parent.to_le_bytes());
    // To who does not know of the index, the rest of the block is one long entry.
    put(&mut out, 16, (BLOCK as u16 - 12).to_le_bytes());
    put(&mut out, 18, [2, TYPE_DIRECTORY, b'.', b'.']);
    put(&mut out, 28, [HALF_MD4, 8, levels]);
    fill(&mut out, ROOT_ENTRIES, ROOT_LIMIT, pointers, seed);
    out
}

fn node(pointers: &[Pointer], seed: u32) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    put(&mut out, 4, (BLOCK as u16).to_le_bytes());
    fill(&mut out, NODE_ENTRIES, NODE_LIMIT, pointers, seed);
    out
}

fn fill(out: &mut [u8; BLOCK], start: usize, limit: usize, pointers: &[Pointer], seed: u32) {
    for (slot, pointer) in out[start..].chunks_exact_mut(8).zip(pointers) {
        put(slot, 0, pointer.hash.to_le_bytes());
        put(slot, 4, pointer.block.to_le_bytes());
    }
    // In place of the first hash.
    put(out, start, (limit as u16).to_le_bytes());
    put(out, start + 2, (pointers.len() as u16).to_le_bytes());
    // The checksum covers the entries in use, then four reserved bytes, then itself as zero.
    let sum = checksum(checksum(seed, &out[..start + pointers.len() * 8]), &[0; 8]);
    put(out, start + limit * 8 + 4, sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_leaves_than_two_levels_reach_are_refused() {
        let leaves = |count: usize| vec![Pointer { hash: 2, block: 1 }; count];
        let shape = |count| {
            let mut blocks = Vec::new();
            index(leaves(count), &mut blocks, 1).map(|(levels, top)| (levels, top.len(), blocks.len()))
        };
        assert_eq!(shape(ROOT_LIMIT), Some((0, ROOT_LIMIT, 0)));
        assert_eq!(shape(ROOT_LIMIT + 1), Some((1, 1, 1)));
        assert_eq!(shape(MAX_LEAVES), Some((1, ROOT_LIMIT, ROOT_LIMIT)));
        assert_eq!(shape(MAX_LEAVES + 1), None);
    }
}
