//! The one loop: inputs, then timers, then actions.
//!
//! ```text
//! datapath -----> Input::Advert --+
//! netlink ------> Input::Link* ---+-> Engine::handle -> Action queue -> executor
//! VIP task -----> Input::Vips* ---+        ^                              |
//! signals ------> StepDown, Shutdown       +-- AdvertSent, AdvertFailed --+
//! timerfd: only after all of these are drained, and after a look at the last-heard map
//! ```

mod executor;
mod refusals;
mod signals;

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use carp_common::{
    abi::{Heard, SourceKey},
    engine::{HeardAdvert, Input, LinkFault, State},
    reason::Reason,
    time::Time,
};
use log::{debug, info, warn};
use tokio::{
    select,
    sync::{mpsc, watch},
    task::yield_now,
    time::sleep,
};

pub(crate) use self::signals::{SignalInput, Signals};
use self::{executor::Executor, refusals::Refusals};
use crate::{
    clock::{Timer, now},
    config::Settings,
    datapath::Datapath,
    net::{
        self,
        interface::{self, Interface},
    },
};

/// Events handled before the timers get their turn: about as many as the ring can hold.
const EVENTS_A_ROUND: usize = 1024;
/// Reports of the VIP task that wait to be handled.
const REPORTS: usize = 16;
/// Time for the last advert to leave the card: many drivers reset the link, and drop what is queued, when the
/// program is detached.
const LAST_ADVERT: Duration = Duration::from_millis(50);
/// Row of counters of the one virtual host.
const ROW: u32 = 1;
/// Row of counters of protocol 112 that belongs to none.
const NO_VHOST: u32 = 0;

/// One virtual host at work.
pub(crate) struct Agent {
    executor: Executor,
    datapath: Datapath,
    links: watch::Receiver<Option<Interface>>,
    reports: mpsc::Receiver<Input>,
    signals: Signals,
    timer: Timer,
    refusals: Refusals,
    /// What the interface was last said to lack, so that it is said once.
    fault: Option<LinkFault>,
}

impl Agent {
    /// Opens everything that the virtual host needs. The interface may still be missing.
    pub(crate) async fn start(settings: Settings, interface: String, signals: Signals) -> Result<Self> {
        let settings = Arc::new(settings);
        let datapath = Datapath::new(settings.datapath)?;
        let handle = net::connect()?;
        let links = interface::watch(handle.clone(), interface.clone()).await?;
        let (sender, reports) = mpsc::channel(REPORTS);
        let executor = Executor::new(Arc::clone(&settings), interface, handle, sender, now())?;
        let mut agent = Self {
            executor,
            datapath,
            links,
            reports,
            signals,
            timer: Timer::new().context("cannot create a timer")?,
            refusals: Refusals::new(ROW),
            fault: None,
        };
        agent.executor.run_down_script_at_start();
        // Whatever is in the way on an interface that is there stops the start, not only the first advert.
        agent.handle_link()?;
        agent.act()?;
        Ok(agent)
    }

    /// Serves the virtual host until a signal ends it.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut has_more = false;
        while !self.executor.engine().is_stopped() {
            select! {
                biased;
                input = self.signals.next() => self.handle_signal(input),
                ready = self.datapath.readable() => ready.context("cannot wait for adverts")?,
                _ = self.links.changed() => self.links.mark_changed(),
                Some(report) = self.reports.recv() => self.handle_report(report),
                fired = self.timer.fired() => fired?,
                // What was left would wake nobody. Signals, netlink and the other tasks get their turn first, or a flood
                // would keep them waiting for ever.
                () = yield_now(), if has_more => {}
            }
            // Not left to the select: there, a flood of adverts would always be first.
            if self.links.has_changed().context("the task that watches the interface has ended")?
                && let Err(error) = self.handle_link()
            {
                warn!("{error:#}");
            }
            has_more = self.drain();
            let now = now();
            if let Some(due) = self.executor.engine().poll_timeout().filter(|due| *due <= now)
                && (self.executor.engine().status().state == State::Master || self.datapath.has_heard_until(due))
            {
                self.ask_kernel();
                self.executor.engine_mut().handle_timeout(now);
            }
            self.act()?;
            self.refusals.look(&mut self.datapath, self.executor.name(), now);
        }
        sleep(LAST_ADVERT).await;
        self.executor.leave(&mut self.datapath);
        Ok(())
    }

    /// Does what the engine wants done, and sets the timer.
    fn act(&mut self) -> io::Result<()> {
        self.executor.act(&mut self.datapath);
        self.timer.set(self.executor.engine().poll_timeout())
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

    /// Before a timer counts: the kernel may have heard what the ring had no room for, or what it took for
    /// a repeat.
    fn ask_kernel(&mut self) {
        let Some(key) = self.executor.key() else { return };
        let known = self.executor.engine().status().last_arrival;
        let mut missed: Vec<_> = self
            .datapath
            .last_heard(key)
            .into_iter()
            .map(|(source, last)| (source, last.heard()))
            .filter(|(_, heard)| Some(heard.arrival()) > known)
            .collect();
        missed.sort_by_key(|(_, heard)| heard.arrival());
        for (source, heard) in missed {
            self.hear(source, heard);
        }
    }

    fn hear(&mut self, source: SourceKey, heard: Heard) {
        // An event from before the interface was deleted and came back.
        if Some(source.vhost()) != self.executor.key() {
            return;
        }
        let advert = HeardAdvert {
            family: source.vhost().family(),
            source: source.source(),
            advbase: heard.advbase(),
            advskew: heard.advskew(),
            demote: heard.demote(),
            arrival: heard.arrival(),
        };
        debug!("{}: heard {}/{} from {}", self.executor.name(), advert.advbase, advert.advskew, advert.source);
        self.executor.engine_mut().handle(Input::Advert(advert), now());
    }

    fn handle_report(&mut self, report: Input) {
        self.executor.settle_vips();
        if self.fault == Some(LinkFault::NoInterface) {
            // A replacement may have waited for this.
            self.links.mark_changed();
        }
        self.executor.engine_mut().handle(report, now());
    }

    /// Takes note of what the interface is like now.
    fn handle_link(&mut self) -> Result<()> {
        let interface = self.links.borrow_and_update().clone();
        let found = self.executor.set_interface(&mut self.datapath, interface.as_ref());
        let fault = found.as_ref().map_or(Some(LinkFault::NotAttached), |fault| *fault);
        // Another of the same name is not entered before the first is left and its VIPs are gone.
        let replacement = interface.as_ref().filter(|_| fault == Some(LinkFault::NoInterface));
        let is_new = self.fault != fault;
        self.fault = fault;
        let state = self.executor.engine().status().state;
        match fault {
            None => self.executor.engine_mut().handle(Input::LinkUp, now()),
            Some(fault) => {
                // Told here where there is no transition to tell it, and once.
                if is_new && state == State::Init && found.is_ok() && replacement.is_none() {
                    info!("{}: INIT: {fault}; waiting for it", self.executor.name());
                }
                self.executor.engine_mut().handle(Input::LinkDown(fault), now());
            }
        }
        self.executor.repair_vips(interface.as_ref());
        if replacement.is_some_and(|interface| !self.executor.is_releasing_elsewhere(interface)) {
            self.links.mark_changed();
        }
        if is_new { found.map(drop) } else { Ok(()) }
    }

    fn handle_signal(&mut self, input: SignalInput) {
        match input {
            SignalInput::Engine(input) => self.executor.engine_mut().handle(input, now()),
            SignalInput::LogState => self.log_state(now()),
        }
    }

    fn log_state(&mut self, now: Time) {
        let status = self.executor.engine().status();
        let heard = status.last_arrival.map_or_else(
            || "no advert heard".to_owned(),
            |arrival| format!("last advert heard {:.3} s ago", now.since(arrival).as_secs_f64()),
        );
        // What belongs to no virtual host has arrived here all the same: VRRP, or a peer whose vhid is mistyped.
        let count = |reason| self.datapath.counter(ROW, reason) + self.datapath.counter(NO_VHOST, reason);
        let received = Reason::ALL.into_iter().map(|reason| (reason.name(), count(reason)));
        let mut received: Vec<_> = received.collect();
        received.push(("lost", self.datapath.lost()));
        let received: Vec<String> =
            received.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        info!(
            "{}: {} for {:.0} s, demotion {}, {heard}; adverts sent: {}; received: {}",
            self.executor.name(),
            status.state,
            now.since(status.since).as_secs_f64(),
            status.demotion.get(),
            self.executor.sent(),
            if received.is_empty() { "none".to_owned() } else { received.join(", ") },
        );
    }
}
