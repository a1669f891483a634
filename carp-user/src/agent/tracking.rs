//! What demotes virtual hosts beside their own adverts, and what holds them back. Nothing of it is counted up and down:
//! it is looked at anew with every look at the interfaces and every other news, so that nothing outlasts its cause.

use std::collections::BTreeMap;

use super::{Agent, vhost::VirtualHost};
use crate::{
    checks::Healths,
    clock::now,
    config::failover::{Check, Script},
    net::interface::Interfaces,
};

/// What is known of the things that are tracked.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) looks: &'a Interfaces,
    pub(super) healths: &'a Healths,
}

/// How a failover group is: as its worst member.
pub(super) struct Worst {
    /// By how much that is demoted for causes of its own.
    pub(super) by: u8,
    /// Which it is: "eth0 vhid 1".
    pub(super) name: String,
}

impl Agent {
    /// Tells the virtual hosts what demotes them; `true` if that has changed for one.
    pub(super) fn track(&mut self) -> bool {
        let (looks, healths) = (self.looks.borrow(), self.checks.healths());
        let view = View { looks: &looks, healths: &healths };
        // Groups go by causes of their members' own alone: what a group does to them is no cause for it.
        let mut groups: BTreeMap<&str, Worst> = BTreeMap::new();
        for host in self.hosts.values() {
            let Some(group) = host.group() else { continue };
            let own = host.trouble(view);
            if own > groups.get(group).map_or(0, |worst| worst.by) {
                groups.insert(group, Worst { by: own, name: host.name().to_owned() });
            }
        }
        let groups: BTreeMap<String, Worst> =
            groups.into_iter().map(|(group, worst)| (group.to_owned(), worst)).collect();
        let mut has_changed = false;
        // One that leaves is left alone.
        for host in self.hosts.values_mut().filter(|host| host.is_tracked() && !host.engine().is_stopping()) {
            let worst = host.group().and_then(|group| groups.get(group));
            has_changed |= host.track(view, worst);
        }
        has_changed
    }

    /// Lets those begin that have been held back for long enough; `true` if there are any.
    pub(super) fn open_gates(&mut self) -> bool {
        let (now, healths) = (now(), self.checks.healths());
        let opened = self.hosts.values_mut().map(|host| host.open_gate(self.started, now, &healths));
        // Each is to be asked.
        let has_opened = opened.fold(false, |any, opened| any | opened);
        drop(healths);
        if has_opened {
            self.set_checks();
        }
        has_opened
    }

    /// Runs the scripts that count for something.
    pub(super) fn set_checks(&mut self) {
        let scripts = self.hosts.values().flat_map(VirtualHost::scripts);
        let check = |script: &Script| (script.name.clone(), script.check.clone());
        let wanted: BTreeMap<String, Check> = scripts.map(|script| check(script)).collect();
        self.checks.set(wanted);
    }
}
