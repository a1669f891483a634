//! A floor for the counters of adverts, on disk: they rise across a reboot, too, with a clock that is behind by then. (Across
//! a crash, the pinned map says what was sent; else the clock does.)

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    path::PathBuf,
    time::Duration,
};

use log::warn;
use tokio::{task::spawn_blocking, time::timeout};

use crate::lock;

/// How often it is written, and how much above what was sent: counters are nanoseconds.
pub(crate) const AGAIN: Duration = Duration::from_secs(3600);
const AHEAD: u64 = 2 * AGAIN.as_nanos() as u64;
/// How long a disk may take at the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where it is kept: in the folder that systemd names (StateDirectory=), or nowhere.
fn file() -> Option<PathBuf> {
    env::var_os("STATE_DIRECTORY").map(|folder| PathBuf::from(folder).join("counter"))
}

/// Whether there is one.
pub(crate) fn is_kept() -> bool {
    file().is_some()
}

/// What no counter that was sent before is above; 0 if that is not known.
pub(crate) fn read() -> u64 {
    let text = || {
        let mut text = String::new();
        lock::open_plain(File::options().read(true), &file()?).ok()?.take(32).read_to_string(&mut text).ok()?;
        text.trim_end().parse().ok()
    };
    text().unwrap_or(0)
}

/// Writes it, above what will be sent until this is done again. Never waits.
pub(crate) fn keep(newest: u64) {
    spawn_blocking(move || write(newest.saturating_add(AHEAD)));
}

/// Writes the last one.
pub(crate) async fn keep_last(newest: u64) {
    timeout(PATIENCE, spawn_blocking(move || write(newest))).await.ok();
}

fn write(floor: u64) {
    let Some(file) = file() else { return };
    // All of it or nothing, for the machine may lose its power.
    let new = file.with_extension("new");
    let written = || {
        let mut to = lock::open_plain(File::options().write(true).create(true).truncate(false), &new)?;
        to.set_len(0).and_then(|()| writeln!(to, "{floor}")).and_then(|()| to.sync_all())?;
        anyhow::Ok(fs::rename(&new, &file)?)
    };
    if let Err(error) = written() {
        warn!(
            "cannot write {}: {error:#}: counters may fall after a reboot with a clock that is behind",
            file.display()
        );
    }
}
