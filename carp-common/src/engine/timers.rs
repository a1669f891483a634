//! The timers of a virtual host, one for its adverts and one for each family's silence, and which of them run in which state.

use core::time::Duration;

use super::{Cause, Engine, State};
use crate::{abi::Family, time::Time};

/// The timers that run. `None` is one that does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Timers {
    /// MASTER: when the next advert is due.
    pub(super) advert: Option<Time>,
    /// BACKUP: when the master counts as dead, by family.
    master_down: [Option<Time>; 2],
    /// BACKUP that has stepped down, until it hears its successor: when it takes it that there is none.
    pub(super) nobody: Option<Time>,
}

impl Timers {
    /// The earliest of all.
    pub(super) fn next(&self) -> Option<Time> {
        [self.advert, self.nobody].into_iter().chain(self.master_down).flatten().min()
    }

    /// Whether some family's master-down timer has run out, or nobody has followed.
    pub(super) fn is_master_down(&self, now: Time) -> bool {
        self.master_down.iter().chain([&self.nobody]).flatten().any(|due| *due <= now)
    }

    /// The dead time was `before` and is `now`: what runs ends so much sooner or later.
    fn move_master_down(&mut self, before: Duration, now: Duration) {
        for due in self.master_down.iter_mut().flatten() {
            *due = due.after(now).before(before);
        }
    }

    /// The silence of these families counts, and of no other: from `due` on, where it has not so far.
    pub(super) fn watch(&mut self, families: &[Family], due: Time) {
        for (family, timer) in [Family::V4, Family::V6].into_iter().zip(&mut self.master_down) {
            *timer = if families.contains(&family) { timer.or(Some(due)) } else { None };
        }
    }

    /// BACKUP: only these run, until then.
    pub(super) fn restart(&mut self, families: &[Family], due: Time) {
        *self = Self::default();
        self.watch(families, due);
    }

    /// Starts a family's master-down timer; never brings it forward, so an advert that is told late does
    /// no harm.
    pub(super) fn start_master_down(&mut self, family: Family, due: Time) {
        let timer = &mut self.master_down[match family {
            Family::V4 => 0,
            Family::V6 => 1,
        }];
        *timer = Some(timer.map_or(due, |running| running.max(due)));
    }
}

impl Engine {
    /// The one place that decides which timers run in a state that has just been entered (`carp_setrun`).
    pub(super) fn set_timers(&mut self, cause: Cause, now: Time) {
        self.timers = Timers::default();
        match self.state {
            State::Init => {}
            State::Backup => {
                let dead_time = self.dead_time();
                let due = match cause {
                    Cause::StepDown => {
                        self.timers.nobody = Some(now.after(self.hold_time()));
                        return;
                    }
                    // From when the advert arrived in the kernel, not from when we got round to it.
                    Cause::BetterMaster(advert) => advert.arrival.after(dead_time),
                    Cause::EqualMaster(advert) => advert.arrival.after(self.tie_patience()),
                    Cause::LinkUp
                    | Cause::LinkDown(_)
                    | Cause::MasterDown(_)
                    | Cause::BowOut(_)
                    | Cause::Preempt(_)
                    | Cause::DemotedMaster(_)
                    | Cause::SlowMaster(_)
                    | Cause::LeaseOver
                    | Cause::Resumed(_)
                    | Cause::Shutdown => now.after(dead_time),
                };
                for family in self.config.families {
                    self.timers.start_master_down(*family, due);
                }
            }
            State::Master => {
                let wait = match cause {
                    Cause::MasterDown(_) => self.out_of_step(now),
                    Cause::LinkUp
                    | Cause::LinkDown(_)
                    | Cause::BowOut(_)
                    | Cause::Preempt(_)
                    | Cause::DemotedMaster(_)
                    | Cause::SlowMaster(_)
                    | Cause::BetterMaster(_)
                    | Cause::EqualMaster(_)
                    | Cause::LeaseOver
                    | Cause::Resumed(_)
                    | Cause::StepDown
                    | Cause::Shutdown => self.interval(),
                };
                self.timers.advert = Some(now.after(wait));
            }
        }
    }

    /// How long after taking over from a silent master the second advert is sent: so that the own adverts fall
    /// between those which the other goes on sending if it is only cut off. In step with them, as three whole
    /// intervals of silence would make it, the adverts of two equals would cross when the cut heals.
    fn out_of_step(&self, now: Time) -> Duration {
        let interval = self.interval();
        let Some(last) = self.last_arrival else { return interval };
        // How far into an interval of the other's, which is as long as ours.
        let phase = Duration::from_nanos((now.since(last).as_nanos() % interval.as_nanos()) as u64);
        let half = interval / 2;
        if phase < half { half - phase } else { half + interval - phase }
    }

    /// The dead time was this, and it and the interval may be others now: what runs ends so much sooner or later.
    pub(super) fn move_timers(&mut self, dead_time: Duration, now: Time) {
        self.timers.move_master_down(dead_time, self.dead_time());
        let interval = self.interval();
        if let Some(due) = &mut self.timers.advert {
            *due = (*due).min(now.after(interval));
        }
    }
}
