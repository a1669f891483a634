//! The hardware addresses of peers, each of which gets adverts of its own.
//!
//! Adverts are whole frames, so that they can come from the virtual MAC, and the kernel resolves nothing for them. So it
//! is asked to find out who a peer is, or the router on the way to it, and asked again now and then (`ip neighbour ...
//! use`), so that it sees for itself whether what it knows is still true.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    future::pending,
    net::IpAddr,
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use log::warn;
use rtnetlink::{
    MulticastGroup,
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute},
    },
};
use tokio::{select, sync::watch, time::sleep};

use super::{
    NetError, Netlink,
    interface::{LOOK_AGAIN, Overrun, route, route_request, subscribe},
};

/// The same while a peer's address is not known: it may be back any moment.
const MISSING_AGAIN: Duration = Duration::from_secs(1);

/// A neighbour on the interface with this index.
pub(crate) type Neighbour = (u32, IpAddr);
/// What is known of peers.
pub(crate) type Neighbours = HashMap<Neighbour, [u8; 6]>;

/// Finds the hardware addresses of these peers, or of the routers on the way to them: the receiver holds what is known.
/// Must be called within the runtime.
pub(crate) fn watch(peers: watch::Receiver<BTreeSet<Neighbour>>) -> watch::Receiver<Neighbours> {
    let (sender, receiver) = watch::channel(Neighbours::new());
    tokio::spawn(async move {
        let mut peers = peers;
        loop {
            // Not before there are peers, which most configurations have none of.
            if peers.wait_for(|peers| !peers.is_empty()).await.is_err() {
                return;
            }
            match keep(&mut peers, &sender).await {
                Ok(()) => return,
                Err(error) => warn!("{error}; what is known of the peers may be old"),
            }
            sleep(LOOK_AGAIN).await;
        }
    });
    receiver
}

/// Ends when nobody asks any more.
async fn keep(
    peers: &mut watch::Receiver<BTreeSet<Neighbour>>,
    known: &watch::Sender<Neighbours>,
) -> Result<(), NetError> {
    let netlink = Netlink::connect()?;
    let mut events = Box::pin(subscribe(&[MulticastGroup::Neigh])?);
    loop {
        let wanted = peers.borrow_and_update().clone();
        let hops = next_hops(&netlink, &wanted).await;
        let mut found = look(&netlink, &hops).await?;
        let again = if found.len() < wanted.len() { MISSING_AGAIN } else { LOOK_AGAIN };
        // Where one was that does not answer now: it is to hear adverts as soon as it is back.
        let before: Neighbours = known.borrow().clone();
        for (peer, mac) in before.into_iter().filter(|(peer, _)| wanted.contains(peer)) {
            found.entry(peer).or_insert(mac);
        }
        if known.send(found).is_err() {
            return Ok(());
        }
        let concerns: HashSet<Neighbour> = hops.values().copied().collect();
        select! {
            changed = peers.changed() => if changed.is_err() { return Ok(()) },
            () = next_of(&mut events, &concerns) => {}
            () = sleep(again) => {}
        }
    }
}

/// Waits for an event that is about one of these.
async fn next_of(
    events: &mut (impl Stream<Item = Result<RouteNetlinkMessage, Overrun>> + Unpin),
    concerns: &HashSet<Neighbour>,
) {
    let is_ours = |event: &Result<RouteNetlinkMessage, Overrun>| match event {
        Ok(RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message)) => {
            neighbour(message).is_some_and(|neighbour| concerns.contains(&neighbour))
        }
        Ok(_) => false,
        Err(Overrun) => true,
    };
    loop {
        match events.next().await {
            Some(event) if is_ours(&event) => break,
            Some(_) => {}
            // The regular look has to do.
            None => pending().await,
        }
    }
    // One look is enough for all that have happened.
    while events.next().now_or_never().flatten().is_some() {}
}

/// Who is next on the way to each peer: the peer itself, or a router.
async fn next_hops(netlink: &Netlink, peers: &BTreeSet<Neighbour>) -> HashMap<Neighbour, Neighbour> {
    let mut hops = HashMap::new();
    for (ifindex, peer) in peers {
        let mut request = route_request(*peer);
        request.attributes.push(RouteAttribute::Oif(*ifindex));
        // An error is about this one, as no route is: its interface has just gone, say.
        let Ok(Some(route)) = route(netlink, *peer, request).await else { continue };
        let router = route.attributes.into_iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(router)) => Some(IpAddr::V4(router)),
            RouteAttribute::Gateway(RouteAddress::Inet6(router)) => Some(IpAddr::V6(router)),
            _ => None,
        });
        hops.insert((*ifindex, *peer), (*ifindex, router.unwrap_or(*peer)));
    }
    hops
}

/// What the kernel knows of them; and asks it to look for them.
async fn look(netlink: &Netlink, hops: &HashMap<Neighbour, Neighbour>) -> Result<Neighbours, NetError> {
    let all: Vec<NeighbourMessage> = netlink
        .dump(|handle| handle.neighbours().get().execute().try_collect())
        .await
        .map_err(NetError::request("read the neighbours"))?;
    // To ask for an entry of the administrator's takes from it that it is one (`__neigh_update`, since Linux 5.16).
    let fixed: HashSet<Neighbour> = all.iter().filter(|message| is_fixed(message)).filter_map(neighbour).collect();
    for (ifindex, hop) in hops.values().filter(|hop| !fixed.contains(hop)) {
        let request = netlink.handle.neighbours().add(*ifindex, *hop).replace();
        // An error is that nobody can be asked, with the interface down, say: the next look asks again.
        request.state(NeighbourState::None).flags(NeighbourFlags::Use).execute().await.ok();
    }
    let known: Neighbours = all.iter().filter_map(|message| Some((neighbour(message)?, mac(message)?))).collect();
    Ok(hops.iter().filter_map(|(peer, hop)| Some((*peer, *known.get(hop)?))).collect())
}

/// Whether the kernel is not to look for it.
fn is_fixed(message: &NeighbourMessage) -> bool {
    matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((message.header.ifindex, IpAddr::V4(*ip))),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((message.header.ifindex, IpAddr::V6(*ip))),
        _ => None,
    })
}

/// The hardware address, unless the last one did not answer: the kernel tells none then.
fn mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn an_interface_that_is_gone_is_no_obstacle_to_the_peers_on_others() {
        let (loopback, gone) = (1, i32::MAX as u32);
        let peers = [(loopback, Ipv4Addr::LOCALHOST.into()), (gone, Ipv4Addr::LOCALHOST.into())];
        let peers: BTreeSet<Neighbour> = peers.into_iter().chain([(gone, Ipv6Addr::LOCALHOST.into())]).collect();
        let hops = next_hops(&Netlink::connect().unwrap(), &peers).await;
        let reached = (loopback, Ipv4Addr::LOCALHOST.into());
        assert_eq!(hops, HashMap::from([(reached, reached)]));
    }
}
