//! Connecting to the sockets of a VMM that may be another user, and may have been taken over by its guest.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration};

use microagent_supervisor_protocol::vsock;

/// Connects to a socket of the machine's directory, or to what a link there leads to, and to nothing else: whoever owns the directory that
/// the link leads into cannot have the shim, which may be root, connect to any other socket of the host.
///
/// # Errors
/// As [`vsock::connect_within`], and `InvalidInput` for what is no socket.
#[cfg(target_os = "linux")]
pub fn connect(socket: &Path, timeout: Duration) -> io::Result<UnixStream> {
    use rustix::fs::{FileType, Mode, OFlags, fstat, open};
    use std::os::fd::AsRawFd;
    // The link is the shim's own; the directory that it is in is nobody else's.
    let target = std::fs::read_link(socket).unwrap_or_else(|_| socket.to_owned());
    let pinned = open(&target, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&pinned)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no socket", target.display())));
    }
    vsock::connect_within(&Path::new("/proc/self/fd").join(pinned.as_raw_fd().to_string()), timeout)
}

/// As above; no machine of other hosts has another user.
///
/// # Errors
/// As [`vsock::connect_within`].
#[cfg(not(target_os = "linux"))]
pub fn connect(socket: &Path, timeout: Duration) -> io::Result<UnixStream> {
    vsock::connect_within(socket, timeout)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
    };

    #[test]
    fn one_link_of_ours_is_followed_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let patience = Duration::from_secs(10);
        let _secret = UnixListener::bind(at("secret.sock")).unwrap();
        let _guest = UnixListener::bind(at("inside.sock")).unwrap();
        symlink(at("inside.sock"), at("guest.sock")).unwrap();
        assert!(connect(&at("secret.sock"), patience).is_ok());
        assert!(connect(&at("guest.sock"), patience).is_ok());
        // What a VMM puts into its jail.
        fs::remove_file(at("inside.sock")).unwrap();
        symlink(at("secret.sock"), at("inside.sock")).unwrap();
        assert_eq!(connect(&at("guest.sock"), patience).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        fs::remove_file(at("inside.sock")).unwrap();
        fs::write(at("inside.sock"), "").unwrap();
        assert_eq!(connect(&at("guest.sock"), patience).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
