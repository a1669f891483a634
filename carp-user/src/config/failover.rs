//! What decides which host is master, beside advbase, advskew and preempt: what demotes one, and what holds one back.

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use carp_common::engine::Profile;

/// By how much something may demote, and by how much unless given: as the BSDs for a link that is down.
pub(crate) const DEMOTE: RangeInclusive<u8> = 1..=254;
pub(crate) const DEMOTE_DEFAULT: u8 = 240;

/// How many seconds `preempt_delay` and `startup_delay` may be.
pub(crate) const DELAY_SECONDS: RangeInclusive<i64> = 0..=3600;

/// See the file's keys of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failover {
    /// What a demotion does.
    pub(crate) profile: Profile,
    /// Name of the virtual hosts that fail over together.
    pub(crate) group: Option<String>,
    /// Interfaces that demote while they are down.
    pub(crate) interfaces: Vec<TrackedInterface>,
    /// Scripts that demote while they fail.
    pub(crate) scripts: Vec<Arc<Script>>,
    /// For how long a worse master is borne with.
    pub(crate) preempt_delay: Duration,
    /// For how long after carpd's start the virtual host stays in INIT.
    pub(crate) startup_delay: Duration,
    /// It also stays there until this has succeeded once.
    pub(crate) ready: Option<Arc<Script>>,
}

/// An interface that demotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrackedInterface {
    /// Its name.
    pub(crate) name: String,
    /// By how much.
    pub(crate) demote: u8,
}

/// A script that demotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Its name in the file.
    pub(crate) name: String,
    /// What is run, and when.
    pub(crate) check: Check,
    /// By how much it demotes.
    pub(crate) demote: u8,
}

/// A program that is run again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// From one start to the next.
    pub(crate) interval: Duration,
    /// How long it may run.
    pub(crate) time_limit: Duration,
    /// Successes in a row after which it is well again.
    pub(crate) rise: u8,
    /// Failures in a row after which it counts as failed.
    pub(crate) fall: u8,
}
