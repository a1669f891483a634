//! One virtual host: its state machine, and all that this acts through.

mod status;

use std::{
    collections::BTreeSet,
    io, mem,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
};

use carp_common::{
    abi::{Family, Heard, Sent, SourceKey, Vhost, VhostKey},
    digest::DigestKey,
    engine::{self, Action, AdvertFields, Advskew, Cause, Engine, HeardAdvert, Input, LinkFault, State, Transition},
    time::Time,
};
use log::{debug, error, info, warn};
use tokio::sync::mpsc;
use zeroize::Zeroize;

use super::{link::Presence, refusals::Refusals};
use crate::{
    clock::now,
    config::{Settings, Vip},
    control::protocol::What,
    datapath::{Datapath, DatapathError},
    history::History,
    lock::Lock,
    metrics::Metrics,
    net::{Netlink, PacketSocket, advert::AdvertSender, arp, interface::Interface},
    notify::Notifier,
    vips::{Owner, Report, VipKeeper},
};

/// What all virtual hosts of the process work with.
pub(super) struct Shared {
    pub(super) socket: Rc<PacketSocket>,
    pub(super) netlink: Netlink,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) history: History,
    pub(super) metrics: Metrics,
    pub(super) notifier: Notifier,
}

/// A virtual host at work.
pub(super) struct VirtualHost {
    _lock: Lock,
    shared: Rc<Shared>,
    settings: Arc<Settings>,
    /// Whether this server is the last resort.
    in_maintenance: bool,
    interface: String,
    /// "eth0 vhid 1", as log lines begin.
    name: String,
    /// Row of counters in the datapath.
    row: u32,
    engine: Engine,
    adverts: AdvertSender,
    vips: VipKeeper,
    /// VIPs that are none any more, as long as they may still be on the interface.
    dropped: Vec<Vip>,
    entered: Option<Entered>,
    /// Index of the interface, also when its name has gone to another: VIPs are released there.
    ifindex: u32,
    /// Its hardware address.
    mac: [u8; 6],
    /// What the interface was last said to lack, so that it is said once.
    fault: Option<LinkFault>,
    /// Adverts that have left.
    sent: u64,
    /// The last error of sending an advert, so that it is said once.
    send_error: Option<io::ErrorKind>,
    refusals: Refusals,
    /// The advert that was heard last.
    heard: Option<HeardAdvert>,
    /// Why the state is what it is.
    cause: Option<Cause>,
}

/// While the datapath knows of the virtual host.
struct Entered {
    key: VhostKey,
    attachment: u32,
    /// While the virtual host can work: what its adverts come from.
    source: Option<Ipv4Addr>,
}

impl VirtualHost {
    /// A virtual host in INIT. `row` is its row of counters in the datapath, and its name in reports.
    pub(super) fn new(
        row: u32,
        lock: Lock,
        interface: String,
        settings: Settings,
        in_maintenance: bool,
        shared: Rc<Shared>,
        now: Time,
    ) -> Self {
        let settings = Arc::new(settings);
        let (netlink, reports) = (shared.netlink.clone(), shared.reports.clone());
        let name = format!("{interface} vhid {}", settings.vhid.get());
        let owner = owner(row, &name, &interface, &settings, &shared);
        let source = settings.source.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Self {
            _lock: lock,
            name,
            row,
            engine: Engine::new(engine_config(&settings, source, in_maintenance), now),
            adverts: AdvertSender::new(Rc::clone(&shared.socket), &settings),
            vips: VipKeeper::start(netlink, owner, Arc::clone(&settings), reports, vec![]),
            dropped: vec![],
            refusals: Refusals::new(row),
            shared,
            settings,
            in_maintenance,
            interface,
            entered: None,
            ifindex: 0,
            mac: [0; 6],
            fault: None,
            sent: 0,
            send_error: None,
            heard: None,
            cause: None,
        }
    }

    /// Goes on with other settings for the same interface and vhid, in the same state. `wanted` are the VIPs on the
    /// interface from now on, of other virtual hosts, too.
    pub(super) fn set(&mut self, datapath: &mut Datapath, settings: Settings, wanted: &BTreeSet<Ipv4Addr>) {
        let settings = Arc::new(settings);
        let before = mem::replace(&mut self.settings, Arc::clone(&settings));
        self.adverts.set(&settings);
        if before.passphrase != settings.passphrase || before.vip_addresses() != settings.vip_addresses() {
            // It enters anew with the next look at the interface, which follows at once.
            self.leave(datapath);
        }
        if before.vips != settings.vips {
            // Those of an earlier change, too: the task that was to remove them ends here.
            self.dropped.extend(&before.vips);
            self.dropped.retain(|vip| !settings.vips.contains(vip) && !wanted.contains(&vip.address));
            let (netlink, reports) = (self.shared.netlink.clone(), self.shared.reports.clone());
            let owner = owner(self.row, &self.name, &self.interface, &settings, &self.shared);
            self.vips = VipKeeper::start(netlink, owner, settings, reports, self.dropped.clone());
            if self.ifindex != 0 {
                self.vips.want(self.ifindex, self.engine.status().state == State::Master);
            }
        }
        self.reconfigure();
    }

    /// Is the last resort, or no longer; a master then hands over.
    pub(super) fn set_maintenance(&mut self, on: bool) {
        if mem::replace(&mut self.in_maintenance, on) == on {
            return;
        }
        self.reconfigure();
        if on {
            self.handle(Input::StepDown);
        }
    }

    fn reconfigure(&mut self) {
        let source = self.settings.source.unwrap_or(Ipv4Addr::UNSPECIFIED);
        self.engine.reconfigure(engine_config(&self.settings, source, self.in_maintenance), now());
    }

    /// How log lines about it begin.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Name of the interface.
    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// Index of the interface that it is on, or was last.
    pub(super) const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Addresses that come and go with it.
    pub(super) fn vips(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.settings.vips.iter().chain(&self.dropped).map(|vip| vip.address)
    }

    /// What its settings are.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state machine.
    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its key in the maps, while the datapath knows it.
    pub(super) fn key(&self) -> Option<VhostKey> {
        self.entered.as_ref().map(|entered| entered.key)
    }

    /// Something has happened to it.
    pub(super) fn handle(&mut self, input: Input) {
        self.engine.handle(input, now());
    }

    /// Does what is due by its timers.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.engine.handle_timeout(now);
    }

    /// At the start: ucarp's down script. (Without scripts, what is there is removed as a repair.)
    pub(super) fn run_down_script_at_start(&mut self) {
        if self.settings.scripts.is_some() && !self.settings.neutral {
            self.vips.want(0, false);
        }
    }

    /// An advert has arrived.
    pub(super) fn hear(&mut self, source: SourceKey, heard: Heard) {
        let advert = HeardAdvert {
            family: source.vhost().family(),
            source: source.source(),
            advbase: heard.advbase(),
            advskew: heard.advskew(),
            demote: heard.demote(),
            arrival: heard.arrival(),
        };
        debug!("{}: heard {}/{} from {}", self.name, advert.advbase, advert.advskew, advert.source);
        self.refusals.heard();
        self.heard = Some(advert);
        self.handle(Input::Advert(advert));
    }

    /// The VIP task has reached its goal.
    pub(super) fn handle_report(&mut self, report: Input) {
        self.vips.settle();
        self.dropped.clear();
        self.handle(report);
    }

    /// Whether it still releases VIPs on an interface that this one has replaced. (Not by scripts: they know the
    /// interface by its name only, which is the new one's now.)
    pub(super) fn is_releasing_elsewhere(&self, interface: &Interface) -> bool {
        self.settings.scripts.is_none() && self.vips.is_busy_elsewhere(interface.index)
    }

    /// Whether its interface is not there.
    pub(super) fn misses_interface(&self) -> bool {
        self.fault == Some(LinkFault::NoInterface)
    }

    /// Takes note of what its interface is like now, which is `interface` if it is there at all.
    pub(super) fn handle_link(
        &mut self,
        datapath: &mut Datapath,
        presence: Presence<'_>,
        interface: Option<&Interface>,
        vips: &BTreeSet<Ipv4Addr>,
    ) {
        let fault = match presence {
            Presence::Attached { interface, attachment } => {
                self.enter(datapath, interface, attachment, vips).unwrap_or_else(|error| {
                    if self.fault != Some(LinkFault::NotAttached) {
                        warn!("{}: {error}", self.name);
                    }
                    Some(LinkFault::NotAttached)
                })
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
        if let Some(interface) = interface {
            self.repair_vips(interface);
        }
    }

    /// Forgets an interface that is gone, or is to be left.
    pub(super) fn leave(&mut self, datapath: &mut Datapath) {
        if let Some(entered) = self.entered.take() {
            datapath.remove_vhost(entered.key);
        }
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
                Action::Demoted(demotion) => match (demotion.get(), demotion.send_errors()) {
                    (0, _) => info!("{}: demotion ends", self.name),
                    (total, 0) => info!("{}: demoted by {total}, as was asked", self.name),
                    (total, _) => warn!("{}: demoted by {total}: adverts cannot be sent", self.name),
                },
            }
        }
    }

    /// Tells the administrator of refused adverts, now and then.
    pub(super) fn tell_refused(&mut self, datapath: &Datapath, now: Time) {
        let silence = self.engine.config().dead_time();
        self.refusals.look(datapath, self.ifindex, &self.name, silence, now);
    }

    /// Makes the virtual host known on its interface; what that lacks for it to work.
    fn enter(
        &mut self,
        datapath: &mut Datapath,
        interface: &Interface,
        attachment: u32,
        vips: &BTreeSet<Ipv4Addr>,
    ) -> Result<Option<LinkFault>, DatapathError> {
        if self.entered.as_ref().is_none_or(|entered| entered.attachment != attachment) {
            self.leave(datapath);
            let vhid = self.settings.vhid.get();
            let key = VhostKey::new(interface.index, vhid, Family::V4);
            let digest = DigestKey::new(&self.settings.passphrase, vhid, &self.settings.vip_addresses());
            let mut vhost = Vhost::new(digest, self.row);
            let known = datapath.set_vhost(key, &vhost);
            vhost.zeroize();
            known?;
            self.ifindex = interface.index;
            self.entered = Some(Entered { key, attachment, source: None });
        }
        let Some(entered) = &mut self.entered else { return Ok(Some(LinkFault::NoInterface)) };
        let source = match interface.source(&self.settings, vips) {
            Ok(source) => source,
            Err(fault) => {
                entered.source = None;
                return Ok(Some(fault));
            }
        };
        if entered.source != Some(source) {
            // Known before the first advert: what comes from this address so far is ours from another life.
            datapath.set_sent(entered.key, &Sent::new(IpAddr::V4(source), self.adverts.next_counter()))?;
            self.engine.set_source(IpAddr::V4(source));
            entered.source = Some(source);
        }
        if mem::replace(&mut self.mac, interface.mac) != interface.mac {
            self.engine.handle(Input::MacChanged, now());
        }
        Ok(None)
    }

    /// Something may have added or removed VIPs: puts them right.
    fn repair_vips(&mut self, interface: &Interface) {
        let held = self.engine.status().state == State::Master;
        if self.settings.vips.iter().any(|vip| interface.has(vip.address) != held) {
            self.vips.repair(interface.index, held);
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
        self.handle(input);
    }

    fn try_send_advert(&mut self, datapath: &mut Datapath, fields: AdvertFields) -> io::Result<()> {
        let Some(Entered { key, source: Some(source), .. }) = self.entered else {
            return Err(io::ErrorKind::NetworkDown.into());
        };
        let counter = self.adverts.next_counter();
        // Before it leaves: a reflection may be faster than this process.
        datapath.set_sent(key, &Sent::new(IpAddr::V4(source), counter)).map_err(io::Error::other)?;
        self.adverts.send(key.ifindex(), self.mac, source, fields, counter)
    }

    fn announce(&self) {
        let Some(entered) = &self.entered else { return };
        for vip in &self.settings.vips {
            let frame = arp::announcement(self.mac, vip.address);
            if let Err(error) = self.adverts.socket().send(entered.key.ifindex(), &frame) {
                warn!("{}: cannot announce {vip}: {error}", self.name);
            }
        }
    }

    fn tell(&mut self, transition: &Transition) {
        let Transition { from, to, cause, .. } = transition;
        info!("{}: {from} -> {to}, {cause}", self.name);
        self.cause = Some(*cause);
        self.shared.metrics.count_transition(&self.interface, self.settings.vhid.get(), transition);
        self.shared.history.push(What::Transition {
            interface: self.interface.clone(),
            vhid: self.settings.vhid.get(),
            from: from.to_string(),
            to: to.to_string(),
            cause: cause.to_string(),
        });
        let source = self.entered.as_ref().and_then(|entered| entered.source);
        self.shared.notifier.send(&self.interface, &self.settings, source, transition);
    }
}

fn owner(row: u32, name: &str, interface: &str, settings: &Settings, shared: &Shared) -> Owner {
    let script_failures = shared.metrics.script_failures(interface, settings.vhid.get());
    Owner { row, name: name.to_owned(), interface: interface.to_owned(), script_failures }
}

fn engine_config(settings: &Settings, source: Ipv4Addr, in_maintenance: bool) -> engine::Config {
    let config = settings.engine(source);
    engine::Config { advskew: if in_maintenance { Advskew::MAX } else { config.advskew }, ..config }
}
