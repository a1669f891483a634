//! Membership of the multicast group.
//!
//! XDP joins nothing: without membership the NIC's filter and switches that snoop IGMP or MLD would not let the
//! adverts through.

use std::{io, net::IpAddr};

use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

/// A membership that lasts as long as this value.
pub(crate) struct Membership {
    _socket: Socket,
}

impl Membership {
    /// Joins `group` on an interface.
    pub(crate) fn join(group: IpAddr, ifindex: u32) -> io::Result<Self> {
        let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.cloexec(), None)?;
        match group {
            IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))?,
            IpAddr::V6(group) => socket.join_multicast_v6(&group, ifindex)?,
        }
        Ok(Self { _socket: socket })
    }
}
