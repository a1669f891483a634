//! One interface, as its virtual hosts share it: the road of its adverts, and its membership of their groups.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use carp_common::time::Time;
use log::{Level, log, warn};

use super::refusals::Pace;
use crate::{
    config::Choice,
    datapath::{Datapath, DatapathError, Road},
    net::{interface::Interface, membership::Membership},
};

/// Time for the last advert to leave the card: many drivers reset the link, and drop what is queued, when the
/// program is detached.
pub(super) const LAST_ADVERT: Duration = Duration::from_millis(50);

/// What a virtual host needs to know of its interface.
#[derive(Clone, Copy)]
pub(super) enum Presence<'a> {
    /// Adverts come in.
    Attached {
        /// The interface.
        interface: &'a Interface,
        /// Another number each time that the road was taken anew: it knows no virtual host then.
        attachment: u32,
    },
    /// It is not there, or another one of its name is, and it has to be left first.
    Missing,
    /// There is no road for adverts.
    NoRoad,
}

/// An interface by its name.
pub(super) struct Link {
    interface: String,
    /// "eth0 vhid 1" or "eth0, 3 vhids", as log lines begin.
    name: String,
    choice: Choice,
    groups: BTreeSet<IpAddr>,
    attached: Option<Attached>,
    /// When it is to be left, if it has no virtual hosts any more.
    leave_at: Option<Time>,
    attachments: u32,
    memberships: Vec<Membership>,
    /// Why there is no road, so that it is said once.
    trouble: Option<String>,
    lost: u64,
    pace: Pace,
}

/// The interface, while it is there and has a road.
struct Attached {
    index: u32,
    choice: Choice,
    road: Road,
    /// Whether another road was asked for.
    is_outdated: bool,
    /// The interface when the groups were joined, or could not be.
    joined_on: Option<Interface>,
    /// Whether its VLANs' tags were taken off when the road was chosen.
    strips_vlan_tags: bool,
}

impl Link {
    /// The interface of this name.
    pub(super) fn new(interface: String) -> Self {
        Self {
            name: interface.clone(),
            interface,
            choice: Choice::Auto,
            groups: BTreeSet::new(),
            attached: None,
            leave_at: None,
            attachments: 0,
            memberships: vec![],
            trouble: None,
            lost: 0,
            pace: Pace::default(),
        }
    }

    /// For virtual hosts with this choice of a road, and with these groups; `name` is how log lines begin.
    pub(super) fn set(&mut self, name: String, choice: Choice, groups: BTreeSet<IpAddr>) {
        self.name = name;
        self.leave_at = None;
        if let Some(attached) = &mut self.attached {
            attached.is_outdated = attached.choice != choice;
            if self.groups != groups {
                attached.joined_on = None;
            }
        }
        self.choice = choice;
        self.groups = groups;
    }

    /// The road that is to be taken.
    pub(super) const fn choice(&self) -> Choice {
        self.choice
    }

    /// It has no virtual hosts any more, and is to be left, but not before their last adverts have.
    pub(super) fn leave_later(&mut self, now: Time) {
        self.leave_at.get_or_insert(now.after(LAST_ADVERT));
    }

    /// When it is to be left.
    pub(super) const fn leave_at(&self) -> Option<Time> {
        self.leave_at
    }

    /// The road that its adverts take.
    pub(super) fn road(&self) -> Option<&Road> {
        self.attached.as_ref().map(|attached| &attached.road)
    }

    /// Whether something else has detached the program. There is no event for it.
    pub(super) fn is_detached(&self, datapath: &Datapath) -> bool {
        self.attached.as_ref().is_some_and(|attached| !datapath.is_attached(attached.index))
    }

    /// Leaves what is gone, or is another interface now; `true` if there was something to leave.
    pub(super) fn leave_unless(&mut self, datapath: &mut Datapath, interface: Option<&Interface>) -> bool {
        let is_other = |attached: &Attached| interface.is_none_or(|interface| interface.index != attached.index);
        let leaves = self.attached.as_ref().is_some_and(is_other);
        if leaves {
            self.leave(datapath);
        }
        leaves
    }

    /// Takes note of what the interface is like now, if it is to be used. An error is that there is no road for its
    /// adverts, or not the one that has been asked for since; told once.
    pub(super) fn update<'a>(
        &mut self,
        datapath: &mut Datapath,
        interface: Option<&'a Interface>,
    ) -> (Presence<'a>, Result<(), DatapathError>) {
        let Some(interface) = interface else { return (Presence::Missing, Ok(())) };
        let is_detached = self.is_detached(datapath);
        if is_detached && !interface.is_there(&self.interface) {
            return (Presence::Missing, Ok(()));
        }
        if is_detached {
            warn!("{}: something else detached the XDP program from {}", self.name, self.interface);
        }
        let stays =
            |attached: &Attached| attached.strips_vlan_tags == interface.strips_vlan_tags && !attached.is_outdated;
        if is_detached || !self.attached.as_ref().is_some_and(stays) {
            let former = self.attached.as_ref().filter(|attached| attached.index == interface.index);
            let former = former.map(|attached| attached.choice).filter(|former| *former != self.choice);
            self.leave(datapath);
            if let Err(error) = self.enter(datapath, self.choice, interface) {
                if !interface.is_there(&self.interface) {
                    return (Presence::Missing, Ok(()));
                }
                // Worse than the road that was asked for is none.
                if former.is_some_and(|former| self.enter(datapath, former, interface).is_ok()) {
                    self.join(interface);
                    return (Presence::Attached { interface, attachment: self.attachments }, Err(error));
                }
                let text = error.to_string();
                let is_new = self.trouble.as_ref() != Some(&text);
                self.trouble = Some(text);
                return (Presence::NoRoad, if is_new { Err(error) } else { Ok(()) });
            }
        }
        self.trouble = None;
        self.join(interface);
        (Presence::Attached { interface, attachment: self.attachments }, Ok(()))
    }

    /// Lets no more adverts in.
    pub(super) fn leave(&mut self, datapath: &mut Datapath) {
        if let Some(attached) = self.attached.take() {
            datapath.leave(attached.index);
        }
        self.memberships.clear();
    }

    /// Tells the administrator of frames that were lost, now and then.
    pub(super) fn tell_lost(&mut self, datapath: &mut Datapath, now: Time) {
        let Some(attached) = &self.attached else { return };
        if !self.pace.is_due(now) {
            return;
        }
        let lost = datapath.lost(attached.index);
        let newly = lost.saturating_sub(self.lost);
        self.lost = lost;
        if newly > 0 {
            warn!(
                "{}: {newly} frames of protocol 112 were lost: they come faster than a packet socket can be read",
                self.name
            );
        }
        self.pace.looked(newly > 0, now);
    }

    fn enter(&mut self, datapath: &mut Datapath, choice: Choice, interface: &Interface) -> Result<(), DatapathError> {
        let road = datapath.enter(choice, &self.interface, interface)?;
        let level = if matches!(road, Road::Socket(Some(_))) { Level::Warn } else { Level::Info };
        log!(level, "{}: {}", self.name, road.describe(&self.interface));
        self.attachments += 1;
        self.lost = 0;
        self.attached = Some(Attached {
            index: interface.index,
            choice,
            road,
            is_outdated: false,
            joined_on: None,
            strips_vlan_tags: interface.strips_vlan_tags,
        });
        Ok(())
    }

    /// Joins the groups, again after every change of the interface: a switch that snoops has to hear of the
    /// membership on the new link, and the kernel may have dropped it with an address.
    fn join(&mut self, interface: &Interface) {
        let Some(attached) = &mut self.attached else { return };
        if attached.joined_on.as_ref() == Some(interface) {
            return;
        }
        attached.joined_on = Some(interface.clone());
        self.memberships.clear();
        for group in &self.groups {
            match Membership::join(*group, interface.index) {
                Ok(membership) => self.memberships.push(membership),
                // Said at each change: a switch that snoops may keep the adverts away.
                Err(error) => warn!("{}: cannot join {group}: {error}", self.name),
            }
        }
    }
}
