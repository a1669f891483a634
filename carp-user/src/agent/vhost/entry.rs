//! What a virtual host's interface is like, and what the datapath is told of it there.

use std::{collections::BTreeSet, mem, net::IpAddr};

use carp_common::{
    abi::{Family, Sent, SourceKey, Vhost, address_bytes},
    digest::DigestKey,
    engine::{Input, LinkFault, State},
    seal::Sequence,
};
use log::{info, warn};
use zeroize::Zeroize;

use super::{VirtualHost, place};
use crate::{
    agent::link::Presence,
    clock::now,
    config::family_of,
    datapath::{Datapath, DatapathError, Known},
    net::{interface::Interface, vmac},
    vips,
};

/// While the datapath knows of the virtual host.
pub(super) struct Entered {
    pub(super) ifindex: u32,
    attachment: u32,
    /// While the virtual host can work: what its adverts come from, one for each family.
    pub(super) sources: Vec<IpAddr>,
}

impl VirtualHost {
    /// Takes note of what its interface is like now, which is `interface` if it is there at all.
    pub(in crate::agent) fn handle_link(
        &mut self,
        datapath: &mut Datapath,
        presence: Presence<'_>,
        interface: Option<&Interface>,
        vips: &BTreeSet<IpAddr>,
    ) {
        let digests = self.settings.digests();
        if self.digests != digests {
            if digests.sent.len() < self.digests.sent.len() {
                info!(
                    "{}: the rollout is over: adverts are sent and accepted for the present addresses only",
                    self.name
                );
            } else {
                info!("{}: by the clock, which was set back, the rollout goes on", self.name);
            }
            self.digests = digests;
            self.adverts.set(&self.settings);
            self.leave(datapath);
            self.reconfigure();
        }
        let fault = match presence {
            Presence::Attached { interface, attachment } => {
                let fault = self.enter(datapath, interface, attachment, vips).unwrap_or_else(|error| {
                    if !interface.is_there(&self.interface) {
                        return Some(LinkFault::NoInterface);
                    }
                    if self.fault != Some(LinkFault::NotAttached) {
                        warn!("{}: {error}", self.name);
                    }
                    Some(LinkFault::NotAttached)
                });
                if fault.is_none() {
                    self.look_at_fence(datapath, interface);
                    self.resume();
                }
                fault
            }
            Presence::Missing => {
                self.leave(datapath);
                Some(LinkFault::NoInterface)
            }
            Presence::NoRoad => {
                self.leave(datapath);
                Some(LinkFault::NotAttached)
            }
        };
        let fault = fault.or(self.gate);
        let is_new = mem::replace(&mut self.fault, fault) != fault;
        match fault {
            None => self.handle(Input::LinkUp),
            Some(fault) => {
                // Told here where there is no transition to tell it, and once.
                let is_replaced = fault == LinkFault::NoInterface && interface.is_some();
                let is_told = fault == LinkFault::NotAttached || is_replaced;
                if is_new && !is_told && self.engine.status().state == State::Init {
                    info!("{}: INIT: {fault}; waiting for it", self.name);
                }
                self.handle(Input::LinkDown(fault));
            }
        }
        self.device = interface.and_then(|interface| {
            let device = interface.device(self.settings.vhid.get())?;
            Some((vmac::name(device.vhid, interface.index), device.is_ours))
        });
        if let Some(interface) = interface {
            self.repair_vips(datapath, interface);
        }
    }

    /// Forgets an interface that is gone, or is to be left.
    pub(in crate::agent) fn leave(&mut self, datapath: &mut Datapath) {
        self.keys().for_each(|key| datapath.remove_vhost(key));
        self.entered = None;
    }

    /// Makes the virtual host known on its interface; what that lacks for it to work.
    fn enter(
        &mut self,
        datapath: &mut Datapath,
        interface: &Interface,
        attachment: u32,
        vips: &BTreeSet<IpAddr>,
    ) -> Result<Option<LinkFault>, DatapathError> {
        let is_new = self.entered.as_ref().is_none_or(|entered| entered.attachment != attachment);
        if is_new {
            self.leave(datapath);
            self.ifindex = interface.index;
        }
        let sources = interface.sources(&self.settings, vips);
        let found = sources.as_deref().unwrap_or_default();
        let entered = self.entered.as_ref().map_or(&[][..], |entered| &entered.sources);
        let mut known = Ok(());
        if is_new || entered != found {
            for source in found {
                // Known before the first advert, and before any is judged: what comes from this address so far is ours.
                let sent = self.recognise(datapath, *source);
                // One family that fails does not hold up the other.
                known = known.and(datapath.set_sent(self.key(interface.index, family_of(*source)), &sent));
            }
        }
        if is_new {
            self.make_known(datapath, interface.index)?;
            self.entered = Some(Entered { ifindex: interface.index, attachment, sources: vec![] });
        }
        let Some(entered) = &mut self.entered else { return Ok(Some(LinkFault::NoInterface)) };
        // Unless all is well, all of it again with the next look.
        entered.sources.clear();
        let sources = match sources {
            Ok(sources) => sources,
            Err(fault) => return Ok(Some(fault)),
        };
        known?;
        // What tells equal hosts apart: one of them is enough.
        self.engine.set_source(sources[0]);
        entered.sources = sources;
        self.is_router = interface.is_router;
        if mem::replace(&mut self.mac, interface.mac) != interface.mac {
            self.engine.handle(Input::MacChanged, now());
            if self.is_master() {
                self.hold(datapath);
            }
        }
        Ok(None)
    }

    /// All that was sent from this address is an echo from now on; and what was sent from the one before is not another's, as
    /// far as a seal tells.
    fn recognise(&mut self, datapath: &mut Datapath, source: IpAddr) -> Sent {
        let counter = self.adverts.next_counter();
        let family = family_of(source);
        let known = self.known_sent[place(family)];
        if let (Some(former), Some(ahead)) = (known.map(|sent| sent.source()), self.adverts.sequences_ahead())
            && former != source
        {
            let arrival = now().as_nanos();
            let last = Sequence { last: arrival.wrapping_add(ahead), counter, arrival };
            let key = SourceKey::new(self.key(self.ifindex, family), address_bytes(former));
            datapath.set_sequence(&key, last).unwrap_or_else(|error| warn!("{}: {error}", self.name));
        }
        let known = known.filter(|sent| sent.source() == source);
        let sent = known.map_or(Sent::new(source, counter), |sent| sent.until(counter));
        self.known_sent[place(family)] = Some(sent);
        sent
    }

    /// Tells the datapath whose adverts to judge, and how.
    fn make_known(&self, datapath: &mut Datapath, ifindex: u32) -> Result<(), DatapathError> {
        let settings = &self.settings;
        let mut digests =
            self.digests.accepted.iter().map(|vips| DigestKey::new(&settings.passphrase, settings.vhid.get(), vips));
        let Some(digest) = digests.next() else { return Ok(()) };
        let mut vhost = Vhost::new(digest, self.row).with_min_ttl(settings.min_ttl);
        vhost = vhost.sealed(settings.seal.mode.check(), settings.seal_window());
        vhost = digests.next().map_or(vhost, |other| vhost.accepting(other));
        let mut seals = settings.seal.prepared();
        let known = settings.families().iter().try_for_each(|family| {
            let key = self.key(ifindex, *family);
            let peers = settings.heard_in(*family).into_iter();
            let peers = peers.map(|(peer, policy)| (SourceKey::new(key, address_bytes(peer)), policy));
            let peers: Vec<_> = peers.collect();
            let mut vhost = if peers.is_empty() { vhost } else { vhost.of_peers() };
            let known = datapath.set_vhost(key, Known { vhost: &vhost, peers: &peers, seals: &seals });
            vhost.zeroize();
            known
        });
        vhost.zeroize();
        seals.iter_mut().for_each(|(_, key)| key.zeroize());
        if known.is_err() {
            // Nor by half: an advert of the one family would be for a virtual host that is not here.
            [Family::V4, Family::V6].iter().for_each(|family| datapath.remove_vhost(self.key(ifindex, *family)));
        }
        known
    }

    /// Something may have added or removed VIPs: puts them right.
    fn repair_vips(&mut self, datapath: &mut Datapath, interface: &Interface) {
        let held = self.is_master();
        if vips::wrong(&self.settings, interface, held).is_some() {
            self.vips.repair(interface.index, held);
        } else if self.vips.is_settled() {
            // Seen to be gone: one that could not be removed stays fenced.
            self.release(datapath);
        }
    }
}
