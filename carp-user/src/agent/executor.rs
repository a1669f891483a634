//! Does what the engine decides.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Context, Result};
use carp_common::{
    abi::{Family, Sent, Vhost, VhostKey},
    digest::DigestKey,
    engine::{Action, AdvertFields, Engine, Input, LinkFault, State, Transition},
    time::Time,
};
use log::{Level, debug, error, info, log, warn};
use rtnetlink::Handle;
use tokio::sync::mpsc;
use zeroize::Zeroize;

use super::ROW;
use crate::{
    clock::now,
    config::Settings,
    datapath::{Datapath, Road},
    net::{PacketSocket, advert::AdvertSender, arp, interface::Interface, membership::Membership},
    vips::VipKeeper,
};

/// The engine of a virtual host, and all that it acts through.
pub(super) struct Executor {
    settings: Arc<Settings>,
    interface: String,
    /// "eth0 vhid 1", as log lines begin.
    name: String,
    engine: Engine,
    adverts: AdvertSender,
    vips: VipKeeper,
    link: Option<Link>,
    /// Index of the interface, also when its name has gone to another: VIPs are released there.
    ifindex: u32,
    /// Its hardware address.
    mac: [u8; 6],
    membership: Option<Membership>,
    /// Adverts that have left.
    sent: u64,
    /// The last error of sending an advert, so that it is said once.
    send_error: Option<io::ErrorKind>,
}

/// The interface, while it is there.
struct Link {
    key: VhostKey,
    /// The interface when the group was joined, or could not be.
    joined_on: Option<Interface>,
    /// Whether the last look at the interface found no program of ours. One such look may have begun before it was
    /// attached; after a second one in a row, something else has detached it. (There is no event for it.)
    misses_program: bool,
    /// Whether its VLANs' tags were taken off when the road was chosen.
    strips_vlan_tags: bool,
    /// While the virtual host can work: what its adverts come from.
    source: Option<Ipv4Addr>,
}

impl Executor {
    pub(super) fn new(
        settings: Arc<Settings>,
        interface: String,
        handle: Handle,
        reports: mpsc::Sender<Input>,
        now: Time,
    ) -> Result<Self> {
        let vhid = settings.vhid.get();
        let socket = PacketSocket::open().context("cannot open a packet socket")?;
        let vips = settings.vip_addresses();
        Ok(Self {
            name: format!("{interface} vhid {vhid}"),
            engine: Engine::new(settings.engine(settings.source.unwrap_or(Ipv4Addr::UNSPECIFIED)), now),
            adverts: AdvertSender::new(
                socket,
                &settings.passphrase,
                vhid,
                &vips,
                settings.advert_mac,
                settings.destination,
            ),
            vips: VipKeeper::start(handle, interface.clone(), Arc::clone(&settings), reports),
            settings,
            interface,
            link: None,
            ifindex: 0,
            mac: [0; 6],
            membership: None,
            sent: 0,
            send_error: None,
        })
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) const fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// The virtual host's key in the maps, while its interface is there.
    pub(super) fn key(&self) -> Option<VhostKey> {
        self.link.as_ref().map(|link| link.key)
    }

    /// At the start: ucarp's down script. (Without scripts, [`Self::repair_vips`] removes what is there.)
    pub(super) fn run_down_script_at_start(&mut self) {
        if self.settings.scripts.is_some() && !self.settings.neutral {
            self.vips.want(0, false);
        }
    }

    /// Takes note of the interface; what it lacks for the virtual host to work.
    pub(super) fn set_interface(
        &mut self,
        datapath: &mut Datapath,
        interface: Option<&Interface>,
    ) -> Result<Option<LinkFault>> {
        let Some(interface) = interface else {
            self.leave(datapath);
            return Ok(Some(LinkFault::NoInterface));
        };
        if self.link.as_ref().is_some_and(|link| link.key.ifindex() != interface.index) {
            // Another has its name now: first it is left, and its VIPs released there.
            self.leave(datapath);
            return Ok(Some(LinkFault::NoInterface));
        }
        if self.is_releasing_elsewhere(interface) {
            return Ok(Some(LinkFault::NoInterface));
        }
        let is_missing = datapath.program().is_some_and(|own| interface.xdp_program != Some(own));
        let is_detached = is_missing && self.link.as_ref().is_some_and(|link| link.misses_program);
        if is_detached {
            warn!("{}: something else detached the XDP program from {}", self.name, self.interface);
        }
        let stays = |link: &Link| link.strips_vlan_tags == interface.strips_vlan_tags;
        if is_detached || !self.link.as_ref().is_some_and(stays) {
            self.leave(datapath);
            self.enter(datapath, interface)?;
        }
        self.join(interface);
        let Some(link) = &mut self.link else { return Ok(Some(LinkFault::NoInterface)) };
        link.misses_program = is_missing && !is_detached;
        let source = match interface.source(&self.settings) {
            Ok(source) => source,
            Err(fault) => {
                link.source = None;
                return Ok(Some(fault));
            }
        };
        if link.source != Some(source) {
            // Known before the first advert: what comes from this address so far is ours from another life.
            datapath.set_sent(link.key, &Sent::new(IpAddr::V4(source), self.adverts.next_counter()))?;
            self.engine.set_source(IpAddr::V4(source));
            link.source = Some(source);
        }
        if mem::replace(&mut self.mac, interface.mac) != interface.mac {
            self.engine.handle(Input::MacChanged, now());
        }
        Ok(None)
    }

    /// Whether VIPs are still being released on an interface that this one has replaced. (Not by scripts: they know
    /// the interface by its name only, which is the new one's now.)
    pub(super) fn is_releasing_elsewhere(&self, interface: &Interface) -> bool {
        self.settings.scripts.is_none() && self.vips.is_busy_elsewhere(interface.index)
    }

    /// Something may have added or removed VIPs: puts them right.
    pub(super) fn repair_vips(&mut self, interface: Option<&Interface>) {
        let Some(interface) = interface else { return };
        let held = self.engine.status().state == State::Master;
        if self.settings.vips.iter().any(|vip| interface.has(vip.address) != held) {
            self.vips.repair(interface.index, held);
        }
    }

    /// The VIP task has reached its goal.
    pub(super) const fn settle_vips(&mut self) {
        self.vips.settle();
    }

    /// Does everything that the engine wants done.
    pub(super) fn act(&mut self, datapath: &mut Datapath) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::SendAdvert(fields) => self.send_advert(datapath, fields),
                Action::TakeVips => self.vips.want(self.ifindex, true),
                Action::ReleaseVips => self.vips.want(self.ifindex, false),
                Action::Announce => self.announce(),
                Action::Transition(transition) => self.tell(&transition),
                Action::Demoted(demotion) => match demotion.get() {
                    0 => info!("{}: demotion ends", self.name),
                    demotion => warn!("{}: demoted by {demotion}: adverts cannot be sent", self.name),
                },
            }
        }
    }

    /// Makes the virtual host known and lets its adverts in.
    fn enter(&mut self, datapath: &mut Datapath, interface: &Interface) -> Result<()> {
        let key = VhostKey::new(interface.index, self.settings.vhid.get(), Family::V4);
        let vips = self.settings.vip_addresses();
        let mut vhost = Vhost::new(DigestKey::new(&self.settings.passphrase, self.settings.vhid.get(), &vips), ROW);
        let entered = datapath.enter(key, &vhost, &self.interface, interface);
        vhost.zeroize();
        let road = entered?;
        self.ifindex = interface.index;
        let level = if matches!(road, Road::Socket(Some(_))) { Level::Warn } else { Level::Info };
        log!(level, "{}: {}", self.name, road.describe(&self.interface));
        self.link = Some(Link {
            key,
            joined_on: None,
            misses_program: false,
            strips_vlan_tags: interface.strips_vlan_tags,
            source: None,
        });
        Ok(())
    }

    /// Forgets an interface that is gone, or is to be left.
    pub(super) fn leave(&mut self, datapath: &mut Datapath) {
        if let Some(link) = self.link.take() {
            datapath.leave(link.key);
        }
        self.membership = None;
    }

    /// Joins the group, again after every change of the interface: a switch that snoops has to hear of the
    /// membership on the new link, and the kernel may have dropped it with an address.
    fn join(&mut self, interface: &Interface) {
        let Some(link) = &mut self.link else { return };
        if link.joined_on.as_ref() == Some(interface) {
            return;
        }
        link.joined_on = Some(interface.clone());
        self.membership = None;
        match Membership::join(self.settings.destination.ip, interface.index) {
            Ok(membership) => self.membership = Some(membership),
            // Said at each change: a switch that snoops may keep the adverts away.
            Err(error) => warn!("{}: cannot join {}: {error}", self.name, self.settings.destination.ip),
        }
    }

    fn send_advert(&mut self, datapath: &mut Datapath, fields: AdvertFields) {
        let result = self.try_send_advert(datapath, fields);
        let input = if result.is_ok() { Input::AdvertSent } else { Input::AdvertFailed };
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
        self.engine.handle(input, now());
    }

    fn try_send_advert(&mut self, datapath: &mut Datapath, fields: AdvertFields) -> io::Result<()> {
        let Some(Link { key, source: Some(source), .. }) = self.link else {
            return Err(io::ErrorKind::NetworkDown.into());
        };
        let counter = self.adverts.next_counter();
        // Before it leaves: a reflection may be faster than this process.
        datapath.set_sent(key, &Sent::new(IpAddr::V4(source), counter)).map_err(io::Error::other)?;
        self.adverts.send(key.ifindex(), self.mac, source, fields, counter)
    }

    fn announce(&self) {
        let Some(link) = &self.link else { return };
        for vip in &self.settings.vips {
            let frame = arp::announcement(self.mac, vip.address);
            if let Err(error) = self.adverts.socket().send(link.key.ifindex(), &frame) {
                warn!("{}: cannot announce {vip}: {error}", self.name);
            }
        }
    }

    fn tell(&self, Transition { from, to, cause, .. }: &Transition) {
        info!("{}: {from} -> {to}, {cause}", self.name);
    }
}
