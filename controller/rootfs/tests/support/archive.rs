//! Makes archives and layers.

use std::io::{Cursor, Write};

use microagent_base::Digest;
use microagent_rootfs::Layer;

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
