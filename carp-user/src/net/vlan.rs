//! VLANs on an interface whose card takes their tags off: on the interface itself, XDP sees their frames as its own.

use std::{io, os::fd::AsRawFd};

use nix::libc;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use socket2::{Domain, Socket, Type};

/// "Get flags", and the flag for rx-vlan-offload (linux/ethtool.h).
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// Whether among these links there are VLANs on the interface, and its card takes their tags off. (A card that does
/// not say has no such offload.)
pub(super) fn are_stripped(links: &[LinkMessage], name: &str, index: u32) -> bool {
    links.iter().any(|link| is_on(link, index)) && strips_tags(name).unwrap_or(false)
}

/// Whether a link is a VLAN on the interface with this index, here: in another network namespace, indices are others.
pub(super) fn is_on(link: &LinkMessage, index: u32) -> bool {
    let is_vlan = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Vlan));
    let has = |wanted: &dyn Fn(&LinkAttribute) -> bool| link.attributes.iter().any(wanted);
    has(&|attribute| matches!(attribute, LinkAttribute::Link(below) if *below == index))
        && !has(&|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)))
        && has(&|attribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(is_vlan)))
}

/// Asks the driver (SIOCETHTOOL).
fn strips_tags(name: &str) -> io::Result<bool> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: a plain C struct, for which all bytes zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request has the interface's name, ends with a NUL, and points to the struct that this command
    // fills; both live until the call returns.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data & ETH_FLAG_RXVLAN != 0)
}

#[cfg(test)]
mod tests {
    use rtnetlink::{LinkMessageBuilder, LinkUnspec};

    use super::*;

    /// A link of this kind on the interface with index 4.
    fn on_4(kind: InfoKind) -> LinkMessage {
        let mut link = LinkMessageBuilder::<LinkUnspec>::new().index(9).build();
        link.attributes.push(LinkAttribute::Link(4));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        link
    }

    #[test]
    fn a_vlan_is_on_the_interface_that_it_names_and_nothing_else_is() {
        assert!(is_on(&on_4(InfoKind::Vlan), 4));
        assert!(!is_on(&on_4(InfoKind::Vlan), 9));
        assert!(!is_on(&on_4(InfoKind::MacVlan), 4));
        let mut elsewhere = on_4(InfoKind::Vlan);
        elsewhere.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert!(!is_on(&elsewhere, 4));
    }

    #[test]
    fn an_interface_that_is_not_there_strips_nothing() {
        assert!(strips_tags("nosuch0").is_err());
        // The loopback is there, and has no card.
        assert!(!strips_tags("lo").unwrap());
    }
}
