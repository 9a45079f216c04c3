//! One 512-byte header block: v7, POSIX ustar, GNU and star.

use crate::error::Problem;

/// The unit of the format, in bytes.
pub(crate) const BLOCK: usize = 512;

/// A header as it stands in the archive.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) size: u64,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Old GNU sparse files only: the first pieces, whether a block with more follows, and the size with holes.
    pub(crate) sparse: Option<OldSparse>,
}

/// The sparse part of an old GNU header.
#[derive(Debug)]
pub(crate) struct OldSparse {
    pub(crate) pieces: Vec<(u64, u64)>,
    pub(crate) extended: bool,
    pub(crate) real_size: u64,
}

impl Raw {
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, Problem> {
        verify_checksum(block)?;
        let posix = &block[257..263] == b"ustar\0";
        let gnu = &block[257..265] == b"ustar  \0";
        let kind = block[156];
        let mut name = text(&block[..100]).to_vec();
        if posix {
            // star keeps times in the last 24 bytes of the prefix and signs its headers at the end.
            let end = if &block[508..512] == b"tar\0" { 476 } else { 500 };
            let prefix = text(&block[345..end]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let device = |range: std::ops::Range<usize>, field| {
            if posix || gnu { bounded(&block[range], field) } else { Ok(0) }
        };
        let is_device = matches!(kind, b'3' | b'4');
        Ok(Self {
            name,
            link: text(&block[157..257]).to_vec(),
            kind,
            size: u64::try_from(number(&block[124..136], "size")?).map_err(|_| Problem::Number("size"))?,
            // Some writers keep the file type in the upper bits.
            mode: (number(&block[100..108], "mode")? & 0o7777) as u16,
            uid: bounded(&block[108..116], "uid")?,
            gid: bounded(&block[116..124], "gid")?,
            mtime: number(&block[136..148], "mtime")?,
            major: if is_device { device(329..337, "devmajor")? } else { 0 },
            minor: if is_device { device(337..345, "devminor")? } else { 0 },
            sparse: (kind == b'S').then(|| old_sparse(block)).transpose()?,
        })
    }
}

/// Pieces of an old GNU sparse header or of one of its extension blocks: offset and length, 12 bytes each.
pub(crate) fn sparse_pieces(bytes: &[u8]) -> Result<Vec<(u64, u64)>, Problem> {
    let mut pieces = Vec::new();
    for piece in bytes.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        let value = |bytes| u64::try_from(number(bytes, "sparse")?).map_err(|_| Problem::Sparse);
        pieces.push((value(&piece[..12])?, value(&piece[12..])?));
    }
    Ok(pieces)
}

fn old_sparse(block: &[u8; BLOCK]) -> Result<OldSparse, Problem> {
    let real_size = number(&block[483..495], "realsize")?;
    Ok(OldSparse {
        pieces: sparse_pieces(&block[386..482])?,
        extended: block[482] != 0,
        real_size: u64::try_from(real_size).map_err(|_| Problem::Number("realsize"))?,
    })
}

fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), Problem> {
    let stored = number(&block[148..156], "checksum").map_err(|_| Problem::Checksum)?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        // Some old writers summed signed characters.
        signed += i64::from(byte.cast_signed());
    }
    if stored == unsigned || stored == signed { Ok(()) } else { Err(Problem::Checksum) }
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

fn bounded(field: &[u8], name: &'static str) -> Result<u32, Problem> {
    u32::try_from(number(field, name)?).map_err(|_| Problem::Number(name))
}

/// A numeric field: octal digits between blanks, or GNU's base-256 when the first bit is set.
fn number(field: &[u8], name: &'static str) -> Result<i64, Problem> {
    let bad = || Problem::Number(name);
    if let Some(&first) = field.first()
        && first & 0x80 != 0
    {
        // Two's complement, whose first bit is the mark and whose second is the sign.
        let mut value: i128 = if first & 0x40 != 0 { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = match (at, first & 0x40 != 0) {
                (0, true) => byte | 0x80,
                (0, false) => byte & 0x7f,
                _ => byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) {
        return Err(bad());
    }
    digits[..end].iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).and_then(|v| v.checked_add(i64::from(digit - b'0'))).ok_or_else(bad),
        _ => Err(bad()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_of_either_sign() {
        assert_eq!(number(b"0000644\0", "x"), Ok(0o644));
        assert_eq!(number(b"  755 \0\0", "x"), Ok(0o755));
        assert_eq!(number(b"\0\0\0\0", "x"), Ok(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0", "x"), Ok(8 << 30));
        assert_eq!(number(&[0xff; 12], "x"), Ok(-1));
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "x"), Err(Problem::Number("x")));
        assert_eq!(number(b"12 34\0", "x"), Err(Problem::Number("x")));
        assert_eq!(number(b"-1\0", "x"), Err(Problem::Number("x")));
        assert_eq!(number(b"8\0", "x"), Err(Problem::Number("x")));
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let mut block = [0; BLOCK];
        block[0] = b'a';
        block[148..156].copy_from_slice(b"000000\0 ");
        assert_eq!(Raw::parse(&block).unwrap_err(), Problem::Checksum);
    }
}
