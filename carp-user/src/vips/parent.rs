//! The interface that a virtual MAC's device is on: as long as it has one, it deals in ARP for its own addresses only.
//!
//! The device alone cannot see to that. Linux answers for all of its addresses through each interface, and asks for a
//! neighbour in the name of the address that it wants to send from: either would tell the neighbours that the VIP is at
//! the interface's own MAC.
//!
//! The interface is not ours. What it had is written down in a file, on which every device holds a shared lock, be it of
//! this process or of another. Who gets the lock alone was the last, or comes after a crash, and restores.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use log::warn;
use tokio::time::sleep;

use crate::{
    lock,
    net::{
        Netlink,
        vmac::{self, ArpSettings},
    },
};

/// Time until a lock is tried again that somebody else has alone, for a moment, and how often it is.
const TRY_AGAIN: Duration = Duration::from_millis(1);
const TRIES: u32 = 1000;
/// How the names of the files end.
const SUFFIX: &str = ".arp";

/// That an interface has a device.
pub(super) struct Parent {
    /// `None` if what it had cannot be written down.
    _file: Option<File>,
}

impl Parent {
    /// Has the interface deal in ARP for its own addresses only. What goes wrong is told, `name` first, and is no
    /// reason not to serve a VIP.
    pub(super) async fn take(netlink: &Netlink, ifindex: u32, name: &str) -> Self {
        let held = hold(netlink, ifindex).await;
        if held.is_ok() {
            return Self { _file: held.ok() };
        }
        let why = held.err().map(|error| format!("{error:#}")).unwrap_or_default();
        match set(netlink, ifindex).await {
            Ok(()) => warn!("{name}: {why}: its arp_ignore and arp_announce stay changed"),
            Err(error) => warn!("{name}: {error:#}: the interface may answer ARP for the VIPs, too, with its own MAC"),
        }
        Self { _file: None }
    }
}

/// Restores an interface if it has no device any more.
pub(super) async fn restore(netlink: &Netlink, ifindex: u32) -> Result<()> {
    restore_from(netlink, ifindex, &path(ifindex)?).await
}

/// Restores all interfaces that were left as they are by a carpd that was killed, but for these. An error is the first;
/// all have been tried.
pub(crate) async fn restore_all(netlink: &Netlink, except: &BTreeSet<u32>) -> Result<()> {
    let Ok(entries) = fs::read_dir(lock::FOLDER) else { return Ok(()) };
    let end = suffix()?;
    let mut restored = Ok(());
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let index = name.to_str().and_then(|name| name.strip_suffix(&end)).and_then(|index| index.parse().ok());
        if let Some(index) = index.filter(|index| !except.contains(index)) {
            restored = restored.and(restore_from(netlink, index, &entry.path()).await);
        }
    }
    restored
}

/// Changes the interface, unless others have, and the lock that says so.
async fn hold(netlink: &Netlink, ifindex: u32) -> Result<File> {
    let path = path(ifindex)?;
    for _ in 0..TRIES {
        let mut file = lock::open(&path)?;
        if lock_alone(&file) {
            // What a crash has left is what it had, and not what it has now.
            if read(&mut file).is_none() {
                let now = vmac::arp_settings(netlink, ifindex).await?.context("the interface is gone")?;
                write(&mut file, now).with_context(|| format!("cannot write {}", path.display()))?;
            }
            set(netlink, ifindex).await?;
        }
        // On the way from having it alone to sharing it, somebody else may get it, and remove the file.
        if file.try_lock_shared().is_ok() && is_there(&file) {
            return Ok(file);
        }
        sleep(TRY_AGAIN).await;
    }
    bail!("something keeps {} locked", path.display())
}

async fn set(netlink: &Netlink, ifindex: u32) -> Result<()> {
    let Some(now) = vmac::arp_settings(netlink, ifindex).await? else { return Ok(()) };
    let wanted = now.for_own_addresses();
    if now != wanted {
        vmac::set_arp_settings(netlink, ifindex, wanted).await?;
    }
    Ok(())
}

async fn restore_from(netlink: &Netlink, ifindex: u32, path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let cannot = || format!("cannot restore what {} says", path.display());
    let mut file = lock::open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        // It has another device.
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
    }
    if !is_there(&file) {
        return Ok(());
    }
    if let Some(had) = read(&mut file)
        && let Some(now) = vmac::arp_settings(netlink, ifindex).await.with_context(cannot)?
    {
        let back = now.back_to(had);
        if now != back {
            vmac::set_arp_settings(netlink, ifindex, back).await.with_context(cannot)?;
        }
    }
    fs::remove_file(path).with_context(cannot)
}

/// What an interface had, unless nothing has been written yet.
fn read(file: &mut File) -> Option<ArpSettings> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let (ignore, announce) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(ArpSettings { ignore: ignore.parse().ok()?, announce: announce.parse().ok()? })
}

/// A few bytes at once: they are all there, or none.
fn write(file: &mut File, had: ArpSettings) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all(format!("{} {}\n", had.ignore, had.announce).as_bytes())
}

/// Has a file alone, unless it was removed since it was opened: then another one says what the interface had.
fn lock_alone(file: &File) -> bool {
    file.try_lock().is_ok() && is_there(file)
}

fn is_there(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

fn path(ifindex: u32) -> Result<PathBuf> {
    Ok(Path::new(lock::FOLDER).join(format!("{ifindex}{}", suffix()?)))
}

fn suffix() -> Result<String> {
    Ok(format!("-{}{SUFFIX}", lock::namespace()?))
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    #[test]
    fn a_file_that_is_removed_before_it_is_locked_is_not_written_to() {
        let path = env::temp_dir().join(format!("carp-parent-{}", process::id()));
        let (one, other) = (File::create(&path).unwrap(), File::open(&path).unwrap());
        assert!(lock_alone(&one) && !lock_alone(&other), "one at a time");
        fs::remove_file(&path).unwrap();
        drop(one);
        assert!(!lock_alone(&other));
    }
}
