//! How a virtual host's adverts leave, and its announcements.

use std::{io, net::IpAddr};

use carp_common::{
    abi::{Family, Said, SealCheck, Sent, VhostKey},
    engine::{AdvertFields, Input},
    wire::{Destination, virtual_mac},
};
use log::{debug, error, info, warn};

use super::{VirtualHost, place};
use crate::{
    clock::now,
    config::{VipMac, family_of},
    datapath::Datapath,
    net::{arp, nd},
};

/// Of no peer it is known where it is: an advert to all of them has not left.
const NOBODY: io::ErrorKind = io::ErrorKind::HostUnreachable;

impl VirtualHost {
    pub(super) fn send_advert(&mut self, datapath: &mut Datapath, fields: AdvertFields) {
        let before = now();
        let result = self.try_send_advert(datapath, fields);
        let input = match &result {
            Ok(()) => Input::AdvertSent(before),
            Err(error) if error.kind() == NOBODY && self.is_alone(before) => Input::AdvertSent(before),
            Err(_) => Input::AdvertFailed,
        };
        match result {
            Ok(()) => {
                debug!("{}: sent an advert, {}/{}", self.name, fields.advbase, fields.advskew);
                self.sent += 1;
                if self.send_error.take().is_some() {
                    info!("{}: adverts can be sent again", self.name);
                }
            }
            Err(error) => {
                if self.send_error.replace(error.kind()) != Some(error.kind()) {
                    error!("{}: cannot send an advert: {error}", self.name);
                }
            }
        }
        self.handle(input);
    }

    fn try_send_advert(&mut self, datapath: &mut Datapath, fields: AdvertFields) -> io::Result<()> {
        let Some((ifindex, sources)) = self.entered.as_ref().map(|entered| (entered.ifindex, entered.sources.clone()))
        else {
            return Err(io::ErrorKind::NetworkDown.into());
        };
        if sources.is_empty() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let mut sent = Ok(());
        let mut has_left = false;
        for source in sources {
            let counter = self.adverts.next_counter();
            // Before it leaves: a reflection may be faster than this process.
            let family = family_of(source);
            let known = self.known_sent[place(family)].get_or_insert(Sent::new(source, counter));
            let AdvertFields { advbase, advskew, demote } = fields;
            *known = known.and(counter, Said { advbase, advskew, demote });
            let mut known = datapath.set_sent(VhostKey::new(ifindex, self.settings.vhid.get(), family), known);
            if self.settings.seal.mode.check() != SealCheck::Off {
                known = known.and(datapath.note_counter(ifindex, self.row, counter));
            }
            let known = known.map_err(io::Error::other);
            let destinations = self.destinations(ifindex, family);
            has_left |= !destinations.is_empty();
            let send = |()| self.adverts.send(ifindex, self.mac, source, &destinations, fields, counter);
            // One family that fails does not hold up the other.
            sent = sent.and(known.and_then(send));
        }
        match self.unknown_peers() {
            Some(peers) if !has_left => sent.and(Err(io::Error::new(NOBODY, format!("nobody answers for {peers}")))),
            _ => sent,
        }
    }

    /// Where the adverts of a family go. A peer whose hardware address is not known is not there.
    fn destinations(&self, ifindex: u32, family: Family) -> Vec<Destination> {
        if let Some(group) = self.settings.group_in(family) {
            return vec![group];
        }
        let neighbours = self.shared.neighbours.borrow();
        let peer = |ip| Some(Destination { ip, mac: *neighbours.get(&(ifindex, ip))? });
        self.settings.peers_in(family).filter_map(peer).collect()
    }

    /// The peers whose hardware addresses are not known, if there are any.
    pub(super) fn unknown_peers(&self) -> Option<String> {
        let neighbours = self.shared.neighbours.borrow();
        let unknown = self.peers().filter(|peer| !neighbours.contains_key(peer)).map(|(_, peer)| peer.to_string());
        let unknown: Vec<_> = unknown.collect();
        (!unknown.is_empty()).then(|| unknown.join(", "))
    }

    pub(super) fn announce(&self) {
        let Some(entered) = &self.entered else { return };
        let mac = match self.settings.mac {
            VipMac::Virtual => virtual_mac(self.settings.vhid.get()),
            VipMac::Interface => self.mac,
        };
        for vip in &self.settings.vips {
            let frame = match vip.address {
                IpAddr::V4(address) => arp::announcement(mac, address).to_vec(),
                IpAddr::V6(address) => nd::announcement(mac, address, self.is_router).to_vec(),
            };
            if let Err(error) = self.adverts.socket().send(entered.ifindex, &frame) {
                warn!("{}: cannot announce {vip}: {error}", self.name);
            }
        }
    }
}
