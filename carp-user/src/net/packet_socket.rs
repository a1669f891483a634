//! A socket that sends whole Ethernet frames and receives none.

use std::io;

use nix::libc;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// An AF_PACKET socket for sending. Needs CAP_NET_RAW.
pub(crate) struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens the socket. Protocol 0: it receives nothing.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        Ok(Self(socket))
    }

    /// Sends a frame through an interface, or fails at once: the socket does not block.
    pub(crate) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let sent = self.0.send_to(frame, &link_address(ifindex, 0)?)?;
        debug_assert_eq!(sent, frame.len(), "a packet socket sends whole frames");
        Ok(())
    }
}

/// An interface as the address of a packet socket, to send through it (protocol 0) or to receive frames of this
/// EtherType from it.
pub(crate) fn link_address(ifindex: u32, protocol: u16) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a plain C struct that fits sockaddr_storage, for which all bytes zero is valid.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex =
        ifindex.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index out of range"))?;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll of this length, with its family set.
    Ok(unsafe { SockAddr::new(storage, len) })
}
