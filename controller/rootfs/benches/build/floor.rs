//! What no builder can do without: every layer is read, hashed, decompressed and hashed again, side by side, and what comes out is
//! written one byte after the other, with no regard to what it is.

use std::{
    fs::File,
    io::{BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    thread,
};

use flate2::bufread::MultiGzDecoder;
use microagent_base::digest::Hasher;

use crate::image::{Blob, Image};

/// Bytes that are handed on at a time; those of the builder.
const PIECE: usize = 256 * 1024;

pub(crate) fn run(image: &Image, out: &Path) {
    let out = File::options().write(true).create_new(true).open(out).unwrap();
    let end = AtomicU64::new(0);
    let mut waiting: Vec<&Blob> = image.layers.iter().collect();
    waiting.sort_by_key(|blob| blob.size);
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get().min(image.layers.len()) {
            scope.spawn(|| {
                while let Some(blob) = next() {
                    unpack(blob, &out, &end);
                }
            });
        }
    });
}

fn unpack(blob: &Blob, out: &File, end: &AtomicU64) {
    let source = Hashed { file: File::open(&blob.path).unwrap(), hasher: Hasher::new() };
    let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(128 * 1024, source));
    let (full, hashing) = sync_channel::<(Vec<u8>, usize)>(4);
    let (spent, free) = sync_channel::<Vec<u8>>(8);
    let hasher = thread::spawn(move || {
        let mut hasher = Hasher::new();
        for (piece, filled) in hashing {
            hasher.update(&piece[..filled]);
            let _ = spent.try_send(piece);
        }
        hasher.finish()
    });
    loop {
        let mut piece = free.try_recv().unwrap_or_else(|_| vec![0; PIECE]);
        let mut filled = 0;
        while filled < PIECE {
            match decoder.read(&mut piece[filled..]).unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        out.write_all_at(&piece[..filled], end.fetch_add(filled as u64, Ordering::Relaxed)).unwrap();
        full.send((piece, filled)).unwrap();
    }
    drop(full);
    assert_eq!(decoder.into_inner().into_inner().hasher.finish(), blob.digest);
    assert_eq!(hasher.join().unwrap(), blob.diff_id);
}

/// A blob that is hashed as it is read.
struct Hashed {
    file: File,
    hasher: Hasher,
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(out)?;
        self.hasher.update(&out[..count]);
        Ok(count)
    }
}
