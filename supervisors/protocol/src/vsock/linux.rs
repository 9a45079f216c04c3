//! Unix sockets as Linux has them, unix(7).

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// The longest path in the address of a Unix socket, in bytes without the closing NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// As [`super::connect_unix`], but gives up after `timeout`: a server that does not accept lets those who connect wait for ever.
///
/// # Errors
/// Those of the operating system; `WouldBlock` when the time is over.
pub fn connect_within(socket: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let (path, _folder) = short_path(socket)?;
    let address = SocketAddrUnix::new(path)?;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&stream, Timeout::Send, Some(timeout))?;
    rustix::net::connect(&stream, &address)?;
    set_socket_timeout(&stream, Timeout::Send, None)?;
    Ok(stream.into())
}

/// A path to the same file that fits into a socket's address, good for as long as the returned folder is kept open.
///
/// # Errors
/// Those of opening the folder.
pub fn short_path(socket: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((socket.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((path, Some(folder)))
}

/// Whether an error of setsockopt(2) says that the other end has left: it never does here.
pub(super) fn tells_of_hang_up(_error: &io::Error) -> bool {
    false
}
