//! Which file gets which inode.

use crate::{
    error::Error,
    ext4::{FIRST_INODE, ROOT_INODE},
    tree::{Id, ROOT, Tree},
};

/// The order of inodes: directories before what is in them, and names in their order.
pub(crate) struct Numbering {
    /// Live nodes in the order of their inodes: the root, then from [`FIRST_INODE`] on.
    pub(crate) order: Vec<Id>,
    /// Inode numbers by node.
    inodes: Vec<u32>,
}

impl Numbering {
    pub(crate) fn new(tree: &Tree) -> Result<Self, Error> {
        let mut inodes = vec![0; tree.nodes.len()];
        let mut order = vec![ROOT];
        inodes[ROOT as usize] = ROOT_INODE;
        let mut at = 0;
        while let Some(&id) = order.get(at) {
            at += 1;
            for &child in tree.directory(id).iter().flat_map(|d| d.children.values()) {
                if inodes[child as usize] == 0 {
                    inodes[child as usize] = Self::inode(order.len())?;
                    order.push(child);
                }
            }
        }
        Ok(Self { order, inodes })
    }

    fn inode(place: usize) -> Result<u32, Error> {
        let after_root = u32::try_from(place).ok().and_then(|place| place.checked_add(FIRST_INODE - 1));
        after_root.ok_or(Error::TooLarge { what: "inodes", limit: u32::MAX.into() })
    }

    pub(crate) fn of(&self, id: Id) -> u32 {
        self.inodes[id as usize]
    }

    /// The highest inode in use; the reserved ones always are.
    pub(crate) fn last(&self) -> u32 {
        self.order.last().map_or(0, |&id| self.of(id)).max(FIRST_INODE - 1)
    }
}
