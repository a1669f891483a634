//! Adding and removing VIPs.

use std::net::{IpAddr, Ipv4Addr};

use nix::libc;
use rtnetlink::{
    AddressMessageBuilder,
    packet_route::address::{AddressAttribute, AddressMessage},
};

use super::{NetError, Netlink};
use crate::config::Vip;

/// How often an address can be on an interface: once with each prefix length.
const PREFIX_LENGTHS: usize = 33;

/// Adds a VIP to an interface; one that is there already stays.
pub(crate) async fn add(netlink: &Netlink, ifindex: u32, vip: Vip) -> Result<(), NetError> {
    let request = netlink.handle.address().add(ifindex, IpAddr::V4(vip.address), vip.prefix);
    request.replace().execute().await.map_err(NetError::request(format!("add {vip}")))
}

/// Removes a VIP from an interface, under whatever prefix lengths it is there; one that is not there is no
/// error.
pub(crate) async fn remove(netlink: &Netlink, ifindex: u32, address: Ipv4Addr) -> Result<(), NetError> {
    for _ in 0..PREFIX_LENGTHS {
        match netlink.handle.address().del(of_any_prefix(ifindex, address)).execute().await {
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(-error.raw_code(), libc::EADDRNOTAVAIL | libc::ENODEV) =>
            {
                return Ok(());
            }
            result => result.map_err(NetError::request(format!("remove {address}")))?,
        }
    }
    Ok(())
}

/// The first that is there, as long as no IFA_ADDRESS is named (`inet_rtm_deladdr`).
fn of_any_prefix(ifindex: u32, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).build();
    message.attributes = vec![AddressAttribute::Local(IpAddr::V4(address))];
    message
}
