//! What is heard, and what is then due by the timers. A silence does not count before all that has arrived is read, and, after
//! a stall, somebody has looked whether anything let it in.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use carp_common::{
    abi::{Heard, SealCheck, SourceKey},
    time::Time,
};
use log::debug;

use super::{Agent, vhost::VirtualHost};
use crate::{clock::now, datapath::Datapath};

/// Events handled before the timers get their turn: about as many as the ring can hold.
const EVENTS_A_ROUND: usize = 1024;
/// How late a timer may be without the agent having been stalled.
const STALL: Duration = Duration::from_millis(100);

impl Agent {
    /// Handles all that is waiting, so that no timer overtakes it; `true` if there was more than a round takes.
    pub(super) fn drain(&mut self) -> bool {
        let mut left = EVENTS_A_ROUND;
        while left > 0
            && let Some(next) = self.datapath.next()
        {
            if let Some(event) = next {
                // Not for what the last-heard map tells: a repeat may stay there for long, and is not late.
                let latency = now().since(event.heard().arrival());
                self.shared.metrics.observe_event(latency.as_secs_f64());
                debug!("an event came {} ns after its advert", latency.as_nanos());
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

    /// Whether a silence waits for a look at the programs' places: after a stall, it may be that nothing let adverts in.
    pub(super) fn waits_for_look(&self, host: &VirtualHost, now: Time) -> bool {
        let is_unsure = host.engine().poll_timeout().is_some_and(|due| self.looked < due);
        !host.is_master() && is_late(host, now) && is_unsure
    }

    /// Does what is due. A silence counts only as far as adverts have been read.
    pub(super) fn handle_timeouts(&mut self, now: Time) {
        // A master's next advert need not wait for a look at the map, unless the agent was stalled.
        let must_ask =
            |host: &VirtualHost| is_due(host, &self.datapath, now) && (!host.is_master() || is_late(host, now));
        if self.hosts.values().any(must_ask) {
            self.ask_kernel();
        }
        let waiting: BTreeSet<u32> =
            self.hosts.iter().filter(|(_, host)| self.waits_for_look(host, now)).map(|(row, _)| *row).collect();
        if !waiting.is_empty() && self.looking.is_none() {
            self.mend_at = now;
        }
        for (row, host) in &mut self.hosts {
            if !waiting.contains(row) && is_due(host, &self.datapath, now) {
                if let Some(due) = host.engine().poll_timeout() {
                    self.shared.metrics.observe_timer(now.since(due).as_secs_f64());
                }
                host.handle_timeout(now);
            }
        }
    }

    /// Before a timer counts: the kernel may have heard what the ring had no room for, or repeats that
    /// count.
    pub(super) fn ask_kernel(&mut self) {
        let mut heard: Vec<_> =
            self.datapath.last_heard().into_iter().map(|(source, last)| (source, last.heard())).collect();
        heard.sort_by_key(|(_, heard)| heard.arrival());
        let known: HashMap<_, _> =
            self.hosts.values().flat_map(|host| host.keys().map(|key| (key, host.heard_until(key.family())))).collect();
        for (source, heard) in heard {
            // None for one that a reload has just taken out.
            if known.get(&source.vhost()).is_some_and(|known| heard.arrival() > *known) {
                self.hear(source, heard);
            }
        }
        self.look_at_clocks();
    }

    /// What another agent has heard says how patient the others are.
    pub(super) fn remember_heard(&mut self) {
        let looks = self.looks.borrow();
        for (source, last) in self.datapath.last_heard() {
            let is_of = |host: &&mut VirtualHost| {
                let ifindex = looks.get(host.interface()).map(|interface| interface.index);
                ifindex.is_some_and(|ifindex| host.is_at(ifindex, source.vhost()))
            };
            if let Some(host) = self.hosts.values_mut().find(is_of) {
                host.remember(source, last.heard());
            }
        }
    }

    fn hear(&mut self, source: SourceKey, heard: Heard) {
        // None for an event from before the interface was deleted and came back.
        let row = self.entered.get(&source.vhost());
        if let Some(host) = row.and_then(|row| self.hosts.get_mut(row)) {
            host.hear(source, heard);
        }
    }

    pub(super) fn judges_seals(&self) -> bool {
        self.hosts.values().any(|host| host.settings().seal.mode.check() != SealCheck::Off)
    }

    /// Looks whose sealed adverts were not believed for the time that their clocks are set to.
    pub(super) fn look_at_clocks(&mut self) {
        if !self.judges_seals() {
            return;
        }
        for (source, apart, was_believed) in self.datapath.take_apart() {
            let row = self.entered.get(&source.vhost());
            if let Some(host) = row.and_then(|row| self.hosts.get_mut(row)) {
                host.note_apart(source, apart, was_believed);
            }
        }
    }
}

/// Whether it is time for something, and for a silence to count.
fn is_due(host: &VirtualHost, datapath: &Datapath, now: Time) -> bool {
    let due = host.engine().poll_timeout().filter(|due| *due <= now);
    due.is_some_and(|due| host.is_master() || datapath.has_heard_until(host.ifindex(), due))
}

fn is_late(host: &VirtualHost, now: Time) -> bool {
    host.engine().poll_timeout().is_some_and(|due| now.since(due) >= STALL)
}
