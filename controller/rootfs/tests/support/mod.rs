//! Makes layers, builds disks of them, and looks at the disks with tools that are not ours.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

mod archive;
pub(crate) mod overlay;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use microagent_base::{Digest, Silent};
use microagent_rootfs::{Error, Layer, LayerError, Options, Problem, Report, build};
use tempfile::TempDir;

#[allow(unused_imports, reason = "each test program uses a part")]
pub(crate) use archive::{Spec, archive, dir, entry, file, gzip, hard, layer, layers, noise, record, symlink, zstd};

pub(crate) fn options() -> Options {
    Options { uuid: [7; 16], label: "baseline".to_owned(), created: 1_700_000_000, ..Options::default() }
}

/// A disk in a directory of its own.
pub(crate) struct Disk {
    pub(crate) directory: TempDir,
    pub(crate) path: PathBuf,
}

impl Disk {
    pub(crate) fn new() -> (Self, File) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.img");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        (Self { directory, path }, file)
    }

    pub(crate) fn build(layers: Vec<Layer>) -> (Self, Report) {
        let (disk, file) = Self::new();
        let report = build(layers, &file, &options(), &Silent).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(report.size, file.metadata().unwrap().len());
        disk.check();
        (disk, report)
    }

    pub(crate) fn of(entries: &[Vec<Spec>]) -> Self {
        Self::build(layers(entries)).0
    }

    /// `e2fsck` must find nothing.
    pub(crate) fn check(&self) {
        if !installed("e2fsck") {
            println!("SKIP e2fsck of {}: needs e2fsck", self.path.display());
            return;
        }
        let output = Command::new("e2fsck").arg("-fn").arg(&self.path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a `debugfs` command prints; `None` when it is not installed.
    pub(crate) fn debugfs(&self, command: &str) -> Option<Vec<u8>> {
        if !installed("debugfs") {
            println!("SKIP debugfs {command}: needs debugfs");
            return None;
        }
        let output = Command::new("debugfs").arg("-R").arg(command).arg(&self.path).output().unwrap();
        Some(output.stdout)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// The digest of the whole disk.
    pub(crate) fn digest(&self) -> Digest {
        file_digest(&self.path)
    }

    /// Lets the kernel mount the disk; `None` where it may not.
    pub(crate) fn mount(&self, options: &str) -> Option<Mount> {
        let at = self.directory.path().join("mnt");
        std::fs::create_dir_all(&at).unwrap();
        let output = Command::new("mount").args(["-t", "ext4", "-o", options]).arg(&self.path).arg(&at).output();
        match output {
            Ok(output) if output.status.success() => Some(Mount { at }),
            Ok(output) if rustix::process::geteuid().is_root() && Path::new("/dev/loop0").exists() => {
                panic!("the kernel refuses the disk: {}", String::from_utf8_lossy(&output.stderr))
            }
            _ => {
                println!("SKIP kernel mount: needs root and loop devices");
                None
            }
        }
    }
}

/// A mounted disk, unmounted when dropped.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status().unwrap();
        assert!(done.success() || std::thread::panicking());
    }
}

pub(crate) fn installed(tool: &str) -> bool {
    Command::new(tool).arg("-V").output().is_ok()
}

/// Builds what must fail, and makes sure that nothing mountable is left.
pub(crate) fn refused(layers: Vec<Layer>) -> Error {
    let (disk, file) = Disk::new();
    let error = build(layers, &file, &options(), &Silent).expect_err("the layers are bad");
    let mut start = Vec::new();
    File::open(&disk.path).unwrap().take(4096).read_to_end(&mut start).unwrap();
    assert!(start.iter().all(|&b| b == 0), "a failed build left a superblock");
    error
}

pub(crate) fn file_digest(path: &Path) -> Digest {
    Digest::of_reader(&mut File::open(path).unwrap()).unwrap().0
}

/// What is wrong with the layer that an error is about.
pub(crate) fn cause(error: Error) -> LayerError {
    match error {
        Error::Layer { cause, .. } => cause,
        other => panic!("{other}"),
    }
}

/// A layer of these entries is refused for this reason.
#[track_caller]
pub(crate) fn refuses(entries: Vec<Spec>, expected: &Problem) {
    match cause(refused(layers(&[entries]))) {
        LayerError::Entry { problem, .. } | LayerError::Archive { problem, .. } => assert_eq!(&problem, expected),
        other => panic!("{other}"),
    }
}
