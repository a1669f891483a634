//! One virtual host: its state machine, and all that this acts through.

mod demotion;
mod lease;
mod profiles;
mod seal;
mod status;

use std::{
    collections::BTreeSet,
    io, mem,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
};

use carp_common::{
    abi::{Family, Heard, Said, SealCheck, Sent, SourceKey, Vhost, VhostKey, address_bytes},
    digest::DigestKey,
    engine::{self, Action, AdvertFields, Advskew, Cause, Engine, HeardAdvert, Input, LinkFault, State, Transition},
    seal::Sequence,
    time::Time,
    wire::{Destination, virtual_mac},
};
use log::{debug, error, info, warn};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroize;

use self::{profiles::Profiles, seal::Seals};
use super::{link::Presence, refusals::Refusals};
use crate::{
    clock::now,
    config::{Digests, Settings, VipMac, family_of},
    control::protocol::{Source, What},
    datapath::{Datapath, DatapathError, Inherited, Known},
    history::History,
    lock::Lock,
    metrics::Metrics,
    net::{
        self, Netlink, PacketSocket,
        advert::AdvertSender,
        arp,
        interface::Interface,
        nd,
        neighbour::{Neighbour, Neighbours},
        vmac,
    },
    notify::{Notifier, Word},
    vips::{self, Leftovers, Owner, Progress, Report, VipKeeper},
};

/// Of no peer it is known where it is: an advert to all of them has not left.
const NOBODY: io::ErrorKind = io::ErrorKind::HostUnreachable;

/// What all virtual hosts of the process work with.
pub(super) struct Shared {
    pub(super) socket: Rc<PacketSocket>,
    pub(super) netlink: Netlink,
    pub(super) neighbours: watch::Receiver<Neighbours>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) history: History,
    pub(super) metrics: Metrics,
    pub(super) notifier: Notifier,
}

/// A virtual host at work.
pub(super) struct VirtualHost {
    lock: Lock,
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
    /// What the adverts are judged by: it changes when a rollout is over.
    digests: Digests,
    vips: VipKeeper,
    /// What does not belong any more where it may still be.
    leftovers: Leftovers,
    /// What has the name of the virtual MAC's device, and whether it is that.
    device: Option<(String, bool)>,
    entered: Option<Entered>,
    /// Index of the interface, also when its name has gone to another: VIPs are released there.
    ifindex: u32,
    /// Its hardware address.
    mac: [u8; 6],
    /// Whether it forwards IPv6.
    is_router: bool,
    /// What the interface was last said to lack, so that it is said once.
    fault: Option<LinkFault>,
    /// Adverts that have left.
    sent: u64,
    /// What the datapath knows of these, by family.
    known_sent: [Option<Sent>; 2],
    /// The last error of sending an advert, so that it is said once.
    send_error: Option<io::ErrorKind>,
    refusals: Refusals,
    /// The advert that was heard last.
    heard: Option<HeardAdvert>,
    /// The last arrival in each family, if there was one.
    arrivals: [Time; 2],
    /// Why the state is what it is.
    cause: Option<Cause>,
    /// What is wrong of what is tracked.
    wrong: Vec<Source>,
    /// The member of the failover group on whose account this one is demoted.
    group_cause: Option<String>,
    profiles: Profiles,
    seals: Seals,
    /// Why the kernel cannot enforce a lease, if it cannot; `None` while nothing is known of the interface.
    no_fence: Option<Option<String>>,
    /// Why the fence would go with carpd, if it would.
    mortal_fence: Option<String>,
    /// What the fence knows of, with the index of the interface.
    held: BTreeSet<(u32, IpAddr)>,
    /// Until when an agent that is gone was master, before the first look at the interface.
    resumes_until: Option<Time>,
    /// Why it is held back in INIT.
    gate: Option<LinkFault>,
}

/// While the datapath knows of the virtual host.
struct Entered {
    ifindex: u32,
    attachment: u32,
    /// While the virtual host can work: what its adverts come from, one for each family.
    sources: Vec<IpAddr>,
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
        let gate = demotion::closed_gate(&settings.failover);
        // Without a lock there is no virtual host, and that lies in the same folder.
        let sequence_file = net::seal::file(&interface, settings.vhid.get()).unwrap_or_default();
        let adverts = AdvertSender::new(Rc::clone(&shared.socket), &settings, sequence_file);
        let mut engine = Engine::new(engine_config(&settings, in_maintenance), now);
        engine.handle(Input::Maintenance(in_maintenance), now);
        Self {
            lock,
            name,
            row,
            engine,
            adverts,
            digests: settings.digests(),
            vips: VipKeeper::start(netlink, owner, Arc::clone(&settings), reports, Leftovers::default()),
            leftovers: Leftovers::default(),
            device: None,
            refusals: Refusals::new(row),
            shared,
            settings,
            in_maintenance,
            interface,
            entered: None,
            ifindex: 0,
            mac: [0; 6],
            is_router: false,
            fault: None,
            sent: 0,
            known_sent: [None; 2],
            send_error: None,
            heard: None,
            arrivals: [Time::default(); 2],
            cause: None,
            wrong: vec![],
            group_cause: None,
            profiles: Profiles::default(),
            seals: Seals::default(),
            no_fence: None,
            mortal_fence: None,
            held: BTreeSet::new(),
            resumes_until: None,
            gate,
        }
    }

    /// All counters of its adverts from now on are above this one.
    pub(super) fn rise_above(&mut self, newest: u64) {
        self.adverts.rise_above(newest);
    }

    /// What those of the next boot have to be above.
    pub(super) fn newest(&self) -> u64 {
        self.adverts.newest()
    }

    /// Goes on with what an agent that is gone has left.
    pub(super) fn go_on(&mut self, datapath: &Datapath, inherited: Inherited) {
        self.rise_above(inherited.newest);
        self.refusals.skip(datapath);
        self.held = datapath.held(self.row).into_iter().collect();
        self.resumes_until = inherited.lease.filter(|until| now() < *until);
    }

    /// Goes on with other settings for the same interface and vhid, in the same state. `wanted` are the VIPs on the
    /// interface itself from now on, of other virtual hosts, too.
    pub(super) fn set(&mut self, datapath: &mut Datapath, settings: Settings, wanted: &BTreeSet<IpAddr>) {
        let settings = Arc::new(settings);
        let before = mem::replace(&mut self.settings, Arc::clone(&settings));
        let digests = mem::replace(&mut self.digests, settings.digests());
        self.adverts.set(&settings);
        self.seal_as_configured(before.seal != settings.seal);
        let judging = |settings: &Settings| match settings.seal.mode.check() {
            SealCheck::Off => None,
            check => Some((check, settings.seal_window(), settings.seal.keys.clone())),
        };
        if (&before.passphrase, &before.peers, &before.policies, before.min_ttl)
            != (&settings.passphrase, &settings.peers, &settings.policies, settings.min_ttl)
            || judging(&before) != judging(&settings)
            || digests != self.digests
        {
            // It enters anew with the next look at the interface, which follows at once.
            self.leave(datapath);
        }
        if (&before.vips, before.mac) != (&settings.vips, settings.mac) {
            self.lock.note(settings.vips.iter().map(|vip| vip.address));
            // Those of an earlier change, too: the task that was to remove them ends here.
            match before.mac {
                VipMac::Interface => self.leftovers.vips.extend(&before.vips),
                VipMac::Virtual => self.leftovers.device = true,
            }
            self.leftovers.vips.retain(|vip| !wanted.contains(&vip.address));
            let (netlink, reports) = (self.shared.netlink.clone(), self.shared.reports.clone());
            let owner = owner(self.row, &self.name, &self.interface, &settings, &self.shared);
            self.vips = VipKeeper::start(netlink, owner, settings, reports, self.leftovers.clone());
            if self.ifindex != 0 {
                let is_master = self.is_master();
                if is_master {
                    self.hold(datapath);
                }
                self.vips.want(self.ifindex, is_master);
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
        self.handle(Input::Maintenance(on));
    }

    fn reconfigure(&mut self) {
        self.engine.reconfigure(engine_config(&self.settings, self.in_maintenance), now());
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
    pub(super) fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.settings.vips.iter().chain(&self.leftovers.vips).map(|vip| vip.address)
    }

    /// What its settings are.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state machine.
    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its keys in the maps, one for each family, while the datapath knows it.
    pub(super) fn keys(&self) -> impl Iterator<Item = VhostKey> {
        let ifindex = self.entered.as_ref().map(|entered| entered.ifindex);
        ifindex.into_iter().flat_map(|ifindex| [Family::V4, Family::V6].map(|family| self.key(ifindex, family)))
    }

    /// Those of the families that it has.
    pub(super) fn known_keys(&self) -> impl Iterator<Item = VhostKey> {
        self.keys().filter(|key| self.settings.families().contains(&key.family()))
    }

    fn key(&self, ifindex: u32, family: Family) -> VhostKey {
        VhostKey::new(ifindex, self.settings.vhid.get(), family)
    }

    /// The hosts that get adverts of their own, while they can.
    pub(super) fn peers(&self) -> impl Iterator<Item = Neighbour> {
        let ifindex = self.entered.as_ref().map(|entered| entered.ifindex);
        ifindex.into_iter().flat_map(|ifindex| self.settings.peers.iter().map(move |peer| (ifindex, *peer)))
    }

    /// Whether it is MASTER.
    pub(super) fn is_master(&self) -> bool {
        self.engine.status().state == State::Master
    }

    /// Something has happened to it.
    pub(super) fn handle(&mut self, input: Input) {
        self.engine.handle(input, now());
    }

    /// Does what is due by its timers.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        self.engine.handle_timeout(now);
    }

    /// At the start: ucarp's down script, unless this one goes on as master. (Without scripts, what is there is removed as a
    /// repair.)
    pub(super) fn run_down_script_at_start(&mut self) {
        if self.settings.scripts.is_some() && !self.settings.neutral && !self.is_master() {
            self.vips.want(0, false);
        }
    }

    /// An advert has arrived.
    pub(super) fn hear(&mut self, source: SourceKey, heard: Heard) {
        let advert = HeardAdvert::new(source, heard);
        debug!("{}: heard {}/{} from {}", self.name, advert.advbase, advert.advskew, advert.source);
        self.refusals.heard();
        self.profiles.hear(&advert, self.settings.failover.profile, &self.name);
        self.hear_seal(&advert, heard);
        self.heard = Some(advert);
        let arrival = &mut self.arrivals[place(advert.family)];
        *arrival = (*arrival).max(advert.arrival);
        self.handle(Input::Advert(advert));
    }

    /// Before which time everything has been heard in this family, or does not count.
    pub(super) fn heard_until(&self, family: Family) -> Time {
        self.arrivals[place(family)].max(self.engine.listens_since())
    }

    /// Whether these are its adverts, on the interface with this index.
    pub(super) fn is_at(&self, ifindex: u32, key: VhostKey) -> bool {
        self.key(ifindex, key.family()) == key
    }

    /// Takes note of what an agent before has heard.
    pub(super) fn remember(&mut self, source: SourceKey, heard: Heard) {
        self.engine.remember(&HeardAdvert::new(source, heard));
    }

    /// The VIP task has something to say.
    pub(super) fn handle_report(&mut self, report: Progress) {
        match report {
            Progress::Vips(input) => self.handle(input),
            Progress::Settled => {
                self.vips.settle();
                self.leftovers = Leftovers::default();
            }
        }
    }

    /// Whether its VIPs are where they belong.
    pub(super) const fn is_settled(&self) -> bool {
        self.vips.is_settled()
    }

    /// Whether it can go: it has stopped, and left nothing behind.
    pub(super) fn is_over(&self) -> bool {
        self.engine.is_stopped() && self.vips.is_settled()
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
    pub(super) fn leave(&mut self, datapath: &mut Datapath) {
        self.keys().for_each(|key| datapath.remove_vhost(key));
        self.entered = None;
    }

    /// It is over: its row is to be another's.
    pub(super) fn forget(mut self, datapath: &mut Datapath) {
        let keys = [Family::V4, Family::V6].map(|family| self.key(self.ifindex, family));
        self.leave(datapath);
        datapath.forget_sequences(|key| keys.contains(key));
        for (ifindex, address) in self.held {
            datapath.release(ifindex, address, self.row);
        }
    }

    /// Does everything that the engine wants done; `true` if its demotion counter has changed.
    pub(super) fn act(&mut self, datapath: &mut Datapath) -> bool {
        let mut has_changed = false;
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::SendAdvert(fields) => self.send_advert(datapath, fields),
                Action::SetLease(lease) => self.set_lease(datapath, lease),
                Action::TakeVips => {
                    self.hold(datapath);
                    self.vips.want(self.ifindex, true);
                }
                Action::ReleaseVips => self.vips.want(self.ifindex, false),
                Action::Announce => self.announce(),
                Action::Transition(transition) => self.tell(&transition),
                Action::Rival(rival) => {
                    self.hear_rival(&rival);
                    self.notify(Word::beside(rival.source));
                }
                Action::Demoted(demotion) => {
                    has_changed = true;
                    self.tell_demotion(demotion);
                }
            }
        }
        has_changed
    }

    /// Tells the administrator of refused adverts, now and then.
    pub(super) fn tell_refused(&mut self, datapath: &Datapath, now: Time) {
        let silence = self.engine.dead_time();
        self.refusals.look(datapath, self.ifindex, &self.name, silence, now);
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

    fn send_advert(&mut self, datapath: &mut Datapath, fields: AdvertFields) {
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
    fn unknown_peers(&self) -> Option<String> {
        let neighbours = self.shared.neighbours.borrow();
        let unknown = self.peers().filter(|peer| !neighbours.contains_key(peer)).map(|(_, peer)| peer.to_string());
        let unknown: Vec<_> = unknown.collect();
        (!unknown.is_empty()).then(|| unknown.join(", "))
    }

    fn announce(&self) {
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
        self.notify(transition.into());
    }

    fn notify(&self, word: Word) {
        let source = self.entered.as_ref().and_then(|entered| entered.sources.first().copied());
        self.shared.notifier.send(&self.interface, &self.settings, source, word);
    }
}

fn owner(row: u32, name: &str, interface: &str, settings: &Settings, shared: &Shared) -> Owner {
    let script_failures = shared.metrics.script_failures(interface, settings.vhid.get());
    Owner { row, name: name.to_owned(), interface: interface.to_owned(), script_failures }
}

const fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

fn engine_config(settings: &Settings, in_maintenance: bool) -> engine::Config {
    let config = settings.engine(settings.sources.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
    engine::Config { advskew: if in_maintenance { Advskew::MAX } else { config.advskew }, ..config }
}
