//! The state machine of one virtual host.
//!
//! Sans-IO: [`Engine::handle`] takes what happened, [`Engine::handle_timeout`] is called when the time of
//! [`Engine::poll_timeout`] has come, and [`Engine::poll_action`] says what to do. The time is always an
//! argument. Inputs go in before timers, so that after a stall an advert which the kernel already had wins
//! over a timer that is late.
//!
//! | state | a valid advert (T = advbase + advskew/256; mine M, the peer's P; demotion mine Dm, the peer's Dp) |
//! |---|---|
//! | INIT | ignored |
//! | MASTER | yield if Dp < Dm, or if M >= P and Dp <= Dm; else stay, advertise at once, so that the other yields, and announce again: the neighbours' caches were just poisoned |
//! | BACKUP | bow-out: take over. preempt, M < P and Dp >= Dm: take over. Dp > Dm: take over. Own dead time < P (advbase not 0): take over. Else restart the master-down timer from the advert's arrival |
//!
//! These are OpenBSD's rules (`carp_proto_input_c`) and, with [`Profile::FreeBsd`], where demotion is part of M and
//! Dm = Dp = 0, FreeBSD's; a FreeBSD, NetBSD or ucarp peer always sends demote 0,
//! with which they are theirs. One addition: on a tie the first to hear yields, as in the BSDs, but if two
//! adverts cross, both do, and their timers would end together for ever; so after yielding to an equal, the
//! next master-down time is two intervals and a span that differs from host to host and from try to try. A worse master that
//! is heard meanwhile is taken over from after such a span, too: all who tied hear it at once.
//!
//! The order of things:
//!
//! * Becoming MASTER: advert first, then the VIPs, then (when they are there) the announcement, again as
//!   often as [`Announcements`] says. Under a [lease](Lease) the advert has to have left: until then the host is BACKUP, and
//!   has a claim.
//! * Yielding to a better master: a last advert first, so that the other hears of this one and announces. To an
//!   equal it must not be sent, or both would yield.
//! * Leaving: first the VIPs, then (when they are gone) the bow-out; under a [lease](Lease) the bow-out at once, for the
//!   kernel serves them no more, unless a script has them. Only a MASTER bows out: the bow-out of a
//!   backup would make the other backups masters.

mod action;
mod announcing;
mod config;
mod demotion;
mod hearing;
mod input;
mod lease;
mod leaving;
mod profile;
mod state;
#[cfg(test)]
mod tests;
mod timers;

use alloc::collections::VecDeque;
use core::{net::IpAddr, time::Duration};

pub use self::{
    action::{Action, AdvertFields},
    config::{Advbase, Advskew, Announcements, Config, DeadRatio, Vhid},
    demotion::Demotion,
    input::{HeardAdvert, Input, LinkFault},
    lease::Lease,
    profile::Profile,
    state::{Cause, State, Transition},
};
use self::{
    hearing::{Followed, MOST_ANSWERS},
    lease::{Claim, LeaseTerms},
    timers::Timers,
};
use crate::time::Time;

/// The state machine of one virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    config: Config,
    state: State,
    since: Time,
    /// When it last left INIT: what arrived before may be told again, and does not count.
    listens_since: Time,
    timers: Timers,
    lease: LeaseTerms,
    /// BACKUP: why it is about to be MASTER.
    claim: Option<Claim>,
    demotion: Demotion,
    /// When the last advert of another host arrived.
    last_arrival: Option<Time>,
    /// Yields to an equal since a master was last heard in peace.
    ties: u32,
    /// When it last yielded to one, if it has.
    tied: Time,
    /// BACKUP: the masters that need no other.
    followed: Followed,
    /// Until when this host does not preempt.
    hold: Option<Time>,
    /// BACKUP: until when it bears with a worse master, once that is known.
    preempt_at: Option<Time>,
    /// MASTER: whether the VIPs are here, so that there is something to announce.
    vips_here: bool,
    /// MASTER with its VIPs here: adverts until the next announcement; 0 if there will be none.
    announce_in: u8,
    /// How many repetitions follow that one, before announcements are only refreshed.
    repeats_left: u8,
    /// MASTER: before this time it is not announced once more that the VIPs are here and not at another master.
    announced_until: Time,
    /// MASTER: how many adverts of others are answered until the next one is due.
    answers_left: u8,
    /// A release of the VIPs is under way.
    releasing: bool,
    /// The bow-out is due when they are gone.
    bow_out_due: bool,
    /// The first time that it is BACKUP: until when it bears with hosts of which it cannot tell whether they live.
    doubt_until: Option<Time>,
    /// No way back.
    stopping: bool,
    actions: VecDeque<Action>,
}

/// A summary of a virtual host for the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// The demotion counter.
    pub demotion: Demotion,
    /// When another host was last heard.
    pub last_arrival: Option<Time>,
    /// BACKUP: before this time it does not preempt.
    pub preempt_at: Option<Time>,
    /// MASTER: until when the kernel lets it serve the VIPs, if there is a lease.
    pub lease: Option<Time>,
}

impl Engine {
    /// A virtual host in INIT; it starts with [`Input::LinkUp`].
    #[must_use]
    pub fn new(config: Config, now: Time) -> Self {
        Self {
            config,
            state: State::Init,
            since: now,
            listens_since: now,
            timers: Timers::default(),
            lease: LeaseTerms::default(),
            claim: None,
            demotion: Demotion::default(),
            last_arrival: None,
            ties: 0,
            tied: now,
            followed: Followed::default(),
            hold: None,
            preempt_at: None,
            vips_here: false,
            announce_in: 0,
            repeats_left: 0,
            announced_until: now,
            answers_left: MOST_ANSWERS,
            releasing: false,
            bow_out_due: false,
            doubt_until: None,
            stopping: false,
            actions: VecDeque::new(),
        }
    }

    /// Sets the source address, where it was not known at the start or has changed.
    pub fn set_source(&mut self, source: IpAddr) {
        self.config.source = source;
    }

    /// Takes note of what an agent before has heard: of no more interest than how patient that host is.
    pub fn remember(&mut self, advert: &HeardAdvert) {
        if !advert.is_bow_out() {
            self.lease.hear(advert);
        }
    }

    /// What arrived before this time does not count.
    #[must_use]
    pub const fn listens_since(&self) -> Time {
        self.listens_since
    }

    /// Goes on with other settings, in the same state: what runs is shortened or lengthened as they say.
    /// The source address stays.
    pub fn reconfigure(&mut self, config: Config, now: Time) {
        let Config { source, .. } = self.config;
        let dead_time = self.dead_time();
        let before = core::mem::replace(&mut self.config, Config { source, ..config });
        self.move_timers(dead_time, now);
        if self.state == State::Backup && self.timers.nobody.is_none() {
            // Of a new family nothing can have been heard yet.
            self.timers.watch(self.config.families, now.after(self.dead_time()));
        }
        let hold_until = now.after(self.hold_time());
        for until in [&mut self.hold, &mut self.timers.nobody].into_iter().flatten() {
            *until = hold_until.min(*until);
        }
        self.preempt_at = self.preempt_at.map(|until| until.min(now.after(self.config.preempt_delay)));
        if self.vips_here && self.config.announcements != before.announcements {
            self.repeats_left = 0;
            self.announce_in = self.config.announcements.refresh;
        }
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, input: Input, now: Time) {
        // It may have left in time, and only the word of it be late.
        if !matches!(input, Input::AdvertSent(_)) {
            self.check_lease(now);
        }
        match input {
            Input::Advert(advert) => self.handle_advert(&advert, now),
            Input::LinkUp => self.handle_link_up(now),
            Input::LinkDown(fault) => self.set_state(State::Init, Cause::LinkDown(fault), now),
            Input::Doubtful(arrival) => self.handle_doubtful(arrival),
            Input::Deaf => self.handle_deaf(now),
            Input::MacChanged => self.handle_mac_changed(),
            Input::Fence(enforced) => self.handle_fence(enforced),
            Input::Resume { until } => self.handle_resume(until, now),
            Input::AdvertSent(before) => {
                self.advert_has_left(before, now);
                self.handle_send_result(false, now);
            }
            Input::AdvertFailed => {
                self.advert_has_failed();
                self.handle_send_result(true, now);
            }
            Input::VipsTaken => self.handle_vips_taken(now),
            Input::VipsFailed => self.handle_vips_failed(now),
            Input::VipsReleased => self.handle_vips_released(),
            Input::StepDown => self.handle_step_down(now),
            Input::Demote(demotion) => self.step_down_if(demotion > 0, |own| own.set_manual(demotion), now),
            Input::Maintenance(on) => self.step_down_if(on, |own| own.set_maintenance(on), now),
            Input::Tracked { own, group } => self.demote_and_tell(|demotion| demotion.set_tracked(own, group), now),
            Input::Shutdown => self.handle_shutdown(now),
        }
    }

    /// Does what is due. Called only after all inputs that are there have been handled.
    pub fn handle_timeout(&mut self, now: Time) {
        self.check_lease(now);
        if self.timers.is_master_down(now) {
            let silence = now.since(self.last_arrival.unwrap_or(self.since).max(self.since));
            let cause = self.claim.and_then(Claim::heard_cause).unwrap_or(Cause::MasterDown(silence));
            self.take_over(cause, now);
        } else if let Some(due) = self.timers.advert.filter(|due| *due <= now) {
            // From when it was due, so that a late timer does not shift those after it; but no burst.
            let next = due.after(self.interval());
            self.timers.advert = Some(if next > now { next } else { now.after(self.interval()) });
            self.answers_left = MOST_ANSWERS;
            self.send_advert();
            self.announce_when_due();
        }
    }

    /// When to call [`Engine::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next().into_iter().chain(self.lease.until()).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Where things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            since: self.since,
            demotion: self.demotion,
            last_arrival: self.last_arrival,
            preempt_at: self.preempt_at,
            lease: self.lease.until(),
        }
    }

    /// What its adverts say, demotion included.
    #[must_use]
    pub fn fields(&self) -> AdvertFields {
        self.config.fields(self.demotion.get())
    }

    /// How long a silence it takes for a master's death.
    #[must_use]
    pub fn dead_time(&self) -> Duration {
        self.config.dead_time(self.demotion.get())
    }

    /// What it was told to go by.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether [`Input::Shutdown`] has come.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether, after [`Input::Shutdown`], everything that had to be done has been asked for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping && !self.releasing
    }

    fn handle_advert(&mut self, advert: &HeardAdvert, now: Time) {
        if !self.config.families.contains(&advert.family) || advert.arrival < self.listens_since {
            return;
        }
        self.remember(advert);
        if !advert.is_bow_out() {
            // Another master is there before our VIPs are gone: no longer ours to hand over.
            self.bow_out_due = false;
        }
        if self.state != State::Init {
            self.last_arrival = self.last_arrival.max(Some(advert.arrival));
        }
        match self.state {
            State::Init => {}
            State::Backup => self.hear_as_backup(advert, now),
            State::Master => self.hear_as_master(advert, now),
        }
    }

    fn handle_link_up(&mut self, now: Time) {
        if self.state != State::Init || self.stopping {
            return;
        }
        self.demote(now, Demotion::reset_send_errors);
        self.demote(now, |demotion| demotion.set_no_vips(false));
        self.set_state(State::Backup, Cause::LinkUp, now);
    }

    fn handle_resume(&mut self, until: Time, now: Time) {
        if self.state != State::Init || self.stopping || until <= now {
            return;
        }
        self.demote(now, Demotion::reset_send_errors);
        self.resume_lease(until);
        self.become_master(Cause::Resumed(until), now);
        // What came after the last advert of the agent before, that has not heard yet.
        self.listens_since = self.lease().map_or(now, |lease| until.before(lease));
    }

    /// The way to MASTER, but for that in another agent's place.
    fn take_over(&mut self, cause: Cause, now: Time) {
        if !self.claims_first(cause, now) {
            self.become_master(cause, now);
        }
    }

    /// The same then, unless a better master, or an equal, is heard until then.
    fn take_over_at(&mut self, due: Time, cause: Cause) {
        if self.claim.is_none() {
            self.claim = Some(Claim::that_waits(cause));
            self.timers.restart(self.config.families, due);
        }
    }

    fn become_master(&mut self, cause: Cause, now: Time) {
        self.send_advert();
        self.set_state(State::Master, cause, now);
    }

    /// Who has not advertised for too long is master no more, whatever it has to do next.
    fn check_lease(&mut self, now: Time) {
        if self.state == State::Master && self.lease.is_over(now) {
            self.set_state(State::Backup, Cause::LeaseOver, now);
        }
    }

    /// Who has just started takes the master's place neither from one whose clock is apart, nor for long from one whose adverts
    /// somebody only repeats: nobody can tell the two from one another. From the second start of a link on, there is no doubt.
    fn handle_doubtful(&mut self, arrival: Time) {
        if self.state != State::Backup || arrival < self.listens_since || self.timers.nobody.is_some() {
            return;
        }
        if let Some(until) = self.doubt_until.filter(|until| arrival < *until) {
            for family in self.config.families {
                self.timers.start_master_down(*family, until.min(arrival.after(self.dead_time())));
            }
        }
    }

    /// Until when such a host is not taken for silent, if it may be that there is one.
    #[must_use]
    pub const fn doubt_until(&self) -> Option<Time> {
        self.doubt_until
    }

    /// Listens anew for as long as a silence takes.
    fn handle_deaf(&mut self, now: Time) {
        if self.state == State::Backup && self.timers.nobody.is_none() {
            for family in self.config.families {
                self.timers.start_master_down(*family, now.after(self.dead_time()));
            }
        }
    }

    /// The neighbours know the VIPs by the old address.
    fn handle_mac_changed(&mut self) {
        if self.vips_here {
            self.announce();
        }
    }

    fn handle_send_result(&mut self, failed: bool, now: Time) {
        self.demote(now, |demotion| demotion.sent(failed));
    }

    fn handle_vips_taken(&mut self, now: Time) {
        if self.state != State::Master {
            return;
        }
        self.demote(now, |demotion| demotion.set_no_vips(false));
        self.vips_here = true;
        self.announce();
    }

    /// A master without its VIPs is of no use: another one is to take over, if there is one.
    fn handle_vips_failed(&mut self, now: Time) {
        if self.state == State::Master {
            self.demote_and_tell(|demotion| demotion.set_no_vips(true), now);
        }
    }

    /// A demoted master's peers decide: by an advert that is sent at once.
    fn demote_and_tell(&mut self, change: impl FnOnce(&mut Demotion) -> bool, now: Time) {
        let before = self.demotion.get();
        self.demote(now, change);
        if before < self.demotion.get() {
            self.speak_up(now);
        }
    }

    /// The one place where the demotion counter changes.
    fn demote(&mut self, now: Time, change: impl FnOnce(&mut Demotion) -> bool) {
        let dead_time = self.dead_time();
        if change(&mut self.demotion) {
            self.move_timers(dead_time, now);
            self.drop_claim_against_rival();
            self.actions.push_back(Action::Demoted(self.demotion));
        }
    }

    /// The one place where the state changes.
    fn set_state(&mut self, to: State, cause: Cause, now: Time) {
        let from = self.state;
        if from == to {
            return;
        }
        self.state = to;
        self.since = now;
        self.hold = None;
        let waits = from == State::Init && to == State::Backup;
        self.preempt_at = waits.then(|| now.after(self.config.preempt_delay));
        if from == State::Init {
            self.listens_since = now;
            let doubt = if waits { self.dead_time() + self.config.doubt } else { Duration::ZERO };
            self.doubt_until.get_or_insert(now.after(doubt));
        }
        if to == State::Init {
            self.lease.forget_heard();
            self.followed = Followed::default();
        }
        self.bow_out_due = false;
        self.claim = None;
        self.set_timers(cause, now);
        if to == State::Master {
            self.releasing = false;
            self.answers_left = MOST_ANSWERS;
            self.actions.push_back(Action::TakeVips);
        }
        if from == State::Master {
            self.vips_here = false;
            self.end_lease();
            self.release_vips();
        }
        self.actions.push_back(Action::Transition(Transition { from, to, cause, at: now }));
    }

    fn release_vips(&mut self) {
        self.releasing = true;
        self.actions.push_back(Action::ReleaseVips);
    }

    fn send_advert(&mut self) {
        self.actions.push_back(Action::SendAdvert(self.fields()));
    }

    /// How far its adverts are apart.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.config.interval(self.demotion.get())
    }
}
