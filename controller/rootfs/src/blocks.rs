//! Writes file contents straight to their final blocks.

use crate::{error::LayerError, ext4::BLOCK, flush::Disk, limits::Budget, stripes::Stripes};

/// The grain of holes: this much zero content, on its own boundary, takes no space. Smaller would break files into
/// many extents, larger would miss the zero runs inside databases and disk images.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Contents are written to the disk file this much at a time.
const BATCH: usize = 1 << 20;

/// Blocks of a file that lie side by side both in the file and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block within the file.
    pub(crate) logical: u32,
    /// First block on the disk.
    pub(crate) physical: u32,
    /// How many blocks.
    pub(crate) count: u32,
}

/// Adds a run, as part of the last one when both touch.
pub(crate) fn push_run(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut()
        && last.logical + last.count == run.logical
        && last.physical + last.count == run.physical
    {
        last.count += run.count;
    } else {
        runs.push(run);
    }
}

/// Appends the contents of one layer's files to the layer's stripes.
pub(crate) struct Blocks<'a> {
    disk: &'a Disk<'a>,
    stripes: &'a Stripes,
    layer: usize,
    budget: &'a Budget,
    turn: u32,
    /// The next free block of the current stripe, and its end.
    next: u32,
    end: u32,
    /// Bytes that go to the blocks before `next`; then the open chunk.
    buffer: Vec<u8>,
    committed: usize,
    /// The open chunk's place in the file, in chunks.
    chunk: u64,
    runs: Vec<Run>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(disk: &'a Disk<'a>, stripes: &'a Stripes, layer: usize, budget: &'a Budget) -> Self {
        let first = stripes.stripe(layer, 0).unwrap_or(0..0);
        Self {
            disk,
            stripes,
            layer,
            budget,
            turn: 0,
            next: first.start,
            end: first.end,
            buffer: Vec::with_capacity(BATCH + 2 * CHUNK),
            committed: 0,
            chunk: 0,
            runs: Vec::new(),
        }
    }

    /// Takes up to `limit` bytes at `offset` of the current file from `fill`, which must fill all that it is given.
    /// Offsets must not go back. Gives how many bytes were taken: at least one, unless `limit` is zero.
    pub(crate) fn take(
        &mut self,
        offset: u64,
        limit: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), LayerError>,
    ) -> Result<u64, LayerError> {
        let chunk = offset / CHUNK as u64;
        if chunk != self.chunk {
            self.close_chunk()?;
            self.chunk = chunk;
        }
        let within = (offset % CHUNK as u64) as usize;
        let count = limit.min((CHUNK - within) as u64) as usize;
        let start = self.committed + within;
        // Bytes between the pieces of a sparse file are zero.
        self.buffer.resize(start + count, 0);
        fill(&mut self.buffer[start..])?;
        Ok(count as u64)
    }

    /// Ends the current file and gives its blocks.
    pub(crate) fn finish_file(&mut self) -> Result<Vec<Run>, LayerError> {
        self.close_chunk()?;
        self.chunk = 0;
        Ok(std::mem::take(&mut self.runs))
    }

    /// Writes what is still in memory.
    pub(crate) fn finish(mut self) -> Result<(), LayerError> {
        self.flush()
    }

    fn close_chunk(&mut self) -> Result<(), LayerError> {
        let open = self.buffer.len() - self.committed;
        if open == 0 {
            return Ok(());
        }
        if is_zero(&self.buffer[self.committed..]) {
            self.buffer.truncate(self.committed);
            return Ok(());
        }
        self.buffer.resize(self.committed + open.next_multiple_of(BLOCK), 0);
        // A piece of a sparse file may begin far into the chunk.
        let leading = self.buffer[self.committed..].chunks_exact(BLOCK).take_while(|block| is_zero(block)).count();
        self.buffer.drain(self.committed..self.committed + leading * BLOCK);
        let mut blocks = ((self.buffer.len() - self.committed) / BLOCK) as u32;
        self.budget.stored(u64::from(blocks) * BLOCK as u64)?;
        let first = self.chunk * (CHUNK / BLOCK) as u64 + leading as u64;
        let mut logical = u32::try_from(first).map_err(|_| LayerError::TooLarge)?;
        while blocks > 0 {
            if self.next == self.end {
                self.flush()?;
                self.turn += 1;
                let stripe = self.stripes.stripe(self.layer, self.turn).ok_or(LayerError::TooLarge)?;
                (self.next, self.end) = (stripe.start, stripe.end);
            }
            let count = blocks.min(self.end - self.next);
            push_run(&mut self.runs, Run { logical, physical: self.next, count });
            logical += count;
            blocks -= count;
            self.next += count;
            self.committed += count as usize * BLOCK;
        }
        if self.committed >= BATCH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LayerError> {
        let start = u64::from(self.next) * BLOCK as u64 - self.committed as u64;
        self.disk.write_all_at(&self.buffer[..self.committed], start).map_err(LayerError::Write)?;
        self.buffer.drain(..self.committed);
        self.committed = 0;
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Whole pieces let the compiler use wide registers; most contents end the search in the first piece.
    bytes.chunks(512).all(|piece| piece.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::{flush, limits::Limits};

    fn put(blocks: &mut Blocks<'_>, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            done += blocks
                .take(offset + done as u64, (bytes.len() - done) as u64, |out| {
                    out.copy_from_slice(&bytes[done..done + out.len()]);
                    Ok(())
                })
                .unwrap() as usize;
        }
    }

    #[test]
    fn contents_land_in_their_blocks_and_zero_chunks_take_none() {
        let file = tempfile::tempfile().unwrap();
        let (disk, _flusher) = flush::pair(&file);
        let stripes = Stripes::new(8, [0]);
        let budget = Budget::new(Limits::default());
        let mut blocks = Blocks::new(&disk, &stripes, 0, &budget);
        let mut content = vec![7; CHUNK];
        content.extend(vec![0; CHUNK]);
        content.extend(vec![9; 5000]);
        put(&mut blocks, 0, &content);
        let runs = blocks.finish_file().unwrap();
        assert_eq!(runs, [Run { logical: 0, physical: 8, count: 16 }, Run { logical: 32, physical: 24, count: 2 }]);
        blocks.finish().unwrap();
        let mut back = vec![0; 5000];
        file.read_exact_at(&mut back, 24 * BLOCK as u64).unwrap();
        assert!(back.iter().all(|&b| b == 9));
    }

    #[test]
    fn a_layer_that_outgrows_its_stripe_goes_on_in_the_next() {
        let file = tempfile::tempfile().unwrap();
        let (disk, _flusher) = flush::pair(&file);
        let stripes = Stripes::new(8, [0, 0]);
        let budget = Budget::new(Limits::default());
        let mut blocks = Blocks::new(&disk, &stripes, 0, &budget);
        put(&mut blocks, 0, &[1; 5000]);
        blocks.finish_file().unwrap();
        let content: Vec<u8> = (0..(1 << 20)).map(|i| (i / 7) as u8 | 1).collect();
        put(&mut blocks, 0, &content);
        let runs = blocks.finish_file().unwrap();
        blocks.finish().unwrap();
        assert_eq!(
            runs,
            [Run { logical: 0, physical: 10, count: 254 }, Run { logical: 254, physical: 8 + 512, count: 2 }]
        );
        let mut back = vec![0; content.len()];
        for run in &runs {
            let at = run.logical as usize * BLOCK;
            file.read_exact_at(&mut back[at..at + run.count as usize * BLOCK], u64::from(run.physical) * BLOCK as u64)
                .unwrap();
        }
        assert!(back == content);
    }
}
