//! The decompressed layer: counted against the limits, and hashed beside the parser on a thread of its own.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use microagent_base::{Digest, digest::Hasher};

use crate::{compress::Decoder, error::LayerError, limits::Budget, tar::Input};

/// Decompressed bytes that are handed over at a time.
const PIECE: usize = 256 * 1024;
/// Pieces that may wait to be hashed.
const WAITING: usize = 4;

/// Hashes pieces in order, at the same time as they are parsed.
struct Lane {
    pieces: SyncSender<(Arc<Vec<u8>>, usize)>,
    thread: JoinHandle<Digest>,
}

impl Lane {
    fn start() -> Result<Self, LayerError> {
        let (pieces, queue) = sync_channel::<(Arc<Vec<u8>>, usize)>(WAITING);
        let thread = thread::Builder::new()
            .name("layer-hash".to_owned())
            .spawn(move || {
                let mut hasher = Hasher::new();
                for (piece, filled) in queue {
                    hasher.update(&piece[..filled]);
                }
                hasher.finish()
            })
            .map_err(|e| LayerError::Thread(e.to_string()))?;
        Ok(Self { pieces, thread })
    }

    fn finish(self) -> Result<Digest, LayerError> {
        drop(self.pieces);
        self.thread.join().map_err(|_| LayerError::Thread("it ended without a digest".to_owned()))
    }
}

/// What the archive parser reads.
pub(crate) struct Stream<'a> {
    decoder: Decoder<'a>,
    budget: &'a Budget,
    lane: Lane,
    piece: Arc<Vec<u8>>,
    filled: usize,
    at: usize,
    /// Earlier pieces, to be filled again once they are hashed.
    spent: VecDeque<Arc<Vec<u8>>>,
    ended: bool,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(decoder: Decoder<'a>, budget: &'a Budget) -> Result<Self, LayerError> {
        let lane = Lane::start()?;
        Ok(Self {
            decoder,
            budget,
            lane,
            piece: Arc::new(Vec::new()),
            filled: 0,
            at: 0,
            spent: VecDeque::new(),
            ended: false,
        })
    }

    /// Gets the next piece; gives whether there was one.
    fn refill(&mut self) -> Result<bool, LayerError> {
        if self.ended {
            return Ok(false);
        }
        let mut buffer = match self.spent.pop_front().map(Arc::try_unwrap) {
            Some(Ok(buffer)) => buffer,
            _ => vec![0; PIECE],
        };
        let mut filled = 0;
        while filled < PIECE {
            match self.decoder.read(&mut buffer[filled..])? {
                0 => {
                    self.ended = true;
                    break;
                }
                count => filled += count,
            }
        }
        self.budget.content(filled as u64)?;
        let old = std::mem::replace(&mut self.piece, Arc::new(buffer));
        if old.len() == PIECE && self.spent.len() <= WAITING {
            self.spent.push_back(old);
        }
        self.filled = filled;
        self.at = 0;
        if self.lane.pieces.send((Arc::clone(&self.piece), filled)).is_err() {
            return Err(LayerError::Thread("it ended too early".to_owned()));
        }
        Ok(filled > 0)
    }

    /// Reads to the end and verifies both digests. `parsed` is what the archive parser came to; a damaged blob
    /// explains any failure of it, so that is looked at first.
    pub(crate) fn finish<T>(
        mut self,
        digest: Digest,
        diff_id: Digest,
        parsed: Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        let parsed = parsed.and_then(|value| {
            while self.refill()? {}
            Ok(value)
        });
        match &parsed {
            // These say nothing of the bytes, so there is nothing to explain.
            Err(
                LayerError::Stopped
                | LayerError::Limit { .. }
                | LayerError::Write(_)
                | LayerError::Read(_)
                | LayerError::Size { .. }
                | LayerError::TooLarge
                | LayerError::Thread(_),
            ) => return parsed,
            _ => self.decoder.verify(digest)?,
        }
        let value = parsed?;
        let actual = self.lane.finish()?;
        if actual == diff_id { Ok(value) } else { Err(LayerError::DiffId { expected: diff_id, actual }) }
    }
}

impl Input for Stream<'_> {
    fn pull(&mut self, out: &mut [u8]) -> Result<usize, LayerError> {
        if self.at == self.filled && !self.refill()? {
            return Ok(0);
        }
        let count = out.len().min(self.filled - self.at);
        out[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }

    fn skip(&mut self, limit: u64) -> Result<u64, LayerError> {
        if self.at == self.filled && !self.refill()? {
            return Ok(0);
        }
        let count = limit.min((self.filled - self.at) as u64);
        self.at += count as usize;
        Ok(count)
    }
}
