//! Word of refused adverts: the kernel counts them, and now and then the agent looks.

use std::{fmt::Write, mem, time::Duration};

use carp_common::{reason::Reason, time::Time};
use log::warn;

use crate::datapath::Datapath;

/// Shortest time between two lines; while there is something to tell it doubles, up to [`SLOWEST`].
const FASTEST: Duration = Duration::from_secs(1);
/// Longest time between two lines while there is something to tell.
const SLOWEST: Duration = Duration::from_secs(64);

/// When to look at counters, so that an attack tells the administrator at once, and never fills the log.
pub(super) struct Pace {
    next_look: Time,
    period: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next_look: Time::default(), period: FASTEST }
    }
}

impl Pace {
    /// Whether it is time.
    pub(super) fn is_due(&self, now: Time) -> bool {
        now >= self.next_look
    }

    /// Takes note of a look, and whether there was something to tell.
    pub(super) fn looked(&mut self, has_told: bool, now: Time) {
        if !has_told {
            // The next one is told at once.
            self.period = FASTEST;
        }
        self.next_look = now.after(self.period);
        if has_told {
            self.period = (self.period * 2).min(SLOWEST);
        }
    }
}

/// Tells the administrator of the refused adverts of a virtual host, a line a second at most.
pub(super) struct Refusals {
    row: u32,
    told: [u64; Reason::COUNT],
    /// Why and when adverts were refused first and last that may be a server's which is set up in another way, since there was
    /// a valid one.
    wrong: Option<(Reason, [Time; 2])>,
    /// Whether a valid one came since the last look.
    hears: bool,
    pace: Pace,
}

impl Refusals {
    /// Watches the counters of a row.
    pub(super) fn new(row: u32) -> Self {
        Self { row, told: [0; Reason::COUNT], wrong: None, hears: false, pace: Pace::default() }
    }

    /// What was counted until now has been told, by another agent.
    pub(super) fn skip(&mut self, datapath: &Datapath) {
        self.told = Reason::ALL.map(|reason| datapath.counter(self.row, reason));
    }

    /// A valid advert was heard.
    pub(super) const fn heard(&mut self) {
        self.wrong = None;
        self.hears = true;
    }

    /// Since when there are such, and none that is valid; and why the last were refused.
    pub(super) fn deaf_since(&self) -> Option<(Reason, Time)> {
        self.wrong.map(|(reason, [first, _])| (reason, first))
    }

    /// Looks at the counters, if it is time, and logs what was refused since the last look. None of these for `silence` ends
    /// the deafness, too: a backup that has been put right is silent.
    pub(super) fn look(&mut self, datapath: &Datapath, ifindex: u32, name: &str, silence: Duration, now: Time) {
        if !self.pace.is_due(now) {
            return;
        }
        let mut line = String::new();
        for reason in Reason::ALL.into_iter().filter(|reason| reason.is_refusal()) {
            let count = datapath.counter(self.row, reason);
            let told = mem::replace(&mut self.told[reason.index()], count);
            if count > told {
                if is_misunderstood(reason) && !self.hears {
                    self.wrong = Some((reason, [self.deaf_since().map_or(now, |(_, first)| first), now]));
                }
                let separator = if line.is_empty() { "" } else { "; " };
                write!(line, "{separator}{} {}", count - told, describe(reason)).ok();
                if let Some(last) = datapath.last_refused(ifindex, self.row, reason) {
                    write!(line, ", last from {} ({})", last.source(), mac(last.mac())).ok();
                }
            }
        }
        self.hears = false;
        self.wrong = self.wrong.filter(|(_, [_, last])| now.since(*last) <= silence);
        if !line.is_empty() {
            warn!("{name}: refused adverts: {line}");
        }
        self.pace.looked(!line.is_empty(), now);
    }
}

/// Whether adverts may be refused for this because a server is set up in another way than this one. (That a clock is, is told
/// by itself.)
const fn is_misunderstood(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadAuth | Reason::Unsealed | Reason::UnknownKey | Reason::BadSeal | Reason::Replayed | Reason::Policy
    )
}

/// A MAC address as people write it.
pub(super) fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn describe(reason: Reason) -> &'static str {
    match reason {
        Reason::BadAuth => "badauth (the passphrase or the VIPs differ, or a forgery)",
        Reason::BadTtl => "badttl (came through a router)",
        Reason::BadSum => "badsum (damaged)",
        Reason::BadAddrs => "badaddrs (impossible source, or no peer)",
        Reason::Echo => "echo (our own, reflected by a switch)",
        Reason::Unsealed => "unsealed (a server without `seal`, or somebody without the key)",
        Reason::UnknownKey => "unknownkey (sealed with a key that is not among `seal_keys`)",
        Reason::BadSeal => "badseal (another key with the same id, or altered on the way)",
        Reason::Replayed => "replayed (heard before, or its server's clock was set back)",
        Reason::Stale => "stale (kept back, or its server's clock is another one)",
        Reason::Tampered => "tampered (somebody has changed one of our own adverts)",
        Reason::Flood => "flood (made of adverts that were heard: too many to look at their seals)",
        Reason::Policy => "policy (no peer says this, see `peer_policy`: misconfigured, or somebody has changed it)",
        Reason::Ipackets
        | Reason::Ipackets6
        | Reason::Other
        | Reason::Repeat
        | Reason::RingFull
        | Reason::FencedIn
        | Reason::FencedOut => reason.name(),
    }
}
