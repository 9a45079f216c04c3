//! Bounded log files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// The longest part of a line that is kept before it is written as a partial line, in bytes: the CRI's own bound.
const MAX_LINE: usize = 16 * 1024;

/// The smallest bound that is honoured, in bytes: below it every line would rotate.
const MIN_LIMIT: u64 = 4096;

/// A file that is renamed to `<name>.1` when it would grow past its bound. What cannot be written, on a full disk for
/// example, is dropped: the guest must never wait for its logs.
#[derive(Debug)]
pub(crate) struct RotatingLog {
    path: PathBuf,
    limit: u64,
    file: Option<File>,
    length: u64,
}

impl RotatingLog {
    pub(crate) fn open(path: &Path, limit: u64) -> Self {
        let mut log = Self { path: path.to_owned(), limit: limit.max(MIN_LIMIT), file: None, length: 0 };
        log.reopen();
        log
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.length > 0 && self.length + bytes.len() as u64 > self.limit {
            self.file = None;
            let _ = fs::rename(&self.path, rotated(&self.path));
            self.length = 0;
        }
        if self.file.is_none() {
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.length += bytes.len() as u64;
        }
    }

    fn reopen(&mut self) {
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
        self.length = opened.as_ref().ok().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        self.file = opened.ok();
    }
}

/// The name of the older file.
pub(crate) fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Output in the CRI log format: `<RFC 3339 time> <stdout|stderr> <P|F> <text>` (Kubernetes, "CRI container log format").
/// `P` says that the line goes on in the next entry of its stream; a last line without a line feed stays `P`. Behind it, as the
/// format allows, stands the tag `setup` for what setup commands say: `F:setup`.
pub(crate) struct CriLog {
    log: RotatingLog,
    partial: [Vec<u8>; 2],
    setup: bool,
}

impl CriLog {
    pub(crate) fn open(path: &Path, limit: u64) -> Self {
        Self { log: RotatingLog::open(path, limit), partial: [Vec::new(), Vec::new()], setup: false }
    }

    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            for chunk in text.chunks(MAX_LINE) {
                if self.partial[stream as usize].len() + chunk.len() > MAX_LINE {
                    self.entry(stream, 'P', now);
                }
                self.partial[stream as usize].extend_from_slice(chunk);
            }
            if ends {
                self.entry(stream, 'F', now);
            }
        }
    }

    /// What comes from now on is of setup commands, or no longer.
    pub(crate) fn set_setup(&mut self, setup: bool, now: Timestamp) {
        self.flush(now);
        self.setup = setup;
    }

    /// Writes what has no line feed yet.
    pub(crate) fn flush(&mut self, now: Timestamp) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial[stream as usize].is_empty() {
                self.entry(stream, 'P', now);
            }
        }
    }

    fn entry(&mut self, stream: Stream, tag: char, now: Timestamp) {
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let setup = if self.setup { ":setup" } else { "" };
        let mut line = Vec::with_capacity(64);
        // Nine digits always, so that times sort as text.
        let _ = write!(line, "{now:.9} {name} {tag}{setup} ");
        line.append(&mut self.partial[stream as usize]);
        line.push(b'\n');
        self.log.write(&line);
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// How much is kept, in bytes.
    const LIMIT: usize = 4096;

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(Self::LIMIT)..]);
        let extra = self.0.len().saturating_sub(Self::LIMIT);
        self.0.drain(..extra);
    }

    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>().trim().to_owned()
    }
}

/// Reads until the end, giving each piece to `take`.
pub(crate) fn pump(mut reader: impl io::Read, mut take: impl FnMut(&[u8])) {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => take(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cri(limit: u64, write: impl FnOnce(&mut CriLog)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        write(&mut CriLog::open(&path, limit));
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_setup_says_is_tagged_and_never_joined_with_what_the_workload_says() {
        let at = Timestamp::UNIX_EPOCH;
        let text = cri(1 << 20, |log| {
            log.set_setup(true, at);
            log.write(Stream::Stdout, b"one\nhalf", at);
            log.set_setup(false, at);
            log.write(Stream::Stdout, b"two\n", at);
        });
        let at = format!("{at:.9}");
        assert_eq!(text, format!("{at} stdout F:setup one\n{at} stdout P:setup half\n{at} stdout F two\n"));
    }

    #[test]
    fn a_line_is_one_full_entry_however_it_was_cut_and_streams_do_not_mix() {
        let text = cri(1 << 20, |log| {
            for (stream, bytes) in [(Stream::Stdout, "he"), (Stream::Stderr, "oops\n"), (Stream::Stdout, "llo\n\nend")]
            {
                log.write(stream, bytes.as_bytes(), Timestamp::UNIX_EPOCH);
            }
            log.flush(Timestamp::UNIX_EPOCH);
        });
        let at = "1970-01-01T00:00:00.000000000Z";
        assert_eq!(text, format!("{at} stderr F oops\n{at} stdout F hello\n{at} stdout F \n{at} stdout P end\n"));
    }

    #[test]
    fn an_endless_line_is_cut_into_bounded_parts() {
        let text = cri(1 << 20, |log| {
            log.write(Stream::Stdout, &[b'x'; 40 * 1024], Timestamp::UNIX_EPOCH);
            log.write(Stream::Stdout, b"\n", Timestamp::UNIX_EPOCH);
        });
        let tags: Vec<_> = text.lines().map(|l| (l.split(' ').nth(2).unwrap().to_owned(), l.len())).collect();
        assert_eq!(tags.iter().map(|t| t.0.as_str()).collect::<Vec<_>>(), ["P", "P", "F"]);
        assert!(tags.iter().all(|t| t.1 < MAX_LINE + 64));
    }

    #[test]
    fn a_log_keeps_two_files_within_their_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = RotatingLog::open(&path, MIN_LIMIT);
        for n in 0..1000 {
            log.write(format!("line {n:05}\n").as_bytes());
        }
        assert!(fs::read_to_string(&path).unwrap().ends_with("line 00999\n"));
        let sizes: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|s| *s <= MIN_LIMIT));
    }

    #[test]
    fn a_log_that_is_opened_again_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        for text in ["a\n", "b\n"] {
            RotatingLog::open(&path, MIN_LIMIT).write(text.as_bytes());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }
}
