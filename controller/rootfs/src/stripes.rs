//! Where each layer's file contents go, known before the first byte of any layer is read.
//!
//! Layers are written side by side, so none can wait to see where the one before it ends. Every layer gets a stripe
//! of the sparse disk in proportion to its compressed size. A layer that outgrows it goes on in a second stripe twice
//! as large, behind the first stripes of all layers, then in a third, and so on. All of that follows from the sizes
//! in the manifest alone, so the same image always gives the same disk.

use std::ops::Range;

/// Most blocks of a file system without the `64bit` feature, less room for its own structures.
pub(crate) const MAX_DATA_BLOCK: u64 = u32::MAX as u64 - (64 << 20);

/// How much larger than its blob a layer's first stripe is. Debian, Alpine and npm layers expand 2.5 to 3.5 times.
const EXPANSION: u64 = 4;
/// Blocks that even an empty layer gets: 1 MiB.
const LEAST: u64 = 256;

/// The stripes of all layers.
#[derive(Debug)]
pub(crate) struct Stripes {
    start: u64,
    /// The sum of the weights of the layers before this one; one more at the end.
    prefix: Vec<u64>,
}

impl Stripes {
    /// For layers of these compressed sizes in bytes, behind `start` blocks.
    pub(crate) fn new(start: u64, sizes: impl IntoIterator<Item = u64>) -> Self {
        let mut prefix = vec![0_u64];
        let mut sum = 0_u64;
        for size in sizes {
            sum = sum.saturating_add(LEAST).saturating_add((size / 4096).saturating_mul(EXPANSION));
            prefix.push(sum);
        }
        Self { start, prefix }
    }

    /// The blocks of the `turn`th stripe of a layer; `None` past the end of the largest file system.
    pub(crate) fn stripe(&self, layer: usize, turn: u32) -> Option<Range<u32>> {
        let total = *self.prefix.last()?;
        let (from, to) = (*self.prefix.get(layer)?, *self.prefix.get(layer + 1)?);
        let scale = 1_u64.checked_shl(turn)?;
        let region = self.start.checked_add(total.checked_mul(scale - 1)?)?;
        let first = region.checked_add(from.checked_mul(scale)?)?;
        let end = region.checked_add(to.checked_mul(scale)?)?.min(MAX_DATA_BLOCK);
        if first >= end {
            return None;
        }
        Some(u32::try_from(first).ok()?..u32::try_from(end).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_never_overlap_and_end_at_the_largest_file_system() {
        let stripes = Stripes::new(1025, [0, 1 << 30, 5, 300 << 20]);
        let mut all = Vec::new();
        for layer in 0..4 {
            let mut turn = 0;
            while let Some(stripe) = stripes.stripe(layer, turn) {
                all.push(stripe);
                turn += 1;
            }
        }
        all.sort_by_key(|s| s.start);
        assert_eq!(all[0].start, 1025);
        assert!(all.windows(2).all(|w| w[0].end <= w[1].start));
        assert!(all.iter().all(|s| u64::from(s.end) <= MAX_DATA_BLOCK));
        assert!(all.iter().any(|s| u64::from(s.end) == MAX_DATA_BLOCK));
    }
}
