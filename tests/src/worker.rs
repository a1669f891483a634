//! A thread that measures or sends until it is told to stop, or too long.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::BootTime;

/// The longest that any tool of the lab runs, should nobody stop it.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// A running thread and its stop handle; dropping it stops the thread.
pub(crate) struct Worker<T> {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<T>>>,
}

/// What the thread asks before every step.
pub(crate) struct Running {
    stopped: Arc<AtomicBool>,
    until: BootTime,
}

impl Running {
    /// Whether to go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed) && BootTime::now() < self.until
    }
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `work` on a thread of its own, for at most `longest`.
    pub(crate) fn start(
        name: &str,
        longest: Duration,
        work: impl FnOnce(&Running) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let until = BootTime::now() + longest.min(LONGEST);
        let running = Running { stopped: Arc::clone(&stopped), until };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&running));
        let thread = thread.with_context(|| format!("starting the thread {name}"))?;
        Ok(Self { stopped, thread: Some(thread) })
    }

    /// Tells the thread to stop, and waits for what it has to say.
    pub(crate) fn stop(self) -> Result<T> {
        self.stopped.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until the thread ends by itself.
    pub(crate) fn wait(mut self) -> Result<T> {
        let thread = self.thread.take().context("this thread has been waited for already")?;
        thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody asks for the result any more.
            let _ = thread.join();
        }
    }
}
