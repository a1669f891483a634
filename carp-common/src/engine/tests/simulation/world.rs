//! Hosts on a network, in a time of its own. Each has a clock that runs too fast or too slowly, an agent that may hang or be
//! killed, and a kernel that enforces its leases and remembers whom it has heard. What becomes of a message is decided
//! outside: see [`World::take_sent`].

use std::{collections::VecDeque, format, string::String, vec::Vec};

use super::watch::{Watch, has_to_yield};
use crate::engine::tests::*;

/// What a clock shows when its host boots.
const BOOT: u64 = 10_000_000_000;
/// More calls than this without the time moving on are an endless loop.
const MOST_AT_ONCE: u32 = 10_000;

/// A host's clock: CLOCK_BOOTTIME, which begins when it boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Clock {
    booted: Time,
    /// By how many parts of a million it is too fast.
    drift: i32,
}

impl Clock {
    fn rate(self) -> u128 {
        u128::from(1_000_000u32.saturating_add_signed(self.drift))
    }

    /// What it shows then.
    pub(super) fn local(self, time: Time) -> Time {
        let nanos = time.since(self.booted).as_nanos() * self.rate() / 1_000_000;
        Time::from_nanos(BOOT + nanos as u64)
    }

    /// When it will first show this.
    pub(super) fn world(self, local: Time) -> Time {
        let nanos = u128::from(local.as_nanos().saturating_sub(BOOT)) * 1_000_000;
        self.booted.after(Duration::from_nanos(nanos.div_ceil(self.rate()) as u64))
    }
}

/// The addresses, and who adds and removes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Vips {
    here: bool,
    wanted: bool,
    /// When that is done.
    done: Option<Time>,
}

/// What its agent goes by, or went by when it was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Terms {
    pub(super) interval: Duration,
    pub(super) dead_time: Duration,
    /// How long a lease is, if there is one.
    pub(super) lease: Option<Duration>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) config: Config,
    clock: Clock,
    /// Whether the kernel can enforce a lease.
    is_fenced: bool,
    /// None: it was killed, or has ended.
    pub(super) agent: Option<Engine>,
    pub(super) terms: Terms,
    /// Whether it hangs.
    hangs: bool,
    /// What it was told meanwhile.
    inbox: VecDeque<Input>,
    has_power: bool,
    pub(super) has_link: bool,
    /// Whether adverts can leave.
    pub(super) can_send: bool,
    vips: Vips,
    /// What the kernel was told.
    lease: Lease,
    /// Whom the kernel has heard.
    heard: Vec<HeardAdvert>,
    /// From when on its agent was about to be MASTER, and when it was, the last time.
    pub(super) entered: Option<[Time; 2]>,
    /// When it last yielded to an equal.
    pub(super) tied: Option<Time>,
    /// Since when it has a claim, which it may not be able to send.
    claims: Option<Time>,
    /// When its agent's next timer ends.
    due: Option<Time>,
    /// Since when its agent does nothing, or did the last time.
    pub(super) stopped: Option<Time>,
    /// When it last told the neighbours where the VIPs are.
    pub(super) announced: Option<Time>,
}

impl Node {
    fn new(config: Config, drift: i32, is_fenced: bool) -> Self {
        Self {
            config,
            clock: Clock { booted: Time::default(), drift },
            is_fenced,
            agent: None,
            terms: Terms::default(),
            hangs: false,
            inbox: VecDeque::new(),
            has_power: true,
            has_link: true,
            can_send: true,
            vips: Vips::default(),
            lease: Lease::None,
            heard: Vec::new(),
            entered: None,
            tied: None,
            claims: None,
            due: None,
            stopped: Some(Time::default()),
            announced: None,
        }
    }

    pub(super) fn state(&self) -> State {
        self.agent.as_ref().map_or(State::Init, |engine| engine.status().state)
    }

    /// Until when it serves the VIPs if nothing happens, if it does.
    pub(super) fn serves_until(&self) -> Option<Time> {
        let until = match self.lease {
            Lease::None => Time::from_nanos(u64::MAX),
            Lease::Until(until) => self.clock.world(until),
            Lease::Claim(_) | Lease::Over => return None,
        };
        (self.has_power && self.has_link && self.vips.here).then_some(until)
    }

    pub(super) fn has_vips(&self) -> bool {
        self.vips.here
    }

    pub(super) fn has_lease(&self) -> bool {
        self.lease != Lease::None
    }

    fn is_running(&self) -> bool {
        self.agent.is_some() && !self.hangs
    }

    fn set_timer(&mut self) {
        let engine = self.agent.as_ref().filter(|_| !self.hangs);
        self.due = engine.and_then(Engine::poll_timeout).map(|due| self.clock.world(due));
    }

    fn hear(&mut self, advert: HeardAdvert) {
        self.heard.retain(|known| (known.source, known.family) != (advert.source, advert.family));
        self.heard.push(advert);
    }
}

/// An advert that has left, to one of the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Message {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) family: Family,
    pub(super) fields: AdvertFields,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    /// By the time of their arrival.
    under_way: Vec<(Time, Message)>,
    sent: Vec<Message>,
    /// How long the VIPs take to be added or removed.
    vip_span: Duration,
    at_once: u32,
    /// Of what the kernel was told of a lease, it makes so much.
    pub(super) lease_percent: u32,
    pub(super) watch: Watch,
    /// What has happened, if somebody wants to know.
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    /// Hosts whose agents have not started yet.
    pub(super) fn new(hosts: impl IntoIterator<Item = (Config, i32, bool)>, vip_span: Duration) -> Self {
        let nodes: Vec<_> = hosts.into_iter().map(|(config, drift, fenced)| Node::new(config, drift, fenced)).collect();
        let watch = Watch::new(nodes.len());
        Self {
            now: Time::default(),
            nodes,
            under_way: Vec::new(),
            sent: Vec::new(),
            vip_span,
            at_once: 0,
            lease_percent: 100,
            watch,
            trace: None,
        }
    }

    pub(super) fn masters(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].state() == State::Master)
    }

    /// What has left since the last call: it is lost unless it is given to [`World::deliver`].
    pub(super) fn take_sent(&mut self) -> Vec<Message> {
        core::mem::take(&mut self.sent)
    }

    /// It arrives then.
    pub(super) fn deliver(&mut self, message: Message, at: Time) {
        self.under_way.push((at, message));
    }

    /// When the last of what is under way arrives.
    pub(super) fn last_arrival(&self) -> Option<Time> {
        self.under_way.iter().map(|(at, _)| *at).max()
    }

    /// Does the next thing that happens until `end`; `false` if there is none.
    pub(super) fn step(&mut self, end: Time) -> bool {
        let arrival = (0..self.under_way.len()).min_by_key(|at| self.under_way[*at].0);
        let done = (0..self.nodes.len()).filter_map(|at| Some((self.nodes[at].vips.done?, at))).min();
        let timer = (0..self.nodes.len()).filter_map(|at| Some((self.nodes[at].due?, at))).min();
        let arrives = arrival.map(|at| self.under_way[at].0);
        let [done_at, due_at] = [done, timer].map(|event| event.map(|(time, _)| time));
        let Some(next) = [arrives, done_at, due_at].into_iter().flatten().min().filter(|next| *next <= end) else {
            self.move_on(end);
            return false;
        };
        self.move_on(next.max(self.now));
        // Inputs come before timers.
        if arrives == Some(next) {
            let (_, message) = self.under_way.swap_remove(arrival.unwrap_or_default());
            self.receive(message);
        } else if let Some((_, at)) = done.filter(|(time, _)| *time == next) {
            self.finish_vips(at);
        } else if let Some((_, at)) = timer {
            self.call(at, Engine::handle_timeout);
        }
        true
    }

    fn move_on(&mut self, to: Time) {
        if to > self.now {
            self.at_once = 0;
            self.watch.see_time(&self.nodes, self.now, to);
            self.now = to;
        } else {
            self.at_once += 1;
            if self.at_once > MOST_AT_ONCE {
                self.watch.object(format!("an endless loop at {to:?}"));
            }
        }
    }

    fn receive(&mut self, Message { from, to, family, fields, .. }: Message) {
        let source = self.nodes[from].config.source;
        let node = &mut self.nodes[to];
        if !(node.has_power && node.has_link && node.config.families.contains(&family)) {
            return;
        }
        let AdvertFields { advbase, advskew, demote } = fields;
        let arrival = node.clock.local(self.now);
        let advert = HeardAdvert { family, source, advbase, advskew, demote, arrival };
        node.hear(advert);
        self.tell(to, Input::Advert(advert));
    }

    fn finish_vips(&mut self, at: usize) {
        let vips = &mut self.nodes[at].vips;
        (vips.here, vips.done) = (vips.wanted, None);
        let input = if vips.here { Input::VipsTaken } else { Input::VipsReleased };
        self.tell(at, input);
    }

    /// Tells a host's agent of it, or has it wait until that hangs no more.
    pub(super) fn tell(&mut self, at: usize, input: Input) {
        let node = &mut self.nodes[at];
        if node.is_running() {
            let has_to_yield = match (&node.agent, input) {
                (Some(engine), Input::Advert(advert)) => has_to_yield(engine, &advert),
                _ => false,
            };
            self.call(at, |engine, now| engine.handle(input, now));
            self.watch.see_input(&self.nodes[at], input, has_to_yield, self.now);
        } else if node.agent.is_some() {
            node.inbox.push_back(input);
        }
    }

    /// Calls an agent's engine and does what it asks.
    fn call(&mut self, at: usize, call: impl FnOnce(&mut Engine, Time)) {
        let now = self.nodes[at].clock.local(self.now);
        let Some(engine) = &mut self.nodes[at].agent else { return };
        call(engine, now);
        self.nodes[at].terms =
            Terms { interval: engine.interval(), dead_time: engine.dead_time(), lease: engine.lease() };
        let mut actions = Vec::new();
        while let Some(action) = self.nodes[at].agent.as_mut().and_then(Engine::poll_action) {
            actions.push(action);
            self.act(at, action, now);
        }
        let node = &mut self.nodes[at];
        let has_claim = node.agent.as_ref().is_some_and(|engine| engine.claim.is_some());
        node.claims = has_claim.then(|| node.claims.unwrap_or(self.now));
        node.set_timer();
        self.watch.see_actions(&self.nodes[at], &actions);
    }

    fn act(&mut self, at: usize, action: Action, now: Time) {
        if let Some(trace) = &mut self.trace {
            let what = match action {
                Action::Transition(Transition { from, to, cause, .. }) => format!("{from} -> {to}, {cause}"),
                Action::SendAdvert(AdvertFields { advbase, advskew, demote }) => {
                    format!("advertises {advbase}/{advskew}, demoted by {demote}")
                }
                other => format!("{other:?}"),
            };
            trace.push(format!("{:>12.6}  host {at}: {what}", self.now.since(Time::default()).as_secs_f64()));
        }
        if let Action::SendAdvert(fields) = action {
            let has_left = self.send(at, fields);
            let input = if has_left { Input::AdvertSent(now) } else { Input::AdvertFailed };
            if let Some(engine) = &mut self.nodes[at].agent {
                engine.handle(input, now);
            }
        }
        let node = &mut self.nodes[at];
        match action {
            Action::SetLease(lease) => {
                node.lease = match lease {
                    Lease::Until(until) => Lease::Until(now.after(until.since(now) * self.lease_percent / 100)),
                    other => other,
                };
            }
            Action::TakeVips => {
                node.vips = Vips { wanted: true, done: Some(self.now.after(self.vip_span)), ..node.vips }
            }
            Action::ReleaseVips => {
                node.vips = Vips { wanted: false, done: Some(self.now.after(self.vip_span)), ..node.vips };
            }
            Action::Announce => node.announced = Some(self.now),
            Action::Transition(Transition { to: State::Master, cause, .. }) => {
                let began = match cause {
                    Cause::Preempt(advert) | Cause::DemotedMaster(advert) | Cause::SlowMaster(advert) => advert.arrival,
                    _ => now,
                };
                let began = node.clock.world(began);
                node.entered = Some([node.claims.map_or(began, |since| since.min(began)), self.now]);
            }
            Action::Transition(Transition { cause: Cause::EqualMaster(_), .. }) => node.tied = Some(self.now),
            Action::SendAdvert(_) | Action::Transition(_) | Action::Rival(_) | Action::Demoted(_) => {}
        }
    }

    /// `false` if it cannot.
    fn send(&mut self, from: usize, fields: AdvertFields) -> bool {
        let node = &self.nodes[from];
        if !(node.can_send && node.has_link) {
            return false;
        }
        let families = node.config.families;
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.sent.extend(families.iter().map(|family| Message { from, to, family: *family, fields }));
        }
        true
    }

    /// Its agent does nothing for a while: SIGSTOP, a disk that does not answer.
    pub(super) fn hang(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.is_running() {
            node.hangs = true;
            node.stopped = Some(self.now);
            node.set_timer();
        }
    }

    /// It goes on, and first hears what has come meanwhile.
    pub(super) fn wake(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !core::mem::take(&mut node.hangs) {
            return;
        }
        node.set_timer();
        // An agent hears all that is there before it does anything.
        let inbox = core::mem::take(&mut node.inbox);
        self.call(at, |engine, now| inbox.into_iter().for_each(|input| engine.handle(input, now)));
    }

    /// `kill -9`: the kernel goes on with what it was told.
    pub(super) fn kill(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.agent.take().is_some() && !node.hangs {
            node.stopped = Some(self.now);
        }
        node.hangs = false;
        node.set_timer();
        node.inbox.clear();
        // What was begun is over, or was not begun.
        node.vips = Vips { done: None, wanted: node.vips.here, ..node.vips };
    }

    /// An agent starts; it goes on as MASTER within the lease of one before it.
    pub(super) fn start(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if !node.has_power || node.agent.is_some() {
            return;
        }
        let local = node.clock.local(now);
        let mut engine = Engine::new(node.config.clone(), local);
        node.heard.iter().for_each(|advert| engine.remember(advert));
        node.agent = Some(engine);
        let left = match node.lease {
            Lease::Until(until) if until > local && node.vips.here => Some(until),
            _ => None,
        };
        if left.is_none() {
            (node.lease, node.vips) = (Lease::None, Vips::default());
        }
        let (is_fenced, has_link, heard) = (node.is_fenced, node.has_link, node.heard.clone());
        self.tell(at, Input::Fence(is_fenced));
        if let Some(until) = left {
            self.tell(at, Input::Resume { until });
        }
        self.tell(at, if has_link { Input::LinkUp } else { Input::LinkDown(LinkFault::NoCarrier) });
        heard.into_iter().for_each(|advert| self.tell(at, Input::Advert(advert)));
    }

    /// The whole host is gone, and what it knew.
    pub(super) fn power_off(&mut self, at: usize) {
        self.kill(at);
        let node = &mut self.nodes[at];
        (node.has_power, node.vips, node.lease) = (false, Vips::default(), Lease::None);
        node.heard.clear();
    }

    /// It is there again, and its clock begins anew.
    pub(super) fn boot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !core::mem::replace(&mut node.has_power, true) {
            node.clock.booted = self.now;
            self.start(at);
        }
    }

    /// Its cable is pulled, or is in again.
    pub(super) fn plug(&mut self, at: usize, in_: bool) {
        if core::mem::replace(&mut self.nodes[at].has_link, in_) != in_ {
            self.tell(at, if in_ { Input::LinkUp } else { Input::LinkDown(LinkFault::NoCarrier) });
        }
    }

    /// Adds a line to the trace, if somebody wants to know.
    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6}  {}", self.now.since(Time::default()).as_secs_f64(), what()));
        }
    }
}
