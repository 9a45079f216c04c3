//! The journal: what happened to workspaces, one JSON object a line, bounded.
//!
//! Two files of at most [`MAX_FILE`] bytes each: `events.jsonl`, and `events.1.jsonl` with what came before. Lines are
//! whole even after a crash: a torn last line is cut off when the journal is opened, and readers skip what is no event.
//! Events are for people and are not flushed to the disk one by one: a power cut may cost the last few.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use microagent_base::durable::DurableError;
use serde::{Deserialize, Serialize};

use crate::Key;

/// The size in bytes at which a file is put aside: some 4,000 events, of which the last half at least are always kept.
pub const MAX_FILE: u64 = 1024 * 1024;

/// The longest message in bytes; what is beyond is cut off. Long enough for a manifest error with its source lines.
pub const MAX_MESSAGE: usize = 4096;

/// What happened to a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// To which workspace.
    #[serde(flatten)]
    pub key: Key,
    /// The workspace's UID; empty where it has none yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Whether a person should look.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// A stable code in CamelCase: a reason of a condition.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
}

/// The two types of a Kubernetes event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// A person should look.
    Warning,
}

/// The writing end. There is one, in the controller that holds the state directory's lock.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    max: u64,
}

impl Journal {
    /// Opens or makes the journal at `path`, and cuts off a line that was not finished.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(path: &Path) -> Result<Self, DurableError> {
        Self::open_with(path, MAX_FILE)
    }

    fn open_with(path: &Path, max: u64) -> Result<Self, DurableError> {
        let file = writer(path).map_err(at("open", path))?;
        let len = cut_torn_line(&file).map_err(at("repair", path))?;
        Ok(Self { path: path.to_owned(), file, len, max })
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the operating system, a full disk above all; nothing of the event is then in the journal.
    pub fn append(&mut self, event: &Event) -> Result<(), DurableError> {
        let mut line = if event.message.len() > MAX_MESSAGE {
            serde_json::to_vec(&Event { message: cut(&event.message, MAX_MESSAGE), ..event.clone() })
        } else {
            serde_json::to_vec(event)
        }
        .map_err(|source| DurableError::Encode { path: self.path.clone(), source })?;
        line.push(b'\n');
        if self.len > 0 && self.len + line.len() as u64 > self.max {
            self.rotate().map_err(at("rotate", &self.path))?;
        }
        if let Err(e) = self.file.write_all(&line) {
            // A part may have been written. Were this to fail too, readers skip the torn line.
            let _ = self.file.set_len(self.len);
            return Err(at("write", &self.path)(e));
        }
        self.len += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, previous(&self.path))?;
        self.file = writer(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

/// Takes what happened.
pub trait Tell: Send + Sync {
    /// Takes one event.
    ///
    /// # Errors
    /// It cannot be kept.
    fn tell(&self, event: &Event) -> Result<(), DurableError>;
}

impl Tell for Mutex<Journal> {
    fn tell(&self, event: &Event) -> Result<(), DurableError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).append(event)
    }
}

/// All events that `filter` wants, oldest first. A journal that is not there has none.
///
/// # Errors
/// Those of the operating system.
pub fn read(path: &Path, filter: impl Fn(&Event) -> bool) -> Result<Vec<Event>, DurableError> {
    let mut events = Follower::from_start(path).poll()?;
    events.retain(filter);
    Ok(events)
}

/// Reads events as they are written. It does not wait by itself: [`Follower::poll`] again on a change of the file, or
/// a few times a second.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The begin of a line whose end is not written yet.
    partial: Vec<u8>,
    with_previous: bool,
}

impl Follower {
    /// Reads from the oldest event that is kept.
    #[must_use]
    pub fn from_start(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, partial: Vec::new(), with_previous: true }
    }

    /// Reads only what is written from now on.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn from_end(path: &Path) -> Result<Self, DurableError> {
        let mut follower = Self { with_previous: false, ..Self::from_start(path) };
        if let Some(mut file) = open_existing(path).map_err(at("open", path))? {
            file.seek(SeekFrom::End(0)).map_err(at("read", path))?;
            follower.file = Some(file);
        }
        Ok(follower)
    }

    /// The events since the last call. When the journal was rotated twice in between, those of the file that is gone
    /// are lost.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn poll(&mut self) -> Result<Vec<Event>, DurableError> {
        let mut events = Vec::new();
        let path = self.path.clone();
        self.read_on(&mut events).map_err(at("read", &path))?;
        Ok(events)
    }

    fn read_on(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        loop {
            // The newest file is opened before the older one is read: whatever rotates meanwhile, none is skipped.
            let newest = open_existing(&self.path)?;
            self.drain(events)?;
            let Some(newest) = newest else { return Ok(()) };
            if let Some(open) = &self.file
                && same(open, &newest)?
            {
                return Ok(());
            }
            if let Some(older) = open_existing(&previous(&self.path))? {
                if same(&older, &newest)? {
                    continue;
                }
                let read_already = match &self.file {
                    Some(open) => same(open, &older)?,
                    None => !self.with_previous,
                };
                if !read_already {
                    self.switch(older, events)?;
                }
            }
            self.switch(newest, events)?;
        }
    }

    fn switch(&mut self, file: File, events: &mut Vec<Event>) -> io::Result<()> {
        self.with_previous = true;
        self.partial.clear();
        self.file = Some(file);
        self.drain(events)
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        // Cut back under our feet, by a repair or by hand: what is left was read already.
        if file.stream_position()? > file.metadata()?.len() {
            file.seek(SeekFrom::End(0))?;
            self.partial.clear();
        }
        file.take(2 * MAX_FILE).read_to_end(&mut self.partial)?;
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else { return Ok(()) };
        let rest = self.partial.split_off(end + 1);
        let lines = std::mem::replace(&mut self.partial, rest);
        events.extend(lines.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
        Ok(())
    }
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError::Io { action, path: path.to_owned(), source }
}

/// `events.jsonl` → `events.1.jsonl`.
fn previous(path: &Path) -> PathBuf {
    path.with_extension("1.jsonl")
}

fn writer(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Cuts the file behind its last whole line; gives the length that is left.
fn cut_torn_line(mut file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0; 4096];
    let mut len = end;
    while len > 0 {
        let start = len.saturating_sub(block.len() as u64);
        let part = &mut block[..usize::try_from(len - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(newline) = part.iter().rposition(|b| *b == b'\n') {
            len = start + newline as u64 + 1;
            break;
        }
        len = start;
    }
    if len < end {
        file.set_len(len)?;
        end = len;
    }
    Ok(end)
}

/// At most `max` bytes of `text`, whole characters, with a mark where something is missing.
pub(crate) fn cut(text: &str, max: usize) -> String {
    const MARK: &str = "…";
    format!("{}{MARK}", &text[..text.floor_char_boundary(max - MARK.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u32) -> Event {
        Event {
            time: Timestamp::UNIX_EPOCH,
            key: Key::new("default", format!("w{n}")),
            uid: "u".to_owned(),
            type_: EventType::Normal,
            reason: "Started".to_owned(),
            message: format!("event {n}"),
        }
    }

    fn names(events: &[Event]) -> Vec<String> {
        events.iter().map(|e| e.key.name.clone()).collect()
    }

    fn journal() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        (dir, path)
    }

    #[test]
    fn what_is_appended_is_read_in_order_and_filtered() {
        let (_dir, path) = journal();
        assert_eq!(read(&path, |_| true).unwrap(), []);
        let mut journal = Journal::open(&path).unwrap();
        for n in 0..3 {
            journal.append(&event(n)).unwrap();
        }
        assert_eq!(read(&path, |_| true).unwrap(), [event(0), event(1), event(2)]);
        assert_eq!(names(&read(&path, |e| e.key.name == "w1").unwrap()), ["w1"]);
    }

    #[test]
    fn a_line_is_flat_json_with_the_names_of_the_documentation() {
        let text = serde_json::to_string(&event(1)).unwrap();
        let expected = r#"{"time":"1970-01-01T00:00:00Z","namespace":"default","name":"w1","uid":"u","type":"Normal","reason":"Started","message":"event 1"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_next_event_is_whole() {
        let (_dir, path) = journal();
        Journal::open(&path).unwrap().append(&event(0)).unwrap();
        let whole = fs::read(&path).unwrap();
        for torn in [whole[..whole.len() / 2].to_vec(), vec![b'x'; 10_000], vec![0; 4096]] {
            fs::write(&path, [&whole[..], &torn[..]].concat()).unwrap();
            assert_eq!(read(&path, |_| true).unwrap(), [event(0)]);
            Journal::open(&path).unwrap().append(&event(1)).unwrap();
            assert_eq!(read(&path, |_| true).unwrap(), [event(0), event(1)]);
        }
        fs::write(&path, "torn").unwrap();
        Journal::open(&path).unwrap().append(&event(2)).unwrap();
        assert_eq!(read(&path, |_| true).unwrap(), [event(2)]);
    }

    #[test]
    fn the_journal_stays_bounded_and_keeps_the_newest() {
        let (dir, path) = journal();
        let mut journal = Journal::open_with(&path, 1000).unwrap();
        for n in 0..100 {
            journal.append(&event(n)).unwrap();
        }
        let total: u64 = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2000, "{total}");
        let kept = names(&read(&path, |_| true).unwrap());
        let expected: Vec<_> = (100 - kept.len()..100).map(|n| format!("w{n}")).collect();
        assert_eq!(kept, expected);
        assert!(kept.len() > 7);
    }

    #[test]
    fn a_follower_sees_each_event_once_across_rotations() {
        let (_dir, path) = journal();
        let mut follower = Follower::from_start(&path);
        assert_eq!(follower.poll().unwrap(), []);
        let mut journal = Journal::open_with(&path, 500).unwrap();
        let mut seen = Vec::new();
        for n in 0..40 {
            journal.append(&event(n)).unwrap();
            if n % 3 == 0 {
                seen.extend(names(&follower.poll().unwrap()));
            }
        }
        seen.extend(names(&follower.poll().unwrap()));
        assert_eq!(seen, (0..40).map(|n| format!("w{n}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_follower_from_the_end_sees_only_what_is_new() {
        let (_dir, path) = journal();
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&event(0)).unwrap();
        let mut follower = Follower::from_end(&path).unwrap();
        assert_eq!(follower.poll().unwrap(), []);
        journal.append(&event(1)).unwrap();
        assert_eq!(follower.poll().unwrap(), [event(1)]);
    }

    #[test]
    fn half_a_line_is_given_when_its_rest_is_there() {
        let (_dir, path) = journal();
        let line = format!("{}\n", serde_json::to_string(&event(0)).unwrap());
        let (head, tail) = line.split_at(20);
        fs::write(&path, head).unwrap();
        let mut follower = Follower::from_start(&path);
        assert_eq!(follower.poll().unwrap(), []);
        writer(&path).unwrap().write_all(tail.as_bytes()).unwrap();
        assert_eq!(follower.poll().unwrap(), [event(0)]);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let (_dir, path) = journal();
        let mut long = event(0);
        long.message = "ä".repeat(MAX_MESSAGE);
        Journal::open(&path).unwrap().append(&long).unwrap();
        let message = read(&path, |_| true).unwrap().remove(0).message;
        assert!(message.len() <= MAX_MESSAGE && message.ends_with("ä…"));
    }
}
