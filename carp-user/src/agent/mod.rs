//! The one loop: inputs, then timers, then actions, for all virtual hosts of the process.
//!
//! ```text
//! datapath -----> Input::Advert --+
//! netlink ------> Input::Link* ---+-> Engine::handle -> Action queue -> VirtualHost::act
//! VIP tasks ----> Input::Vips* ---+        ^                              |
//! signals ------> StepDown, Shutdown       +-- AdvertSent, AdvertFailed --+
//! tracked things -> Tracked (`tracking`)
//! carpctl ------> Demote, StepDown, other settings (`orders`)
//! timerfd: only after all of these are drained, and after a look at the last-heard map (`hearing`)
//! ```

mod hearing;
mod link;
mod orders;
mod refusals;
mod signals;
mod start;
mod tracking;
mod upgrade;
mod vhost;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    mem,
    net::IpAddr,
    path::PathBuf,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use carp_common::{
    abi::VhostKey,
    engine::{Input, State},
    reason::Reason,
    time::Time,
};
use log::{info, warn};
use tokio::{
    select,
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking, yield_now},
    time::{Interval, interval, sleep},
};

pub(crate) use self::signals::{SignalInput, Signals};
use self::{
    link::{LAST_ADVERT, Link},
    orders::Next,
    upgrade::Upgrade,
    vhost::{Shared, VirtualHost},
};
use crate::{
    checks::Checks,
    clock::{Timer, now},
    config::Settings,
    control::{Command, Desk},
    counter_floor,
    datapath::{Datapath, DatapathError},
    metrics::Metrics,
    net::{
        Netlink, PacketSocket,
        interface::{self, Interface, Interfaces},
        neighbour::{self, Neighbour},
    },
    notify::Notifier,
    systemd::{self, Notice},
    upgrade::Legacy,
    vips::{self, Report},
};

/// Reports of the VIP tasks that wait to be handled.
const REPORTS: usize = 64;
/// Row of counters of protocol 112 that belongs to no virtual host.
const NO_VHOST: u32 = 0;
/// Most time between two looks for what something else has detached, or removed of the pins: an advert interval, if that is
/// shorter.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Least time between two looks for pins.
const LOOK_AT_PINS: Duration = Duration::from_millis(50);

/// What was before.
pub(crate) struct Before {
    /// Whether this server is the last resort.
    pub(crate) in_maintenance: bool,
    /// Where an agent that is gone may have left the kernel's half, and where this one's is to be.
    pub(crate) bpffs: PathBuf,
    /// What a program in whose place this one is has told.
    pub(crate) legacy: Legacy,
}

/// How it ends.
pub(crate) enum End {
    /// As was asked.
    Stopped,
    /// Another program goes on.
    Upgrade(Legacy),
}

/// All virtual hosts at work.
pub(crate) struct Agent {
    /// By their rows of counters.
    hosts: BTreeMap<u32, VirtualHost>,
    /// The row that was given last.
    last_row: u32,
    /// By the interface's name.
    links: BTreeMap<String, Link>,
    /// Where the virtual hosts are that the datapath knows.
    entered: HashMap<VhostKey, u32>,
    /// Addresses that come and go.
    vips: BTreeSet<IpAddr>,
    /// The peers on all interfaces.
    peers: watch::Sender<BTreeSet<Neighbour>>,
    /// When carpd began.
    started: Time,
    checks: Checks,
    /// Whether something that is tracked may be otherwise than before.
    has_news: bool,
    /// What is to be served when those that leave have left.
    next: Option<Next>,
    /// Another program is to go on.
    upgrade: Option<Upgrade>,
    /// Asked to end.
    is_stopping: bool,
    in_maintenance: bool,
    datapath: Datapath,
    /// When to look next whether something else has detached a program: there is no event for it.
    mend_at: Time,
    /// The look that is under way, and when it began.
    looking: Option<(Time, JoinHandle<BTreeSet<u32>>)>,
    /// When the last one began that has ended.
    looked: Time,
    /// The same for pins.
    look_at_pins: Time,
    /// What no counter was above that an agent before has sent.
    floor: u64,
    /// When to write the next one down.
    keep_floor_at: Time,
    names: watch::Sender<BTreeSet<String>>,
    looks: watch::Receiver<Arc<Interfaces>>,
    reports: mpsc::Receiver<Report>,
    shared: Rc<Shared>,
    desk: Desk,
    commands: mpsc::Receiver<Command>,
    signals: Signals,
    timer: Timer,
    watchdog: Option<Interval>,
    /// The last line for systemd.
    summary: String,
}

/// Settings with the name of the interface.
type Named = Vec<(String, Settings)>;

impl Agent {
    /// Opens everything that the virtual hosts need, each on the interface of this name. Interfaces may still be
    /// missing; it is an error if there is a road to none of them.
    pub(crate) async fn start(
        hosts: Named,
        desk: Desk,
        commands: mpsc::Receiver<Command>,
        signals: Signals,
        metrics: Metrics,
        Before { in_maintenance, bpffs, legacy }: Before,
    ) -> Result<Self> {
        let names = hosts.iter().flat_map(|(interface, settings)| {
            [interface.as_str()].into_iter().chain(settings.tracked_interfaces()).map(str::to_owned)
        });
        let names = watch::Sender::new(names.collect());
        let looks = interface::watch(names.subscribe()).await?;
        let (sender, reports) = mpsc::channel(REPORTS);
        let peers = watch::Sender::default();
        let shared = Shared {
            socket: Rc::new(PacketSocket::open().context("cannot open a packet socket")?),
            netlink: Netlink::connect()?,
            neighbours: neighbour::watch(peers.subscribe()),
            reports: sender,
            history: desk.history.clone(),
            notifier: Notifier::new(metrics.clone()),
            metrics,
        };
        let mut agent = Self {
            hosts: BTreeMap::new(),
            last_row: NO_VHOST,
            links: BTreeMap::new(),
            entered: HashMap::new(),
            vips: BTreeSet::new(),
            peers,
            started: now(),
            checks: Checks::new(),
            has_news: false,
            next: None,
            upgrade: None,
            is_stopping: false,
            in_maintenance,
            datapath: Datapath::new(bpffs),
            mend_at: Time::default(),
            looking: None,
            looked: Time::default(),
            look_at_pins: Time::default(),
            floor: counter_floor::read().max(legacy.newest),
            keep_floor_at: Time::default(),
            names,
            looks,
            reports,
            shared: Rc::new(shared),
            desk,
            commands,
            signals,
            timer: Timer::new().context("cannot create a timer")?,
            watchdog: systemd::watchdog().map(interval),
            summary: String::new(),
        };
        let wanted = agent.lock(hosts)?;
        agent.remove_strays().await;
        agent.apply(wanted).await;
        agent.inherit(legacy);
        agent.remember_heard();
        let are_gone = agent.remove_unfenced().await;
        let goes_on: BTreeSet<u32> = agent.hosts.values().filter_map(VirtualHost::resumes_on).collect();
        vips::restore_all(&agent.shared.netlink, &goes_on).await.unwrap_or_else(|error| warn!("{error:#}"));
        let mut errors = agent.handle_links();
        if errors.len() == agent.links.len() {
            // Told at the start, and not only when the first advert is missed.
            return Err(errors.swap_remove(0).into());
        }
        if are_gone {
            agent.keep_only_own();
        }
        // A better master may have spoken to the kernel while no agent was there.
        agent.ask_kernel();
        agent.hosts.values_mut().for_each(VirtualHost::run_down_script_at_start);
        errors.iter().for_each(|error| warn!("{error}"));
        if let Some(why) = agent.hosts.values().find_map(VirtualHost::missing_fence) {
            agent.leave_nothing().await;
            bail!(why);
        }
        if in_maintenance {
            warn!("in maintenance: the last resort, until `carpctl maintenance off`");
        }
        agent.remove_abandoned();
        agent.act()?;
        Ok(agent)
    }

    /// Serves the virtual hosts until a signal ends them, or another program is to go on.
    pub(crate) async fn run(mut self) -> Result<End> {
        let mut has_more = false;
        while !(self.is_stopping && self.hosts.values().all(VirtualHost::is_over)) {
            if self.is_ready_for_upgrade(now()) {
                return Ok(End::Upgrade(self.legacy()));
            }
            select! {
                biased;
                input = self.signals.next() => self.handle_signal(input),
                ready = self.datapath.readable() => ready.context("cannot wait for adverts")?,
                _ = self.looks.changed() => self.looks.mark_changed(),
                () = self.checks.changed() => self.has_news = true,
                Some(report) = self.reports.recv() => self.handle_report(report),
                fired = self.timer.fired() => fired?,
                lost = finished(self.looking.as_mut()) => self.mend(&lost),
                Some(command) = self.commands.recv() => self.handle_command(command),
                () = tick(self.watchdog.as_mut()) => systemd::notify(Notice::Alive),
                // What was left would wake nobody. Signals, netlink and the other tasks get their turn first, or a flood
                // would keep them waiting for ever.
                () = yield_now(), if has_more => {}
            }
            if self.open_gates() {
                self.looks.mark_changed();
            }
            self.look_at_attachments(now());
            // Not left to the select: there, a flood of adverts would always be first.
            if self.looks.has_changed().context("the task that watches the interfaces has ended")? {
                self.handle_links().iter().for_each(|error| warn!("{error}"));
            }
            has_more = self.drain();
            let now = now();
            self.handle_timeouts(now);
            self.hand_over_for_upgrade();
            self.act()?;
            self.forget_stopped().await;
            self.leave_links(now);
            self.keep_floor(now);
            self.hosts.values_mut().for_each(|host| host.tell_refused(&self.datapath, now));
            self.links.values_mut().for_each(|link| link.tell_lost(&mut self.datapath, now));
        }
        let end = if self.upgrade.is_some() { End::Upgrade(self.legacy()) } else { End::Stopped };
        if matches!(end, End::Stopped) {
            systemd::notify(Notice::Stopping);
        }
        sleep(LAST_ADVERT).await;
        self.links.values_mut().for_each(|link| link.leave(&mut self.datapath));
        counter_floor::keep_last(self.newest().max(self.floor)).await;
        let mut finish = pin!(self.shared.notifier.finish());
        loop {
            select! {
                () = &mut finish => return Ok(end),
                () = tick(self.watchdog.as_mut()) => systemd::notify(Notice::Alive),
            }
        }
    }

    /// Does what the engines want done, and sets the timer.
    fn act(&mut self) -> Result<()> {
        if mem::take(&mut self.has_news) {
            self.track();
        }
        // That adverts cannot be sent, or can again, concerns the group, too.
        if self.act_once() && self.track() {
            self.act_once();
        }
        let now = now();
        let hosts = self.hosts.values().filter(|host| !self.waits_for_look(host, now));
        let hosts = hosts.filter_map(|host| host.engine().poll_timeout());
        let gates = self.hosts.values().filter_map(|host| host.gate_due(self.started));
        let links = self.links.values().filter_map(Link::leave_at).chain([self.mend_at]);
        let next = hosts.chain(gates).chain(links).min();
        self.timer.set(next).context("cannot set the timer")?;
        self.summarise();
        Ok(())
    }

    /// `true` if a demotion counter has changed.
    fn act_once(&mut self) -> bool {
        self.hosts.values_mut().fold(false, |any, host| any | host.act(&mut self.datapath))
    }

    /// A line for `systemctl status`, when it changes.
    fn summarise(&mut self) {
        let count = |state| self.hosts.values().filter(|host| host.engine().status().state == state).count();
        let counts = [State::Master, State::Backup, State::Init].map(|state| (count(state), state));
        let counts: Vec<_> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}")).collect();
        let maintenance = if self.in_maintenance { "; in maintenance" } else { "" };
        let summary = format!("{}{maintenance}", counts.join(", "));
        if self.summary != summary {
            systemd::notify(Notice::Status(summary.clone()));
            self.summary = summary;
        }
    }

    /// Has another thread look whether something else has detached a program, and puts back pins.
    fn look_at_attachments(&mut self, now: Time) {
        if now < self.mend_at {
            return;
        }
        // A backup must not take what is not let in for its master's silence.
        let intervals = self.hosts.values().map(|host| host.engine().interval());
        self.mend_at = now.after(intervals.min().unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN));
        if self.looking.is_none() {
            let attachments = self.datapath.attachments();
            self.looking = Some((now, spawn_blocking(move || attachments.lost())));
        }
        if self.judges_seals() {
            self.datapath.set_wall();
        }
        self.look_at_clocks();
        if now >= self.look_at_pins {
            self.look_at_pins = now.after(LOOK_AT_PINS);
            self.datapath.mend_pins();
        }
    }

    /// Puts back what something else has detached. Where that does not work, the interface is entered anew, or there is no
    /// lease until it does.
    fn mend(&mut self, lost: &BTreeSet<u32>) {
        self.looked = self.looking.take().map_or(self.looked, |(began, _)| began);
        if lost.is_empty() {
            return;
        }
        self.datapath.mend(lost);
        self.looks.mark_changed();
        self.hosts.values_mut().filter(|host| lost.contains(&host.ifindex())).for_each(|host| host.handle(Input::Deaf));
    }

    /// What the counters of all adverts have to be above at the next boot, and their sequences.
    fn newest(&self) -> u64 {
        self.hosts.values().map(VirtualHost::newest).max().unwrap_or(0)
    }

    fn keep_floor(&mut self, now: Time) {
        let newest = self.newest();
        if now >= self.keep_floor_at && newest > self.floor {
            self.keep_floor_at = now.after(counter_floor::AGAIN);
            counter_floor::keep(newest);
        }
    }

    /// Has the kernel forget what another agent has left of virtual hosts that are served no more.
    fn keep_only_own(&mut self) {
        let keys = self.hosts.values().flat_map(VirtualHost::known_keys).collect();
        self.datapath.keep_only(&keys, &self.hosts.keys().copied().collect());
    }

    fn handle_report(&mut self, (row, report): Report) {
        // None if the virtual host has been taken out meanwhile.
        let Some(host) = self.hosts.get_mut(&row) else { return };
        host.handle_report(report);
        if host.misses_interface() {
            // A replacement may have waited for this.
            self.looks.mark_changed();
        }
    }

    /// Takes note of what the interfaces are like now. The errors are those of interfaces that have no road, new ones.
    fn handle_links(&mut self) -> Vec<DatapathError> {
        let looks = Arc::clone(&self.looks.borrow_and_update());
        self.has_news = true;
        let mut errors = vec![];
        // All leave before any enters: an interface may have the name that another had.
        let left = |(name, link): (&String, &mut Link)| {
            link.leave_unless(&mut self.datapath, looks.get(name)).then(|| name.clone())
        };
        let left: BTreeSet<String> = self.links.iter_mut().filter_map(left).collect();
        for host in self.hosts.values_mut().filter(|host| left.contains(host.interface())) {
            host.leave(&mut self.datapath);
        }
        if !left.is_empty() {
            let there: BTreeSet<u32> = looks.indices().collect();
            self.datapath.forget_sequences(|key| !there.contains(&key.ifindex()));
        }
        // One that a reload has brought is looked for first.
        for (name, link) in self.links.iter_mut().filter(|(name, _)| looks.knows(name)) {
            let interface = looks.get(name);
            let mut hosts: Vec<_> = self.hosts.values_mut().filter(|host| host.interface() == name).collect();
            // Another of the same name is not entered before the VIPs on the first are gone.
            let waits = |interface: &&Interface| hosts.iter().any(|host| host.is_releasing_elsewhere(interface));
            let free = interface.filter(|interface| !left.contains(name) && !waits(interface));
            let (presence, told) = link.update(&mut self.datapath, free);
            errors.extend(told.err());
            for host in &mut hosts {
                host.handle_link(&mut self.datapath, presence, interface, &self.vips);
            }
        }
        if left.iter().any(|name| looks.get(name).is_some()) {
            // The one that has the name now is entered with the next look.
            self.looks.mark_changed();
        }
        let keys = |(row, host): (&u32, &VirtualHost)| host.keys().map(|key| (key, *row)).collect::<Vec<_>>();
        self.entered = self.hosts.iter().flat_map(keys).collect();
        orders::set(&self.peers, self.hosts.values().flat_map(VirtualHost::peers).collect());
        errors
    }

    fn handle_signal(&mut self, input: SignalInput) {
        match input {
            SignalInput::Stop => self.stop(),
            SignalInput::StepDown => self.hosts.values_mut().for_each(|host| host.handle(Input::StepDown)),
            SignalInput::Hangup if self.desk.reload.file().is_some() => {
                let reload = self.desk.reload.clone();
                tokio::spawn(async move { reload.run("SIGHUP").await });
            }
            SignalInput::Hangup => self.stop(),
            SignalInput::LogState => self.log_state(),
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        // Nor does another program go on, unless that is to follow.
        self.upgrade = None;
        // Nobody follows any more.
        self.next = None;
        self.hosts.values_mut().for_each(|host| host.handle(Input::Shutdown));
    }

    fn log_state(&mut self) {
        let now = now();
        let received = self.received_for_none();
        if !received.is_empty() {
            let received: Vec<_> = received.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            info!("received for none of the virtual hosts here: {}", received.join(", "));
        }
        self.hosts.values().for_each(|host| host.log_state(&mut self.datapath, now));
    }

    /// What belongs to no virtual host has arrived all the same: VRRP, or a peer whose vhid is mistyped.
    fn received_for_none(&self) -> BTreeMap<String, u64> {
        let counts =
            Reason::ALL.into_iter().map(|reason| (reason.name().to_owned(), self.datapath.counter(NO_VHOST, reason)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// What a look has found, if one is under way.
async fn finished(look: Option<&mut (Time, JoinHandle<BTreeSet<u32>>)>) -> BTreeSet<u32> {
    match look {
        Some((_, look)) => look.await.unwrap_or_default(),
        None => pending().await,
    }
}

/// Waits for the next tick, if there are any.
async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}
