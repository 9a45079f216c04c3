//! Maps of sparse files: old GNU, and PAX 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").

use super::pax::{Pax, decimal};
use crate::{
    error::Problem,
    limits::{MAX_FILE, MAX_SPARSE_PIECES},
};

/// Where the stored bytes of a sparse file belong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Map {
    /// Size of the file with its holes, in bytes.
    pub(crate) size: u64,
    /// Offset and length of what is stored, in rising order, without overlap.
    pub(crate) pieces: Vec<(u64, u64)>,
}

impl Map {
    /// Holds a map against itself and against the stored bytes.
    pub(crate) fn new(size: u64, mut pieces: Vec<(u64, u64)>, stored: u64) -> Result<Self, Problem> {
        if size > MAX_FILE {
            return Err(Problem::FileTooLarge);
        }
        let (mut end, mut sum) = (0_u64, 0_u64);
        for &(offset, length) in &pieces {
            if offset < end {
                return Err(Problem::Sparse);
            }
            end = offset.checked_add(length).filter(|&end| end <= size).ok_or(Problem::Sparse)?;
            sum += length;
        }
        if sum != stored {
            return Err(Problem::Sparse);
        }
        pieces.retain(|&(_, length)| length > 0);
        Ok(Self { size, pieces })
    }
}

/// How a PAX header tells that the file is sparse.
pub(crate) enum Pieces {
    /// Formats 0.0 and 0.1: the map is in the header.
    Known(Vec<(u64, u64)>),
    /// Format 1.0: the map precedes the stored bytes.
    InData,
}

/// The sparse format of a PAX header, with the size of the file; `None` for an ordinary file.
pub(crate) fn of_pax(pax: &Pax) -> Result<Option<(u64, Pieces)>, Problem> {
    let size = |key| pax.number(key)?.ok_or(Problem::Sparse);
    if let Some(major) = pax.number("GNU.sparse.major")? {
        let minor = pax.number("GNU.sparse.minor")?;
        return match (major, minor) {
            (1, Some(0)) => Ok(Some((size("GNU.sparse.realsize")?, Pieces::InData))),
            _ => Err(Problem::Sparse),
        };
    }
    if let Some(map) = pax.get("GNU.sparse.map") {
        let numbers =
            map.split(|&b| b == b',').map(|n| decimal(n).ok_or(Problem::Sparse)).collect::<Result<Vec<_>, _>>()?;
        if numbers.len() % 2 != 0 {
            return Err(Problem::Sparse);
        }
        let pieces = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        return Ok(Some((size("GNU.sparse.size")?, Pieces::Known(pieces))));
    }
    if pax.get("GNU.sparse.size").is_some() {
        return Ok(Some((size("GNU.sparse.size")?, Pieces::Known(pax.sparse_pieces.clone()))));
    }
    Ok(None)
}

/// Reads the map of format 1.0 byte by byte: a count, then offsets and lengths, each a line.
#[derive(Default)]
pub(crate) struct MapReader {
    digits: Vec<u8>,
    expected: Option<usize>,
    numbers: Vec<u64>,
}

impl MapReader {
    /// Takes one block; gives the pieces when the map ends in it. The rest of that block is padding.
    pub(crate) fn block(&mut self, block: &[u8]) -> Result<Option<Vec<(u64, u64)>>, Problem> {
        for &byte in block {
            if byte != b'\n' {
                self.digits.push(byte);
                if self.digits.len() > 20 {
                    return Err(Problem::Sparse);
                }
                continue;
            }
            let number = decimal(&self.digits).ok_or(Problem::Sparse)?;
            self.digits.clear();
            match self.expected {
                None => {
                    let count = usize::try_from(number).ok().filter(|&count| count <= MAX_SPARSE_PIECES);
                    self.expected = Some(count.ok_or(Problem::Sparse)? * 2);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.expected == Some(self.numbers.len()) {
                return Ok(Some(self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_contradicts_itself_is_refused() {
        assert!(Map::new(100, vec![(0, 10), (50, 10), (100, 0)], 20).is_ok());
        assert_eq!(Map::new(100, vec![(0, 10), (5, 10)], 20), Err(Problem::Sparse));
        assert_eq!(Map::new(100, vec![(95, 10)], 10), Err(Problem::Sparse));
        assert_eq!(Map::new(100, vec![(0, 10)], 11), Err(Problem::Sparse));
        assert_eq!(Map::new(100, vec![(u64::MAX, 10)], 10), Err(Problem::Sparse));
        assert_eq!(Map::new(u64::MAX, vec![], 0), Err(Problem::FileTooLarge));
    }

    #[test]
    fn a_map_in_the_data_may_span_blocks() {
        let mut reader = MapReader::default();
        assert_eq!(reader.block(b"2\n0\n5"), Ok(None));
        assert_eq!(reader.block(b"12\n9000\n1\n\0\0"), Ok(Some(vec![(0, 512), (9000, 1)])));
    }
}
