//! Adding and removing VIPs.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use nix::libc;
use rtnetlink::{
    AddressMessageBuilder,
    packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol},
};

use super::{NetError, Netlink};
use crate::config::Vip;

/// How often an IPv4 address can be on an interface: once with each prefix length. (An IPv6 address can be there once.)
const PREFIX_LENGTHS: usize = 33;
/// Metric of a route that is taken if there is no other: beyond what network managers give (20,000 and some).
const LAST_METRIC: u32 = 1 << 16;

/// Who has added an address, as the kernel notes it (IFA_PROTO, since Linux 5.18; before, it is ignored): the number of CARP
/// among IP's protocols. The kernel has 1 to 3 for itself, keepalived 18.
const MARK: AddressProtocol = AddressProtocol::Other(112);

/// An address that carpd has added.
pub(crate) struct Marked {
    /// Index of its interface.
    pub(crate) ifindex: u32,
    /// The address, with its prefix length.
    pub(crate) vip: Vip,
    message: AddressMessage,
}

/// All addresses that carpd has added.
pub(crate) async fn marked(netlink: &Netlink) -> Result<Vec<Marked>, NetError> {
    let all: Vec<AddressMessage> = netlink
        .dump(|handle| handle.address().get().execute().try_collect())
        .await
        .map_err(NetError::request("read addresses"))?;
    let marked = all.into_iter().filter(|message| message.attributes.contains(&AddressAttribute::Protocol(MARK)));
    let marked = marked.filter_map(|message| {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        let (ifindex, prefix) = (message.header.index, message.header.prefix_len);
        Some(Marked { ifindex, vip: Vip { address: address?, prefix }, message })
    });
    Ok(marked.collect())
}

/// Removes one of them, and no other that is the same but for its prefix length.
pub(crate) async fn remove_marked(netlink: &Netlink, marked: Marked) -> Result<(), NetError> {
    let what = format!("remove {}", marked.vip);
    netlink.handle.address().del(marked.message).execute().await.map_err(NetError::request(what))
}

/// Adds a VIP to an interface; one that is there already stays. An IPv6 address is there at once: that no other host has
/// it is for CARP to see to, and not for the kernel to wait for (RFC 4862, 5.4).
pub(crate) async fn add(netlink: &Netlink, ifindex: u32, vip: Vip) -> Result<(), NetError> {
    add_with(netlink, ifindex, vip, None).await
}

/// The same for a virtual MAC's device: the way into the VIP's network leads through the interface, if that has one.
pub(crate) async fn add_to_device(netlink: &Netlink, ifindex: u32, vip: Vip) -> Result<(), NetError> {
    let is_link_local = matches!(vip.address, IpAddr::V6(address) if address.is_unicast_link_local());
    // From a link-local address the way leads through its device alone, and is there with a prefix length of 64 only.
    let vip = if is_link_local { Vip { prefix: 64, ..vip } } else { vip };
    add_with(netlink, ifindex, vip, Some(LAST_METRIC)).await
}

async fn add_with(netlink: &Netlink, ifindex: u32, vip: Vip, metric: Option<u32>) -> Result<(), NetError> {
    let mut request = netlink.handle.address().add(ifindex, vip.address, vip.prefix).replace();
    let attributes = &mut request.message_mut().attributes;
    if vip.address.is_ipv6() {
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent));
    }
    attributes.push(AddressAttribute::Protocol(MARK));
    attributes.extend(metric.map(AddressAttribute::RoutePriority));
    request.execute().await.map_err(NetError::request(format!("add {vip}")))
}

/// Removes a VIP from an interface, under whatever prefix lengths it is there; one that is not there is no
/// error.
pub(crate) async fn remove(netlink: &Netlink, ifindex: u32, vip: Vip) -> Result<(), NetError> {
    for _ in 0..PREFIX_LENGTHS {
        let message = match vip.address {
            IpAddr::V4(address) => Some(of_any_prefix(ifindex, address)),
            IpAddr::V6(_) => find(netlink, ifindex, vip.address).await?,
        };
        let Some(message) = message else { return Ok(()) };
        match netlink.handle.address().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(-error.raw_code(), libc::EADDRNOTAVAIL | libc::ENODEV) =>
            {
                return Ok(());
            }
            result => result.map_err(NetError::request(format!("remove {}", vip.address)))?,
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

/// The address as the kernel has it: an IPv6 address is removed by its prefix length, too.
async fn find(netlink: &Netlink, ifindex: u32, address: IpAddr) -> Result<Option<AddressMessage>, NetError> {
    let all: Vec<AddressMessage> = netlink
        .dump(move |handle| handle.address().get().set_link_index_filter(ifindex).execute().try_collect())
        .await
        .map_err(NetError::request("read addresses"))?;
    Ok(all.into_iter().find(|message| {
        message.header.index == ifindex && message.attributes.contains(&AddressAttribute::Address(address))
    }))
}
