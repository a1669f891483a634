//! The mastership lease: until when the kernel lets this host answer for the VIPs, whatever becomes of the agent.
//!
//! No other implementation has one, and peers need not know of it. A peer takes over when it has heard nothing for its dead
//! time; so this host stops answering just before that, if it has stopped advertising:
//!
//! * Each advert that has left renews the lease, counted from the time **read before** it was sent: a peer's dead time
//!   begins later, when the advert arrives.
//! * It lasts for the shortest dead time that a peer can have, less 1 % for clocks that differ: `peer_dead_ratio` times the
//!   smallest advbase of its own and of those heard, for a peer with advskew 0; at advbase 0, of the smallest advskew that
//!   is configured for a peer or was heard. (`carp_setrun` in `ip_carp.c`.) What a peer advertised last counts, until this host
//!   has been in INIT: one advert that is wrong, or was edited, must not end the lease for good.
//! * A carpd that has just yielded to an equal waits for two intervals only, which is less: if this host hangs in exactly these,
//!   both may answer for the rest of the lease. So they may if it hangs just when another takes over by what it has heard of it:
//!   it does not hear that any more.
//! * Nobody is MASTER before an advert has left: others might never hear of that one. A BACKUP whose turn has come has a
//!   claim; it sends an advert, which the kernel lets out while the VIPs stay fenced, and is MASTER if that has left. If not,
//!   it tries again and again, and no transition tells of it.
//! * A master whose lease is over is BACKUP at once, and hears before it decides anything.
//!
//! Where it would not outlast the own interval and its jitter, there is none.

use alloc::collections::VecDeque;
use core::{net::IpAddr, time::Duration};

use super::{Action, Cause, Config, Engine, HeardAdvert, State, config::interval_of};
use crate::{time::Time, wire::BOW_OUT};

/// How much later than planned an advert may leave while all is well: at least this, and on a busy machine by a part of the
/// interval.
const JITTER: Duration = Duration::from_millis(20);
const JITTER_PART: u32 = 3;
/// A claim whose advert could not be sent is made again after this part of the interval, or [`JITTER`] if that is longer.
const CLAIM_AGAIN_PART: u32 = 10;
/// Of so many peers it is remembered what they last advertised.
const MOST_HEARD: usize = 8;

/// What the kernel is to do with the VIPs that are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lease {
    /// Nothing: there is no lease.
    None,
    /// Serve them until then.
    Until(Time),
    /// Not serve them, but let adverts leave until then.
    Claim(Time),
    /// Not serve them.
    Over,
}

/// Whether this is an advert that says more than that this host leaves.
fn is_retractable(action: &Action) -> bool {
    matches!(action, Action::SendAdvert(fields) if fields.advbase != BOW_OUT)
}

/// A host wants to be MASTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    cause: Cause,
    /// Whether it is about to be known if the advert has left, and not that it has to be sent again.
    is_under_way: bool,
}

impl Claim {
    /// One whose advert is sent later.
    pub(super) const fn that_waits(cause: Cause) -> Self {
        Self { cause, is_under_way: false }
    }

    /// Whether it is against a master that was heard, and whose next advert may be another.
    const fn is_against_rival(self) -> bool {
        matches!(self.cause, Cause::Preempt(_) | Cause::DemotedMaster(_) | Cause::SlowMaster(_))
    }

    /// The cause, unless it is silence, which has lasted longer by now.
    pub(super) const fn heard_cause(self) -> Option<Cause> {
        if let Cause::MasterDown(_) = self.cause { None } else { Some(self.cause) }
    }
}

/// What is known of the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct LeaseTerms {
    /// Whether the kernel can enforce one.
    enforced: bool,
    /// MASTER: when the one that runs ends.
    until: Option<Time>,
    /// Before which time the last advert that has left was not sent.
    last_left: Option<Time>,
    /// The hosts that were heard last, and what their dead times are a multiple of.
    heard: VecDeque<(IpAddr, Duration)>,
}

impl LeaseTerms {
    pub(super) fn hear(&mut self, advert: &HeardAdvert) {
        self.heard.retain(|(source, _)| *source != advert.source);
        if self.heard.len() == MOST_HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back((advert.source, unit(advert.advbase, advert.advskew)));
    }

    /// What they are set to may have been changed since.
    pub(super) fn forget_heard(&mut self) {
        self.heard.clear();
    }

    /// When the lease of a master ends.
    pub(super) const fn until(&self) -> Option<Time> {
        self.until
    }

    pub(super) fn is_over(&self, now: Time) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl Engine {
    /// How long an advert lets this host be master; `None` if that is too short to live with.
    #[must_use]
    pub fn lease(&self) -> Option<Duration> {
        let Config { advbase, peer_advskew, peer_dead_ratio, .. } = &self.config;
        // At advbase 0 nobody knows how patient a peer is that was never heard.
        let own = (advbase.get() != 0).then(|| unit(advbase.get(), 0));
        let told = peer_advskew.map(|advskew| unit(advbase.get(), advskew.get()));
        let heard = self.lease.heard.iter().map(|(_, unit)| *unit);
        let shortest = heard.chain(own).chain(told).min()?;
        let lease = shortest * u32::from(peer_dead_ratio.get()) * 99 / 100;
        (lease > self.late_interval()).then_some(lease)
    }

    /// How long after an advert the next one may leave while all is well.
    fn late_interval(&self) -> Duration {
        let interval = self.interval();
        interval + JITTER.max(interval / JITTER_PART)
    }

    /// The kernel can enforce a lease from now on, or no longer.
    pub(super) fn handle_fence(&mut self, enforced: bool) {
        if core::mem::replace(&mut self.lease.enforced, enforced) == enforced {
            return;
        }
        match (enforced, self.state) {
            (false, _) => self.set_lease(Lease::None),
            (true, State::Master) => self.renew_lease(self.lease.last_left.unwrap_or(self.since)),
            (true, State::Backup) => self.set_lease(Lease::Over),
            // It may be about to go on with one.
            (true, State::Init) => {}
        }
    }

    /// This host is about to be master: `true` if an advert has to leave first, and is on its way.
    pub(super) fn claims_first(&mut self, cause: Cause, now: Time) -> bool {
        if !self.lease.enforced {
            return false;
        }
        if self.lease().is_none() {
            self.set_lease(Lease::None);
            return false;
        }
        if self.claim.is_some_and(|claim| claim.is_under_way) && self.actions.iter().any(is_retractable) {
            // By what was heard of the other family, or of another master that leaves.
            return true;
        }
        self.claim = Some(Claim { cause, is_under_way: true });
        self.timers.restart(self.config.families, now.after(JITTER.max(self.interval() / CLAIM_AGAIN_PART)));
        self.set_lease(Lease::Claim(now.after(self.late_interval())));
        self.send_advert();
        true
    }

    /// An advert has not left: if it was that of a claim, the next follows.
    pub(super) fn advert_has_failed(&mut self) {
        if let Some(claim) = self.claim.as_mut().filter(|claim| claim.is_under_way) {
            claim.is_under_way = false;
            self.end_lease();
            self.drop_claim_against_rival();
        }
    }

    /// There is a master after all: `true` if there was a claim. Its advert must not leave then, or that one yields to it, and nobody
    /// is master. (It has not: what becomes of an advert that was taken is told before anything else.)
    pub(super) fn drop_claim(&mut self) -> bool {
        let Some(claim) = self.claim.take() else { return false };
        if claim.is_under_way {
            self.retract_adverts();
            self.end_lease();
        }
        true
    }

    /// What was about to be said is not so any more, but that this host leaves.
    pub(super) fn retract_adverts(&mut self) {
        self.actions.retain(|action| !is_retractable(action));
    }

    /// Who of the two is the better is asked anew, with the other's next advert.
    pub(super) fn drop_claim_against_rival(&mut self) {
        if self.claim.take_if(|claim| !claim.is_under_way && claim.is_against_rival()).is_some() {
            let heard = self.last_arrival.unwrap_or(self.since);
            self.timers.restart(self.config.families, heard.after(self.dead_time()));
        }
    }

    /// An advert has left that was not sent before this time.
    pub(super) fn advert_has_left(&mut self, sent: Time, now: Time) {
        self.lease.last_left = Some(sent);
        let claim = self.claim.take_if(|claim| claim.is_under_way);
        if claim.is_some() || self.state == State::Master {
            self.renew_lease(sent);
        }
        if let Some(Claim { cause, .. }) = claim {
            self.set_state(State::Master, cause, now);
        }
    }

    /// Goes on with the lease that another agent has left.
    pub(super) fn resume_lease(&mut self, until: Time) {
        if self.lease.enforced {
            self.set_lease(if self.lease().is_some() { Lease::Until(until) } else { Lease::None });
        }
    }

    fn renew_lease(&mut self, sent: Time) {
        if self.lease.enforced {
            let lease = self.lease();
            self.set_lease(lease.map_or(Lease::None, |lease| Lease::Until(sent.after(lease))));
        }
    }

    /// This host is no master any more.
    pub(super) fn end_lease(&mut self) {
        if self.lease.enforced {
            self.set_lease(Lease::Over);
        }
    }

    fn set_lease(&mut self, lease: Lease) {
        self.lease.until = match lease {
            Lease::Until(until) => Some(until),
            Lease::None | Lease::Claim(_) | Lease::Over => None,
        };
        self.actions.push_back(Action::SetLease(lease));
    }
}

/// What a dead time is a multiple of, at least: advbase, or at advbase 0 the interval.
fn unit(advbase: u8, advskew: u8) -> Duration {
    interval_of(advbase, if advbase == 0 { advskew } else { 0 })
}
