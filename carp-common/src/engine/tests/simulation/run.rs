//! One plan, from the start until all has settled.

use core::hash::{Hash, Hasher};
use std::{format, string::String, vec, vec::Vec};

use super::{
    plan::{Fault, Plan},
    world::{Message, World},
};
use crate::engine::{
    hearing::{SEND_ERRORS_LAST, TIE_SPREAD},
    leaving::STEP_DOWN_HOLD,
    tests::*,
};

/// What ends a fault, or begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Deed {
    Start(usize),
    Wake(usize),
    Boot(usize),
    Plug(usize),
    Unmute(usize),
}

/// A plan on its way.
#[derive(Clone, Debug)]
pub(super) struct Run {
    plan: Plan,
    world: World,
    /// Whether nothing is in the adverts' way any more.
    is_whole: bool,
    /// Who does not hear whom: from, to.
    deaf: Vec<Vec<bool>>,
    /// Messages so far.
    number: u64,
    deeds: Vec<(Time, Deed)>,
}

/// Crossings in a row.
const CROSSINGS: u32 = 8;

impl Run {
    pub(super) fn new(plan: Plan, traces: bool) -> Self {
        let hosts = plan.hosts.iter().map(|host| (host.config.clone(), host.drift, host.is_fenced));
        let mut world = World::new(hosts, plan.vip_span);
        world.trace = traces.then(Vec::new);
        world.watch.delay = plan.delay;
        let starts = plan.hosts.iter().enumerate();
        let deeds = starts.map(|(at, host)| (Time::default().after(host.start), Deed::Start(at))).collect();
        let hosts = plan.hosts.len();
        Self { plan, world, is_whole: false, deaf: vec![vec![false; hosts]; hosts], number: 0, deeds }
    }

    /// The same in a world whose kernels make so much of a lease, in percent.
    pub(super) fn with_leases(mut self, percent: u32) -> Self {
        self.world.lease_percent = percent;
        self
    }

    pub(super) fn trace(&self) -> &[String] {
        self.world.trace.as_deref().unwrap_or_default()
    }

    /// Runs it to the end; what did not hold, if something did not.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        for (after, fault) in self.plan.faults.clone() {
            self.run_for(after)?;
            self.world.note(|| format!("{fault:?}"));
            self.suffer(fault);
        }
        self.mend();
        self.settle()
    }

    /// With all faults ended: whether one master is left within the [bound](Self::bound), and stays.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        let arrival = self.world.last_arrival().unwrap_or(self.world.now);
        self.run_until(arrival.max(self.world.now))?;
        if self.engines().any(|engine| engine.status().demotion.send_errors() > 0) {
            // They are forgotten by the second advert after this.
            let slowest = self.longest(Engine::interval);
            self.run_for((SEND_ERRORS_LAST + slowest * 2) * 101 / 100 + self.longest(Engine::dead_time))?;
        }
        let bound = self.bound();
        self.world.note(|| format!("one master after {bound:?}"));
        self.run_for(bound)?;
        let masters: Vec<_> = self.world.masters().collect();
        let [master] = masters[..] else { return Err(format!("masters: {masters:?}")) };
        let before = self.world.watch.transitions;
        // So long that it has told the neighbours again.
        self.run_for(self.longest(Engine::interval) * 6)?;
        if self.world.watch.transitions != before {
            return Err("it did not last".into());
        }
        let has_vips: Vec<_> = (0..self.world.nodes.len()).filter(|at| self.world.nodes[*at].has_vips()).collect();
        if has_vips != [master] {
            return Err(format!("host {master} is MASTER, and {has_vips:?} have the VIPs"));
        }
        let last = (0..self.world.nodes.len()).max_by_key(|at| self.world.nodes[*at].announced);
        if last != Some(master) {
            return Err(format!("host {master} is MASTER, and {last:?} was the last to announce the VIPs"));
        }
        Ok(())
    }

    /// How long it may take from when the network is whole until there is one master for good: see [the module](super).
    fn bound(&self) -> Duration {
        let silence = self.longest(Engine::dead_time) + TIE_SPREAD;
        let stepped = |(_, fault): &(Duration, Fault)| {
            matches!(fault, Fault::StepDown(_) | Fault::Demote(..) | Fault::Maintenance(..))
        };
        let hold = if self.plan.faults.iter().any(stepped) { STEP_DOWN_HOLD } else { Duration::ZERO };
        let slowest = self.longest(Engine::interval) + self.plan.delay;
        let waits = self.longest(|engine| engine.config().preempt_delay);
        let once = silence.max(hold) + waits + slowest * self.plan.hosts.len() as u32;
        let mut standings: Vec<_> = self.engines().map(Engine::fields).collect();
        standings.sort_by_key(|fields| (fields.demote, fields.advbase, fields.advskew));
        let has_equals = standings.windows(2).any(|pair| pair[0] == pair[1]);
        let crossings = if has_equals { (silence + slowest * 2) * CROSSINGS } else { Duration::ZERO };
        (once + crossings) * 101 / 100
    }

    /// From now on nobody else is deaf.
    pub(super) fn cut(&mut self, links: &[(usize, usize)]) {
        self.deaf.iter_mut().for_each(|row| row.fill(false));
        links.iter().for_each(|(from, to)| self.deaf[*from][*to] = true);
    }

    fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.world.nodes.iter().filter_map(|node| node.agent.as_ref())
    }

    fn longest(&self, of: impl Fn(&Engine) -> Duration) -> Duration {
        self.engines().map(of).max().unwrap_or_default()
    }

    pub(super) fn run_for(&mut self, span: Duration) -> Result<(), String> {
        self.run_until(self.world.now.after(span))
    }

    fn run_until(&mut self, end: Time) -> Result<(), String> {
        loop {
            let deed = (0..self.deeds.len()).min_by_key(|at| self.deeds[*at].0);
            let stop = deed.map_or(end, |at| self.deeds[at].0.min(end));
            if self.world.step(stop) {
                self.route();
            } else if let Some(at) = deed.filter(|at| self.deeds[*at].0 <= end) {
                let (_, deed) = self.deeds.swap_remove(at);
                self.do_it(deed);
            } else {
                return Ok(());
            }
            if let Some(objection) = &self.world.watch.objection {
                return Err(objection.clone());
            }
        }
    }

    fn do_it(&mut self, deed: Deed) {
        self.world.note(|| format!("{deed:?}"));
        match deed {
            Deed::Start(at) => {
                if self.world.nodes[at].agent.as_ref().is_some_and(Engine::is_stopping) {
                    self.world.kill(at);
                }
                self.world.start(at);
            }
            Deed::Wake(at) => self.world.wake(at),
            Deed::Boot(at) => self.world.boot(at),
            Deed::Plug(at) => self.world.plug(at, true),
            Deed::Unmute(at) => self.world.nodes[at].can_send = true,
        }
        self.route();
    }

    pub(super) fn suffer(&mut self, fault: Fault) {
        let world = &mut self.world;
        let mut ends = |span, deed| self.deeds.push((world.now.after(span), deed));
        match fault {
            Fault::Split(side) => {
                let side = |at: usize| side >> at & 1;
                for (from, row) in self.deaf.iter_mut().enumerate() {
                    row.iter_mut().enumerate().for_each(|(to, deaf)| *deaf |= side(from) != side(to));
                }
            }
            Fault::Deafen(from, to) => self.deaf[from][to] = true,
            Fault::Heal => self.deaf.iter_mut().for_each(|row| row.fill(false)),
            Fault::Hang(at, span) => {
                ends(span, Deed::Wake(at));
                world.hang(at);
            }
            Fault::Kill(at, span) => {
                ends(span, Deed::Start(at));
                world.kill(at);
            }
            Fault::PowerOff(at, span) => {
                ends(span, Deed::Boot(at));
                world.power_off(at);
            }
            Fault::Stop(at, span) => {
                ends(span, Deed::Start(at));
                world.tell(at, Input::Shutdown);
            }
            Fault::Unplug(at, span) => {
                ends(span, Deed::Plug(at));
                world.plug(at, false);
            }
            Fault::Mute(at, span) => {
                ends(span, Deed::Unmute(at));
                world.nodes[at].can_send = false;
            }
            Fault::Demote(at, by) => world.tell(at, Input::Demote(by)),
            Fault::Maintenance(at, on) => world.tell(at, Input::Maintenance(on)),
            Fault::StepDown(at) => world.tell(at, Input::StepDown),
            Fault::Track(at, own, group) => world.tell(at, Input::Tracked { own, group }),
        }
        self.route();
    }

    /// Ends all faults.
    pub(super) fn mend(&mut self) {
        self.world.note(|| "all is well again".into());
        self.deaf.iter_mut().for_each(|row| row.fill(false));
        self.is_whole = true;
        for (_, deed) in core::mem::take(&mut self.deeds) {
            self.do_it(deed);
        }
    }

    /// Decides what becomes of the adverts that have left.
    fn route(&mut self) {
        for message in self.world.take_sent() {
            self.number += 1;
            let mut random = Random(self.plan.weather.seed.wrapping_add(self.number));
            let copies =
                if self.is_whole { 1 } else { 1 + u32::from(random.below(256) < self.plan.weather.doubled.into()) };
            for _ in 0..copies {
                self.send(message, &mut random);
            }
        }
    }

    fn send(&mut self, message: Message, random: &mut Random) {
        let Message { from, to, .. } = message;
        let weather = self.plan.weather;
        let usual = self.plan.delay.as_nanos() as u64;
        let jitter = if self.is_whole { 0 } else { weather.jitter.as_nanos() as u64 };
        let delay = Duration::from_nanos(random.below(usual + 1) + random.below(jitter + 1));
        let is_lost = !self.is_whole && random.below(256) < weather.lost.into();
        let now = self.world.now;
        if is_lost || self.deaf[from][to] {
            self.world.watch.see_missed(from, to, now);
            return;
        }
        if delay > self.plan.delay {
            self.world.watch.see_missed(from, to, now.after(delay));
        }
        self.world.deliver(message, now.after(delay));
    }
}

/// What tells two states apart: not how one came there.
impl Hash for Run {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.world, &self.deeds).hash(state);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
