//! Making way for another program in this process.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use carp_common::{engine::Input, time::Time};
use log::{info, warn};

use super::{Agent, vhost::VirtualHost};
use crate::{
    checks::Health,
    clock::now,
    control::Answer,
    datapath::Datapath,
    upgrade::{About, Legacy},
};

/// How long the next program may take until its first advert.
const START: Duration = Duration::from_millis(500);
/// How long scripts and addresses may hold it up.
const PATIENCE: Duration = Duration::from_secs(60);

/// An upgrade that is under way.
pub(super) struct Upgrade {
    about: Arc<About>,
    give_up: Time,
    /// Told if nothing comes of it.
    failed: Answer<()>,
}

/// Why a master cannot go on as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Abi,
    Bpffs,
    NotServed,
    NoXdp,
    Lease,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abi => "for it keeps other things in the kernel",
            Self::Bpffs => "for it pins things elsewhere",
            Self::NotServed => "for it does not serve them",
            Self::NoXdp => "for it serves them on a packet socket",
            Self::Lease => "without a lease that would last until then",
        })
    }
}

impl VirtualHost {
    /// What is in the way of its going on as master in that program, if it is one.
    fn obstacle(&self, about: &About, datapath: &Datapath) -> Option<Obstacle> {
        if !self.is_master() {
            return None;
        }
        if !about.has_same_abi() {
            return Some(Obstacle::Abi);
        }
        if about.bpffs != datapath.bpffs() {
            return Some(Obstacle::Bpffs);
        }
        match about.serves(self.interface(), self.settings().vhid.get()) {
            None => Some(Obstacle::NotServed),
            Some(served) if !served.by_xdp => Some(Obstacle::NoXdp),
            Some(_) => (!self.outlasts(datapath.is_pinned())).then_some(Obstacle::Lease),
        }
    }

    /// Whether it can stay master, by its lease, until another program goes on.
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
        let mut leaving: BTreeMap<Obstacle, Vec<&str>> = BTreeMap::new();
        for (row, obstacle) in self.masters_to_leave(about) {
            leaving.entry(obstacle).or_default().push(self.hosts[&row].name());
        }
        let hand_over: Vec<_> = leaving
            .iter()
            .map(|(obstacle, names)| format!("{} hand over first, {obstacle}", names.join(", ")))
            .collect();
        let hand_over =
            if hand_over.is_empty() { "no virtual host hands over".to_owned() } else { hand_over.join("; ") };
        format!("carpd {from} makes way for {}: {hand_over}", about.version)
    }

    /// The rows of those that cannot go on as masters, and why.
    fn masters_to_leave(&self, about: &About) -> Vec<(u32, Obstacle)> {
        let obstacle = |host: &VirtualHost| host.obstacle(about, &self.datapath);
        self.hosts.iter().filter_map(|(row, host)| Some((*row, obstacle(host)?))).collect()
    }

    /// Does so. `failed` is told if nothing comes of it.
    pub(super) fn begin_upgrade(&mut self, about: Arc<About>, failed: Answer<()>) {
        if self.is_stopping || self.upgrade.is_some() {
            failed.send(Err("carpd is stopping, or making way already".to_owned())).ok();
            return;
        }
        info!("{}", self.plan_upgrade(&about));
        if !about.has_same_abi() {
            self.stop();
        }
        self.upgrade = Some(Upgrade { about, give_up: now().after(PATIENCE), failed });
    }

    /// Has those hand over that cannot go on as masters, also one that has become master since.
    pub(super) fn hand_over_for_upgrade(&mut self) {
        let Some(about) = self.upgrade.as_ref().map(|upgrade| Arc::clone(&upgrade.about)) else { return };
        if self.is_stopping {
            return;
        }
        for (row, _) in self.masters_to_leave(&about) {
            if let Some(host) = self.hosts.get_mut(&row) {
                host.handle(Input::StepDown);
            }
        }
    }

    /// Whether the other program can go on now; not while all are to leave first, which has an end of its own.
    pub(super) fn is_ready_for_upgrade(&mut self, now: Time) -> bool {
        let Some(Upgrade { about, .. }) = self.upgrade.as_ref().filter(|_| !self.is_stopping) else { return false };
        let is_quiet = self.next.is_none() && self.shared.notifier.is_idle();
        let all_can = self.masters_to_leave(about).is_empty() && self.hosts.values().all(|host| host.can_make_way(now));
        if is_quiet && all_can {
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
        let name = |host: &VirtualHost| (host.interface().to_owned(), host.settings().vhid.get());
        let demotion = |host: &VirtualHost| {
            let ((interface, vhid), by) = (name(host), host.engine().status().demotion.manual());
            (by > 0).then_some((interface, vhid, by))
        };
        let key = |host: &VirtualHost| {
            let ((interface, vhid), id) = (name(host), host.chosen_key()?);
            Some((interface, vhid, id, configured(host)))
        };
        let failure = |(script, health): (&String, &Health)| Some((script.clone(), health.failure.clone()?));
        Legacy {
            demotions: self.hosts.values().filter_map(demotion).collect(),
            open: self.hosts.values().filter(|host| !host.is_held_back()).map(name).collect(),
            failed_scripts: self.checks.healths().iter().filter_map(failure).collect(),
            newest: self.newest().max(self.floor),
            keys: self.hosts.values().filter_map(key).collect(),
        }
    }

    /// Takes note of what a former program has told; of its counter, the agent begins with that.
    pub(super) fn inherit(&mut self, legacy: Legacy) {
        let Legacy { demotions, open, failed_scripts, keys, .. } = legacy;
        for host in self.hosts.values_mut() {
            let vhid = host.settings().vhid.get();
            let is_it = |interface: &str, of: u8| interface == host.interface() && of == vhid;
            let demotion = demotions.iter().find(|(interface, of, _)| is_it(interface, *of));
            let key = keys.iter().find(|(interface, of, ..)| is_it(interface, *of));
            if open.iter().any(|(interface, of)| is_it(interface, *of)) {
                host.hold_back_no_longer();
            }
            if let Some((.., id, was)) = key
                && configured(host) == *was
            {
                // It may have been taken out of the file since.
                host.seal_with(*id);
            }
            if let Some((_, _, by)) = demotion {
                host.handle(Input::Demote(*by));
            }
        }
        self.set_checks();
        self.checks.inherit(failed_scripts);
        // The first advert is to say so.
        self.track();
    }
}

/// The key that it seals with by its settings.
fn configured(host: &VirtualHost) -> Option<u8> {
    host.settings().seal.sending().map(|key| key.id)
}
