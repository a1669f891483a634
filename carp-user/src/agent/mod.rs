//! The one loop: inputs, then timers, then actions, for all virtual hosts of the process.
//!
//! ```text
//! datapath -----> Input::Advert --+
//! netlink ------> Input::Link* ---+-> Engine::handle -> Action queue -> VirtualHost::act
//! VIP tasks ----> Input::Vips* ---+        ^                              |
//! signals ------> StepDown, Shutdown       +-- AdvertSent, AdvertFailed --+
//! timerfd: only after all of these are drained, and after a look at the last-heard map
//! ```

mod link;
mod refusals;
mod signals;
mod vhost;

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use carp_common::{
    abi::{Heard, SourceKey, VhostKey},
    engine::State,
    time::Time,
};
use log::warn;
use tokio::{
    select,
    sync::{mpsc, watch},
    task::yield_now,
    time::sleep,
};

pub(crate) use self::signals::{SignalInput, Signals};
use self::{
    link::{Link, Presence},
    vhost::VirtualHost,
};
use crate::{
    clock::{Timer, now},
    config::Settings,
    datapath::{Datapath, DatapathError},
    net::{
        Netlink, PacketSocket,
        interface::{self, Interface, Interfaces},
    },
    vips::Report,
};

/// Events handled before the timers get their turn: about as many as the ring can hold.
const EVENTS_A_ROUND: usize = 1024;
/// Reports of the VIP tasks that wait to be handled.
const REPORTS: usize = 64;
/// Time for the last advert to leave the card: many drivers reset the link, and drop what is queued, when the
/// program is detached.
const LAST_ADVERT: Duration = Duration::from_millis(50);
/// How late a timer may be without the agent having been stalled.
const STALL: Duration = Duration::from_millis(100);

/// All virtual hosts at work.
pub(crate) struct Agent {
    hosts: Vec<VirtualHost>,
    links: Vec<Link>,
    /// Where the virtual hosts are that the datapath knows.
    entered: HashMap<VhostKey, usize>,
    datapath: Datapath,
    looks: watch::Receiver<Arc<Interfaces>>,
    reports: mpsc::Receiver<Report>,
    signals: Signals,
    timer: Timer,
}

impl Agent {
    /// Opens everything that the virtual hosts need, each on the interface of this name. Interfaces may still be
    /// missing; it is an error if there is a road to none of them.
    pub(crate) async fn start(hosts: Vec<(String, Settings)>, signals: Signals) -> Result<Self> {
        let choices: Vec<_> = hosts.iter().map(|(_, settings)| settings.datapath).collect();
        let datapath = Datapath::new(&choices)?;
        let netlink = Netlink::connect()?;
        let names = hosts.iter().map(|(interface, _)| interface.clone()).collect();
        let looks = interface::watch(netlink.clone(), names).await?;
        let (sender, reports) = mpsc::channel(REPORTS);
        let socket = Rc::new(PacketSocket::open().context("cannot open a packet socket")?);
        let started = now();
        let hosts: Vec<_> = hosts
            .into_iter()
            .enumerate()
            .map(|(number, (interface, settings))| {
                let (socket, netlink, sender) = (Rc::clone(&socket), netlink.clone(), sender.clone());
                VirtualHost::new(number, interface, settings, socket, netlink, sender, started)
            })
            .collect();
        let mut agent = Self {
            links: links_of(&hosts),
            hosts,
            entered: HashMap::new(),
            datapath,
            looks,
            reports,
            signals,
            timer: Timer::new().context("cannot create a timer")?,
        };
        agent.hosts.iter_mut().for_each(VirtualHost::run_down_script_at_start);
        let mut errors = agent.handle_links();
        if errors.len() == agent.links.len() {
            // Told at the start, and not only when the first advert is missed.
            return Err(errors.swap_remove(0).into());
        }
        errors.iter().for_each(|error| warn!("{error}"));
        agent.act()?;
        Ok(agent)
    }

    /// Serves the virtual hosts until a signal ends them.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut has_more = false;
        while !self.hosts.iter().all(|host| host.engine().is_stopped()) {
            select! {
                biased;
                input = self.signals.next() => self.handle_signal(input),
                ready = self.datapath.readable() => ready.context("cannot wait for adverts")?,
                _ = self.looks.changed() => self.looks.mark_changed(),
                Some(report) = self.reports.recv() => self.handle_report(report),
                fired = self.timer.fired() => fired?,
                // What was left would wake nobody. Signals, netlink and the other tasks get their turn first, or a flood
                // would keep them waiting for ever.
                () = yield_now(), if has_more => {}
            }
            // Not left to the select: there, a flood of adverts would always be first.
            if self.looks.has_changed().context("the task that watches the interfaces has ended")? {
                self.handle_links().iter().for_each(|error| warn!("{error}"));
            }
            has_more = self.drain();
            let now = now();
            self.handle_timeouts(now);
            self.act()?;
            self.hosts.iter_mut().for_each(|host| host.tell_refused(&self.datapath, now));
            self.links.iter_mut().for_each(|link| link.tell_lost(&mut self.datapath, now));
        }
        sleep(LAST_ADVERT).await;
        self.links.iter_mut().for_each(|link| link.leave(&mut self.datapath));
        Ok(())
    }

    /// Does what the engines want done, and sets the timer.
    fn act(&mut self) -> Result<()> {
        self.hosts.iter_mut().for_each(|host| host.act(&mut self.datapath));
        let next = self.hosts.iter().filter_map(|host| host.engine().poll_timeout()).min();
        self.timer.set(next).context("cannot set the timer")
    }

    /// Handles all that is waiting, so that no timer overtakes it; `true` if there was more than a round takes.
    fn drain(&mut self) -> bool {
        let mut left = EVENTS_A_ROUND;
        while left > 0
            && let Some(next) = self.datapath.next()
        {
            if let Some(event) = next {
                self.hear(event.source(), event.heard());
            }
            left -= 1;
        }
        self.datapath.flush_log();
        while let Ok(report) = self.reports.try_recv() {
            self.handle_report(report);
        }
        left == 0
    }

    /// Does what is due. A silence counts only as far as adverts have been read.
    fn handle_timeouts(&mut self, now: Time) {
        // A master's next advert need not wait for a look at the map, unless the agent was stalled.
        let must_ask =
            |host: &VirtualHost| is_due(host, &self.datapath, now) && (!is_master(host) || is_late(host, now));
        if self.hosts.iter().any(must_ask) {
            self.ask_kernel();
        }
        for host in &mut self.hosts {
            if is_due(host, &self.datapath, now) {
                host.handle_timeout(now);
            }
        }
    }

    /// Before a timer counts: the kernel may have heard what the ring had no room for, or what it took for
    /// a repeat.
    fn ask_kernel(&mut self) {
        let mut heard: Vec<_> =
            self.datapath.last_heard().into_iter().map(|(source, last)| (source, last.heard())).collect();
        heard.sort_by_key(|(_, heard)| heard.arrival());
        let known: Vec<_> = self.hosts.iter().map(|host| host.engine().status().last_arrival).collect();
        for (source, heard) in heard {
            let number = self.entered.get(&source.vhost());
            if number.is_some_and(|number| Some(heard.arrival()) > known[*number]) {
                self.hear(source, heard);
            }
        }
    }

    fn hear(&mut self, source: SourceKey, heard: Heard) {
        // None for an event from before the interface was deleted and came back.
        if let Some(number) = self.entered.get(&source.vhost()) {
            self.hosts[*number].hear(source, heard);
        }
    }

    fn handle_report(&mut self, (number, report): Report) {
        let host = &mut self.hosts[number];
        host.handle_report(report);
        if host.misses_interface() {
            // A replacement may have waited for this.
            self.looks.mark_changed();
        }
    }

    /// Takes note of what the interfaces are like now. The errors are those of interfaces that have no road, new ones.
    fn handle_links(&mut self) -> Vec<DatapathError> {
        let looks = Arc::clone(&self.looks.borrow_and_update());
        let mut errors = vec![];
        for link in &mut self.links {
            let interface = looks.get(link.interface());
            let mut hosts: Vec<_> = self.hosts.iter_mut().filter(|host| host.interface() == link.interface()).collect();
            // Another of the same name is not entered before the first is left and its VIPs are gone.
            let waits = |interface: &&Interface| hosts.iter().any(|host| host.is_releasing_elsewhere(interface));
            let free = interface.filter(|interface| !waits(interface));
            let (presence, told) = link.update(&mut self.datapath, free);
            errors.extend(told.err());
            for host in &mut hosts {
                host.handle_link(&mut self.datapath, presence, interface);
            }
            if free.is_some() && matches!(presence, Presence::Missing) {
                self.looks.mark_changed();
            }
        }
        self.entered = self.hosts.iter().enumerate().filter_map(|(number, host)| Some((host.key()?, number))).collect();
        errors
    }

    fn handle_signal(&mut self, input: SignalInput) {
        match input {
            SignalInput::Engine(input) => self.hosts.iter_mut().for_each(|host| host.handle(input)),
            SignalInput::LogState => {
                let now = now();
                self.hosts.iter().for_each(|host| host.log_state(&mut self.datapath, now));
            }
        }
    }
}

/// Whether it is time for something, and for a silence to count.
fn is_due(host: &VirtualHost, datapath: &Datapath, now: Time) -> bool {
    let due = host.engine().poll_timeout().filter(|due| *due <= now);
    due.is_some_and(|due| is_master(host) || datapath.has_heard_until(host.ifindex(), due))
}

fn is_late(host: &VirtualHost, now: Time) -> bool {
    host.engine().poll_timeout().is_some_and(|due| now.since(due) >= STALL)
}

fn is_master(host: &VirtualHost) -> bool {
    host.engine().status().state == State::Master
}

/// The interfaces of these virtual hosts.
fn links_of(hosts: &[VirtualHost]) -> Vec<Link> {
    let mut by_interface: BTreeMap<&str, Vec<&VirtualHost>> = BTreeMap::new();
    for host in hosts {
        by_interface.entry(host.interface()).or_default().push(host);
    }
    let link = |(interface, hosts): (&str, Vec<&VirtualHost>)| {
        let name = match &hosts[..] {
            [host] => host.name().to_owned(),
            hosts => format!("{interface}, {} vhids", hosts.len()),
        };
        let groups = hosts.iter().map(|host| host.settings().destination.ip).collect();
        Link::new(interface.to_owned(), name, hosts[0].settings().datapath, groups)
    };
    by_interface.into_iter().map(link).collect()
}
