//! The per-user cache folder, which every clone of this repository shares.
//!
//! What lands in it is complete: it is made in a folder beside its place and renamed when done. A lock lets one clone
//! fetch while the others wait.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders under construction start with this, and only those.
const UNFINISHED: &str = ".unfinished-";

/// A folder of finished things, each under its own name.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's cache: `carp` in `$XDG_CACHE_HOME`, or else in `~/.cache`.
    pub fn of_user() -> Result<Self> {
        let absolute = |name: &str| {
            let path = PathBuf::from(env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let folder = absolute("XDG_CACHE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".cache")))
            .context("no cache folder: neither XDG_CACHE_HOME nor HOME names a folder")?;
        Ok(Self::at(folder.join("carp")))
    }

    /// A cache in `folder`, which need not exist yet.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where `name` is, if it has landed.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        path.is_dir().then_some(path)
    }

    /// Where `name` is, after letting `make` fill it in if it has not landed.
    pub fn find_or_make(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        if let Some(path) = self.find(name) {
            return Ok(path);
        }
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {}", self.folder.display()))?;
        let _lock = self.lock()?;
        // Another clone may have made it while this one waited for the lock.
        if let Some(path) = self.find(name) {
            return Ok(path);
        }
        self.sweep()?;
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.folder)
            .with_context(|| format!("cannot create a folder in {}", self.folder.display()))?;
        let content = unfinished.path().join(name);
        fs::create_dir(&content).with_context(|| format!("cannot create {}", content.display()))?;
        make(&content)?;
        let place = self.folder.join(name);
        fs::rename(&content, &place)
            .with_context(|| format!("cannot move {} to {}", content.display(), place.display()))?;
        Ok(place)
    }

    /// One maker at a time; the lock goes with the file, also after a `kill -9`.
    fn lock(&self) -> Result<File> {
        let path = self.folder.join(".lock");
        let context = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(context)?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                eprintln!("carp: waiting for another build that is fetching ({})", path.display());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        file.lock().with_context(context)?;
        Ok(file)
    }

    /// Removes what interrupted attempts left behind, as far as it can. Call it with the lock held.
    fn sweep(&self) -> Result<()> {
        let entries = fs::read_dir(&self.folder).with_context(|| format!("cannot read {}", self.folder.display()))?;
        let unfinished = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
        for entry in unfinished {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                eprintln!("carp: cannot remove {}: {error}", entry.path().display());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_has_landed_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("carp"));
        let path = cache.find_or_make("tool", |to| Ok(fs::write(to.join("bin"), "1")?)).unwrap();
        assert_eq!(fs::read_to_string(path.join("bin")).unwrap(), "1");
        let again = cache.find_or_make("tool", |_| panic!("made twice"));
        assert_eq!(again.unwrap(), path);
        assert_eq!(cache.find("tool"), Some(path));
    }

    #[test]
    fn a_failed_attempt_leaves_nothing_and_the_next_one_lands() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let failed = cache.find_or_make("tool", |_| anyhow::bail!("no network"));
        assert_eq!(failed.unwrap_err().to_string(), "no network");
        assert_eq!(cache.find("tool"), None);
        cache.find_or_make("tool", |_| Ok(())).unwrap();
    }

    #[test]
    fn leftovers_of_a_killed_attempt_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let leftover = folder.path().join(format!("{UNFINISHED}x/tool"));
        fs::create_dir_all(&leftover).unwrap();
        let cache = Cache::at(folder.path().to_owned());
        cache.find_or_make("tool", |_| Ok(())).unwrap();
        assert!(!leftover.exists());
    }

    #[test]
    fn two_clones_at_once_make_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let made = AtomicUsize::new(0);
        let make = || {
            cache.find_or_make("tool", |_| {
                made.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(make);
            make().unwrap();
            other.join().unwrap().unwrap();
        });
        assert_eq!(made.into_inner(), 1);
    }
}
