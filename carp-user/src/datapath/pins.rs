//! What outlives the agent: maps, programs and links, pinned in a folder of a bpffs. After a crash the program goes on, and
//! with it what it knows, the counters, and the lease that ends the mastership of an agent that is gone.
//!
//! The folder is `<bpffs>/carp/v<ABI>-<cookie of the network namespace>`; in it are the maps by their names, the links as
//! `xdp-<ifindex>` and `tc-<ifindex>`, and the programs as `program-xdp-<object>` and `program-tc-<object>`.
//! Keys are in there: nobody else may enter. One agent has it, by a lock.

pub(crate) mod left;

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

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, MapType};
use carp_common::{
    abi::{
        ABI, AddressKey, COUNTER_ROWS, COUNTERS, ENDING_WORDS, Held, LastHeard, MAX_KEYS, MAX_PEERS, MAX_SEALS,
        MAX_SEQUENCES, MAX_SOURCES, MAX_VIPS, Policy, RING_BYTES, Refused, SealId, Sent, SourceKey, Vhost, VhostKey,
        map,
    },
    seal::{Apart, SealKey, Sequence},
};
use log::{debug, info, warn};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use self::left::Left;
use super::{bpf, links::Link, programs};
use crate::{
    lock::{self, Lock, Names},
    net::Netlink,
};

/// Where bpffs is mounted, unless another place is named.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The folder in it that is ours.
const FOLDER: &str = "carp";

/// How the names of programs begin that are pinned.
const PROGRAM: &str = "program-";

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

const MAPS: [Layout; 15] = [
    layout::<VhostKey, Vhost>(map::VHOSTS, MapType::Hash, MAX_KEYS),
    layout::<VhostKey, Sent>(map::SENT, MapType::Hash, MAX_KEYS),
    layout::<SourceKey, Policy>(map::PEERS, MapType::Hash, MAX_PEERS),
    layout::<SourceKey, LastHeard>(map::LAST_HEARD, MapType::LruHash, MAX_SOURCES),
    layout::<u32, u64>(map::COUNTERS, MapType::PerCpuArray, COUNTERS),
    layout::<u32, Refused>(map::REFUSED, MapType::Array, COUNTERS),
    layout::<(), ()>(map::EVENTS, MapType::RingBuf, RING_BYTES),
    layout::<AddressKey, Held>(map::HELD, MapType::Hash, MAX_VIPS),
    layout::<u32, u64>(map::ENDINGS, MapType::Array, ENDING_WORDS),
    layout::<u32, u64>(map::LEASES, MapType::Array, COUNTER_ROWS),
    layout::<SealId, SealKey>(map::SEALS, MapType::Hash, MAX_SEALS),
    layout::<SourceKey, Sequence>(map::SEQUENCES, MapType::Hash, MAX_SEQUENCES),
    layout::<SourceKey, Apart>(map::APART, MapType::Hash, MAX_SEQUENCES),
    layout::<u32, u64>(map::NEWEST, MapType::Array, COUNTER_ROWS),
    layout::<u32, u64>(map::WALL, MapType::Array, 1),
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
    /// Of `enum bpf_prog_type`.
    pub(super) const fn program_type(self) -> u32 {
        match self {
            Self::Xdp => 6,
            Self::Tc => 3,
        }
    }

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
    /// The maps and the programs, so that they can be pinned again.
    held: Vec<(PathBuf, OwnedFd)>,
    /// Whether another agent left it.
    is_inherited: bool,
    /// Whether it was told that something cannot be put back.
    is_losing: bool,
    _lock: Lock,
}

impl Pins {
    /// Opens the folder of a former agent, or makes one; the process that has it, if another agent does. What no agent goes on
    /// with is removed, its VIPs first, but for those that others serve beside these `own` virtual hosts.
    ///
    /// # Errors
    /// There can be no pins here, and why.
    pub(super) async fn open(bpffs: &Path, netlink: &Netlink, own: &Names) -> Result<Result<Self, String>> {
        let namespace = lock::namespace()?;
        let mut lock = match Lock::take_file(&left::lock_file(namespace))? {
            Ok(lock) => lock,
            Err(pid) => return Ok(Err(pid)),
        };
        let parent = bpffs.join(FOLDER);
        if let Err(error) = provide_bpffs(bpffs).and_then(|()| make(&parent, 0o755)) {
            // Nor does the program take another agent's place.
            Left::find(&lock, None)?.remove_after_vips(netlink, own).await?;
            bail!(
                "{error:#}: mount a bpffs (mount -t bpf bpf {BPFFS}), or name one that carpd may write to with --bpffs"
            );
        }
        check_owner(&parent, 0o022)?;
        let folder = parent.join(format!("v{ABI}-{namespace}"));
        let mut left = Left::find(&lock, Some(bpffs))?;
        let is_inherited = left.folders.extract_if(.., |left| *left == folder).count() > 0;
        for other in &left.folders {
            warn!("{} is of another version of carpd, or not where the pins are to be: removing it", other.display());
        }
        if is_inherited {
            check_owner(&folder, 0o077)?;
        }
        let checked = if is_inherited { check(&folder) } else { Ok(()) };
        let is_inherited = is_inherited && checked.is_ok();
        if let Err(error) = checked {
            warn!("{}: {error:#}: removing it, and beginning anew", folder.display());
            left.folders.push(folder.clone());
        }
        left.remove_after_vips(netlink, own).await?;
        make(&folder, 0o700)?;
        lock.note([bpffs.display()]);
        Ok(Ok(Self { folder, held: vec![], is_inherited, is_losing: false, _lock: lock }))
    }

    /// Whether another agent left what is in it.
    pub(super) const fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// Where the maps are pinned, by their names.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MAPS.iter().map(|map| (map.name, self.folder.join(map.name)))
    }

    /// Where the program of this kind is pinned that was made of the present object: another's has another name.
    pub(super) fn program(&self, kind: Kind) -> PathBuf {
        self.folder.join(format!("{PROGRAM}{}{}", kind.prefix(), programs::DIGEST))
    }

    /// Pins the programs, which were made of the present object, in the place of whichever were there.
    pub(super) fn pin_programs<'p>(&mut self, programs: impl IntoIterator<Item = (Kind, BorrowedFd<'p>)>) {
        left::entries(&self.folder).filter(|path| is_program(path)).for_each(|path| _ = fs::remove_file(path));
        for (kind, program) in programs {
            let path = self.program(kind);
            bpf::pin(program, &path).unwrap_or_else(|error| {
                warn!("cannot pin {}: {error}: the next carpd loads it anew, which takes longer", path.display());
            });
        }
    }

    /// Takes note of the maps and the programs, which are pinned now.
    ///
    /// # Errors
    /// One cannot be opened.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        let pinned = [Kind::Xdp, Kind::Tc].map(|kind| self.program(kind)).into_iter().filter(|path| path.exists());
        let paths = self.maps().map(|(_, path)| path).chain(pinned);
        self.held = paths.map(|path| bpf::open(&path).map(|fd| (path, fd))).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// The links that another agent has left: where they are pinned, by their interfaces.
    pub(super) fn links(&self, kind: Kind) -> Vec<(u32, PathBuf)> {
        let of = |name: &str| name.strip_prefix(kind.prefix())?.parse().ok();
        let links = left::entries(&self.folder).filter_map(|path| Some((of(path.file_name()?.to_str()?)?, path)));
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

    /// Puts back what somebody else has removed of the maps and the programs, and of these links.
    pub(super) fn mend<'l>(&mut self, links: impl Iterator<Item = &'l mut Link>) {
        let mut lost = vec![];
        for (path, held) in self.held.iter().filter(|(path, _)| !path.exists()) {
            lost.push((path.clone(), make(&self.folder, 0o700).and_then(|()| Ok(bpf::pin(held.as_fd(), path)?))));
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

fn is_program(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PROGRAM))
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

/// Makes sure that nobody has put a folder there who could change what is in it, by these bits of its mode or by its owner.
fn check_owner(folder: &Path, others: u32) -> Result<()> {
    let found = fs::symlink_metadata(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    let of_carp = fs::metadata(lock::FOLDER).map(|folder| folder.uid());
    let is_trusted =
        [Ok(0), Ok(geteuid().as_raw()), of_carp].iter().any(|user| user.as_ref().ok() == Some(&found.uid()));
    ensure!(
        found.is_dir() && is_trusted && found.mode() & others == 0,
        "{} is not carpd's alone (user {}, mode {:o}): look what it is, and remove it",
        folder.display(),
        found.uid(),
        found.mode() & 0o7777
    );
    Ok(())
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
