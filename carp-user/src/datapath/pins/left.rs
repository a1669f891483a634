//! What agents that are gone have left pinned where none goes on with it. As long as it is there, the host does not answer for
//! the VIPs that they held: these go first.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{HashMap, Map, MapData};
use carp_common::abi::{self, AddressKey, map};
use log::warn;

use super::{BPFFS, FOLDER, Kind};
use crate::{
    datapath::bpf,
    lock::{self, Lock, Names},
    net::Netlink,
    vips::{self, Held},
};

/// Has no agent take the pins of the present network namespace.
///
/// # Errors
/// An agent has them.
pub(crate) fn claim() -> Result<Lock> {
    Lock::take_file(&lock_file(lock::namespace()?))?
        .map_err(|pid| anyhow!("carpd is running, process {pid}: stop it first"))
}

/// Ends a claim, and leaves no trace of it.
pub(crate) fn end(claim: Lock) {
    if let Ok(namespace) = lock::namespace() {
        fs::remove_file(lock_file(namespace)).ok();
    }
    drop(claim);
}

/// Removes what an agent that is gone has left, where none goes on with it: its lease would be over for ever.
pub(in crate::datapath) async fn forsake(netlink: &Netlink, own: &Names) {
    let Ok(claim) = claim() else { return };
    let left = match Left::find(&claim, None) {
        Ok(left) if left.folders.is_empty() => return,
        Ok(left) => left.remove_after_vips(netlink, own).await,
        Err(error) => Err(error),
    };
    match left {
        Ok(()) => warn!("removed what a carpd that is gone had left attached: this one does without"),
        Err(error) => warn!("what a carpd that is gone has left attached stays, and its lease is over: {error:#}"),
    }
}

/// What an agent that is gone has left pinned.
pub(crate) struct Left {
    pub(super) folders: Vec<PathBuf>,
}

impl Left {
    /// In this bpffs, and where it had it.
    ///
    /// # Errors
    /// The network namespace cannot be told.
    pub(crate) fn find(claim: &Lock, bpffs: Option<&Path>) -> Result<Self> {
        let namespace = lock::namespace()?;
        let noted = claim.noted();
        let noted = noted.first().map(Path::new);
        let mut places: Vec<&Path> = bpffs.into_iter().chain(noted).collect();
        if places.is_empty() {
            places.push(Path::new(BPFFS));
        }
        places.dedup();
        let folders = places.into_iter().flat_map(|place| folders(&place.join(FOLDER)));
        Ok(Self { folders: folders.filter(|(_, of)| *of == namespace).map(|(folder, _)| folder).collect() })
    }

    /// The VIPs that it held, with the indices of their interfaces. (Not those of a version that keeps them in another way.)
    pub(crate) fn held(&self) -> Held {
        let held = |folder: &PathBuf| {
            let map = Map::from_map_data(MapData::from_pin(folder.join(map::HELD)).ok()?).ok()?;
            let held: HashMap<MapData, AddressKey, abi::Held> = map.try_into().ok()?;
            Some(held.keys().filter_map(Result::ok).map(|key| (key.ifindex(), key.address())).collect::<Vec<_>>())
        };
        self.folders.iter().filter_map(held).flatten().collect()
    }

    /// Removes it; what that was. The VIPs are gone.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(crate) fn remove(self) -> Result<Vec<PathBuf>> {
        let mut removed = vec![];
        for folder in self.folders {
            let pinned: Vec<_> = entries(&folder).collect();
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            removed.extend(pinned);
            removed.push(folder);
        }
        Ok(removed)
    }

    /// Removes the VIPs, unless others than these `own` virtual hosts serve them, and then it.
    ///
    /// # Errors
    /// Something cannot be removed. Where that is a VIP, nothing else is.
    pub(super) async fn remove_after_vips(self, netlink: &Netlink, own: &Names) -> Result<()> {
        for removed in vips::remove_held(netlink, &self.held(), own).await? {
            match removed {
                Ok(line) => warn!("{line}"),
                Err(line) => bail!(line),
            }
        }
        self.remove().map(drop)
    }
}

/// Removes what is pinned in this bpffs for network namespaces that are gone; what that was, in lines. Not for the loop: the
/// kernel waits for whatever else changes a device (RTNL).
pub(crate) fn remove_abandoned(bpffs: &Path) -> Vec<String> {
    let mut removed = vec![];
    let Ok(own) = lock::namespace() else { return removed };
    for (folder, namespace) in folders(&bpffs.join(FOLDER)).filter(|(_, namespace)| *namespace != own) {
        // An agent that begins there has the lock first.
        if !is_abandoned(&folder) {
            continue;
        }
        let Ok(Ok(lock)) = Lock::take_file(&lock_file(namespace)) else { continue };
        if is_abandoned(&folder) && fs::remove_dir_all(&folder).is_ok() {
            fs::remove_file(lock_file(namespace)).ok();
            removed.push(format!("{}: removed, for nothing is attached there any more", folder.display()));
        }
        drop(lock);
    }
    removed
}

/// Whether nothing in a folder is attached: its network namespace is gone, or all of the interfaces are.
fn is_abandoned(folder: &Path) -> bool {
    let is_link = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| [Kind::Xdp, Kind::Tc].iter().any(|kind| name.starts_with(kind.prefix())))
    };
    // One that cannot be looked at is another user's.
    let is_detached =
        |link: PathBuf| bpf::open(&link).and_then(|link| bpf::ifindex(link.as_fd())).is_ok_and(|at| at == 0);
    fs::read_dir(folder).is_ok() && entries(folder).filter(is_link).all(is_detached)
}

/// The lock of the pins of a network namespace.
pub(super) fn lock_file(namespace: u64) -> PathBuf {
    Path::new(lock::FOLDER).join(format!("pins-{namespace}.lock"))
}

/// What is in a folder.
pub(super) fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

/// The folders in that of all carpd, of whatever version, with the network namespaces that they are of.
fn folders(parent: &Path) -> impl Iterator<Item = (PathBuf, u64)> + use<> {
    // A link to elsewhere is not ours.
    let is_ours = fs::symlink_metadata(parent).is_ok_and(|parent| parent.is_dir());
    entries(parent).filter(move |_| is_ours).filter_map(|path| {
        let namespace = path.file_name()?.to_str()?.strip_prefix('v')?.split_once('-')?.1.parse().ok()?;
        Some((path, namespace))
    })
}
