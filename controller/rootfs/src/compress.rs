//! The compressed blob: counted, hashed, and decompressed by what its first bytes say, not by its media type.

use std::{
    io::{self, BufReader, Chain, Cursor, Read},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use flate2::bufread::MultiGzDecoder;
use microagent_base::{Digest, Progress, digest::Hasher, progress::Step};

use crate::error::LayerError;

/// Bytes read from a blob at a time.
const READ: usize = 128 * 1024;
/// Progress is told, and cancelling looked for, each time this many bytes were read.
const TELL: u64 = 1 << 20;

/// How far all layers together are, and whether to go on.
pub(crate) struct Meter<'a> {
    pub(crate) progress: &'a dyn Progress,
    pub(crate) total: u64,
    pub(crate) done: AtomicU64,
    /// Set when a layer failed: the others need not go on.
    pub(crate) stop: AtomicBool,
}

impl Meter<'_> {
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.progress.cancelled()
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.step(Step { what: "unpacking layers".to_owned(), done, total: Some(self.total) });
    }
}

/// A blob as it is read: no byte past the promised size is accepted.
pub(crate) struct Source<'a> {
    blob: Box<dyn Read + Send>,
    size: u64,
    read: u64,
    /// None where somebody else holds the blob against its digest.
    hasher: Option<Hasher>,
    meter: &'a Meter<'a>,
    untold: u64,
    /// Why reading stopped, when it was not the end. The decoder only sees some I/O error.
    fault: Option<LayerError>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(blob: Box<dyn Read + Send>, size: u64, verified: bool, meter: &'a Meter<'a>) -> Self {
        let hasher = (!verified).then(Hasher::new);
        Self { blob, size, read: 0, hasher, meter, untold: 0, fault: None }
    }

    fn fail(&mut self, fault: LayerError) -> io::Error {
        self.fault = Some(fault);
        io::Error::other("the blob cannot be read on")
    }
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.fault.is_some() {
            return Err(io::Error::other("the blob cannot be read on"));
        }
        let count = loop {
            match self.blob.read(out) {
                Ok(count) => break count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.fail(LayerError::Read(e))),
            }
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&out[..count]);
        }
        self.read += count as u64;
        if self.read > self.size {
            let (expected, actual) = (self.size, self.read);
            return Err(self.fail(LayerError::Size { expected, actual }));
        }
        self.untold += count as u64;
        if count == 0 || self.untold >= TELL {
            self.meter.add(std::mem::take(&mut self.untold));
            if self.meter.stopped() {
                return Err(self.fail(LayerError::Stopped));
            }
        }
        Ok(count)
    }
}

type Input<'a> = BufReader<Chain<Cursor<Vec<u8>>, Source<'a>>>;

/// The layer, decompressed.
pub(crate) enum Decoder<'a> {
    Plain(Box<Input<'a>>),
    Gzip(Box<MultiGzDecoder<Input<'a>>>),
    Zstd(Box<zstd::Decoder<'static, Input<'a>>>),
}

impl<'a> Decoder<'a> {
    /// Looks at the first bytes of the blob.
    pub(crate) fn new(mut source: Source<'a>) -> Result<Self, LayerError> {
        let mut magic = Vec::with_capacity(8);
        if let Err(e) = (&mut source).take(6).read_to_end(&mut magic) {
            return Err(source.fault.unwrap_or(LayerError::Decompress(e)));
        }
        let head = magic.clone();
        let input = BufReader::with_capacity(READ, Cursor::new(magic).chain(source));
        match head.as_slice() {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(input)))),
            // RFC 8878: a frame (3.1.1), or a skippable frame (3.1.2), with which some converters begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let decoder = zstd::Decoder::with_buffer(input).map_err(LayerError::Decompress)?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
            [b'B', b'Z', b'h', ..] => Err(LayerError::Compression("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(LayerError::Compression("xz")),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err(LayerError::Compression("lz4")),
            _ => Ok(Self::Plain(Box::new(input))),
        }
    }

    /// Reads decompressed bytes; `Ok(0)` only at the very end.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, LayerError> {
        loop {
            let result = match self {
                Self::Plain(input) => input.read(out),
                Self::Gzip(input) => input.read(out),
                Self::Zstd(input) => input.read(out),
            };
            match result {
                Ok(count) => return Ok(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.source().fault.take().unwrap_or(LayerError::Decompress(e))),
            }
        }
    }

    fn source(&mut self) -> &mut Source<'a> {
        let input = match self {
            Self::Plain(input) => input,
            Self::Gzip(input) => input.get_mut(),
            Self::Zstd(input) => input.get_mut(),
        };
        input.get_mut().get_mut().1
    }

    /// Reads what is left of the blob and holds it against the manifest. Also called when decompression or parsing
    /// failed: a blob that was damaged on the way should be reported as that.
    pub(crate) fn verify(&mut self, digest: Digest) -> Result<(), LayerError> {
        let source = self.source();
        if let Some(fault) = source.fault.take() {
            return Err(fault);
        }
        let mut rest = vec![0; READ];
        loop {
            match source.read(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => return Err(source.fault.take().unwrap_or(LayerError::Read(e))),
            }
        }
        if source.read != source.size {
            return Err(LayerError::Size { expected: source.size, actual: source.read });
        }
        match source.hasher.as_ref().map(Hasher::finish) {
            Some(actual) if actual != digest => Err(LayerError::Digest { actual }),
            _ => Ok(()),
        }
    }
}
