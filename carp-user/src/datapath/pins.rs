//! What outlives the agent: maps and links, pinned in a folder of a bpffs. After a crash the program goes on, and with
//! it what it knows, the counters, and the lease that ends the mastership of an agent that is gone.
//!
//! The folder is `<bpffs>/carp/v<ABI>-<inode of the network namespace>`; in it are the maps by their names, and the links
//! as `xdp-<ifindex>` and `tc-<ifindex>`. Keys are in there: nobody else may enter. One agent has it, by a lock.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    mem,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{MapData, MapType};
use carp_common::abi::{
    ABI, AddressKey, COUNTER_ROWS, COUNTERS, ENDING_WORDS, Held, LastHeard, MAX_KEYS, MAX_PEERS, MAX_SOURCES, MAX_VIPS,
    RING_BYTES, Refused, Sent, SourceKey, Vhost, VhostKey, map,
};
use log::{debug, info, warn};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{bpf, links::Link};
use crate::lock::{self, Lock};

/// Where bpffs is mounted, unless another place is named.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The folder in it that is ours.
const FOLDER: &str = "carp";

/// A map that is pinned, as the present program needs it: aya takes any other for it.
struct Layout {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const fn layout<K, V>(name: &'static str, kind: MapType, entries: u32) -> Layout {
    Layout { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
}

const MAPS: [Layout; 10] = [
    layout::<VhostKey, Vhost>(map::VHOSTS, MapType::Hash, MAX_KEYS),
    layout::<VhostKey, Sent>(map::SENT, MapType::Hash, MAX_KEYS),
    layout::<SourceKey, u8>(map::PEERS, MapType::Hash, MAX_PEERS),
    layout::<SourceKey, LastHeard>(map::LAST_HEARD, MapType::LruHash, MAX_SOURCES),
    layout::<u32, u64>(map::COUNTERS, MapType::PerCpuArray, COUNTERS),
    layout::<u32, Refused>(map::REFUSED, MapType::Array, COUNTERS),
    layout::<(), ()>(map::EVENTS, MapType::RingBuf, RING_BYTES),
    layout::<AddressKey, Held>(map::HELD, MapType::Hash, MAX_VIPS),
    layout::<u32, u64>(map::ENDINGS, MapType::Array, ENDING_WORDS),
    layout::<u32, u64>(map::LEASES, MapType::Array, COUNTER_ROWS),
];

/// Which of the two programs a link attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The XDP program.
    Xdp,
    /// The one that looks at what leaves.
    Tc,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Xdp => "xdp-",
            Self::Tc => "tc-",
        }
    }
}

/// The folder of this network namespace. If nothing in it is attached any more when this is dropped, it is removed.
pub(super) struct Pins {
    folder: PathBuf,
    /// The maps, so that they can be pinned again.
    maps: Vec<(PathBuf, OwnedFd)>,
    /// Whether another agent left it.
    is_inherited: bool,
    /// Whether it was told that something cannot be put back.
    is_losing: bool,
    _lock: Lock,
}

impl Pins {
    /// Opens the folder of a former agent, or makes one. `None` if another agent has it.
    ///
    /// # Errors
    /// There can be no pins here, and why.
    pub(super) fn open(bpffs: &Path) -> Result<Option<Self>> {
        let mut lock = match Lock::take_file(&lock_file()?)? {
            Ok(lock) => lock,
            Err(pid) => {
                debug!("what is attached does not outlive this process: the pins are those of process {pid}");
                return Ok(None);
            }
        };
        provide_bpffs(bpffs)?;
        let namespace = lock::namespace()?;
        let parent = bpffs.join(FOLDER);
        make(&parent, 0o755)?;
        let folder = parent.join(format!("v{ABI}-{namespace}"));
        for other in folders(&parent, namespace).filter(|other| *other != folder) {
            warn!("{} is of another version of carpd: removing it", other.display());
            remove(&other);
        }
        if folder.exists()
            && let Err(error) = check(&folder)
        {
            warn!("{}: {error:#}: removing it, and beginning anew", folder.display());
            remove(&folder);
        }
        let is_inherited = folder.exists();
        make(&folder, 0o700)?;
        lock.note([bpffs.display()]);
        Ok(Some(Self { folder, maps: vec![], is_inherited, is_losing: false, _lock: lock }))
    }

    /// Whether another agent left what is in it.
    pub(super) const fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Where the maps are pinned, by their names.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MAPS.iter().map(|map| (map.name, self.folder.join(map.name)))
    }

    /// Takes note of the maps, which are pinned now.
    ///
    /// # Errors
    /// One cannot be opened.
    pub(super) fn hold_maps(&mut self) -> io::Result<()> {
        self.maps = self.maps().map(|(_, path)| bpf::open(&path).map(|fd| (path, fd))).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// The links that another agent has left: where they are pinned, by their interfaces.
    pub(super) fn links(&self, kind: Kind) -> Vec<(u32, PathBuf)> {
        let of = |name: &str| name.strip_prefix(kind.prefix())?.parse().ok();
        let links = entries(&self.folder).filter_map(|path| Some((of(path.file_name()?.to_str()?)?, path)));
        links.collect()
    }

    /// Pins a link; that this cannot be is told.
    pub(super) fn pin(&self, link: &mut Link, kind: Kind, ifindex: u32) {
        let path = self.folder.join(format!("{}{ifindex}", kind.prefix()));
        if let Err(error) = link.pin(path.clone()) {
            warn!("cannot pin {}: {error}: what is attached there does not outlive this process", path.display());
        }
    }

    /// Takes over a link that another agent has left, for this program; `None`, and no file, if it is attached no more.
    pub(super) fn take_over(&self, path: &Path, program: BorrowedFd<'_>, ifindex: u32) -> Option<Link> {
        Link::take_over(path, program, ifindex)
            .inspect_err(|error| {
                debug!("{}: {error}: removing it", path.display());
                fs::remove_file(path).ok();
            })
            .ok()
    }

    /// Puts back what somebody else has removed of the maps, and of these links.
    pub(super) fn mend<'l>(&mut self, links: impl Iterator<Item = &'l mut Link>) {
        let mut lost = vec![];
        for (path, map) in self.maps.iter().filter(|(path, _)| !path.exists()) {
            lost.push((path.clone(), make(&self.folder, 0o700).and_then(|()| Ok(bpf::pin(map.as_fd(), path)?))));
        }
        for link in links {
            if let Some(path) = link.lost_pin() {
                lost.push((path.clone(), link.pin(path).map_err(anyhow::Error::from)));
            }
        }
        let is_told = mem::replace(&mut self.is_losing, lost.iter().any(|(_, mended)| mended.is_err()));
        for (path, mended) in lost {
            match mended {
                Ok(()) => warn!("something else removed {}: putting it back", path.display()),
                Err(error) if is_told => debug!("{}: {error:#}", path.display()),
                Err(error) => {
                    warn!(
                        "something else removed {}, which cannot be put back: {error:#}: trying again",
                        path.display()
                    );
                }
            }
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if [Kind::Xdp, Kind::Tc].into_iter().all(|kind| self.links(kind).is_empty()) {
            remove(&self.folder);
        }
    }
}

/// Has no agent take the pins of the present network namespace.
///
/// # Errors
/// An agent has them.
pub(crate) fn claim() -> Result<Lock> {
    Lock::take_file(&lock_file()?)?.map_err(|pid| anyhow!("carpd is running, process {pid}: stop it first"))
}

/// Removes what an agent that is gone has left, where none goes on with it: its lease would be over for ever.
pub(super) fn forsake() {
    let Ok(claim) = claim() else { return };
    match clean(&claim, None) {
        Ok(removed) if removed.is_empty() => {}
        Ok(_) => warn!("removed what a carpd that is gone had left attached: this one does without"),
        Err(error) => warn!("what a carpd that is gone has left attached stays, and its lease is over: {error:#}"),
    }
}

/// Ends a claim, and leaves no trace of it.
pub(crate) fn end(claim: Lock) {
    if let Ok(path) = lock_file() {
        fs::remove_file(path).ok();
    }
    drop(claim);
}

/// Removes what an agent that is gone has left pinned: in this bpffs, or where it had it. What that was.
///
/// # Errors
/// Something cannot be removed.
pub(crate) fn clean(claim: &Lock, bpffs: Option<&Path>) -> Result<Vec<PathBuf>> {
    let noted = claim.noted();
    let bpffs = bpffs.or(noted.first().map(Path::new)).unwrap_or(Path::new(BPFFS));
    let mut removed = vec![];
    for folder in folders(&bpffs.join(FOLDER), lock::namespace()?) {
        let pinned: Vec<_> = entries(&folder).collect();
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        removed.extend(pinned);
        removed.push(folder);
    }
    Ok(removed)
}

fn lock_file() -> Result<PathBuf> {
    Ok(Path::new(lock::FOLDER).join(format!("pins-{}.lock", lock::namespace()?)))
}

/// Makes sure of a bpffs. One that is mounted in a mount namespace of its own would not outlive that.
fn provide_bpffs(path: &Path) -> Result<()> {
    let is_bpffs = || statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if is_bpffs() {
        return Ok(());
    }
    let mounts = |process: &str| fs::metadata(format!("/proc/{process}/ns/mnt")).map(|namespace| namespace.ino()).ok();
    // Who may not know may not mount either, as a rule.
    ensure!(
        mounts("1").is_none_or(|host| mounts("self") == Some(host)),
        "{} is no bpffs, and cannot become one from a mount namespace of its own",
        path.display()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0755"))
        .with_context(|| format!("cannot mount a bpffs on {}", path.display()))?;
    info!("mounted a bpffs on {}", path.display());
    Ok(())
}

/// Whether the maps in a folder are those of the present program.
fn check(folder: &Path) -> Result<()> {
    for Layout { name, kind, key, value, entries } in &MAPS {
        let info = MapData::from_pin(folder.join(name)).and_then(|map| map.info());
        let info = info.with_context(|| format!("cannot open {name}"))?;
        let found = (info.map_type().ok(), info.key_size() as usize, info.value_size() as usize, info.max_entries());
        ensure!(found == (Some(*kind), *key, *value, *entries), "{name} is not as this carpd has it");
    }
    Ok(())
}

/// Those of a network namespace, of whatever version.
fn folders(parent: &Path, namespace: u64) -> impl Iterator<Item = PathBuf> + use<> {
    let end = format!("-{namespace}");
    entries(parent).filter(move |path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with('v') && name.ends_with(&end))
    })
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

fn make(folder: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // Whatever the umask is.
        made => made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(mode))),
    }
    .with_context(|| format!("cannot create {}", folder.display()))
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != ErrorKind::NotFound
    {
        warn!("cannot remove {}: {error}: remove it by hand", folder.display());
    }
}
