//! Overlays as guest-init mounts them, and trees to compare, entry by entry.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use microagent_base::{Digest, Silent};
use microagent_rootfs::{EmptyOptions, LayerContents, LayerOptions, Limits, OverlayError, format, write_layer};

use super::{Disk, Mount};

/// The options of guest-init, but for the directories.
const OPTIONS: &str = "redirect_dir=off,metacopy=off,index=off";

pub(crate) const LAYER: LayerOptions<'static> = LayerOptions {
    upper: "upper",
    mount_points: &["dev", "proc", "etc/hosts"],
    unfinished: (".", ".microagent-new"),
    limits: Limits { max_content_bytes: 1 << 30, max_entries: 100_000, max_metadata_bytes: 16 << 20 },
};

/// An empty writable disk.
pub(crate) fn empty(size: u64) -> Disk {
    let (disk, out) = Disk::new();
    let options = EmptyOptions { uuid: [9; 16], label: "upper".into(), created: 1_700_000_000 };
    format(&out, size, &options).unwrap();
    disk
}

/// A baseline and a writable disk over it, mounted. Fields are dropped, and with them unmounted, in their order.
pub(crate) struct Overlay {
    pub(crate) merged: Mount,
    pub(crate) upper: Mount,
    _lower: Mount,
}

impl Overlay {
    /// `None` where the kernel does not let us.
    pub(crate) fn mount(lower: &Disk, upper: &Disk) -> Option<Self> {
        let (low, up) = (lower.mount("ro,loop")?, upper.mount("rw,loop")?);
        let merged = upper.directory.path().join("merged");
        fs::create_dir_all(&merged).unwrap();
        for name in ["upper", "work", "state"] {
            fs::create_dir_all(up.at.join(name)).unwrap();
        }
        let at = |name: &str| up.at.join(name).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={},{OPTIONS}", low.at.display(), at("upper"), at("work"));
        let mounted =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).output().unwrap();
        if !mounted.status.success() {
            println!("SKIP overlay: needs overlayfs in the kernel: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(Self { merged: Mount { at: merged }, upper: up, _lower: low })
    }
}

/// The archive of the layer that a disk makes.
pub(crate) fn layer_of(path: &Path) -> Result<(Vec<u8>, LayerContents), OverlayError> {
    let mut archive = Vec::new();
    let contents = write_layer(&File::open(path).unwrap(), &mut archive, &LAYER, &Silent)?;
    Ok((archive, contents))
}

/// All of a tree that a layer can say: a line for each path.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut groups) = (BTreeMap::new(), BTreeMap::new());
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        if name == Path::new("lost+found") {
            continue;
        }
        let kind = meta.file_type();
        let mut line = format!(
            "{:o} {}:{} {}.{:09} rdev {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev()
        );
        if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            // The first name of the same file, so that links are compared and not their count.
            let first = groups.entry((meta.dev(), meta.ino())).or_insert_with(Vec::new);
            first.push(name.clone());
        }
        if kind.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        }
        if kind.is_file() {
            let digest = Digest::of_reader(&mut File::open(&path).unwrap()).unwrap().0;
            line += &format!(" {} bytes {}", meta.len(), digest.short());
        }
        for (key, value) in xattrs(&path) {
            line += &format!(" {key}={}", value.iter().map(|b| format!("{b:02x}")).collect::<String>());
        }
        found.insert(name, line);
    }
    for mut names in groups.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            found.get_mut(name).unwrap().push_str(&format!(" one of {names:?}"));
        }
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    list[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.starts_with("trusted.overlay.") && !name.starts_with("user.overlay."))
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, &*name, &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// The names in an archive, with what kind of entry each is.
pub(crate) fn names(archive: &[u8]) -> Vec<(String, u8)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.path_bytes().into_owned();
            (String::from_utf8_lossy(&name).into_owned(), entry.header().entry_type().as_byte())
        })
        .collect()
}

pub(crate) fn name(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// The content of a file in an archive.
pub(crate) fn tar_file(archive: &[u8], name: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(archive);
    let mut entry =
        archive.entries().unwrap().map(Result::unwrap).find(|e| *e.path_bytes() == *name.as_bytes()).unwrap();
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
    content
}
