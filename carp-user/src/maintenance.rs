//! Whether this server is the last resort: kept on disk, so that a restart does not end it.

use std::{
    env,
    fs::{self, File},
    io,
    path::PathBuf,
};

use anyhow::{Context, Result};

use crate::lock;

/// Where it is kept, unless systemd names a folder (StateDirectory=).
const FOLDER: &str = "/var/lib/carp";

/// Whether it was so when this was last decided.
pub(crate) fn is_on() -> bool {
    file().exists()
}

/// Keeps it.
pub(crate) fn keep(on: bool) -> Result<()> {
    let file = file();
    if on {
        let cannot = || format!("cannot keep it in {}", file.display());
        fs::create_dir_all(folder()).with_context(cannot)?;
        let options = &mut File::options();
        let created = lock::open_plain(options.write(true).create(true).truncate(false), &file);
        let synced = |file: File| file.sync_all().and_then(|()| File::open(folder())?.sync_all());
        let kept = created.and_then(|file| Ok(synced(file)?));
        if kept.is_err() {
            // What is not done must not come back with a restart.
            fs::remove_file(&file).ok();
        }
        return kept.with_context(cannot);
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn file() -> PathBuf {
    folder().join("maintenance")
}

fn folder() -> PathBuf {
    env::var_os("STATE_DIRECTORY").map_or_else(|| FOLDER.into(), PathBuf::from)
}
