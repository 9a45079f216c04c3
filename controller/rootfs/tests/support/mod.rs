//! Makes layers, builds disks of them, and looks at the disks with tools that are not ours.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests, though Clippy cannot tell"
)]

pub(crate) mod overlay;

use std::{
    fs::File,
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

use microagent_base::{Digest, Silent};
use microagent_rootfs::{Error, Layer, Options, Report, build};
use tempfile::TempDir;

/// An entry of an archive, as raw as a test wants it.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) size: Option<u64>,
    pub(crate) data: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

pub(crate) fn entry(kind: u8, name: impl AsRef<[u8]>) -> Spec {
    Spec {
        name: name.as_ref().to_vec(),
        link: Vec::new(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        size: None,
        data: Vec::new(),
        device: (0, 0),
        pax: Vec::new(),
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Spec {
    Spec { data: data.as_ref().to_vec(), ..entry(b'0', name) }
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> Spec {
    entry(b'5', name).mode(0o755)
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Spec {
    Spec { link: target.as_ref().to_vec(), mode: 0o777, ..entry(b'2', name) }
}

pub(crate) fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Spec {
    Spec { link: target.as_ref().to_vec(), ..entry(b'1', name) }
}

impl Spec {
    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    pub(crate) fn device(self, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..self }
    }
}

/// An archive of these entries.
pub(crate) fn archive(entries: &[Spec]) -> Vec<u8> {
    let mut out = Vec::new();
    for spec in entries {
        let mut pax = spec.pax.clone();
        if spec.name.len() > 100 {
            pax.push(("path".to_owned(), spec.name.clone()));
        }
        if spec.link.len() > 100 {
            pax.push(("linkpath".to_owned(), spec.link.clone()));
        }
        if !pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in &pax {
                records.extend(record(key, value));
            }
            push(&mut out, &entry(b'x', "PaxHeaders/x"), &records);
        }
        push(&mut out, spec, &spec.data);
    }
    out.extend([0; 1024]);
    out
}

/// A PAX record with its own length in front.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn push(out: &mut Vec<u8>, spec: &Spec, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let cut = |bytes: &[u8]| bytes[..bytes.len().min(100)].to_vec();
    let (name, link) = (cut(&spec.name), cut(&spec.link));
    header.as_old_mut().name[..name.len()].copy_from_slice(&name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(&link);
    header.as_old_mut().linkflag = [spec.kind];
    header.set_mode(spec.mode);
    header.set_uid(spec.uid);
    header.set_gid(spec.gid);
    header.set_mtime(spec.mtime);
    header.set_size(spec.size.unwrap_or(data.len() as u64));
    header.set_device_major(spec.device.0).unwrap();
    header.set_device_minor(spec.device.1).unwrap();
    header.set_cksum();
    out.extend(header.as_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A layer whose digests are right.
pub(crate) fn layer(blob: Vec<u8>, archive: &[u8]) -> Layer {
    Layer {
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        diff_id: Digest::of(archive),
        blob: Box::new(Cursor::new(blob)),
    }
}

pub(crate) fn layers(entries: &[Vec<Spec>]) -> Vec<Layer> {
    entries.iter().map(|entries| archive(entries)).map(|a| layer(gzip(&a), &a)).collect()
}

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

/// Bytes that neither compress nor repeat, the same every time.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(count).collect()
}
