//! One agent for an interface and vhid.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
};

use anyhow::{Context, Result, bail};
use nix::libc::O_NOFOLLOW;

/// Where the locks lie.
pub(crate) const FOLDER: &str = "/run/carp";

/// Held as long as this value; the kernel releases it when the process ends, however it ends.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of this vhid on this interface in the own network namespace.
    pub(crate) fn take(interface: &str, vhid: u8) -> Result<Self> {
        let path = Path::new(FOLDER).join(format!("{interface}-{vhid}-{}.lock", namespace()?));
        let mut file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).ok();
                bail!(
                    "{interface} vhid {vhid} is served by another carpd, process {}: stop that one first",
                    pid.trim()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // Only for the message above: a full disk is no reason not to serve the VIP.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).ok();
        Ok(Self { _file: file })
    }
}

/// What tells the own network namespace from others.
pub(crate) fn namespace() -> Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net").context("cannot read /proc/self/ns/net")?.ino())
}

/// Opens a file in [`FOLDER`] that is to be locked.
pub(crate) fn open(path: &Path) -> Result<File> {
    fs::create_dir_all(FOLDER).with_context(|| format!("cannot create {FOLDER}"))?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // The folder is the user's that carpd runs as in its service, and root must not be led elsewhere by it.
        .custom_flags(O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // A lock that root has left there must not be in that user's way.
    if let Ok(folder) = fs::metadata(FOLDER) {
        fchown(&file, Some(folder.uid()), Some(folder.gid())).ok();
    }
    Ok(file)
}
