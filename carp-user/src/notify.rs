//! The administrator's notify programs: told of each transition, while the addresses stay carpd's.
//!
//! `PROGRAM STATE INTERFACE VHID`, and more in its environment. Each virtual host's are run by a task of its own, one
//! after the other. A program that still runs at the next transition is ended, and of the transitions that come meanwhile
//! only the last is told: a program that calls a cloud must not claim for this host what another one has by now.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    time::Duration,
};

use carp_common::engine::{State, Transition, Vhid};
use log::{error, info, warn};
use prometheus_client::metrics::counter::Counter;
use tokio::{process::Command, sync::watch, time::timeout};

use crate::{
    config::{Notify, Settings},
    metrics::Metrics,
    process,
};

/// Runs the programs of all virtual hosts. Clones are the same.
#[derive(Clone)]
pub(crate) struct Notifier {
    tasks: watch::Sender<BTreeMap<Name, Task>>,
    metrics: Metrics,
}

/// Interface and vhid.
type Name = (String, Vhid);

/// A task at work.
struct Task {
    /// How long what runs or waits may run at most.
    time_limit: Duration,
    /// What is told next.
    next: watch::Sender<Option<News>>,
}

/// A transition, and what its program gets to know.
struct News {
    notify: Notify,
    name: Name,
    transition: Transition,
    addresses: String,
    source: Option<IpAddr>,
    failures: Counter,
}

impl Notifier {
    /// Nothing to tell yet.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { tasks: watch::Sender::default(), metrics }
    }

    /// Tells a virtual host's program of a transition, if it has one. Never waits. `source` is what adverts come from, if
    /// that is known.
    pub(crate) fn send(&self, interface: &str, settings: &Settings, source: Option<IpAddr>, transition: &Transition) {
        let Some(notify) = settings.notify.clone() else { return };
        let time_limit = notify.time_limit;
        let name = (interface.to_owned(), settings.vhid);
        let addresses: Vec<_> = settings.vips.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        let failures = self.metrics.script_failures(interface, settings.vhid.get());
        let news = News { notify, name: name.clone(), transition: *transition, addresses, source, failures };
        self.tasks.send_modify(|tasks| match tasks.entry(name) {
            Entry::Vacant(place) => {
                let (next, later) = watch::channel(None);
                place.insert(Task { time_limit, next });
                tokio::spawn(self.clone().work(news, later));
            }
            Entry::Occupied(task) => task.into_mut().put(news),
        });
    }

    /// Whether all have been told.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.borrow().is_empty()
    }

    /// Waits until all have been told, and no longer than the longest time limit of those that have not.
    pub(crate) async fn finish(&self) {
        let Some(longest) = self.tasks.borrow().values().map(|task| task.time_limit).max() else { return };
        let mut tasks = self.tasks.subscribe();
        if timeout(longest, tasks.wait_for(BTreeMap::is_empty)).await.is_ok() {
            return;
        }
        for ((interface, vhid), task) in &*self.tasks.borrow() {
            let what = if task.next.borrow().is_some() { "was not told of the end" } else { "is killed" };
            error!("{interface} vhid {}: the notify program {what}: carpd waits for it no longer", vhid.get());
        }
    }

    async fn work(self, mut news: News, mut later: watch::Receiver<Option<News>>) {
        loop {
            let name = news.name.clone();
            news.tell(&mut later).await;
            let mut next = None;
            self.tasks.send_modify(|tasks| {
                next = tasks.get(&name).and_then(|task| task.next.send_replace(None));
                if next.is_none() {
                    tasks.remove(&name);
                }
            });
            match next {
                Some(next) => news = next,
                None => return,
            }
        }
    }
}

impl Task {
    fn put(&mut self, news: News) {
        self.time_limit = self.time_limit.max(news.notify.time_limit);
        self.next.send_replace(Some(news));
    }
}

impl News {
    /// Runs the program, unless something `later` overrules it.
    async fn tell(self, later: &mut watch::Receiver<Option<News>>) {
        let Self { notify: Notify { program, time_limit }, name: (interface, vhid), transition, .. } = self;
        let (state, vhid) = (transition.to.to_string(), vhid.get().to_string());
        let mut command = Command::new(&program);
        command.args([&state, &interface, &vhid]).envs([
            ("CARP_INTERFACE", &interface),
            ("CARP_VHID", &vhid),
            ("CARP_STATE", &state),
            ("CARP_PREVIOUS", &transition.from.to_string()),
            ("CARP_CAUSE", &transition.cause.to_string()),
            ("CARP_ADDRESSES", &self.addresses),
        ]);
        command.envs(self.source.map(|source| ("CARP_SOURCE", source.to_string())));
        if transition.to == State::Init {
            process::ignore_term(&mut command);
        }
        let what = format!("{} {state} {interface} {vhid}", program.display());
        let overruled = async { later.wait_for(Option::is_some).await.map(drop).unwrap_or_default() };
        match process::run_unless(overruled, command, &what, time_limit, "notify_timeout").await {
            Ok(Some(status)) => info!("{interface} vhid {vhid}: {what}: {status}"),
            Ok(None) => warn!("{interface} vhid {vhid}: {what} was ended: the state has changed"),
            Err(error) => {
                self.failures.inc();
                error!("{interface} vhid {vhid}: {error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, os::unix::fs::PermissionsExt};

    use carp_common::{engine::Cause, time::Time};
    use clap::Parser;

    use super::*;
    use crate::cli::Args;

    #[tokio::test]
    async fn of_the_changes_that_come_before_a_program_runs_only_the_last_is_told() {
        let folder = env::temp_dir().join(format!("carp-notifier-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("notify");
        fs::write(&program, "#!/bin/sh\necho $CARP_PREVIOUS $1 >> \"$(dirname \"$0\")/told\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let words = ["carpd", "--interface=eth0", "--vhid=1", "--pass=secret", "--addr=10.0.0.100"];
        let mut settings = Args::try_parse_from(words).unwrap().configuration().unwrap().hosts.remove(0);
        settings.notify = Some(Notify { program, time_limit: Duration::from_secs(60) });

        let notifier = Notifier::new(Metrics::new());
        let states = [State::Init, State::Backup, State::Master, State::Backup];
        for pair in states.windows(2) {
            let transition = Transition { from: pair[0], to: pair[1], cause: Cause::LinkUp, at: Time::from_nanos(0) };
            notifier.send("eth0", &settings, None, &transition);
        }
        notifier.finish().await;
        assert_eq!(fs::read_to_string(folder.join("told")).unwrap(), "MASTER BACKUP\n");
        fs::remove_dir_all(&folder).unwrap();
    }
}
