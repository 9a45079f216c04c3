//! Bytes that come in pieces, as lines.

use std::io;

/// A line that is longer is given in parts, in bytes.
const MAX_LINE: usize = 1024 * 1024;

/// What was read of a line that has not ended yet.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Gives `each` every line that ends in `bytes`, without its line feed. What follows waits for its end.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn push(&mut self, mut bytes: &[u8], each: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            if self.rest.is_empty() {
                each(&bytes[..end])?;
            } else {
                self.rest.extend_from_slice(&bytes[..end]);
                each(&std::mem::take(&mut self.rest))?;
            }
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() >= MAX_LINE { each(&std::mem::take(&mut self.rest)) } else { Ok(()) }
    }

    /// Gives what is left of a last line that was never ended.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn rest(&mut self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.rest.is_empty() { Ok(()) } else { each(&std::mem::take(&mut self.rest)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_lines_however_the_bytes_are_cut() {
        let text = b"a\n\nlong line\nrest";
        for size in 1..=text.len() {
            let (mut lines, mut given) = (Lines::default(), Vec::new());
            let mut each = |line: &[u8]| {
                given.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            };
            for piece in text.chunks(size) {
                lines.push(piece, &mut each).unwrap();
            }
            lines.rest(&mut each).unwrap();
            assert_eq!(given, ["a", "", "long line", "rest"], "{size}");
        }
    }

    #[test]
    fn an_endless_line_is_given_in_parts() {
        let (mut lines, mut given) = (Lines::default(), Vec::new());
        for _ in 0..40 {
            let push = lines.push(&[b'x'; 64 * 1024], &mut |part: &[u8]| {
                given.push(part.len());
                Ok(())
            });
            push.unwrap();
        }
        assert_eq!(given, [MAX_LINE, MAX_LINE]);
    }
}
