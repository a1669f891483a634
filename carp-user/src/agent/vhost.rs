//! One virtual host: its state machine, and all that this acts through.

mod adverts;
mod demotion;
mod entry;
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
    abi::{Family, Heard, SealCheck, Sent, SourceKey, VhostKey},
    engine::{self, Action, Advskew, Cause, Engine, HeardAdvert, Input, LinkFault, State, Transition},
    time::Time,
};
use log::{debug, info};
use tokio::sync::{mpsc, watch};

use self::{entry::Entered, profiles::Profiles, seal::Seals};
use super::refusals::Refusals;
use crate::{
    clock::now,
    config::{Digests, Settings, VipMac},
    control::protocol::{Source, What},
    datapath::{Datapath, Inherited},
    history::History,
    lock::Lock,
    metrics::Metrics,
    net::{
        self, Netlink, PacketSocket,
        advert::AdvertSender,
        interface::Interface,
        neighbour::{Neighbour, Neighbours},
    },
    notify::{Notifier, Word},
    vips::{Leftovers, Owner, Progress, Report, VipKeeper},
};

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
