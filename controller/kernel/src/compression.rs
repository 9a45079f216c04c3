//! The compressions of kernels, modules and packages, told apart by their first bytes.

use std::io::{self, BufRead, Read};

/// xz and lzma may ask for a dictionary of this size at most. Kernels use 32 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// 128 MiB, which `zstd --ultra -22` of the kernel's build uses.
const ZSTD_WINDOW_LOG: u32 = 27;
/// The block size of the legacy format, `lz4_Block_format.md` and `lib/decompress_unlz4.c` of the kernel.
const LZ4_BLOCK: usize = 8 << 20;
/// A block that does not shrink grows by at most this: `LZ4_COMPRESSBOUND`.
const LZ4_BLOCK_COMPRESSED: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;
const LZ4_LEGACY_MAGIC: u32 = 0x184C_2102;

/// A way in which bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Xz,
    Lzma,
    Bzip2,
    Lz4Legacy,
    Zstd,
}

impl Compression {
    /// By the first bytes, as `scripts/extract-vmlinux` and `lib/decompress.c` of the kernel do.
    pub(crate) fn detect(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x5d, 0, 0, ..] => Some(Self::Lzma),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4Legacy),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Reads the first stream of `input` decompressed; whatever stands behind that stream is passed over.
    pub(crate) fn reader<'a>(self, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        use liblzma::stream::Stream;
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(input)),
            Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_stream(
                input,
                Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(io::Error::other)?,
            )),
            Self::Lzma => Box::new(liblzma::bufread::XzDecoder::new_stream(
                input,
                Stream::new_lzma_decoder(XZ_MEMORY).map_err(io::Error::other)?,
            )),
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(input)),
            Self::Lz4Legacy => Box::new(Lz4Legacy::new(input)?),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// A reader that fails, instead of ending, when there is more than the bound.
pub(crate) struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Limited<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = (self.left.checked_sub(read as u64))
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any that is known"))?;
        Ok(read)
    }
}

/// The legacy lz4 format: the magic, then blocks of `u32 compressed size, bytes`, each of 8 MiB but the last.
struct Lz4Legacy<R> {
    input: R,
    compressed: Vec<u8>,
    block: Vec<u8>,
    position: usize,
    total: u64,
    ended: bool,
}

impl<R: BufRead> Lz4Legacy<R> {
    fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; 4];
        input.read_exact(&mut magic)?;
        if u32::from_le_bytes(magic) != LZ4_LEGACY_MAGIC {
            return Err(invalid("the lz4 magic is missing"));
        }
        Ok(Self { input, compressed: Vec::new(), block: Vec::new(), position: 0, total: 0, ended: false })
    }

    fn next_block(&mut self) -> io::Result<()> {
        self.block.clear();
        self.position = 0;
        let mut size = [0; 4];
        match read_up_to(&mut self.input, &mut size)? {
            4 => {}
            0 => {
                self.ended = true;
                return Ok(());
            }
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let size = u32::from_le_bytes(size);
        if size == LZ4_LEGACY_MAGIC {
            return Ok(());
        }
        // The kernel's build puts the size of the whole behind the last block, which looks like a block's size.
        if self.input.fill_buf()?.is_empty() {
            self.ended = true;
            return if u64::from(size) == self.total & 0xffff_ffff {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let size = size as usize;
        if size > LZ4_BLOCK_COMPRESSED {
            return Err(invalid("an lz4 block is larger than the format allows"));
        }
        self.compressed.resize(size, 0);
        self.input.read_exact(&mut self.compressed)?;
        self.block.resize(LZ4_BLOCK, 0);
        let written = lz4_flex::block::decompress_into(&self.compressed, &mut self.block).map_err(invalid)?;
        self.block.truncate(written);
        self.total += written as u64;
        Ok(())
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.block.len() && !self.ended {
            self.next_block()?;
        }
        let rest = self.block.get(self.position..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Fills the buffer unless the input ends before; gives how much of it was filled.
pub(crate) fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Test fixtures: the same formats, as the kernel's build writes them.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use std::io::Write;

    pub(crate) const ALL: &[Compression] = &[
        Compression::Gzip,
        Compression::Xz,
        Compression::Lzma,
        Compression::Bzip2,
        Compression::Lz4Legacy,
        Compression::Zstd,
    ];

    pub(crate) fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
        let xz = |stream: Stream| {
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        match compression {
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Xz => {
                let mut filters = Filters::new();
                filters.x86().lzma2(&LzmaOptions::new_preset(6).unwrap());
                xz(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap())
            }
            Compression::Lzma => xz(Stream::new_lzma_encoder(&LzmaOptions::new_preset(6).unwrap()).unwrap()),
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Lz4Legacy => {
                let mut out = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
                for chunk in bytes.chunks(LZ4_BLOCK) {
                    let block = lz4_flex::block::compress(chunk);
                    out.extend((block.len() as u32).to_le_bytes());
                    out.extend(block);
                }
                out
            }
            Compression::Zstd => zstd::encode_all(bytes, 19).unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        compression.reader(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_format_is_detected_and_read_with_the_size_that_the_kernel_build_appends() {
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 10_000) as u8).collect();
        for &compression in fixture::ALL {
            let mut packed = fixture::compress(compression, &bytes);
            assert_eq!(Compression::detect(&packed), Some(compression));
            packed.extend((bytes.len() as u32).to_le_bytes());
            assert!(read(compression, &packed).unwrap() == bytes, "{compression:?}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_short_is_an_error() {
        for &compression in fixture::ALL {
            let packed = fixture::compress(compression, &[7; 100_000]);
            assert!(read(compression, &packed[..packed.len() / 2]).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn an_lz4_block_beyond_the_format_is_refused_before_memory_is_taken() {
        let packed = [&LZ4_LEGACY_MAGIC.to_le_bytes()[..], &[0xff; 64]].concat();
        assert_eq!(read(Compression::Lz4Legacy, &packed).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn more_than_the_limit_is_an_error_and_not_an_end() {
        let mut out = Vec::new();
        assert!(Limited::new(&[0; 11][..], 10).read_to_end(&mut out).is_err());
        assert_eq!(Limited::new(&[0; 10][..], 10).read_to_end(&mut out).unwrap(), 10);
    }
}
