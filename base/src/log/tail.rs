//! A log file that grows and is rotated under its reader.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::lines::Lines;

/// Reads the lines of a log: first the older file, then the present one, then what is added.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    older: Option<PathBuf>,
    file: Option<(File, (u64, u64))>,
    rest: Lines,
}

impl Tail {
    /// Reads `path`, and before it the file that it was rotated to, if any.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { older: Some(rotated(&path)), path, file: None, rest: Lines::default() }
    }

    /// Gives `each` every line that is there by now and was not given before, without its line feed. A last line that is not
    /// ended yet waits for its end.
    ///
    /// # Errors
    /// Those of the operating system; that the file is not there is none.
    pub fn lines(&mut self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some(older) = self.older.take()
            && let Some((file, _)) = open(&older)?
        {
            self.drain(file, &mut each)?;
        }
        loop {
            if self.file.is_none() {
                self.file = open(&self.path)?;
            }
            let Some((file, identity)) = &self.file else { return Ok(()) };
            let (reader, identity) = (file.try_clone()?, *identity);
            self.drain(reader, &mut each)?;
            match identity_of(&self.path)? {
                Some(now) if now != identity => {
                    // It was rotated. What was written to the old file after the look above must not be lost.
                    if let Some((file, _)) = self.file.take() {
                        self.drain(file, &mut each)?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// As [`Self::lines`], but gives only the last `keep` of the lines that `wanted` takes; those before them count as given.
    ///
    /// # Errors
    /// As [`Self::lines`].
    pub fn last(
        &mut self,
        keep: usize,
        mut wanted: impl FnMut(&[u8]) -> bool,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        self.lines(|line| {
            if keep > 0 && wanted(line) {
                if last.len() == keep {
                    last.pop_front();
                }
                last.push_back(line.to_vec());
            }
            Ok(())
        })?;
        last.iter().try_for_each(|line| each(line))
    }

    /// Gives what is left of a last line that was never ended.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn rest(&mut self, each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.rest.rest(each)
    }

    fn drain(&mut self, mut file: File, each: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.rest.push(&buffer[..n], each)?;
        }
    }
}

/// The name that a full log gets: `workload.log` becomes `workload.log.1`.
#[must_use]
pub fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn open(path: &Path) -> io::Result<Option<(File, (u64, u64))>> {
    match File::open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            Ok(Some((file, (metadata.dev(), metadata.ino()))))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn identity_of(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn read(tail: &mut Tail) -> Vec<String> {
        let mut lines = Vec::new();
        tail.lines(|line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })
        .unwrap();
        lines
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_are_given_once_and_a_half_line_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut tail = Tail::new(&path);
        assert!(read(&mut tail).is_empty(), "there is no file yet");
        append(&path, "a\nb");
        assert_eq!(read(&mut tail), ["a"]);
        append(&path, "c\n");
        assert_eq!(read(&mut tail), ["bc"]);
        assert!(read(&mut tail).is_empty());
        append(&path, "end");
        assert!(read(&mut tail).is_empty());
        let mut rest = Vec::new();
        tail.rest(|line| {
            rest.extend_from_slice(line);
            Ok(())
        })
        .unwrap();
        assert_eq!(rest, b"end");
    }

    #[test]
    fn the_last_lines_are_of_those_that_are_wanted_and_what_follows_is_given_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&rotated(&path), "x1\ny1\n");
        append(&path, "x2\nx3\ny2\n");
        for (keep, expected) in [(2, vec!["x2", "x3"]), (9, vec!["x1", "x2", "x3"]), (0, vec![])] {
            let mut tail = Tail::new(&path);
            let mut lines = Vec::new();
            let each = |line: &[u8]| {
                lines.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            };
            tail.last(keep, |line| line.starts_with(b"x"), each).unwrap();
            assert_eq!(lines, expected, "{keep}");
            assert!(read(&mut tail).is_empty());
        }
    }

    #[test]
    fn rotation_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&rotated(&path), "older\n");
        append(&path, "a\n");
        let mut tail = Tail::new(&path);
        assert_eq!(read(&mut tail), ["older", "a"]);
        append(&path, "b\n");
        fs::rename(&path, rotated(&path)).unwrap();
        append(&path, "c\n");
        assert_eq!(read(&mut tail), ["b", "c"]);
        append(&path, "d\n");
        assert_eq!(read(&mut tail), ["d"]);
    }
}
