//! The administrator's notify programs: told of each transition, and of rivals, while the addresses stay carpd's.
//!
//! `PROGRAM STATE INTERFACE VHID`, and more in its environment. Each virtual host's are run by a task of its own, one
//! after the other. A program that still runs at the next transition is ended, and of the transitions that come meanwhile
//! only the last is told: a program that calls a cloud must not claim for this host what another one has by now.
//!
//! A master beside which another one was heard is told again that it is master: the other one's program may have claimed
//! everything for its host. That ends no program, and is told at once only if it has not been for a while: a rival that goes on and on
//! must not have it call a cloud with each advert.

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

/// Time from when a master's program has ended that was told of a rival until it is told of one again.
const RIVAL_AGAIN: Duration = Duration::from_secs(10);

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
    /// Whether a rival was told, and nothing is to be told before it is time for another.
    rests: bool,
}

/// What there is to tell of a virtual host.
pub(crate) struct Word {
    from: State,
    to: State,
    cause: String,
}

impl From<&Transition> for Word {
    fn from(Transition { from, to, cause, .. }: &Transition) -> Self {
        Self { from: *from, to: *to, cause: cause.to_string() }
    }
}

impl Word {
    /// A master goes on beside a rival.
    pub(crate) fn beside(rival: IpAddr) -> Self {
        Self { from: State::Master, to: State::Master, cause: format!("{rival} was heard as MASTER, too") }
    }

    fn is_change(&self) -> bool {
        self.from != self.to
    }
}

/// It, and what else its program gets to know.
struct News {
    notify: Notify,
    name: Name,
    word: Word,
    addresses: String,
    source: Option<IpAddr>,
    failures: Counter,
}

impl Notifier {
    /// Nothing to tell yet.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { tasks: watch::Sender::default(), metrics }
    }

    /// Tells a virtual host's program, if it has one. Never waits. `source` is what adverts come from, if that is known.
    pub(crate) fn send(&self, interface: &str, settings: &Settings, source: Option<IpAddr>, word: Word) {
        let Some(notify) = settings.notify.clone() else { return };
        let time_limit = notify.time_limit;
        let name = (interface.to_owned(), settings.vhid);
        let addresses: Vec<_> = settings.vips.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" ");
        let failures = self.metrics.script_failures(interface, settings.vhid.get());
        let news = News { notify, name: name.clone(), word, addresses, source, failures };
        self.tasks.send_modify(|tasks| match tasks.entry(name) {
            Entry::Vacant(place) => {
                let (next, later) = watch::channel(None);
                place.insert(Task { time_limit, next, rests: false });
                tokio::spawn(self.clone().work(news, later));
            }
            Entry::Occupied(task) => task.into_mut().put(news),
        });
    }

    /// Whether all have been told.
    pub(crate) fn is_idle(&self) -> bool {
        are_idle(&self.tasks.borrow())
    }

    /// Waits until all have been told, and no longer than the longest time limit of those that have not.
    pub(crate) async fn finish(&self) {
        let Some(longest) = self.tasks.borrow().values().filter(|task| !task.rests).map(|task| task.time_limit).max()
        else {
            return;
        };
        let mut tasks = self.tasks.subscribe();
        if timeout(longest, tasks.wait_for(are_idle)).await.is_ok() {
            return;
        }
        for ((interface, vhid), task) in self.tasks.borrow().iter().filter(|(_, task)| !task.rests) {
            let what = if task.next.borrow().is_some() { "was not told of the end" } else { "is killed" };
            error!("{interface} vhid {}: the notify program {what}: carpd waits for it no longer", vhid.get());
        }
    }

    async fn work(self, mut news: News, mut later: watch::Receiver<Option<News>>) {
        loop {
            let (name, is_change) = (news.name.clone(), news.word.is_change());
            news.tell(&mut later).await;
            if !is_change {
                self.rest(&name, &mut later).await;
            }
            let mut next = None;
            self.tasks.send_modify(|tasks| {
                next = tasks.get_mut(&name).and_then(|task| {
                    task.rests = false;
                    task.next.send_replace(None)
                });
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

    /// A rival was told: nothing but a change is told for some time.
    async fn rest(&self, name: &Name, later: &mut watch::Receiver<Option<News>>) {
        self.tasks.send_modify(|tasks| {
            if let Some(task) = tasks.get_mut(name) {
                task.rests = !is_change(&task.next.borrow());
            }
        });
        timeout(RIVAL_AGAIN, overruled(later)).await.ok();
    }
}

fn are_idle(tasks: &BTreeMap<Name, Task>) -> bool {
    tasks.values().all(|task| task.rests)
}

fn is_change(next: &Option<News>) -> bool {
    next.as_ref().is_some_and(|news| news.word.is_change())
}

/// Waits until the state is another one.
async fn overruled(later: &mut watch::Receiver<Option<News>>) {
    later.wait_for(is_change).await.ok();
}

impl Task {
    fn put(&mut self, news: News) {
        if news.word.is_change() {
            self.rests = false;
        } else if self.next.borrow().is_some() {
            // That says as much.
            return;
        }
        self.time_limit = self.time_limit.max(news.notify.time_limit);
        self.next.send_replace(Some(news));
    }
}

impl News {
    /// Runs the program, unless something `later` overrules it.
    async fn tell(self, later: &mut watch::Receiver<Option<News>>) {
        let Self { notify: Notify { program, time_limit }, name: (interface, vhid), word, .. } = self;
        let (state, vhid) = (word.to.to_string(), vhid.get().to_string());
        let mut command = Command::new(&program);
        command.args([&state, &interface, &vhid]).envs([
            ("CARP_INTERFACE", &interface),
            ("CARP_VHID", &vhid),
            ("CARP_STATE", &state),
            ("CARP_PREVIOUS", &word.from.to_string()),
            ("CARP_CAUSE", &word.cause),
            ("CARP_ADDRESSES", &self.addresses),
        ]);
        command.envs(self.source.map(|source| ("CARP_SOURCE", source.to_string())));
        if word.to == State::Init {
            process::ignore_term(&mut command);
        }
        let what = format!("{} {state} {interface} {vhid}", program.display());
        match process::run_unless(overruled(later), command, &what, time_limit, "notify_timeout").await {
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
    use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use State::{Backup, Init, Master};
    use clap::Parser;

    use super::*;
    use crate::cli::Args;

    /// A notifier, and a program that writes down what it is told.
    struct Told {
        notifier: Notifier,
        settings: Settings,
        folder: PathBuf,
    }

    impl Told {
        fn new(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("carp-notifier-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let program = folder.join("notify");
            fs::write(&program, "#!/bin/sh\necho $CARP_PREVIOUS $1 >> \"$(dirname \"$0\")/told\"\n").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let words = ["carpd", "--interface=eth0", "--vhid=1", "--pass=secret", "--addr=10.0.0.100"];
            let mut settings = Args::try_parse_from(words).unwrap().configuration().unwrap().hosts.remove(0);
            settings.notify = Some(Notify { program, time_limit: Duration::from_secs(60) });
            Self { notifier: Notifier::new(Metrics::new()), settings, folder }
        }

        fn send(&self, from: State, to: State) {
            let word = Word { from, to, cause: String::new() };
            self.notifier.send("eth0", &self.settings, None, word);
        }

        /// What has been told by when there is nothing to tell.
        async fn lines(&self) -> String {
            self.notifier.finish().await;
            fs::read_to_string(self.folder.join("told")).unwrap()
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    #[tokio::test]
    async fn of_the_changes_that_come_before_a_program_runs_only_the_last_is_told() {
        let told = Told::new("changes");
        for (from, to) in [(Init, Backup), (Backup, Master), (Master, Backup)] {
            told.send(from, to);
        }
        assert_eq!(told.lines().await, "MASTER BACKUP\n");
    }

    #[tokio::test]
    async fn a_rival_that_goes_on_is_told_at_once_and_again_when_it_is_time() {
        let told = Told::new("rivals");
        told.send(Backup, Master);
        for _ in 0..100 {
            told.send(Master, Master);
        }
        let once = "BACKUP MASTER\nMASTER MASTER\n";
        assert_eq!(told.lines().await, once, "the program of the change was not ended");
        for _ in 0..100 {
            told.send(Master, Master);
        }
        assert!(told.notifier.is_idle(), "nothing waits for a rival");
        assert_eq!(told.lines().await, once);
        told.notifier.tasks.subscribe().wait_for(|tasks| !are_idle(tasks)).await.unwrap();
        assert_eq!(told.lines().await, format!("{once}MASTER MASTER\n"));

        told.send(Master, Master);
        told.send(Master, Backup);
        assert_eq!(told.lines().await, format!("{once}MASTER MASTER\nMASTER BACKUP\n"), "a change waits for nothing");
    }
}
