//! When a master says where its VIPs are.

use super::{Action, Engine};

/// Each repetition of the announcement goes with the second next advert.
const ANNOUNCE_AGAIN_AFTER: u8 = 2;

impl Engine {
    /// Says where the VIPs are, and begins with the repetitions.
    pub(super) fn announce(&mut self) {
        self.actions.push_back(Action::Announce);
        self.repeats_left = self.config.announcements.repeat;
        self.plan_announcement();
    }

    /// An advert has been sent: says where the VIPs are if it is time.
    pub(super) fn announce_when_due(&mut self) {
        if !self.vips_here || self.announce_in == 0 {
            return;
        }
        self.announce_in -= 1;
        if self.announce_in == 0 {
            self.actions.push_back(Action::Announce);
            self.plan_announcement();
        }
    }

    /// Decides with which advert the next announcement goes.
    fn plan_announcement(&mut self) {
        self.announce_in = match self.repeats_left.checked_sub(1) {
            Some(left) => {
                self.repeats_left = left;
                ANNOUNCE_AGAIN_AFTER
            }
            None => self.config.announcements.refresh,
        };
    }
}
