//! How a master gives up by itself: on request, or demoted by its administrator; and how any host stops.

use core::time::Duration;

use super::{Action, AdvertFields, Cause, Demotion, Engine, State};
use crate::{time::Time, wire::BOW_OUT};

/// After stepping down on request, a host does not preempt for at least this long.
pub(super) const STEP_DOWN_HOLD: Duration = Duration::from_secs(3);

impl Engine {
    pub(super) fn handle_step_down(&mut self, now: Time) {
        if self.state != State::Master {
            return;
        }
        let had_lease = self.lease.until().is_some();
        self.set_state(State::Backup, Cause::StepDown, now);
        self.hand_over(had_lease);
        self.hold = Some(now.after(self.hold_time()));
    }

    /// A master that its administrator demotes hands over at once, also to peers that know nothing of demotion.
    pub(super) fn step_down_if(&mut self, is_demoted: bool, change: impl FnOnce(&mut Demotion) -> bool, now: Time) {
        self.demote(now, change);
        if is_demoted {
            self.handle_step_down(now);
        }
    }

    pub(super) fn handle_shutdown(&mut self, now: Time) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        let (bow_out_due, was_master) = (self.bow_out_due, self.state == State::Master);
        let had_lease = self.lease.until().is_some();
        if !self.releasing && !was_master {
            // Nothing to give up, but a stop always runs the down script.
            self.release_vips();
        }
        self.set_state(State::Init, Cause::Shutdown, now);
        self.bow_out_due = bow_out_due;
        if was_master {
            self.hand_over(had_lease);
        }
    }

    pub(super) fn handle_vips_released(&mut self) {
        self.releasing = false;
        if core::mem::take(&mut self.bow_out_due) {
            self.bow_out();
        }
    }

    /// This host has just given up being master: the next one may come when the VIPs are gone; or at once, if the kernel
    /// no longer serves them.
    fn hand_over(&mut self, had_lease: bool) {
        if had_lease && !self.config.bow_out_last {
            self.bow_out();
        } else {
            self.bow_out_due = true;
        }
    }

    fn bow_out(&mut self) {
        let fields = AdvertFields { advbase: BOW_OUT, advskew: BOW_OUT, ..self.fields() };
        self.actions.push_back(Action::SendAdvert(fields));
    }

    /// How long a host that has stepped down stays so, unless it is needed.
    pub(super) fn hold_time(&self) -> Duration {
        self.dead_time().max(STEP_DOWN_HOLD)
    }
}
