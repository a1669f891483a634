//! Word of refused adverts: the kernel counts them, and now and then the agent looks.

use std::{fmt::Write, mem, time::Duration};

use carp_common::{reason::Reason, time::Time};
use log::warn;

use crate::datapath::Datapath;

/// Shortest time between two lines; while refusals go on it doubles, up to [`SLOWEST`].
const FASTEST: Duration = Duration::from_secs(1);
/// Longest time between two lines while refusals go on.
const SLOWEST: Duration = Duration::from_secs(64);

/// Tells the administrator of refused adverts, a line a second at most.
pub(crate) struct Refusals {
    row: u32,
    told: [u64; Reason::COUNT],
    lost: u64,
    next_look: Time,
    period: Duration,
}

impl Refusals {
    /// Watches the counters of a row.
    pub(crate) fn new(row: u32) -> Self {
        Self { row, told: [0; Reason::COUNT], lost: 0, next_look: Time::default(), period: FASTEST }
    }

    /// Looks at the counters, if it is time, and logs what was refused since the last look.
    pub(crate) fn look(&mut self, datapath: &mut Datapath, name: &str, now: Time) {
        if now < self.next_look {
            return;
        }
        let mut line = String::new();
        for reason in Reason::ALL.into_iter().filter(|reason| reason.is_refusal()) {
            let count = datapath.counter(self.row, reason);
            let told = mem::replace(&mut self.told[reason.index()], count);
            if count > told {
                let separator = if line.is_empty() { "" } else { "; " };
                write!(line, "{separator}{} {}", count - told, describe(reason)).ok();
                if let Some(last) = datapath.last_refused(self.row, reason) {
                    let [a, b, c, d, e, f] = last.mac();
                    write!(line, ", last from {} ({a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x})", last.source())
                        .ok();
                }
            }
        }
        let lost = datapath.lost();
        let newly_lost = lost.saturating_sub(mem::replace(&mut self.lost, lost));
        if !line.is_empty() {
            warn!("{name}: refused adverts: {line}");
        }
        if newly_lost > 0 {
            warn!(
                "{name}: {newly_lost} frames of protocol 112 were lost: they come faster than a packet socket can be read"
            );
        }
        let is_quiet = line.is_empty() && newly_lost == 0;
        if is_quiet {
            // The next one is told at once.
            self.period = FASTEST;
        }
        self.next_look = now.after(self.period);
        if !is_quiet {
            self.period = (self.period * 2).min(SLOWEST);
        }
    }
}

fn describe(reason: Reason) -> &'static str {
    match reason {
        Reason::BadAuth => "badauth (the passphrase or the VIPs differ, or a forgery)",
        Reason::BadTtl => "badttl (came through a router)",
        Reason::BadSum => "badsum (damaged)",
        Reason::BadAddrs => "badaddrs (impossible source)",
        Reason::Echo => "echo (our own, reflected by a switch)",
        Reason::Ipackets | Reason::Ipackets6 | Reason::Other | Reason::Repeat | Reason::RingFull => reason.name(),
    }
}
