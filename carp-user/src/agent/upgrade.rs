//! Making way for another program in this process.

use std::time::Duration;

use carp_common::{engine::Input, time::Time};
use log::{info, warn};

use super::{Agent, vhost::VirtualHost};
use crate::{
    clock::now,
    control::Answer,
    upgrade::{About, Legacy},
};

/// How long the next program may take until its first advert.
const START: Duration = Duration::from_millis(500);
/// How long scripts and addresses may hold it up.
const PATIENCE: Duration = Duration::from_secs(60);

/// An upgrade that is under way.
pub(super) struct Upgrade {
    give_up: Time,
    /// Told if nothing comes of it.
    failed: Answer<()>,
}

impl VirtualHost {
    /// Whether it is master and can stay so, by its lease, until another program goes on.
    fn outlasts(&self, is_pinned: bool) -> bool {
        let lease = self.engine().lease().filter(|_| is_pinned && self.has_fence());
        lease.is_some_and(|lease| lease >= self.engine().interval() + START)
    }

    /// Whether another program may go on now.
    fn can_make_way(&self, now: Time) -> bool {
        let lasts = |until: Time| until.since(now) >= START;
        self.is_settled() && (!self.is_master() || self.engine().status().lease.is_some_and(lasts))
    }
}

impl Agent {
    /// What an upgrade to that program would do, in words.
    pub(super) fn plan_upgrade(&self, about: &About) -> String {
        let from = env!("CARGO_PKG_VERSION");
        let leaving: Vec<_> = self.masters_to_leave(about).iter().map(|row| self.hosts[row].name()).collect();
        let hand_over = if leaving.is_empty() {
            "no virtual host hands over".to_owned()
        } else if about.has_same_abi() {
            format!("{} hand over first, without a lease that would last until then", leaving.join(", "))
        } else {
            format!("{} hand over first, for it keeps other things in the kernel", leaving.join(", "))
        };
        format!("carpd {from} makes way for {}: {hand_over}", about.version)
    }

    /// The rows of those that cannot go on as masters.
    fn masters_to_leave(&self, about: &About) -> Vec<u32> {
        let stays = |host: &VirtualHost| about.has_same_abi() && host.outlasts(self.datapath.is_pinned());
        let leaving = self.hosts.iter().filter(|(_, host)| host.is_master() && !stays(host));
        leaving.map(|(row, _)| *row).collect()
    }

    /// Does so. `failed` is told if nothing comes of it.
    pub(super) fn begin_upgrade(&mut self, about: &About, failed: Answer<()>) {
        if self.is_stopping || self.upgrade.is_some() {
            failed.send(Err("carpd is stopping, or making way already".to_owned())).ok();
            return;
        }
        info!("{}", self.plan_upgrade(about));
        if about.has_same_abi() {
            for row in self.masters_to_leave(about) {
                if let Some(host) = self.hosts.get_mut(&row) {
                    host.handle(Input::StepDown);
                }
            }
        } else {
            self.stop();
        }
        self.upgrade = Some(Upgrade { give_up: now().after(PATIENCE), failed });
    }

    /// Whether the other program can go on now; not while all are to leave first, which has an end of its own.
    pub(super) fn is_ready_for_upgrade(&mut self, now: Time) -> bool {
        if self.upgrade.is_none() || self.is_stopping {
            return false;
        }
        let is_quiet = self.next.is_none() && self.shared.notifier.is_idle();
        if is_quiet && self.hosts.values().all(|host| host.can_make_way(now)) {
            return true;
        }
        if let Some(Upgrade { failed, .. }) = self.upgrade.take_if(|upgrade| upgrade.give_up <= now) {
            let why = format!("scripts or addresses are still at work after {} s", PATIENCE.as_secs());
            warn!("carpd makes no way for another: {why}");
            failed.send(Err(why)).ok();
        }
        false
    }

    /// What the next program has to be told.
    pub(super) fn legacy(&self) -> Legacy {
        let demoted = self.hosts.values().filter(|host| host.engine().status().demotion.manual() > 0);
        let demotion = |host: &VirtualHost| {
            let (by, vhid) = (host.engine().status().demotion.manual(), host.settings().vhid.get());
            (host.interface().to_owned(), vhid, by)
        };
        Legacy { demotions: demoted.map(demotion).collect() }
    }

    /// Takes note of what a former program has told.
    pub(super) fn inherit(&mut self, legacy: &Legacy) {
        for (interface, vhid, by) in &legacy.demotions {
            let is_it = |host: &&mut VirtualHost| host.interface() == interface && host.settings().vhid.get() == *vhid;
            if let Some(host) = self.hosts.values_mut().find(is_it) {
                host.handle(Input::Demote(*by));
            }
        }
    }
}
