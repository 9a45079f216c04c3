//! Contents on their way to stable storage while more of them come, so that little is left to wait for at the end.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

/// So many bytes are worth a flush: a tenth of a second for a slow disk, and too seldom to cost anything on a fast one.
const WORTH: u64 = 64 << 20;

/// The disk file, as the threads that write contents see it.
pub(crate) struct Disk<'a> {
    file: &'a File,
    written: AtomicU64,
    wake: SyncSender<()>,
}

/// Flushes while the [`Disk`] of it is written to.
pub(crate) struct Flusher<'a> {
    file: &'a File,
    wake: Receiver<()>,
}

/// The two ends of one disk file. The flusher is for a thread of its own.
pub(crate) fn pair(file: &File) -> (Disk<'_>, Flusher<'_>) {
    // One that waits covers all that is written until its turn.
    let (sender, receiver) = sync_channel(1);
    (Disk { file, written: AtomicU64::new(0), wake: sender }, Flusher { file, wake: receiver })
}

impl Disk<'_> {
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        let length = bytes.len() as u64;
        let before = self.written.fetch_add(length, Ordering::Relaxed);
        if before / WORTH != (before + length) / WORTH {
            let _ = self.wake.try_send(());
        }
        Ok(())
    }
}

impl Flusher<'_> {
    /// Works until the disk is dropped. A failure must not be lost: the kernel tells it once.
    pub(crate) fn run(self) -> io::Result<()> {
        self.wake.iter().try_for_each(|()| self.file.sync_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_asked_for_when_it_is_worth_it_and_its_failure_is_told() {
        let file = File::options().write(true).open("/dev/null").unwrap();
        let (disk, flusher) = pair(&file);
        disk.write_all_at(&vec![1; WORTH as usize - 1], 0).unwrap();
        drop(disk);
        flusher.run().unwrap();

        let (disk, flusher) = pair(&file);
        disk.write_all_at(&vec![1; WORTH as usize - 1], 0).unwrap();
        disk.write_all_at(&[1], 0).unwrap();
        drop(disk);
        // Nothing of that device can be flushed.
        assert!(flusher.run().is_err());
    }
}
