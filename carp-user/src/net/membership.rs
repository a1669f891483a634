//! Membership of the multicast group.
//!
//! XDP joins nothing: without membership the NIC's filter and switches that snoop IGMP would not let the
//! adverts through.

use std::{io, net::Ipv4Addr};

use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

/// A membership that lasts as long as this value.
pub(crate) struct Membership {
    _socket: Socket,
}

impl Membership {
    /// Joins `group` on an interface.
    pub(crate) fn join(group: Ipv4Addr, ifindex: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
        socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))?;
        Ok(Self { _socket: socket })
    }
}
