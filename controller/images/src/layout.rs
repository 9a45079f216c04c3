//! A directory in the form of the OCI image layout, made by somebody else.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::import::{Layout, Member};

/// The directory. Names in it are fixed or made of digests, so nothing in it chooses what is opened.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        if fs::metadata(dir)?.is_dir() { Ok(Self(dir.to_owned())) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }
}

impl Layout for Directory {
    fn member(&self, name: &str) -> io::Result<Option<Member>> {
        let file = match open_regular(&self.0.join(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(Some(Member { size: file.metadata()?.len(), file, at: None }))
    }
}

/// Opens a regular file for reading, and nothing that could keep the reader waiting.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    // Opening a FIFO would wait for its writer; without blocking it opens and is then refused.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other(format!("{} is not a regular file", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_in_place_of_a_file_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("index.json");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = Directory::open(dir.path()).unwrap().member("index.json").err().unwrap();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert!(crate::archive::Archive::open(&fifo).is_err());
    }
}
