//! Ports that nobody else gets while a cluster lives, also when the server on them is stopped for a while.

use std::net::{Ipv4Addr, SocketAddrV4};

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketAddr, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt},
};

/// A port of the loopback address. It is bound here and not listened on: whoever connects is refused, unless a server of the
/// same user listens there too with `SO_REUSEPORT`, which all parts of a control plane can.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    /// A free one.
    pub(super) fn reserve() -> Self {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address: SocketAddr = getsockname(&socket).unwrap().try_into().unwrap();
        Self { number: address.port(), _socket: socket }
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }
}
