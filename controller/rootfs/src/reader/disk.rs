//! The blocks of the disk, as they are once the journal is replayed.

use std::{collections::HashMap, fs::File, os::unix::fs::FileExt};

use super::error::ReadError;

/// What the first bytes of a block in the journal are never left as: they would be taken for one of the journal's own.
pub(super) const JOURNAL_MAGIC: u32 = 0xc03b_3998;

/// Where the newer content of a block stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replayed {
    /// The block in the journal that holds it.
    pub(super) block: u64,
    /// Its first four bytes were [`JOURNAL_MAGIC`], and are zero in the journal.
    pub(super) escaped: bool,
}

/// A disk of blocks.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    file: &'a File,
    block_size: u32,
    blocks: u64,
    replayed: HashMap<u64, Replayed>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(file: &'a File, block_size: u32, blocks: u64) -> Self {
        Self { file, block_size, blocks, replayed: HashMap::new() }
    }

    /// From now on these blocks are read from the journal.
    pub(super) fn lay_over(&mut self, replayed: HashMap<u64, Replayed>) {
        self.replayed = replayed;
    }

    /// The file system has this many blocks.
    pub(super) fn resize(&mut self, blocks: u64) {
        self.blocks = blocks;
    }

    /// A whole block.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; self.block_size as usize];
        if number >= self.blocks {
            return Err(ReadError::damaged(format!("block {number}"), "it lies behind the end of the file system"));
        }
        self.read(number * u64::from(self.block_size), &mut bytes)?;
        Ok(bytes)
    }

    /// `N` bytes from this byte on.
    pub(super) fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `out` from this byte on.
    pub(super) fn read(&self, mut at: u64, mut out: &mut [u8]) -> Result<(), ReadError> {
        if self.replayed.is_empty() {
            return self.exact(at, out);
        }
        let size = u64::from(self.block_size);
        while !out.is_empty() {
            let (block, inside) = (at / size, at % size);
            let count = out.len().min((size - inside) as usize);
            let (piece, rest) = out.split_at_mut(count);
            match self.replayed.get(&block) {
                None => self.exact(at, piece)?,
                Some(newer) => {
                    self.exact(newer.block * size + inside, piece)?;
                    if newer.escaped {
                        for (byte, magic) in
                            piece.iter_mut().zip(JOURNAL_MAGIC.to_be_bytes().iter().skip(inside as usize))
                        {
                            *byte = *magic;
                        }
                    }
                }
            }
            at += count as u64;
            out = rest;
        }
        Ok(())
    }

    fn exact(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_exact_at(out, at).map_err(|source| ReadError::Io { at, source })
    }
}
