//! The timers of a virtual host: one for its adverts, one for each family's silence.

use core::time::Duration;

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
    pub(super) fn move_master_down(&mut self, before: Duration, now: Duration) {
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
