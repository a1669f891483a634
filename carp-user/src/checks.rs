//! The administrator's checks, `[script.NAME]` in the file: each is run again and again by a task of its own, however
//! many virtual hosts name it, and never twice at a time. What it says is kept here for the loop, which never waits.

use std::{collections::BTreeMap, process::Stdio, sync::Arc};

use anyhow::{Context, Result};
use log::{debug, info, warn};
use tokio::{
    process::Command,
    sync::{Mutex, watch},
    task::AbortHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{config::failover::Check, process};

/// What is known of each, by name.
pub(crate) type Healths = BTreeMap<String, Health>;

/// What is known of one. At first that is nothing: it has neither failed nor succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Why it counts as failed, if it does.
    pub(crate) failure: Option<String>,
    /// Whether it has ever succeeded.
    pub(crate) has_succeeded: bool,
    /// Results in a row that speak against `failure`.
    row: u8,
}

/// All checks at work.
pub(crate) struct Checks {
    tasks: BTreeMap<String, Task>,
    healths: watch::Sender<Healths>,
    changes: watch::Receiver<Healths>,
}

/// Ends with this.
struct Task {
    check: Check,
    handle: AbortHandle,
}

impl Checks {
    /// None so far.
    pub(crate) fn new() -> Self {
        let (healths, changes) = watch::channel(Healths::new());
        Self { tasks: BTreeMap::new(), healths, changes }
    }

    /// Runs these from now on, and no others. One that is run in another way goes on with what is known of it.
    pub(crate) fn set(&mut self, wanted: BTreeMap<String, Check>) {
        self.tasks.retain(|name, task| wanted.get(name) == Some(&task.check));
        self.healths.send_modify(|healths| healths.retain(|name, _| wanted.contains_key(name)));
        for (name, check) in wanted {
            self.tasks.entry(name).or_insert_with_key(|name| {
                let task = tokio::spawn(work(name.clone(), check.clone(), self.healths.clone()));
                Task { check, handle: task.abort_handle() }
            });
        }
    }

    /// Of those that are run, these have failed so far as a former program knew.
    pub(crate) fn inherit(&mut self, failed: BTreeMap<String, String>) {
        let known = failed.into_iter().filter(|(name, _)| self.tasks.contains_key(name));
        let known = known.map(|(name, why)| (name, Health { failure: Some(why), ..Health::default() }));
        self.healths.send_modify(|healths| healths.extend(known));
    }

    /// What is known now.
    pub(crate) fn healths(&self) -> watch::Ref<'_, Healths> {
        self.healths.borrow()
    }

    /// Waits until something else is known.
    pub(crate) async fn changed(&mut self) {
        // The other end is here, too.
        self.changes.changed().await.ok();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Health {
    /// Takes note of a result; what is to be told of it, if it changes something.
    fn take(&mut self, result: Result<(), String>, check: &Check) -> Option<Change> {
        let had_succeeded = self.has_succeeded;
        self.has_succeeded |= result.is_ok();
        let other = match (&self.failure, result) {
            (None, Err(error)) => Some(error),
            (Some(_), Ok(())) => None,
            (None, Ok(())) | (Some(_), Err(_)) => {
                self.row = 0;
                return (had_succeeded != self.has_succeeded).then_some(Change::FirstSuccess);
            }
        };
        self.row = self.row.saturating_add(1);
        if self.row < if other.is_some() { check.fall } else { check.rise } {
            return (had_succeeded != self.has_succeeded).then_some(Change::FirstSuccess);
        }
        self.row = 0;
        let change = if other.is_some() { Change::Failed } else { Change::Well };
        self.failure = other;
        Some(change)
    }
}

/// What a result has changed.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    FirstSuccess,
    Failed,
    Well,
}

async fn work(name: String, check: Check, healths: watch::Sender<Healths>) {
    let mut ticks = interval(check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let turn = Arc::new(Mutex::new(()));
    loop {
        ticks.tick().await;
        let result = run(&name, &check, &turn).await.map_err(|error| format!("{error:#}"));
        if let Err(error) = &result {
            debug!("{error}");
        }
        healths.send_if_modified(|healths| {
            let health = healths.entry(name.clone()).or_default();
            let change = health.take(result, &check);
            match &change {
                Some(Change::Failed) => {
                    warn!("{} ({} in a row)", health.failure.as_deref().unwrap_or_default(), check.fall);
                }
                Some(Change::Well) => info!("script {name} is well again ({} in a row)", check.rise),
                Some(Change::FirstSuccess) | None => {}
            }
            change.is_some()
        });
    }
}

async fn run(name: &str, check: &Check, turn: &Arc<Mutex<()>>) -> Result<()> {
    // The last one may still wait for a file system that hangs, although it counts as failed.
    let started = timeout(check.time_limit, Arc::clone(turn).lock_owned()).await;
    let turn =
        started.with_context(|| format!("script {name} cannot be started: {} hangs", check.program.display()))?;
    let mut command = Command::new(&check.program);
    // It says the same every few seconds.
    command.args(&check.arguments).stdout(Stdio::null()).stderr(Stdio::null());
    process::run_holding(turn, command, &format!("script {name}"), check.time_limit, "timeout").await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(rise: u8, fall: u8) -> Check {
        let second = Duration::from_secs(1);
        Check { program: "true".into(), arguments: vec![], interval: second, time_limit: second, rise, fall }
    }

    /// `.` is a success, `x` a failure; what changes with each, by its first letter.
    fn changes(rise: u8, fall: u8, results: &str) -> String {
        let mut health = Health::default();
        let change =
            |result| match health.take(if result == 'x' { Err("no".to_owned()) } else { Ok(()) }, &check(rise, fall)) {
                Some(Change::FirstSuccess) => '1',
                Some(Change::Failed) => 'F',
                Some(Change::Well) => 'W',
                None => '-',
            };
        results.chars().map(change).collect()
    }

    #[test]
    fn it_fails_after_as_many_failures_in_a_row_and_is_well_after_as_many_successes() {
        assert_eq!(changes(1, 1, "..x.xx.."), "1-FWF-W-");
        assert_eq!(changes(2, 3, "xx.xxxx.x..xxx"), "--1--F----W--F");
        assert_eq!(changes(3, 255, &"x".repeat(255)), format!("{}F", "-".repeat(254)));
    }

    #[test]
    fn a_success_that_is_too_few_to_be_well_again_is_one_all_the_same() {
        assert_eq!(changes(3, 1, "xx.x..."), "F-1---W");
    }
}
