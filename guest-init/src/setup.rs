//! Which setup steps have run. Kept on the writable disk, where the workload does not see it: in a file beside the upper
//! layer, or, when the root is one plain disk, in an extended attribute of the root directory.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, fsync, openat, renameat},
    io::Errno,
};

use crate::error::Error;

const FILE: &str = "setup.json";
const NEW: &str = "setup.json.new";
const ATTRIBUTE: &str = "trusted.microagent.setup";

/// The longest record, in bytes: more than 60 000 steps.
const MAX_RECORD: u64 = 2 * 1024 * 1024;

enum Place {
    Directory(OwnedFd),
    Attribute(OwnedFd),
}

/// The record of finished steps.
pub(crate) struct Record {
    place: Place,
    /// For each index, what ran; empty for nothing. A step whose text was changed has not run.
    done: Vec<String>,
}

impl Record {
    /// In a directory of the writable disk.
    pub(crate) fn in_directory(directory: OwnedFd) -> Self {
        Self { place: Place::Directory(directory), done: Vec::new() }
    }

    /// On the root directory itself.
    pub(crate) fn on_root() -> io::Result<Self> {
        Ok(Self { place: Place::Attribute(File::open("/")?.into()), done: Vec::new() })
    }

    /// Reads what earlier boots left.
    pub(crate) fn load(&mut self) -> Result<(), Error> {
        let text = self.read().map_err(|source| Error::SetupRecordFailed { doing: "read", source })?;
        if !text.is_empty() {
            // It is written as a whole or not at all; a damaged one means a damaged disk, and to run steps again is worse.
            self.done = serde_json::from_slice(&text)
                .map_err(|e| Error::SetupRecordFailed { doing: "decode", source: e.into() })?;
        }
        Ok(())
    }

    /// Whether the step at `index` with this text has run.
    pub(crate) fn has(&self, index: usize, run: &str) -> bool {
        self.done.get(index).is_some_and(|done| *done == fingerprint(run))
    }

    /// Notes that it has; durable when this returns.
    pub(crate) fn add(&mut self, index: usize, run: &str) -> Result<(), Error> {
        if self.done.len() <= index {
            self.done.resize(index + 1, String::new());
        }
        if let Some(done) = self.done.get_mut(index) {
            *done = fingerprint(run);
        }
        let text = serde_json::to_vec(&self.done).map_err(io::Error::from);
        text.and_then(|text| self.write(&text)).map_err(|source| Error::SetupRecordFailed { doing: "write", source })
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        match &self.place {
            Place::Directory(directory) => {
                match openat(directory, FILE, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(file) => drop(File::from(file).take(MAX_RECORD).read_to_end(&mut text)?),
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Place::Attribute(root) => {
                // The largest attribute that Linux has.
                let mut value = vec![0; 64 * 1024];
                match fgetxattr(root, ATTRIBUTE, &mut value[..]) {
                    Ok(length) => text.extend_from_slice(&value[..length]),
                    Err(Errno::NODATA) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(text)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        // First what the step itself wrote: the note of it must not outlive it.
        rustix::fs::sync();
        match &self.place {
            Place::Directory(directory) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let mut file = File::from(openat(directory, NEW, flags, Mode::RUSR | Mode::WUSR)?);
                file.write_all(text)?;
                file.sync_all()?;
                renameat(directory, NEW, directory, FILE)?;
                fsync(directory)?;
            }
            Place::Attribute(root) => {
                fsetxattr(root, ATTRIBUTE, text, XattrFlags::empty())?;
                fsync(root)?;
            }
        }
        Ok(())
    }
}

/// Length and FNV-1a hash of a step: enough to see that somebody edited it.
fn fingerprint(run: &str) -> String {
    let hash = run.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{:x}-{hash:016x}", run.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Record {
        Record::in_directory(File::open(dir.path()).unwrap().into())
    }

    #[test]
    fn what_has_run_is_known_at_the_next_boot_unless_its_text_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = open(&dir);
        record.load().unwrap();
        assert!(!record.has(1, "make"));
        record.add(1, "make").unwrap();
        let mut next = open(&dir);
        next.load().unwrap();
        assert!(next.has(1, "make") && !next.has(0, "make") && !next.has(1, "make all") && !next.has(2, "make"));
        assert!(!next.has(0, ""));
    }

    #[test]
    fn a_damaged_record_stops_the_boot_instead_of_running_steps_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "[\"3-").unwrap();
        assert_eq!(open(&dir).load().unwrap_err().category(), "SetupRecordFailed");
    }

    #[test]
    fn the_fingerprint_is_that_of_fnv_1a() {
        assert_eq!(fingerprint("foobar"), "6-85944171f73967e8");
    }
}
