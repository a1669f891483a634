//! Word to systemd (sd_notify(3)), if it wants any.
//!
//! From a thread of its own: a manager that hangs must not hold up the adverts.

use std::{
    env,
    sync::{
        OnceLock,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use sd_notify::NotifyState;

/// Notices that wait. Of those that find no room, the next one of their kind tells.
const WAITING: usize = 16;

static NOTICES: OnceLock<SyncSender<Notice>> = OnceLock::new();

/// What there is to tell.
pub(crate) enum Notice {
    /// Everything is up, or the configuration is applied.
    Ready,
    /// The configuration is being read.
    Reloading,
    /// A line for `systemctl status`.
    Status(String),
    /// The loop is alive.
    Alive,
    /// carpd ends.
    Stopping,
}

/// Whether systemd has started this process and wants word.
pub(crate) fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Begins to tell systemd, if it has started this process and wants word.
pub(crate) fn start() -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    let (notices, waiting) = sync_channel(WAITING);
    let tell = move || {
        while let Ok(notice) = waiting.recv() {
            tell(&notice);
        }
    };
    thread::Builder::new().name("carpd-notify".to_owned()).spawn(tell).context("cannot start a thread")?;
    NOTICES.set(notices).ok();
    Ok(())
}

/// Tells systemd; never waits.
pub(crate) fn notify(notice: Notice) {
    if let Some(notices) = NOTICES.get() {
        notices.try_send(notice).ok();
    }
}

/// How often systemd wants to know that the loop is alive: twice as often as it says, as it recommends.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(notice: &Notice) {
    let told = match notice {
        Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Notice::Reloading => {
            NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
        }
        Notice::Status(line) => sd_notify::notify(&[NotifyState::Status(line)]),
        Notice::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    // systemd is not there any more: nobody to tell.
    told.ok();
}
