//! What carpctl and a changed configuration ask of the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process,
};

use anyhow::Result;
use carp_common::{
    abi::{Deadline, Family, MAX_VHOSTS, VhostKey},
    engine::{Input, Vhid},
    time::Time,
};

use log::warn;
use tokio::sync::watch;

use super::{Agent, Named, link::Link, tracking::View, vhost::VirtualHost};
use crate::{
    clock::now,
    config::{Settings, VipMac},
    control::{
        Answer, Applied, Command,
        protocol::{Status, Target, VERSION},
    },
    counter_floor,
    datapath::{Datapath, Inherited},
    lock::Lock,
};

/// A virtual host that is to be served, and the lock of a new one.
pub(super) struct Wanted {
    interface: String,
    settings: Settings,
    lock: Option<Lock>,
}

/// What follows when those that leave have left.
pub(super) struct Next {
    wanted: Vec<Wanted>,
    /// How many leave.
    left: usize,
    reply: Answer<Applied>,
}

impl Wanted {
    fn name(&self) -> (&str, Vhid) {
        (&self.interface, self.settings.vhid)
    }
}

fn name(host: &VirtualHost) -> (&str, Vhid) {
    (host.interface(), host.settings().vhid)
}

impl Agent {
    /// Does what is asked, or tells what is asked for.
    pub(super) fn handle_command(&mut self, command: Command) {
        // A client that has gone need not be told.
        match command {
            Command::Status(reply) => drop(reply.send(Box::new(self.status()))),
            Command::Demote { target, demotion, reply } => drop(reply.send(self.demote(&target, demotion))),
            Command::Maintenance { on, reply } => drop(reply.send(Ok(self.set_maintenance(on)))),
            Command::SealWith { target, id, reply } => drop(reply.send(self.seal_with(&target, id))),
            Command::Apply { hosts, reply } => self.replace(hosts, reply),
            Command::PlanUpgrade { about, reply } => drop(reply.send(self.plan_upgrade(&about))),
            Command::Upgrade { about, failed } => self.begin_upgrade(about, failed),
        }
    }

    fn status(&mut self) -> Status {
        let now = now();
        let (looks, healths) = (self.looks.borrow(), self.checks.healths());
        let view = View { looks: &looks, healths: &healths };
        let mut hosts: Vec<_> = self.hosts.values().collect();
        hosts.sort_by_key(|host| (host.interface(), host.settings().vhid));
        let virtual_hosts = hosts.into_iter().map(|host| {
            let road = self.links.get(host.interface()).and_then(Link::road);
            host.status(&mut self.datapath, road, view, now)
        });
        Status {
            version: VERSION,
            carpd: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            configuration: self.desk.reload.file().cloned(),
            maintenance: self.in_maintenance,
            counter_floor: counter_floor::is_kept(),
            virtual_hosts: virtual_hosts.collect(),
            received_for_none: self.received_for_none(),
        }
    }

    fn demote(&mut self, target: &Target, demotion: u8) -> Result<String, String> {
        let meant = |host: &&mut VirtualHost| target.is(host.interface(), host.settings().vhid);
        let mut names = vec![];
        for host in self.hosts.values_mut().filter(meant) {
            host.handle(Input::Demote(demotion));
            names.push(host.name());
        }
        if names.is_empty() {
            return Err("there is no such virtual host: `carpctl status` lists them".to_owned());
        }
        let names = names.join(", ");
        Ok(if demotion == 0 {
            format!("{names}: demoted no longer")
        } else {
            format!("{names}: demoted by {demotion}")
        })
    }

    fn seal_with(&mut self, target: &Target, id: u8) -> Result<String, String> {
        let meant = |host: &&mut VirtualHost| target.is(host.interface(), host.settings().vhid);
        let (mut done, mut others) = (vec![], vec![]);
        for host in self.hosts.values_mut().filter(meant) {
            let list = if host.seal_with(id) { &mut done } else { &mut others };
            list.push(host.name());
        }
        if done.is_empty() {
            return Err(format!("no virtual host that is meant seals, and has a key {id}: `carpctl key list`"));
        }
        let others = if others.is_empty() { String::new() } else { format!("; not {}", others.join(", ")) };
        let lasting = format!("until a reload changes it, or a restart: seal_with = {id} makes it last");
        Ok(format!("{}: adverts are sealed with key {id}{others}; {lasting}", done.join(", ")))
    }

    fn set_maintenance(&mut self, on: bool) -> String {
        self.in_maintenance = on;
        self.hosts.values_mut().for_each(|host| host.set_maintenance(on));
        format!("maintenance {}", if on { "on: this server is the last resort" } else { "off" })
    }

    /// Takes out what is not to be served any more; the rest follows when that has left.
    fn replace(&mut self, hosts: Vec<Settings>, reply: Answer<Applied>) {
        if self.is_stopping {
            reply.send(Err("carpd is stopping".to_owned())).ok();
            return;
        }
        // In a file every virtual host has an interface.
        let named = hosts.into_iter().filter_map(|settings| Some((settings.interface.clone()?, settings)));
        let wanted = match self.lock(named.collect()) {
            Ok(wanted) => wanted,
            Err(error) => {
                reply.send(Err(format!("{error:#}"))).ok();
                return;
            }
        };
        let names: BTreeSet<_> = wanted.iter().map(Wanted::name).collect();
        let left = self.hosts.values_mut().filter(|host| !names.contains(&name(host)));
        let count = left.map(|host| host.handle(Input::Shutdown)).count();
        self.next = Some(Next { wanted, left: count, reply });
    }

    /// Makes sure of those that are new.
    ///
    /// # Errors
    /// Another carpd serves one of them.
    pub(super) fn lock(&self, hosts: Named) -> Result<Vec<Wanted>> {
        let known: BTreeSet<_> = self.hosts.values().map(name).collect();
        let lock = |(interface, settings): (String, Settings)| {
            let is_known = known.contains(&(interface.as_str(), settings.vhid));
            let mut lock = if is_known { None } else { Some(Lock::take(&interface, settings.vhid.get())?) };
            if let Some(lock) = &mut lock {
                lock.note(settings.vips.iter().map(|vip| vip.address));
            }
            Ok(Wanted { interface, settings, lock })
        };
        hosts.into_iter().map(lock).collect()
    }

    /// Forgets virtual hosts that have left, if others are to follow; not at the end of carpd.
    pub(super) async fn forget_stopped(&mut self) {
        if self.next.is_none() {
            return;
        }
        for (_, host) in self.hosts.extract_if(.., |_, host| host.is_over()) {
            host.forget(&mut self.datapath);
        }
        if self.hosts.values().any(|host| host.engine().is_stopping()) {
            return;
        }
        if let Some(Next { wanted, left, reply }) = self.next.take() {
            let changes = format!("{left} taken out, {}", self.apply(wanted).await);
            let mut troubles: Vec<_> = self.handle_links().iter().map(ToString::to_string).collect();
            troubles.extend(self.hosts.values().filter_map(VirtualHost::missing_fence));
            reply.send(Ok(Applied { changes, troubles })).ok();
        }
    }

    /// Serves these virtual hosts; those that are there go on with the settings that they have now. What has changed.
    pub(super) async fn apply(&mut self, wanted: Vec<Wanted>) -> String {
        let choices = wanted.iter().map(|wanted| wanted.settings.datapath);
        let own = wanted.iter().map(|wanted| (wanted.interface.clone(), wanted.settings.vhid.get())).collect();
        self.datapath.prepare(choices, &self.shared.netlink, &own).await;
        let (mut added, mut changed, mut same) = (0, 0, 0);
        let mut vips: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        let on_interface = wanted.iter().filter(|wanted| wanted.settings.mac == VipMac::Interface);
        for Wanted { interface, settings, .. } in on_interface {
            vips.entry(interface.clone()).or_default().extend(settings.vips.iter().map(|vip| vip.address));
        }
        for Wanted { interface, settings, lock } in wanted {
            let Some(lock) = lock else {
                let is_it = |host: &&mut VirtualHost| name(host) == (interface.as_str(), settings.vhid);
                match self.hosts.values_mut().find(is_it) {
                    Some(host) if *host.settings() != settings => {
                        host.set(&mut self.datapath, settings, vips.get(&interface).unwrap_or(&BTreeSet::new()));
                        changed += 1;
                    }
                    _ => same += 1,
                }
                continue;
            };
            let inherited = self.inherited(&interface, settings.vhid.get());
            let row = inherited.map(|inherited| inherited.row).unwrap_or_else(|| {
                let row = self.free_row();
                // Its VIPs may be here already.
                let cut = |datapath: &mut Datapath| datapath.set_lease(row, Deadline::CUT);
                let cleared = self.datapath.clear_counters(row).and_then(|()| cut(&mut self.datapath));
                cleared.unwrap_or_else(|error| warn!("{interface}: {error}"));
                row
            });
            let shared = self.shared.clone();
            let mut host = VirtualHost::new(row, lock, interface, settings, self.in_maintenance, shared, now());
            host.rise_above(self.floor);
            if let Some(inherited) = inherited {
                host.go_on(&self.datapath, inherited);
            }
            self.hosts.insert(row, host);
            added += 1;
        }
        self.open_gates();
        self.set_checks();
        self.set_links();
        format!("{added} added, {changed} changed, {same} as before")
    }

    /// What an agent that is gone has left of a virtual host: of both families, the same row.
    fn inherited(&self, interface: &str, vhid: u8) -> Option<Inherited> {
        let ifindex = self.looks.borrow().get(interface)?.index;
        let of = |family| self.datapath.inherited(VhostKey::new(ifindex, vhid, family));
        let all = [Family::V4, Family::V6].into_iter().filter_map(of);
        let newest = all.reduce(|one, other| Inherited { newest: one.newest.max(other.newest), ..one })?;
        (!self.hosts.contains_key(&newest.row)).then_some(newest)
    }

    /// A row that is not in use, and has not been for long: what was reported of it has been handled.
    fn free_row(&mut self) -> u32 {
        loop {
            self.last_row = self.last_row % MAX_VHOSTS + 1;
            let is_inherited = self.datapath.inherited_rows().any(|row| row == self.last_row);
            if !is_inherited && !self.hosts.contains_key(&self.last_row) {
                return self.last_row;
            }
        }
    }

    /// The interfaces of the virtual hosts that are there now.
    fn set_links(&mut self) {
        let mut by_interface: BTreeMap<&str, Vec<&VirtualHost>> = BTreeMap::new();
        for host in self.hosts.values() {
            by_interface.entry(host.interface()).or_default().push(host);
        }
        for (interface, hosts) in &by_interface {
            let name = match &hosts[..] {
                [host] => host.name().to_owned(),
                hosts => format!("{interface}, {} vhids", hosts.len()),
            };
            let groups = hosts.iter().flat_map(|host| host.settings().groups()).collect();
            let link = self.links.entry((*interface).to_owned()).or_insert_with(|| Link::new((*interface).to_owned()));
            link.set(name, hosts[0].settings().datapath, groups);
        }
        let now = now();
        let unused = self.links.iter_mut().filter(|(name, _)| !by_interface.contains_key(name.as_str()));
        unused.for_each(|(_, link)| link.leave_later(now));
        self.vips = self.hosts.values().flat_map(VirtualHost::vips).collect();
        // At once with what is known of them, and again when the watcher has looked.
        self.looks.mark_changed();
        self.watch_links();
    }

    /// Leaves the interfaces whose time has come.
    pub(super) fn leave_links(&mut self, now: Time) {
        let is_due = |_: &String, link: &mut Link| link.leave_at().is_some_and(|due| due <= now);
        let left: Vec<_> = self.links.extract_if(.., is_due).collect();
        for (_, mut link) in left {
            link.leave(&mut self.datapath);
            self.watch_links();
        }
    }

    /// Has the watcher look at the interfaces that are in use.
    fn watch_links(&self) {
        let tracked = self.hosts.values().flat_map(|host| host.settings().tracked_interfaces());
        let names: BTreeSet<String> = self.links.keys().map(String::as_str).chain(tracked).map(str::to_owned).collect();
        set(&self.names, names);
    }
}

/// Tells those who watch, if it is something else than before.
pub(super) fn set<T: PartialEq>(watched: &watch::Sender<T>, value: T) {
    watched.send_if_modified(|known| {
        let is_other = *known != value;
        *known = value;
        is_other
    });
}
