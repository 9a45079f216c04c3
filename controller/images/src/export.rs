//! An image from the store as one tar file: an OCI archive that is also what `docker save` writes, so that every tool
//! reads it. The same image under the same name gives the same bytes on every host.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use microagent_base::{
    Digest, Progress,
    digest::Hasher,
    durable::{self, TEMPORARY_PREFIX},
};
use serde::Serialize;
use tar::{Builder, EntryType, Header};

use crate::{
    Error, Image, ImageReference, Platform, Result, Store,
    image::Manifest,
    index::{self, Index},
    lock,
    meter::Meter,
    resolve,
    wire::{self, Descriptor},
};

/// The full name of an image in a layout, as containerd and Docker read it.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// How much is read at once.
const CHUNK: usize = 1 << 20;

impl Store {
    /// Writes the image that `wanted` means, see [`Store::look_up`], to a file, which appears whole or not at all; what
    /// is no regular file, such as a pipe, is written to. Blocking. Gives what was written.
    ///
    /// # Errors
    /// Those of [`Store::look_up`] and [`Store::export_to`].
    pub fn export(
        &self,
        wanted: &str,
        platform: Option<&Platform>,
        file: &Path,
        progress: std::sync::Arc<dyn Progress>,
    ) -> Result<Image> {
        if fs::metadata(file).is_ok_and(|m| !m.is_file()) {
            let mut out = File::options().write(true).open(file).map_err(Error::io("write", file))?;
            return self.export_to(wanted, platform, &mut out, progress);
        }
        let dir = match file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut temporary = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempfile_in(dir)
            .map_err(Error::io("create a temporary file in", dir))?;
        let image = self.export_to(wanted, platform, temporary.as_file_mut(), progress)?;
        temporary.as_file().sync_all().map_err(Error::io("flush", file))?;
        temporary.persist(file).map_err(|e| Error::io("put in place", file)(e.error))?;
        durable::sync_dir(dir)?;
        Ok(image)
    }

    /// As [`Store::export`], to a stream. Every blob is verified on its way out; a stream that ends in an error is no
    /// image.
    ///
    /// # Errors
    /// Those of [`Store::look_up`]; [`Error::ImageIncomplete`] for a blob that is gone or damaged; those of writing.
    pub fn export_to(
        &self,
        wanted: &str,
        platform: Option<&Platform>,
        out: &mut dyn Write,
        progress: std::sync::Arc<dyn Progress>,
    ) -> Result<Image> {
        let _in_use = lock::in_use(&self.locks())?;
        let index = Index::read(&self.root)?;
        let entry = index.chosen(wanted, platform)?;
        let image = self.load(entry)?.ok_or_else(|| incomplete(wanted, "not all of its blobs are there"))?;
        let what = format!("exporting {}", image.reference);
        let Some(bytes) = self.read_blob(&entry.digest, wire::MAX_MANIFEST)? else {
            return Err(incomplete(wanted, "its manifest is gone"));
        };
        let manifest = Manifest::of(wanted, resolve::manifest(wanted, &bytes)?)?;
        let parts = manifest.layers.iter().chain([&manifest.config, entry]);
        let blobs: BTreeMap<Digest, u64> = parts.map(|part| (part.digest, part.size)).collect();

        let meter = Meter::new(progress, &what, Some(blobs.values().sum()));
        let mut archive = Builder::new(out);
        let failed = Error::io("write", "the archive");
        let small = |archive: &mut Builder<_>, name: &str, bytes: &[u8]| {
            archive.append(&header(name, EntryType::Regular, bytes.len() as u64)?, bytes)
        };
        ["blobs/", "blobs/sha256/"]
            .into_iter()
            .try_for_each(|dir| archive.append(&header(dir, EntryType::Directory, 0)?, io::empty()))
            .map_err(failed)?;
        for digest in blobs.keys() {
            self.append_blob(&mut archive, wanted, digest, &meter)?;
        }
        let index = OciIndex { schema_version: 2, media_type: wire::OCI_INDEX, manifests: [described(entry)] };
        let docker = [DockerManifest {
            config: blob_name(&manifest.config.digest),
            repo_tags: repo_tag(entry).map(|tag| [tag]),
            layers: manifest.layers.iter().map(|l| blob_name(&l.digest)).collect(),
        }];
        let json = |e: serde_json::Error| io::Error::other(e);
        serde_json::to_vec(&index)
            .map_err(json)
            .and_then(|index| small(&mut archive, "index.json", &index))
            .and_then(|()| small(&mut archive, "manifest.json", &serde_json::to_vec(&docker).map_err(json)?))
            .and_then(|()| small(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#))
            .and_then(|()| archive.into_inner()?.flush())
            .map_err(Error::io("write", "the archive"))?;
        Ok(image)
    }

    fn append_blob(
        &self,
        archive: &mut Builder<&mut dyn Write>,
        wanted: &str,
        digest: &Digest,
        meter: &Meter,
    ) -> Result<()> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let size = file.metadata().map_err(Error::io("read", &path))?.len();
        let mut reader = Verified { path: &path, file, hasher: Hasher::new(), meter, failed: None };
        let appended = header(&blob_name(digest), EntryType::Regular, size)
            .and_then(|header| archive.append(&header, io::BufReader::with_capacity(CHUNK, &mut reader)));
        // Why it could not be read says more than that it then was not written.
        if let Some(failed) = reader.failed {
            return Err(failed);
        }
        appended.map_err(Error::io("write", "the archive"))?;
        if reader.hasher.finish() == *digest {
            return Ok(());
        }
        Err(self.damaged(wanted, digest)?)
    }

    /// Drops a blob that was damaged on this disk, so that the next pull fetches it again.
    pub(crate) fn damaged(&self, reference: &str, digest: &Digest) -> Result<Error> {
        durable::remove_file(&self.blob_path(digest))?;
        Ok(incomplete(reference, &format!("blob {digest} was damaged on this disk and has been dropped")))
    }
}

fn incomplete(reference: &str, why: &str) -> Error {
    Error::ImageIncomplete { reference: reference.to_owned(), why: why.to_owned() }
}

/// `index.json`, its members in an order of their own: a map's would depend on how the JSON library was built.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex {
    schema_version: u64,
    media_type: &'static str,
    manifests: [Descriptor; 1],
}

/// An entry of `manifest.json` (Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format").
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<[String; 1]>,
    layers: Vec<String>,
}

/// Reads a blob, hashing it.
struct Verified<'a> {
    path: &'a Path,
    file: File,
    hasher: Hasher,
    meter: &'a Meter,
    failed: Option<Error>,
}

impl Read for Verified<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.meter.check() {
            self.failed = Some(error);
            return Err(io::Error::other("cancelled"));
        }
        let read = match self.file.read(buffer) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                self.failed = Some(Error::io("read", self.path)(e));
                return Err(io::Error::other("the blob cannot be read"));
            }
            read => read?,
        };
        self.hasher.update(&buffer[..read]);
        self.meter.add(read as u64);
        Ok(read)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A header that says nothing of when, where and by whom.
fn header(name: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// The entry of `index.json`: with the tag as its name, as tools write it, and the name in full beside it.
fn described(entry: &Descriptor) -> Descriptor {
    let mut annotations = BTreeMap::new();
    if let Some(name) = repo_tag(entry) {
        if let Some((_, tag)) = name.rsplit_once(':') {
            annotations.insert(wire::REF_NAME.to_owned(), tag.to_owned());
        }
        annotations.insert(IMAGE_NAME.to_owned(), name);
    }
    Descriptor { annotations: Some(annotations).filter(|a| !a.is_empty()), ..entry.clone() }
}

/// `registry/repository:tag`; none for an image that has no such name.
fn repo_tag(entry: &Descriptor) -> Option<String> {
    match index::name(entry)?.parse::<ImageReference>() {
        Ok(ImageReference::Registry(name)) if name.digest().is_none() => Some(name.to_string()),
        _ => None,
    }
}
