//! An interface as it is now, and word of every change.
//!
//! Netlink events only say that something happened; what counts is read afresh each time. So a lost event
//! or an overrun socket does no harm beyond the next look, which comes after ten seconds at the latest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use carp_common::{abi::Family, engine::LinkFault};
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use log::warn;
use nix::{libc, net::if_::if_nametoindex};
use rtnetlink::{
    MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached},
        route::{RouteAttribute, RouteFlags, RouteMessage, RouteType},
    },
};
use tokio::{select, sync::watch, time};

use super::{
    NetError, Netlink, vlan,
    vmac::{self, Device},
};
use crate::config::{Settings, family_of};

/// The longest time between two looks.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// What an interface that is watched can change by.
const WATCHED: [MulticastGroup; 3] = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// What the kernel answers where there is no route, or one of the types unreachable, prohibit and blackhole.
const NO_ROUTE: [i32; 4] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL];

/// What an interface is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its index.
    pub(crate) index: u32,
    /// Its hardware address; zeros if it has none of Ethernet's length.
    pub(crate) mac: [u8; 6],
    /// Administratively up.
    pub(crate) is_up: bool,
    /// Has carrier.
    pub(crate) has_carrier: bool,
    /// Whether it carries VLANs and its card takes their tags off: without them, their frames look like its own.
    pub(crate) strips_vlan_tags: bool,
    /// The XDP program that is attached to it.
    pub(crate) xdp: Option<XdpProgram>,
    /// Whether it forwards IPv6, as routers do.
    pub(crate) is_router: bool,
    /// Its addresses.
    pub(crate) addresses: Vec<Address>,
    /// What has the name of a virtual MAC's device on it.
    pub(crate) devices: Vec<Device>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpProgram {
    /// The kernel's number of it.
    pub(crate) program: u32,
    /// Whether it is in the network stack, and not in the driver.
    pub(crate) is_generic: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: IpAddr,
    /// Its prefix length.
    pub(crate) prefix: u8,
    /// Whether it can be a source: it has been found to be nobody else's (RFC 4862), and is not about to go.
    pub(crate) is_ready: bool,
}

impl Interface {
    /// Whether the kernel still has it under this name. That it has not may be why something fails before the event that says
    /// so has been read.
    pub(crate) fn is_there(&self, name: &str) -> bool {
        if_nametoindex(name) == Ok(self.index)
    }

    /// The source addresses for adverts, one for each family, or what is missing for a virtual host to work here. They
    /// are none of `vips`, which come and go.
    pub(crate) fn sources(&self, settings: &Settings, vips: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, LinkFault> {
        if !settings.ignore_link_state
            && let Some(fault) = self.link_fault()
        {
            return Err(fault);
        }
        let families = settings.families().iter();
        families.map(|family| self.source(settings, *family, vips).ok_or(LinkFault::NoAddress)).collect()
    }

    fn source(&self, settings: &Settings, family: Family, vips: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let mut own =
            self.addresses.iter().filter(|own| family_of(own.ip) == family && own.is_ready && !vips.contains(&own.ip));
        if let Some(wanted) = settings.sources.iter().find(|source| family_of(**source) == family) {
            return own.find(|own| own.ip == *wanted).map(|own| own.ip);
        }
        // Over IPv6 a group hears what comes from a link-local address, as routers' do (RFC 5798, 5.1.2.1).
        let is_link_local = |own: &&Address| matches!(own.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let peer = settings.peers_in(family).next();
        if peer.is_none()
            && let Some(own) = own.clone().find(is_link_local)
        {
            return Some(own.ip);
        }
        // The address in the peer's or the VIP's network, else the first.
        let towards =
            peer.or_else(|| settings.vips.iter().map(|vip| vip.address).find(|vip| family_of(*vip) == family));
        let near = own.clone().find(|own| towards.is_some_and(|towards| in_network(towards, own.ip, own.prefix)));
        near.or_else(|| own.clone().find(|own| !is_link_local(own))).or_else(|| own.next()).map(|own| own.ip)
    }

    /// What its link lacks.
    fn link_fault(&self) -> Option<LinkFault> {
        if !self.is_up { Some(LinkFault::InterfaceDown) } else { (!self.has_carrier).then_some(LinkFault::NoCarrier) }
    }

    /// Whether it has this address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.ip == address)
    }

    /// What has the name of this virtual host's device.
    pub(crate) fn device(&self, vhid: u8) -> Option<&Device> {
        self.devices.iter().find(|device| device.vhid == vhid)
    }
}

fn in_network(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    // IPv4 as the end of IPv6.
    let (address, network, prefix) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u32::from(address).into(), u32::from(network).into(), 96 + u32::from(prefix))
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (u128::from(address), u128::from(network), prefix.into()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
    address & mask == network & mask
}

/// What was found of a host's interfaces.
#[derive(Default)]
pub(crate) struct Interfaces {
    /// The names that were looked for.
    names: BTreeSet<String>,
    /// Those that are there, by name.
    found: BTreeMap<String, Interface>,
}

impl Interfaces {
    /// Whether this name was looked for.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The interface of this name, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&Interface> {
        self.found.get(name)
    }

    /// The indices of those that are there.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        self.found.values().map(|interface| interface.index)
    }

    /// Those that are there, with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Interface)> {
        self.found.iter().map(|(name, interface)| (name.as_str(), interface))
    }

    /// What the link of this name lacks, if that is known.
    pub(crate) fn fault(&self, name: &str) -> Option<LinkFault> {
        match self.get(name) {
            Some(interface) => interface.link_fault(),
            None => self.knows(name).then_some(LinkFault::NoInterface),
        }
    }
}

/// Reads the interfaces of these names.
pub(crate) async fn look(netlink: &Netlink, names: &BTreeSet<String>) -> Result<Interfaces, NetError> {
    // Addresses first: if an interface is deleted meanwhile, it is gone, and not one without addresses.
    let addresses = addresses(netlink).await?;
    let links: Vec<LinkMessage> = netlink
        .dump(|handle| handle.link().get().execute().try_collect())
        .await
        .map_err(NetError::request("read the interfaces"))?;
    let named = links.iter().filter_map(|link| Some((if_name(link)?, link)));
    let of = |index: u32| addresses.iter().filter(move |(at, _)| *at == index).map(|(_, address)| *address);
    let found = named.clone().filter(|(name, _)| names.contains(*name)).map(|(name, link)| {
        let index = link.header.index;
        let devices = vmac::devices(named.clone(), link, |device| of(device).map(|address| address.ip).collect());
        (name.to_owned(), interface(link, vlan::are_stripped(&links, name, index), of(index).collect(), devices))
    });
    Ok(Interfaces { names: names.clone(), found: found.collect() })
}

/// The names of all interfaces, by their indices.
pub(crate) async fn names(netlink: &Netlink) -> Result<BTreeMap<u32, String>, NetError> {
    let links: Vec<LinkMessage> = netlink
        .dump(|handle| handle.link().get().execute().try_collect())
        .await
        .map_err(NetError::request("read the interfaces"))?;
    Ok(links.iter().filter_map(|link| Some((link.header.index, if_name(link)?.to_owned()))).collect())
}

/// Reads one interface; `None` if there is none of this name.
pub(crate) async fn look_at(netlink: &Netlink, name: &str) -> Result<Option<Interface>, NetError> {
    Ok(look(netlink, &BTreeSet::from([name.to_owned()])).await?.found.remove(name))
}

/// The interface where a virtual host belongs for which none is named: the one that has the source address, else
/// the one that is in the first VIP's network. `None` while there is none.
pub(crate) async fn find(netlink: &Netlink, settings: &Settings) -> Result<Option<String>, NetError> {
    let index = match settings.sources.first() {
        Some(source) => with_address(netlink, *source).await?,
        None => towards(netlink, settings.vips[0].address).await?,
    };
    let Some(index) = index else { return Ok(None) };
    let name = name_of(netlink, index).await?;
    match name.as_deref().and_then(vmac::parse) {
        // Left here by a crash, with its device.
        Some((_, parent)) => name_of(netlink, parent).await,
        None => Ok(name),
    }
}

/// Word of everything that may change what [`find`] finds.
pub(crate) fn changes() -> Result<impl Stream<Item = ()> + Send, NetError> {
    let routes = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    Ok(subscribe(&[&WATCHED[..], &routes].concat())?.map(drop))
}

/// The interface that is directly connected to the network of `address`. Neither through a gateway nor by a default
/// route, which at boot may be there first, is it to be found.
async fn towards(netlink: &Netlink, address: IpAddr) -> Result<Option<u32>, NetError> {
    let mut request = route_request(address);
    // The route itself, and not what it makes of this address.
    request.header.flags |= RouteFlags::FibMatch;
    let Some(route) = route(netlink, address, request).await? else { return Ok(None) };
    if route.header.kind == RouteType::Local {
        // Left here by a crash: its route leads to lo.
        return with_address(netlink, address).await;
    }
    let is_gateway = |part: &RouteAttribute| matches!(part, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    let is_default = route.header.destination_prefix_length == 0;
    if is_default || route.attributes.iter().any(is_gateway) {
        return Ok(None);
    }
    Ok(route.attributes.into_iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(index),
        _ => None,
    }))
}

/// A request for the route to an address.
pub(super) fn route_request(address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build(),
    }
}

/// What the kernel answers to it; `None` if there is no route.
pub(super) async fn route(
    netlink: &Netlink,
    address: IpAddr,
    request: RouteMessage,
) -> Result<Option<RouteMessage>, NetError> {
    match pin!(netlink.handle.route().get(request).execute()).try_next().await {
        Ok(route) => Ok(route),
        Err(rtnetlink::Error::NetlinkError(error)) if NO_ROUTE.contains(&-error.raw_code()) => Ok(None),
        Err(error) => Err(NetError::request(format!("look up the route to {address}"))(error)),
    }
}

async fn with_address(netlink: &Netlink, address: IpAddr) -> Result<Option<u32>, NetError> {
    Ok(addresses(netlink).await?.into_iter().find(|(_, own)| own.ip == address).map(|(index, _)| index))
}

/// Watches the interfaces of these names: the receiver holds what they are like, and is told after every look.
pub(crate) async fn watch(
    mut names: watch::Receiver<BTreeSet<String>>,
) -> Result<watch::Receiver<Arc<Interfaces>>, NetError> {
    // Its own: the VIP tasks' lists are long, and one socket takes one request for a list at a time.
    let netlink = Netlink::connect()?;
    let mut events = Box::pin(subscribe(&WATCHED)?);
    let mut known = names.borrow_and_update().clone();
    let (sender, receiver) = watch::channel(Arc::new(look(&netlink, &known).await?));
    tokio::spawn(async move {
        let mut indices = indices(&sender.borrow());
        let mut again = time::interval(LOOK_AGAIN);
        loop {
            let next = select! {
                Ok(()) = names.changed() => {
                    known.clone_from(&names.borrow_and_update());
                    Err(())
                }
                next = events.next() => Ok(next),
                _ = again.tick() => Err(()),
            };
            match next {
                Ok(Some(Ok(event))) if !concerns(&event, &known, &indices) => continue,
                Ok(Some(_)) => {
                    // One look is enough for all that have happened.
                    while events.next().now_or_never().flatten().is_some() {}
                }
                Err(_) => {}
                Ok(None) => {
                    warn!("the netlink socket was closed; opening another");
                    match subscribe(&WATCHED) {
                        Ok(again) => events = Box::pin(again),
                        // No descriptors, say: the next look is as good as an event.
                        Err(error) => {
                            warn!("{error}");
                            time::sleep(LOOK_AGAIN).await;
                        }
                    }
                }
            }
            match look(&netlink, &known).await {
                Ok(now) => {
                    indices = self::indices(&now);
                    // Told even if nothing has changed: what failed last time may work now.
                    if sender.send(Arc::new(now)).is_err() {
                        return;
                    }
                }
                Err(error) => warn!("{error}; the state of the interfaces is as it was"),
            }
        }
    });
    Ok(receiver)
}

fn indices(interfaces: &Interfaces) -> BTreeSet<u32> {
    let found = interfaces.found.values();
    found.flat_map(|found| found.devices.iter().map(|device| device.index).chain([found.index])).collect()
}

/// More happened than the socket had room for: events are lost, and any may have been among them.
pub(super) struct Overrun;

/// Events of these groups.
pub(super) fn subscribe(
    groups: &[MulticastGroup],
) -> Result<impl Stream<Item = Result<RouteNetlinkMessage, Overrun>> + Send + use<>, NetError> {
    let (connection, _, messages) = new_multicast_connection(groups).map_err(NetError::Open)?;
    tokio::spawn(connection);
    Ok(messages.filter_map(async |(message, _): (NetlinkMessage<RouteNetlinkMessage>, _)| match message.payload {
        NetlinkPayload::InnerMessage(message) => Some(Ok(message)),
        NetlinkPayload::Overrun(_) => Some(Err(Overrun)),
        _ => None,
    }))
}

/// Whether an event is about one of our interfaces.
fn concerns(event: &RouteNetlinkMessage, names: &BTreeSet<String>, indices: &BTreeSet<u32>) -> bool {
    match event {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            indices.contains(&link.header.index)
                || if_name(link).is_some_and(|name| names.contains(name))
                || indices.iter().any(|index| vlan::is_on(link, *index))
                || if_name(link).and_then(vmac::parse).is_some_and(|(_, on)| indices.contains(&on))
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            indices.contains(&address.header.index)
        }
        _ => false,
    }
}

/// All addresses, with the indices of their interfaces.
async fn addresses(netlink: &Netlink) -> Result<Vec<(u32, Address)>, NetError> {
    let messages: Vec<AddressMessage> = netlink
        .dump(|handle| handle.address().get().execute().try_collect())
        .await
        .map_err(NetError::request("read addresses"))?;
    Ok(messages.iter().filter_map(|message| Some((message.header.index, address(message)?))).collect())
}

fn address(message: &AddressMessage) -> Option<Address> {
    // Of a point-to-point interface the own one, not the peer's.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let ip = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip @ IpAddr::V6(_)) => Some(*ip),
            _ => None,
        })
    });
    let is_not_ready = message.attributes.iter().any(|attribute| {
        const NOT_READY: AddressFlags =
            AddressFlags::Tentative.union(AddressFlags::Dadfailed).union(AddressFlags::Deprecated);
        matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(NOT_READY))
    });
    Some(Address { ip: ip?, prefix: message.header.prefix_len, is_ready: !is_not_ready })
}

async fn name_of(netlink: &Netlink, index: u32) -> Result<Option<String>, NetError> {
    match pin!(netlink.handle.link().get().match_index(index).execute()).try_next().await {
        Ok(link) => Ok(link.as_ref().and_then(if_name).map(str::to_owned)),
        Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() == libc::ENODEV => Ok(None),
        Err(error) => Err(NetError::request(format!("read the interface with index {index}"))(error)),
    }
}

fn if_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn xdp_program(parts: &[LinkXdp]) -> Option<XdpProgram> {
    let program = parts.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    });
    let is_generic = parts.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
    Some(XdpProgram { program: program?, is_generic })
}

fn interface(link: &LinkMessage, strips_vlan_tags: bool, addresses: Vec<Address>, devices: Vec<Device>) -> Interface {
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    });
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => xdp_program(xdp),
        _ => None,
    });
    Interface {
        index: link.header.index,
        mac: mac.unwrap_or_default(),
        is_up: link.header.flags.contains(LinkFlags::Up),
        // Not LowerUp alone: until the link is operational, what is sent is lost.
        has_carrier: link.header.flags.contains(LinkFlags::Running),
        strips_vlan_tags,
        xdp,
        is_router: vmac::inet6_conf(link).is_some_and(|conf| conf.forwarding != 0),
        addresses,
        devices,
    }
}

#[cfg(test)]
pub(crate) mod tests;
