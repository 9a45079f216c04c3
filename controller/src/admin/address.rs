//! Where the admin endpoint listens. Never beyond this host: what it tells is meant for the one who runs it.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::net::{TcpListener, UnixListener};

use super::Audience;
use crate::Paths;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// What `--admin` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A Unix socket that only the controller's user can use.
    Unix(PathBuf),
    /// A loopback address that every user of the host can use.
    Tcp(SocketAddr),
    /// Nowhere.
    None,
}

/// Why the admin endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It is written wrongly.
    #[error("{0:?} is no address of the admin endpoint: write unix:PATH, 127.0.0.1:PORT, [::1]:PORT or none")]
    Syntax(String),
    /// Other hosts could reach it.
    #[error(
        "the admin endpoint does not listen on {0}: it has no login, so it must not be reachable from other hosts; \
         use 127.0.0.1:PORT, [::1]:PORT or unix:PATH, and let a proxy with a login lead there"
    )]
    NotLoopback(SocketAddr),
    /// `none` beside an address.
    #[error("the admin endpoint is asked to be nowhere (none) and somewhere at once; leave one of them out")]
    NoneAmongOthers,
    /// Something is there already.
    #[error("the admin endpoint cannot be at {}: {what} is there; name another path, or move it away", path.display())]
    Taken {
        /// The path of the socket.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// The operating system refuses.
    #[error("the admin endpoint cannot listen on {address}: {source}; name another with --admin")]
    Listen {
        /// The address as it would be given.
        address: String,
        /// Why.
        source: io::Error,
    },
}

impl FromStr for AdminAddress {
    type Err = AdminError;

    fn from_str(text: &str) -> Result<Self, AdminError> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            return Ok(Self::Unix(std::path::absolute(&path).unwrap_or(path)));
        }
        let address: SocketAddr = text.parse().map_err(|_| AdminError::Syntax(text.to_owned()))?;
        if !address.ip().is_loopback() {
            return Err(AdminError::NotLoopback(address));
        }
        Ok(Self::Tcp(address))
    }
}

/// A socket that listens. A Unix socket is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    _file: Option<SocketFile>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Something else listens there, or the operating system refuses.
    async fn bind(address: &AdminAddress) -> Result<Option<Self>, AdminError> {
        match address {
            AdminAddress::None => Ok(None),
            AdminAddress::Unix(path) => {
                clear(path)?;
                let refused = |source| AdminError::Listen { address: format!("unix:{}", path.display()), source };
                let (socket, file) = listen(path).map_err(refused)?;
                let socket = Socket::Unix(UnixListener::from_std(socket).map_err(refused)?);
                Ok(Some(Self { socket, _file: Some(file) }))
            }
            AdminAddress::Tcp(address) => {
                let refused = |source| AdminError::Listen { address: address.to_string(), source };
                let socket = TcpListener::bind(address).await.map_err(refused)?;
                Ok(Some(Self { socket: Socket::Tcp(socket), _file: None }))
            }
        }
    }

    /// Who can reach it.
    pub(super) fn audience(&self) -> Audience {
        match self.socket {
            Socket::Unix(_) => Audience::Owner,
            Socket::Tcp(_) => Audience::Host,
        }
    }

    /// The address of a TCP socket, with the port that the system chose.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Unix(_) => None,
            Socket::Tcp(socket) => socket.local_addr().ok(),
        }
    }
}

/// Listens on all these. With none given, on the socket in the state directory, and without it where that cannot be: a controller
/// that nobody can ask is better than none.
///
/// # Errors
/// One of those that were asked for cannot be had.
pub async fn open(given: &[AdminAddress], paths: &Paths) -> Result<Vec<Listener>, AdminError> {
    if given.is_empty() {
        let usual = Listener::bind(&AdminAddress::Unix(paths.admin_socket())).await;
        return Ok(usual.inspect_err(|error| tracing::warn!("{error}")).ok().flatten().into_iter().collect());
    }
    if given.len() > 1 && given.contains(&AdminAddress::None) {
        return Err(AdminError::NoneAmongOthers);
    }
    let mut listeners = Vec::new();
    for address in given {
        listeners.extend(Listener::bind(address).await?);
    }
    for address in listeners.iter().filter_map(Listener::tcp_address) {
        tracing::info!(%address, "the admin endpoint listens");
    }
    Ok(listeners)
}

/// Removes the socket of a controller that is gone; nothing else.
fn clear(path: &Path) -> Result<(), AdminError> {
    let refused = |source| AdminError::Listen { address: format!("unix:{}", path.display()), source };
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(refused(e)),
    };
    if !kind.is_socket() {
        return Err(AdminError::Taken { path: path.to_owned(), what: "something that is no socket" });
    }
    match StdStream::connect(path) {
        Ok(_) => Err(AdminError::Taken { path: path.to_owned(), what: "a program that listens" }),
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(refused(e)),
                _ => Ok(()),
            }
        }
        Err(e) => Err(refused(e)),
    }
}

/// A private socket: its mode is set before it listens, so nobody else can ever connect.
fn listen(path: &Path) -> io::Result<(StdListener, SocketFile)> {
    let address = SocketAddrUnix::new(path)?;
    #[cfg(target_os = "linux")]
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    #[cfg(not(target_os = "linux"))]
    let socket = {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        socket
    };
    rustix::net::bind(&socket, &address)?;
    let file = SocketFile::at(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = StdListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// The file of a socket, removed when this is dropped; not another's that stands there by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    which: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), which: which(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if which(&self.path).is_ok_and(|which| which == self.which) {
            // What stays is replaced by the next controller.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn which(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_a_loopback_address_or_none() {
        let parse = |text: &str| text.parse::<AdminAddress>();
        assert_eq!(parse("none").unwrap(), AdminAddress::None);
        assert_eq!(parse("unix:/run/a.sock").unwrap(), AdminAddress::Unix("/run/a.sock".into()));
        for text in ["127.0.0.1:9464", "127.1.2.3:0", "[::1]:9464"] {
            assert_eq!(parse(text).unwrap(), AdminAddress::Tcp(text.parse().unwrap()));
        }
        for text in ["", "unix:", "/run/a.sock", "localhost:9464", "127.0.0.1", ":9464", "NONE"] {
            assert!(matches!(parse(text), Err(AdminError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn an_address_that_other_hosts_reach_is_refused_with_why() {
        for text in ["0.0.0.0:9464", "[::]:9464", "192.168.1.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
            let error = text.parse::<AdminAddress>().unwrap_err().to_string();
            assert!(
                error.contains("must not be reachable from other hosts") && error.contains("127.0.0.1:"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_socket_is_private_and_gone_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let address = AdminAddress::Unix(dir.path().join("a.sock"));
        let listener = Listener::bind(&address).await.unwrap().unwrap();
        let metadata = fs::symlink_metadata(dir.path().join("a.sock")).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_controller_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        // The standard library leaves the file behind, as a killed controller does.
        drop(StdListener::bind(&path).unwrap());
        assert!(StdStream::connect(&path).is_err());
        let _listener = Listener::bind(&AdminAddress::Unix(path.clone())).await.unwrap();
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_used_or_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let used = dir.path().join("used.sock");
        let other = StdListener::bind(&used).unwrap();
        let error = Listener::bind(&AdminAddress::Unix(used.clone())).await.unwrap_err();
        assert!(error.to_string().contains("a program that listens is there"), "{error}");
        other.set_nonblocking(true).unwrap();
        let file = dir.path().join("precious.txt");
        fs::write(&file, "mine").unwrap();
        let error = Listener::bind(&AdminAddress::Unix(file.clone())).await.unwrap_err();
        assert!(error.to_string().contains("something that is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        StdStream::connect(&used).unwrap();
    }

    #[tokio::test]
    async fn a_listener_that_goes_removes_no_other_ones_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let first = Listener::bind(&AdminAddress::Unix(path.clone())).await.unwrap();
        fs::remove_file(&path).unwrap();
        // Held, so that its inode is not the one that is free again.
        let _second = StdListener::bind(dir.path().join("b.sock")).unwrap();
        fs::rename(dir.path().join("b.sock"), &path).unwrap();
        drop(first);
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_stops_only_the_controller_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("x".repeat(150));
        fs::create_dir(&state).unwrap();
        let paths = Paths { state, cache: dir.path().to_owned() };
        assert!(open(&[], &paths).await.unwrap().is_empty());
        let asked = [AdminAddress::Unix(paths.admin_socket())];
        assert!(matches!(open(&asked, &paths).await, Err(AdminError::Listen { .. })));
    }

    #[tokio::test]
    async fn none_is_nowhere_and_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().to_owned(), cache: dir.path().to_owned() };
        assert!(open(&[AdminAddress::None], &paths).await.unwrap().is_empty());
        let both = [AdminAddress::None, "127.0.0.1:0".parse().unwrap()];
        assert!(matches!(open(&both, &paths).await, Err(AdminError::NoneAmongOthers)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
