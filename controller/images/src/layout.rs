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
        // Opening a FIFO would wait for its writer; without blocking it opens and is then refused below.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file: File = match OpenOptions::new().read(true).custom_flags(flags).open(self.0.join(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{name} is not a regular file")));
        }
        Ok(Some(Member { size: metadata.len(), file, at: None }))
    }
}
