//! TCP connections of probes, bounded in time. Names are those of the image's `/etc/hosts`: a resolver would wait for a network that
//! may not be there, and nothing could stop it.

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt},
};

use crate::probe::{Outcome, Until, Waited};

/// The host of a probe that names none.
pub(crate) const LOCAL: &str = "127.0.0.1";

/// How much of `/etc/hosts` is read, in bytes.
const MAX_HOSTS: u64 = 256 * 1024;

/// Why there is no connection, or no answer on it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Because(String),
    Stopped,
}

impl Failure {
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Because(why) => Outcome::Failure(why),
            Self::Stopped => Outcome::Stopped,
        }
    }
}

/// A connection, non-blocking.
pub(crate) fn connect(host: &str, port: u16, until: &Until<'_>) -> Result<OwnedFd, Failure> {
    let failed = |why: String| Failure::Because(format!("cannot connect to {}: {why}", authority(host, port)));
    let mut last = failed("the name is neither an address nor in /etc/hosts".to_owned());
    for address in addresses(host, &hosts()) {
        match connect_one(SocketAddr::new(address, port), until) {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(Waited::Stopped)) => return Err(Failure::Stopped),
            Ok(Err(_)) => return Err(failed("no answer in time".to_owned())),
            Err(e) => last = failed(e.to_string()),
        }
    }
    Err(last)
}

fn connect_one(address: SocketAddr, until: &Until<'_>) -> io::Result<Result<OwnedFd, Waited>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => return Ok(Ok(socket)),
        Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    match until.wait_writable(&socket) {
        Waited::Ready => sockopt::socket_error(&socket)?.map(|()| Ok(socket)).map_err(io::Error::from),
        waited => Ok(Err(waited)),
    }
}

/// Host and port as in a URL.
pub(crate) fn authority(host: &str, port: u16) -> String {
    match unbracketed(host).parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

fn addresses(host: &str, hosts: &str) -> Vec<IpAddr> {
    if let Ok(address) = unbracketed(host).parse() {
        return vec![address];
    }
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut found: Vec<IpAddr> = lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
        })
        .collect();
    if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

fn hosts() -> String {
    let mut text = Vec::new();
    let _ = File::open("/etc/hosts").and_then(|file| file.take(MAX_HOSTS).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::{soon, stop};
    use std::net::TcpListener;

    #[test]
    fn a_port_that_listens_is_reached_by_address_and_by_name_and_a_closed_one_is_refused() {
        let stop = stop();
        let until = Until::new(soon(), &stop);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            assert!(connect(host, port, &until).is_ok(), "{host}");
        }
        drop(listener);
        let Err(Failure::Because(why)) = connect("127.0.0.1", port, &until) else { panic!("it connects") };
        assert!(why.contains(&format!("127.0.0.1:{port}")) && why.contains("refused"), "{why}");
        let Err(Failure::Because(why)) = connect("no-such-host.invalid", port, &until) else { panic!("it connects") };
        assert!(why.contains("/etc/hosts"), "{why}");
    }

    #[test]
    fn names_are_found_as_hosts_5_says() {
        let hosts = "# 9.9.9.9 db\n10.0.0.1 other db # db2\n::1\tdb\nnonsense db\n";
        assert_eq!(addresses("DB", hosts), ["10.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert!(addresses("db2", hosts).is_empty());
        assert_eq!(addresses("localhost", "").len(), 2);
        assert_eq!(addresses("[::1]", ""), ["::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!((authority("::1", 80), authority("[::1]", 80)), ("[::1]:80".to_owned(), "[::1]:80".to_owned()));
        assert_eq!(authority("web", 8080), "web:8080");
    }
}
