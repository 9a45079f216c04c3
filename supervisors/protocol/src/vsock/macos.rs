//! Unix sockets as macOS has them, unix(4).

use std::{
    fs::File,
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest path in the address of a Unix socket, in bytes without the closing NUL.
pub const MAX_SOCKET_PATH: usize = 103;

/// As [`super::connect_unix`]. A server that does not accept refuses those who connect here, so that nobody waits.
///
/// # Errors
/// Those of the operating system.
pub fn connect_within(socket: &Path, _timeout: Duration) -> io::Result<UnixStream> {
    super::connect_unix(socket)
}

/// The path, where it fits into a socket's address. There is no other way to a socket: what is below `/dev/fd` here are files, not
/// folders.
///
/// # Errors
/// `InvalidFilename` when it is too long.
pub fn short_path(socket: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let length = socket.as_os_str().len();
    if length <= MAX_SOCKET_PATH {
        return Ok((socket.to_owned(), None));
    }
    let why = format!("{} has {length} bytes, and the path of a socket at most {MAX_SOCKET_PATH}", socket.display());
    Err(io::Error::new(io::ErrorKind::InvalidFilename, why))
}

/// Whether an error of setsockopt(2) says that the other end has left: `EINVAL` does here.
pub(super) fn tells_of_hang_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}
