//! The last transitions and alarms, for whoever asks later or watches.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::control::protocol::{Event, What};

/// How many are kept.
const KEPT: usize = 1000;
/// How many may wait for a follower that reads slowly; it is then told how many it has missed.
const WAITING: usize = 256;

/// The events of this process. Clones are the same history.
#[derive(Clone)]
pub(crate) struct History(Arc<Mutex<Inner>>);

struct Inner {
    events: VecDeque<Event>,
    number: u64,
    followers: broadcast::Sender<Event>,
}

impl History {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            events: VecDeque::new(),
            number: 0,
            followers: broadcast::Sender::new(WAITING),
        })))
    }

    /// Something has happened now.
    pub(crate) fn push(&self, what: What) {
        let mut inner = self.inner();
        inner.number += 1;
        let event = Event { number: inner.number, time: rfc3339(Timestamp::now()), what };
        if inner.events.len() == KEPT {
            inner.events.pop_front();
        }
        inner.events.push_back(event.clone());
        // An error is that nobody follows.
        inner.followers.send(event).ok();
    }

    /// All that are kept, the oldest first.
    pub(crate) fn all(&self) -> Vec<Event> {
        self.inner().events.iter().cloned().collect()
    }

    /// The same, and those that follow.
    pub(crate) fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let inner = self.inner();
        (inner.events.iter().cloned().collect(), inner.followers.subscribe())
    }

    /// Another thread's panic leaves nothing half done in there.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time of the wall clock for people and machines.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(number: u64) -> What {
        What::Alarm { severity: "warning".to_owned(), text: number.to_string() }
    }

    #[test]
    fn the_last_thousand_are_kept_and_a_follower_misses_none_that_come_later() {
        let history = History::new();
        (1..=1200).for_each(|number| history.push(alarm(number)));
        let (kept, mut following) = history.follow();
        history.push(alarm(1201));
        assert_eq!((kept.len(), kept[0].number, kept[999].number), (1000, 201, 1200));
        assert_eq!(following.try_recv().unwrap().what, alarm(1201));
        assert_eq!(history.all().last().unwrap().number, 1201);
    }
}
