//! What a collector thread has written down so far, and how to wait for more.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A list that one thread appends to while others wait for an item.
pub(crate) struct Record<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: Vec<T>,
    /// Items before this one have been consumed by a wait.
    cursor: usize,
    closed: bool,
}

/// Why a wait ended without its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// The time was up.
    TimedOut,
    /// Nothing more will come.
    Closed,
}

impl<T: Clone> Record<T> {
    pub(crate) fn new() -> Self {
        let state = State { items: Vec::new(), cursor: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn push(&self, item: T) {
        self.lock().items.push(item);
        self.changed.notify_all();
    }

    /// Says that nothing more will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub(crate) fn last(&self) -> Option<T> {
        self.lock().items.last().cloned()
    }

    pub(crate) fn snapshot(&self) -> Vec<T> {
        self.lock().items.clone()
    }

    /// The first wanted item after those that earlier waits have consumed; it
    /// and all before it are then consumed too, so that waits go in order.
    pub(crate) fn wait_for(&self, timeout: Duration, mut wanted: impl FnMut(&T) -> bool) -> Result<T, Missed> {
        let started = Instant::now();
        let mut state = self.lock();
        let mut looked_at = state.cursor;
        loop {
            while let Some(item) = state.items.get(looked_at) {
                looked_at += 1;
                if wanted(item) {
                    let found = item.clone();
                    state.cursor = looked_at;
                    return Ok(found);
                }
            }
            if state.closed {
                return Err(Missed::Closed);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(Missed::TimedOut);
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until nothing more will come, but no longer than this.
    pub(crate) fn wait_until_closed(&self, timeout: Duration) {
        // Whether it is closed or the time was up: what is there is there.
        let _ = self.changed.wait_timeout_while(self.lock(), timeout, |state| !state.closed);
    }

    /// A test that panics inside a wait must not hide what was collected.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
