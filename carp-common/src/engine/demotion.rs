//! The demotion counter: how much this host would rather not be master.
//!
//! It travels in the advert's demote byte and is compared before advbase and advskew, as in OpenBSD
//! (`carp_group_demote_count`); or is added to its advskew, see [`Profile`](super::Profile). It is the sum of its
//! sources, and each is set and cleared by its owner alone:
//!
//! * the administrator, by so much, or as the last resort;
//! * three send errors in a row, undone by as many successes (`CARP_SENDAD_MAX_ERRORS`,
//!   `CARP_SENDAD_MIN_SUCCESS`), or by a minute as BACKUP;
//! * VIPs that cannot be added, until they can, or have not been tried for ten minutes;
//! * what the agent tracks for this virtual host;
//! * what is wrong with others of its failover group: so much more than here as to be demoted as they are.

/// Send errors in a row that demote, and successes in a row that undo it.
const IN_A_ROW: u8 = 3;
/// By how much a host is demoted that cannot be a master: as FreeBSD does.
const CANNOT_BE_MASTER: u8 = 240;
/// By how much the last resort is: more than whatever else can be the matter with another host.
const LAST_RESORT: u8 = 255;

/// The demotion counter and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Demotion {
    /// What the administrator has set.
    manual: u8,
    /// Whether this host is the last resort.
    maintenance: bool,
    /// What is tracked for this virtual host.
    tracked: u8,
    /// What the failover group adds.
    group: u8,
    /// Whether sending counts as broken.
    send_errors: bool,
    /// Results in a row that speak against `send_errors`.
    row: u8,
    /// Whether the VIPs cannot be added.
    no_vips: bool,
}

impl Demotion {
    /// The value of the demote byte.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.manual.saturating_add(self.maintenance()).saturating_add(self.own()).saturating_add(self.group)
    }

    /// What is wrong here, without the administrator's part: what others of the group are demoted by, too.
    #[must_use]
    pub const fn own(self) -> u8 {
        self.failures().saturating_add(self.tracked)
    }

    /// The part of what this host itself could not do.
    #[must_use]
    pub const fn failures(self) -> u8 {
        self.send_errors().saturating_add(self.no_vips())
    }

    /// The administrator's part.
    #[must_use]
    pub const fn manual(self) -> u8 {
        self.manual
    }

    /// The part of being the last resort.
    #[must_use]
    pub const fn maintenance(self) -> u8 {
        if self.maintenance { LAST_RESORT } else { 0 }
    }

    /// The part of send errors.
    #[must_use]
    pub const fn send_errors(self) -> u8 {
        if self.send_errors { CANNOT_BE_MASTER } else { 0 }
    }

    /// The part of VIPs that cannot be added.
    #[must_use]
    pub const fn no_vips(self) -> u8 {
        if self.no_vips { CANNOT_BE_MASTER } else { 0 }
    }

    /// The part of what is tracked.
    #[must_use]
    pub const fn tracked(self) -> u8 {
        self.tracked
    }

    /// The failover group's part.
    #[must_use]
    pub const fn group(self) -> u8 {
        self.group
    }

    /// Sets what is tracked, and the group's part; `true` if one changes.
    pub(super) fn set_tracked(&mut self, tracked: u8, group: u8) -> bool {
        let before = *self;
        (self.tracked, self.group) = (tracked, group);
        *self != before
    }

    /// Sets the administrator's part; `true` if it changes.
    pub(super) const fn set_manual(&mut self, manual: u8) -> bool {
        core::mem::replace(&mut self.manual, manual) != manual
    }

    /// Sets whether this host is the last resort; `true` if that changes.
    pub(super) const fn set_maintenance(&mut self, on: bool) -> bool {
        core::mem::replace(&mut self.maintenance, on) != on
    }

    /// Sets whether the VIPs cannot be added; `true` if that changes.
    pub(super) const fn set_no_vips(&mut self, missing: bool) -> bool {
        core::mem::replace(&mut self.no_vips, missing) != missing
    }

    /// Takes note of the result of sending an advert; `true` if the counter changes.
    pub(super) fn sent(&mut self, failed: bool) -> bool {
        if failed == self.send_errors {
            self.row = 0;
            return false;
        }
        self.row += 1;
        if self.row < IN_A_ROW {
            return false;
        }
        self.send_errors = failed;
        self.row = 0;
        true
    }

    /// Forgets send errors: the link they belonged to is gone, or they are long past. `true` if the counter changes.
    pub(super) const fn reset_send_errors(&mut self) -> bool {
        self.row = 0;
        core::mem::replace(&mut self.send_errors, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_errors_in_a_row_demote_and_three_successes_restore() {
        let mut demotion = Demotion::default();
        let changes = [true, true, false, true, true, true, true, false, false, true, false, false, false]
            .map(|failed| demotion.sent(failed).then(|| demotion.get()));
        assert_eq!(changes[5], Some(240));
        assert_eq!(changes[12], Some(0));
        assert_eq!(changes.iter().flatten().count(), 2);
    }

    #[test]
    fn each_source_is_set_and_cleared_alone() {
        let mut demotion = Demotion::default();
        assert!(demotion.set_manual(20) && !demotion.set_manual(20));
        assert_eq!([true; 3].map(|failed| demotion.sent(failed)), [false, false, true]);
        assert_eq!((demotion.get(), demotion.manual(), demotion.send_errors()), (255, 20, 240));
        assert!(demotion.reset_send_errors());
        assert_eq!(demotion.get(), 20);
        assert!(demotion.set_tracked(30, 40) && !demotion.set_tracked(30, 40));
        assert_eq!((demotion.get(), demotion.own(), demotion.tracked(), demotion.group()), (90, 30, 30, 40));
        assert!(demotion.set_tracked(30, 0) && demotion.set_tracked(0, 0));
        assert_eq!(demotion.get(), 20);
        assert!(demotion.set_manual(0));
        assert!(demotion.set_no_vips(true) && !demotion.set_no_vips(true));
        assert_eq!((demotion.get(), demotion.own(), demotion.no_vips()), (240, 240, 240));
        assert!(demotion.set_maintenance(true) && !demotion.set_maintenance(true));
        assert_eq!((demotion.get(), demotion.own(), demotion.maintenance()), (255, 240, 255));
        assert!(demotion.set_no_vips(false) && demotion.set_maintenance(false));
        assert_eq!(demotion, Demotion::default());
    }
}
