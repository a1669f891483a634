//! The device of a virtual MAC: a macvlan on the interface with 00:00:5e:00:01:VHID, for the VIPs. Other settings of the
//! kernel than those of its own that are needed for it are in [`crate::vips`].
//!
//! All over netlink, which a service can do whose /proc/sys cannot be written, but for one setting that has none.

use std::{fs, io, net::IpAddr, path::Path, pin::pin};

use carp_common::wire::virtual_mac;
use futures_util::TryStreamExt;
use nix::libc;
use rtnetlink::{
    LinkMacVlan, LinkUnspec,
    packet_core::{DefaultNla, Emitable, NLA_F_NESTED},
    packet_route::link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, Inet6DevConf, InetDevConf, InfoKind, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
    },
};

use super::{NetError, Netlink};

/// IFLA_INET_CONF, and what is in it (linux/ip.h).
const INET_CONF: u16 = 1;
const RP_FILTER: u16 = 8;
const ARP_ANNOUNCE: u16 = 18;
const ARP_IGNORE: u16 = 19;
/// "Loose": what comes for a VIP is answered through the interface.
const LOOSE: u32 = 2;

/// How an interface deals with ARP for addresses that are not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArpSettings {
    /// Which requests it answers.
    pub(crate) ignore: u32,
    /// Which address its own requests come from.
    pub(crate) announce: u32,
}

impl ArpSettings {
    /// For its own addresses only.
    const OWN: Self = Self { ignore: 1, announce: 2 };

    /// The same for its own addresses only. An interface that answers for these (1), and to neighbours in its network (2), or
    /// not at all (8), stays as it is.
    pub(crate) const fn for_own_addresses(self) -> Self {
        let ignore = if matches!(self.ignore, 1 | 2 | 8) { self.ignore } else { Self::OWN.ignore };
        Self { ignore, ..Self::OWN }
    }

    /// What to set to undo [`Self::for_own_addresses`]. What somebody else has changed since stays.
    pub(crate) const fn back_to(self, had: Self) -> Self {
        let set = had.for_own_addresses();
        Self {
            ignore: if self.ignore == set.ignore { had.ignore } else { self.ignore },
            announce: if self.announce == set.announce { had.announce } else { self.announce },
        }
    }

    fn attributes(self) -> [(u16, u32); 2] {
        [(ARP_IGNORE, self.ignore), (ARP_ANNOUNCE, self.announce)]
    }
}

/// What has the name of a device on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its index.
    pub(crate) index: u32,
    /// The virtual host that it is of, by its name.
    pub(crate) vhid: u8,
    /// Whether it is one; else somebody has given the name to something else.
    pub(crate) is_ours: bool,
    /// Administratively up.
    pub(crate) is_up: bool,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What the device of a virtual host is called; `parent` is the index of the interface, whose name may be as long as a
/// name can be. (From 10 million on, the name is too long, and the kernel says so.)
pub(crate) fn name(vhid: u8, parent: u32) -> String {
    format!("carp{vhid}-{parent}")
}

/// The vhid and the index of the interface in a name that [`name`] has made.
pub(crate) fn parse(text: &str) -> Option<(u8, u32)> {
    let (vhid, parent) = text.strip_prefix("carp")?.split_once('-')?;
    let (vhid, parent) = (vhid.parse().ok()?, parent.parse().ok()?);
    (name(vhid, parent) == text).then_some((vhid, parent))
}

/// The devices among these links that are, by their names, on `parent`.
pub(super) fn devices<'a>(
    links: impl Iterator<Item = (&'a str, &'a LinkMessage)>,
    parent: &LinkMessage,
    addresses: impl Fn(u32) -> Vec<IpAddr>,
) -> Vec<Device> {
    let device = |(text, link): (&str, &LinkMessage)| {
        let vhid = parse(text).filter(|(_, on)| *on == parent.header.index)?.0;
        Some(Device {
            index: link.header.index,
            vhid,
            is_ours: is_ours(link, parent, vhid),
            is_up: link.header.flags.contains(LinkFlags::Up),
            addresses: addresses(link.header.index),
        })
    };
    links.filter_map(device).collect()
}

/// The index of a virtual host's device, if it is there.
///
/// # Errors
/// [`NetError::Foreign`]: something else has its name.
pub(crate) async fn find(netlink: &Netlink, parent: u32, vhid: u8) -> Result<Option<u32>, NetError> {
    let name = name(vhid, parent);
    let Some(link) = get(netlink, |message| message.attributes.push(LinkAttribute::IfName(name.clone()))).await? else {
        return Ok(None);
    };
    let parent = get(netlink, |message| message.header.index = parent).await?.unwrap_or_else(|| on_nothing(parent));
    if is_ours(&link, &parent, vhid) { Ok(Some(link.header.index)) } else { Err(NetError::Foreign { name }) }
}

/// Makes the device, down and without addresses, and its index.
pub(crate) async fn create(netlink: &Netlink, parent: u32, vhid: u8) -> Result<u32, NetError> {
    let name = name(vhid, parent);
    // In private mode other macvlans on the interface would not reach the VIPs, and what comes from another master, with the
    // same MAC as source, would be handed to the device instead of the interface.
    let message = LinkMacVlan::new(&name, parent, MacVlanMode::Bridge).address(virtual_mac(vhid).to_vec()).build();
    netlink.handle.link().add(message).execute().await.map_err(NetError::request(format!("create {name}")))?;
    find(netlink, parent, vhid).await?.ok_or(NetError::Vanished { name })
}

/// Sets what is to hold on the device before it is up: ARP for its own addresses only, replies through the interface, and no
/// IPv6 address of its own.
pub(crate) async fn configure(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    let [ignore, announce] = ArpSettings::OWN.attributes();
    set(netlink, index, inet(&[ignore, announce, (RP_FILTER, LOOSE)])).await?;
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    match set(netlink, index, none).await {
        // There is no IPv6.
        Err(NetError::Request { source: rtnetlink::Error::NetlinkError(error), .. })
            if -error.raw_code() == libc::EAFNOSUPPORT =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Has the device take no addresses and routes from routers. There is no other way than /proc/sys.
///
/// # Errors
/// It would take them.
pub(crate) async fn refuse_routers(netlink: &Netlink, name: &str, index: u32) -> io::Result<()> {
    let Err(error) = fs::write(Path::new("/proc/sys/net/ipv6/conf").join(name).join("accept_ra"), "0") else {
        return Ok(());
    };
    let link = get(netlink, |message| message.header.index = index).await.ok().flatten();
    match link.as_ref().and_then(inet6_conf) {
        // With forwarding, they are taken only by a 2.
        Some(conf) if conf.accept_ra == 2 || (conf.accept_ra != 0 && conf.forwarding == 0) => Err(error),
        _ => Ok(()),
    }
}

/// Lets the device work.
pub(crate) async fn set_up(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_index(index).up().build();
    netlink.handle.link().set(message).execute().await.map_err(NetError::request("set the device of the VIPs up"))
}

/// Silences the device, which takes some 10 ms; it keeps its addresses, and does not even leave their multicast groups.
pub(crate) async fn set_down(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_index(index).down().build();
    netlink.handle.link().set(message).execute().await.map_err(NetError::request("set the device of the VIPs down"))
}

/// Deletes the device; one that is not there is no error.
pub(crate) async fn delete(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    let deleted = netlink.handle.link().del(index).execute().await;
    absent(deleted.map(Some)).map(drop).map_err(NetError::request("delete the device of the VIPs"))
}

/// How an interface deals with ARP; `None` if it is not there.
pub(crate) async fn arp_settings(netlink: &Netlink, index: u32) -> Result<Option<ArpSettings>, NetError> {
    let link = get(netlink, |message| message.header.index = index).await?;
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    let conf = link.as_ref().and_then(inet_conf);
    Ok(conf.map(|conf| ArpSettings { ignore: number(conf.arp_ignore), announce: number(conf.arp_announce) }))
}

/// Sets how an interface deals with ARP.
pub(crate) async fn set_arp_settings(netlink: &Netlink, index: u32, settings: ArpSettings) -> Result<(), NetError> {
    set(netlink, index, inet(&settings.attributes())).await
}

/// IPv6's settings of an interface.
pub(super) fn inet6_conf(link: &LinkMessage) -> Option<&Inet6DevConf> {
    families(link).find_map(|spec| match spec {
        AfSpecUnspec::Inet6(specs) => specs.iter().find_map(|spec| match spec {
            AfSpecInet6::DevConf(conf) => Some(conf),
            _ => None,
        }),
        _ => None,
    })
}

fn inet_conf(link: &LinkMessage) -> Option<&InetDevConf> {
    families(link).find_map(|spec| match spec {
        AfSpecUnspec::Inet(specs) => specs.iter().find_map(|spec| match spec {
            AfSpecInet::DevConf(conf) => Some(conf),
            _ => None,
        }),
        _ => None,
    })
}

fn families(link: &LinkMessage) -> impl Iterator<Item = &AfSpecUnspec> {
    let specs = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(specs) => Some(specs),
        _ => None,
    });
    specs.flatten()
}

/// A macvlan on `parent` with the virtual MAC of this vhid.
fn is_ours(link: &LinkMessage, parent: &LinkMessage, vhid: u8) -> bool {
    let mac = virtual_mac(vhid);
    let has_mac = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Address(own) if *own == mac);
    // A macvlan on a macvlan is, to the kernel, on what that is on.
    let below = if is_macvlan(parent) { lower(parent) } else { Some(parent.header.index) };
    is_macvlan(link) && link.attributes.iter().any(has_mac) && lower(link) == below
}

fn is_macvlan(link: &LinkMessage) -> bool {
    let is_it = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::MacVlan));
    link.attributes.iter().any(|part| matches!(part, LinkAttribute::LinkInfo(infos) if infos.iter().any(is_it)))
}

fn lower(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// An interface of which nothing is known but its index.
fn on_nothing(index: u32) -> LinkMessage {
    LinkUnspec::new_with_index(index).build()
}

/// The one link that is asked for; `None` if it is not there.
async fn get(netlink: &Netlink, which: impl FnOnce(&mut LinkMessage)) -> Result<Option<LinkMessage>, NetError> {
    // By index 0 none, and so by what `which` adds.
    let mut request = netlink.handle.link().get().match_index(0);
    which(request.message_mut());
    let found = pin!(request.execute()).try_next().await;
    absent(found).map_err(NetError::request("read an interface"))
}

fn absent<T>(found: Result<Option<T>, rtnetlink::Error>) -> Result<Option<T>, rtnetlink::Error> {
    match found {
        Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() == libc::ENODEV => Ok(None),
        found => found,
    }
}

async fn set(netlink: &Netlink, index: u32, spec: AfSpecUnspec) -> Result<(), NetError> {
    let message =
        LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![spec])).build();
    netlink.handle.link().set(message).execute().await.map_err(NetError::request("change an interface's settings"))
}

/// Settings for IPv4. (What rtnetlink has for this leaves zeros out.)
fn inet(settings: &[(u16, u32)]) -> AfSpecUnspec {
    let nested = settings.iter().flat_map(|(kind, value)| {
        let nla = DefaultNla::new(*kind, value.to_ne_bytes().to_vec());
        let mut bytes = vec![0; nla.buffer_len()];
        nla.emit(&mut bytes);
        bytes
    });
    AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(INET_CONF | NLA_F_NESTED, nested.collect()))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of this kind with this MAC on the interface with this index.
    fn link(kind: InfoKind, mac: [u8; 6], on: u32) -> LinkMessage {
        let mut link = LinkUnspec::new_with_index(9).build();
        link.attributes.push(LinkAttribute::Link(on));
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        link
    }

    #[test]
    fn a_name_tells_vhid_and_interface_and_is_short() {
        assert_eq!(name(7, 2), "carp7-2");
        assert_eq!(parse("carp7-2"), Some((7, 2)));
        assert_eq!(name(255, 9_999_999).len(), 15);
        for other in ["carp7", "carp256-2", "carp07-2", "carp7-2x", "carp+7-2", "carp7-", "eth0", "carp-2"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_others_have_set_on_an_interface_stays_as_far_as_it_can() {
        let arp = |ignore, announce| ArpSettings { ignore, announce };
        for (had, set) in [((0, 0), (1, 2)), ((2, 1), (2, 2)), ((8, 2), (8, 2)), ((3, 0), (1, 2))] {
            let (had, set) = (arp(had.0, had.1), arp(set.0, set.1));
            assert_eq!(had.for_own_addresses(), set);
            assert_eq!(set.back_to(had), had);
        }
        assert_eq!(arp(3, 2).back_to(arp(0, 0)), arp(3, 0));
        assert_eq!(arp(1, 1).back_to(arp(0, 0)), arp(0, 1));
    }

    #[test]
    fn only_a_macvlan_with_the_virtual_mac_on_the_interface_is_taken_for_ours() {
        let parent = on_nothing(4);
        let mac = virtual_mac(7);
        assert!(is_ours(&link(InfoKind::MacVlan, mac, 4), &parent, 7));
        for other in [
            link(InfoKind::MacVlan, mac, 5),
            link(InfoKind::MacVlan, virtual_mac(8), 4),
            link(InfoKind::MacVtap, mac, 4),
            link(InfoKind::Veth, mac, 4),
            on_nothing(9),
        ] {
            assert!(!is_ours(&other, &parent, 7));
        }
    }

    #[test]
    fn on_a_macvlan_it_is_looked_for_on_what_that_is_on() {
        let parent = link(InfoKind::MacVlan, [2; 6], 3);
        assert!(is_ours(&link(InfoKind::MacVlan, virtual_mac(7), 3), &parent, 7));
        assert!(!is_ours(&link(InfoKind::MacVlan, virtual_mac(7), parent.header.index), &parent, 7));
    }
}
