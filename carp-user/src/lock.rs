//! One agent for an interface and vhid.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::Read,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    libc::{self, O_NOFOLLOW, O_NONBLOCK},
};

/// Where the locks lie.
pub(crate) const FOLDER: &str = "/run/carp";

/// Virtual hosts, by interface and vhid.
pub(crate) type Names = BTreeSet<(String, u8)>;

/// Held as long as this value; the kernel releases it when the process ends, however it ends.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of this vhid on this interface in the own network namespace.
    pub(crate) fn take(interface: &str, vhid: u8) -> Result<Self> {
        let path = Path::new(FOLDER).join(format!("{interface}-{vhid}-{}.lock", namespace()?));
        let mut lock = Self::take_file(&path)?.map_err(|pid| {
            anyhow!("{interface} vhid {vhid} is served by another carpd, process {pid}: stop that one first")
        })?;
        lock.note::<&str>([]);
        Ok(lock)
    }

    /// Takes the lock that this file is; the other process, if that has it.
    pub(crate) fn take_file(path: &Path) -> Result<Result<Self, String>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                // A clean-up may have removed it in between.
                Ok(()) if file.metadata().is_ok_and(|file| file.nlink() == 0) => {}
                Ok(()) => return Ok(Ok(Self { file })),
                Err(TryLockError::WouldBlock) => return Ok(Err(read(&file).lines().next().unwrap_or("?").to_owned())),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    /// Writes down whose it is, and more, for others to read. (It can fail: a full disk is no reason not to serve the VIP.)
    pub(crate) fn note<L: Display>(&mut self, lines: impl IntoIterator<Item = L>) {
        let text = lines.into_iter().fold(format!("{}\n", process::id()), |text, line| format!("{text}{line}\n"));
        self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0)).ok();
    }

    /// What was written down besides the process, by this one or by the one before.
    pub(crate) fn noted(&self) -> Vec<String> {
        read(&self.file).lines().skip(1).map(str::to_owned).collect()
    }
}

/// A few lines, as far as they can be read.
fn read(mut file: &File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).ok();
    text
}

/// The addresses that all carpd together serve on this interface, as their locks say, but for the virtual hosts `except`;
/// `None` if one does not say.
pub(crate) fn served(interface: &str, except: &Names) -> Result<Option<BTreeSet<String>>> {
    let end = format!("-{}.lock", namespace()?);
    let is_of = |path: &Path| {
        let vhid = path.file_name()?.to_str()?.strip_prefix(interface)?.strip_prefix('-')?.strip_suffix(&end)?;
        vhid.parse::<u8>().ok().filter(|vhid| !except.contains(&(interface.to_owned(), *vhid)))
    };
    let mut served = BTreeSet::new();
    for path in files().filter(|path| is_of(path).is_some()) {
        // One that cannot be opened may be held.
        let file = open_plain(File::options().read(true), &path)?;
        if file.try_lock_shared().is_ok() {
            continue;
        }
        let text = read(&file);
        let mut lines = text.lines().skip(1).peekable();
        if lines.peek().is_none() {
            return Ok(None);
        }
        served.extend(lines.map(str::to_owned));
    }
    Ok(Some(served))
}

/// Removes the locks of the own network namespace that nobody holds; how many.
pub(crate) fn remove_stale() -> Result<usize> {
    let end = format!("-{}.lock", namespace()?);
    let are_ours = files().filter(|path| path.to_string_lossy().ends_with(&end));
    let stale = are_ours.filter(|path| {
        // Held while it is removed: who opens it meanwhile finds that it is gone, and makes another.
        open_plain(File::options().read(true), path)
            .is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(path).is_ok())
    });
    Ok(stale.count())
}

fn files() -> impl Iterator<Item = PathBuf> {
    fs::read_dir(FOLDER).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

/// The kernel's number of the own network namespace, which no other gets as long as the machine runs. (An inode would be
/// another's some day.)
pub(crate) fn namespace() -> Result<u64> {
    let socket = UnixDatagram::unbound().context("cannot open a socket")?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is such a number, and the kernel writes no more than `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(result).context("cannot tell which network namespace this is (it needs kernel 5.14 or newer)")?;
    Ok(cookie)
}

/// Opens a file in [`FOLDER`] that is to be locked.
pub(crate) fn open(path: &Path) -> Result<File> {
    fs::create_dir_all(FOLDER).with_context(|| format!("cannot create {FOLDER}"))?;
    let file = open_plain(File::options().read(true).write(true).create(true).truncate(false).mode(0o600), path)?;
    // Who can read it can hold it.
    file.set_permissions(Permissions::from_mode(0o600)).ok();
    // A lock that root has left there must not be in that user's way.
    if let Ok(folder) = fs::metadata(FOLDER) {
        fchown(&file, Some(folder.uid()), Some(folder.gid())).ok();
    }
    Ok(file)
}

/// Opens a file in a folder that may be the user's that carpd runs as in its service: root must be neither led elsewhere by it nor
/// kept waiting.
pub(crate) fn open_plain(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let cannot = || format!("cannot open {}", path.display());
    let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path).with_context(cannot)?;
    let found = file.metadata().with_context(cannot)?;
    ensure!(found.is_file() && found.nlink() <= 1, "{} is no file of carpd's: remove it", path.display());
    Ok(file)
}
