//! What hostile images cost: memory and threads. One test alone in its program, for it looks at the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod support;

use std::{
    io::{self, Read},
    sync::atomic::{AtomicU64, Ordering},
};

use microagent_base::{Digest, Progress, Silent, progress::Step};
use microagent_rootfs::{Layer, Options, build};
use support::{Disk, Spec, archive, entry, file, gzip, layer, options};

/// An archive of many small entries that is never in memory.
#[derive(Clone)]
struct Many {
    kind: u8,
    count: u64,
    made: u64,
    rest: Vec<u8>,
}

impl Many {
    fn new(kind: u8, count: u64) -> Self {
        Self { kind, count, made: 0, rest: Vec::new() }
    }

    fn layer(self) -> Layer {
        let (digest, size) = Digest::of_reader(&mut self.clone()).unwrap();
        Layer { blob: Box::new(self), digest, size, diff_id: digest }
    }
}

impl Read for Many {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && self.made < self.count {
            let batch: Vec<Spec> = (self.made..self.count.min(self.made + 64))
                .map(|i| Spec { data: Vec::new(), ..entry(self.kind, format!("d{}/{i:07}", i / 5000)) })
                .collect();
            self.made += batch.len() as u64;
            self.rest = archive(&batch);
            self.rest.truncate(self.rest.len() - 1024);
        }
        let count = out.len().min(self.rest.len());
        out[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

/// A number of `/proc/self/status`; memory is in KiB.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[derive(Default)]
struct MostThreads(AtomicU64);

impl Progress for MostThreads {
    fn step(&self, _: Step) {
        self.0.fetch_max(status("Threads"), Ordering::Relaxed);
    }
}

#[test]
fn memory_grows_little_with_entries_and_threads_not_with_layers() {
    let count = 50_000;
    let many = Many::new(b'0', count).layer();
    let (_disk, out) = Disk::new();
    // The peak is counted from here on.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    build(vec![many], &out, &options(), &Silent).unwrap();
    let peak = (status("VmHWM") - before) * 1024;
    println!("{} bytes for each of {count} entries", peak / count);
    // 300 were measured. Buffers come to some MiB, whatever the number of entries.
    assert!(peak <= 600 * count + (8 << 20), "{peak}");

    let tiny: Vec<Vec<u8>> = (0..2000).map(|i| archive(&[file(format!("f{}", i % 700), format!("{i}"))])).collect();
    let layers = tiny.iter().map(|bytes| layer(gzip(bytes), bytes)).collect();
    let (disk, out) = Disk::new();
    let (threads, before) = (MostThreads::default(), status("Threads"));
    let report = build(layers, &out, &Options { threads: 3, ..options() }, &threads).unwrap();
    disk.check();
    assert_eq!((report.entries, report.inodes), (2000, 701));
    assert_eq!(disk.debugfs("cat /f599").unwrap_or(b"1999".to_vec()), b"1999");
    let most = threads.0.load(Ordering::Relaxed);
    // Each worker has one thread that hashes, one flushes for all, and those that ended are counted for a moment still.
    assert!((before + 2..=before + 16).contains(&most), "{before} to {most}");
}
