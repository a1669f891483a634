//! The XDP program and its maps, from user space.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::{self, ProgramError, loaded_programs},
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use carp_common::{
    abi::{
        AdvertEvent, LastHeard, MAX_VHOSTS, PROGRAM, RING_BYTES, Refused, Sent, SourceKey, Vhost, VhostKey,
        counter_index, map,
    },
    reason::Reason,
    time::Time,
};
use log::{debug, info, max_level, warn};
use nix::{
    libc::{EBUSY, EEXIST},
    net::if_::if_indextoname,
};
use thiserror::Error;
use zeroize::Zeroize;

use super::{
    Inherited,
    fence::Fence,
    links::{Hook, Link},
    pins::{Kind, Pins},
};

/// The kernel programs as they were compiled.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CARP_EBPF_OBJECT"));

/// The program could not be loaded.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    /// The kernel refused the object.
    #[error("cannot load the XDP program (it needs kernel 5.18 or newer): {0}")]
    Refused(String),
    /// The object is not ours.
    #[error("the XDP object has no {0}: it was not built from this source")]
    Missing(&'static str),
}

/// A map operation failed.
#[derive(Debug, Error)]
#[error("cannot {what}: {source}")]
pub(crate) struct MapAccess {
    what: &'static str,
    source: MapError,
}

/// The program could not be attached to an interface.
#[derive(Debug, Error)]
pub(super) enum AttachError {
    /// Another program is there, and an interface takes only one.
    #[error(
        "there is an XDP program already, {0}: an interface takes one; \
         end what attached it, or look with `bpftool net` and `bpftool link`"
    )]
    Busy(String),
    /// Not in this mode.
    #[error("{0}")]
    Refused(#[from] io::Error),
}

impl AttachError {
    /// Whether another mode need not be tried.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

/// The loaded program with its maps.
pub(super) struct Xdp {
    ebpf: Ebpf,
    vhosts: HashMap<MapData, VhostKey, Vhost>,
    peers: HashMap<MapData, SourceKey, u8>,
    /// What is in it, by virtual hosts: to walk through a map takes a system call for each entry.
    peers_of: StdHashMap<VhostKey, Vec<SourceKey>>,
    sent: HashMap<MapData, VhostKey, Sent>,
    heard: HashMap<MapData, SourceKey, LastHeard>,
    counters: PerCpuArray<MapData, u64>,
    refused: Array<MapData, Refused>,
    events: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// By interface.
    links: BTreeMap<u32, Link>,
    /// How they are attached, but for those that nobody has asked for yet.
    hooks: BTreeMap<u32, Hook>,
    /// Those from which somebody else has detached the program, and it could not be put back.
    lost: BTreeSet<u32>,
    /// Of these, those that another agent has left, until they are asked for.
    taken_over: BTreeSet<u32>,
    /// What that agent has left of its virtual hosts.
    inherited: StdHashMap<VhostKey, Inherited>,
    /// What is dropped when a lease is over.
    pub(super) fence: Fence,
    /// After the links: what is not attached any more goes with it. Or why there are none.
    pins: Result<Pins, String>,
}

impl Xdp {
    /// Loads the program, against the maps of the agent that left these pins, if there are some; else it is known why not.
    /// Needs CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// The kernel is too old, or refuses the program.
    pub(super) fn load(mut pins: Result<Pins, String>) -> Result<Self, LoadError> {
        let level = max_level() as u8;
        let mut loader = EbpfLoader::new();
        loader.override_global(aya_log::LEVEL, &level, true);
        for (name, path) in pins.iter().flat_map(Pins::maps) {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| LoadError::Refused(error.to_string()))?;
        if let Ok(pins) = &mut pins {
            pins.hold_maps().unwrap_or_else(|error| warn!("cannot watch over the pinned maps: {error}"));
        }
        // The program's log is a convenience: without it, it still works.
        let logger =
            EbpfLogger::init(&mut ebpf).inspect_err(|error| debug!("no log from the XDP program: {error}")).ok();
        let vhosts = take(&mut ebpf, map::VHOSTS)?;
        let peers = take(&mut ebpf, map::PEERS)?;
        let sent = take(&mut ebpf, map::SENT)?;
        let heard = take(&mut ebpf, map::LAST_HEARD)?;
        let counters = take(&mut ebpf, map::COUNTERS)?;
        let refused = take(&mut ebpf, map::REFUSED)?;
        let events = take(&mut ebpf, map::EVENTS)?;
        let failed = |error| LoadError::Refused(refusal(&error));
        program(&mut ebpf)?.load().map_err(failed)?;
        let fence = Fence::load(&mut ebpf)?;
        let (links, taken_over, inherited) = (BTreeMap::new(), BTreeSet::new(), StdHashMap::new());
        let mut xdp = Self {
            ebpf,
            vhosts,
            peers,
            peers_of: StdHashMap::new(),
            sent,
            heard,
            counters,
            refused,
            events,
            logger,
            links,
            hooks: BTreeMap::new(),
            lost: BTreeSet::new(),
            taken_over,
            inherited,
            fence,
            pins,
        };
        xdp.take_over()?;
        Ok(xdp)
    }

    /// Goes on with what another agent has left: its links run the present program from now on.
    fn take_over(&mut self) -> Result<(), LoadError> {
        let Some(pins) = self.pins.as_ref().ok().filter(|pins| pins.is_inherited()) else { return Ok(()) };
        let failed = |error| LoadError::Refused(refusal(&error));
        for (ifindex, path) in pins.links(Kind::Xdp) {
            let program = program(&mut self.ebpf)?.fd().map_err(failed)?;
            if let Some(link) = pins.take_over(&path, program.as_fd(), ifindex) {
                self.links.insert(ifindex, link);
                self.taken_over.insert(ifindex);
            }
        }
        self.fence.take_over(&mut self.ebpf, pins)?;
        for (key, mut vhost) in self.vhosts.iter().filter_map(Result::ok) {
            let row = vhost.row();
            vhost.zeroize();
            let newest = self.sent.get(&key, 0).map_or(0, |sent| sent.newest());
            if (1..=MAX_VHOSTS).contains(&row) {
                let lease = self.fence.lease(row).served_until().map(Time::from_nanos);
                self.inherited.insert(key, Inherited { row, newest, lease });
            }
        }
        for peer in self.peers.keys().filter_map(Result::ok) {
            self.peers_of.entry(peer.vhost()).or_default().push(peer);
        }
        // They are old; what counts of them is in the last-heard map.
        (0..RING_BYTES as usize / size_of::<AdvertEvent>()).all(|_| self.events.next().is_some());
        info!("going on with what a carpd that is gone has left attached to {} interfaces", self.links.len());
        Ok(())
    }

    /// What another agent has left of a virtual host.
    pub(super) fn inherited(&self, key: VhostKey) -> Option<Inherited> {
        self.inherited.get(&key).copied()
    }

    /// The rows of counters of all virtual hosts that another agent has left, and of the VIPs that they hold.
    pub(super) fn inherited_rows(&self) -> impl Iterator<Item = u32> {
        self.inherited.values().map(|inherited| inherited.row).chain(self.fence.rows())
    }

    /// The VIPs that a virtual host holds, by its row.
    pub(super) fn held(&self, row: u32) -> Vec<(u32, IpAddr)> {
        self.fence.held(row)
    }

    /// Forgets what another agent has left, but for these virtual hosts, and detaches what has not been asked for.
    pub(super) fn keep_only(&mut self, keys: &HashSet<VhostKey>, rows: &BTreeSet<u32>) {
        for ifindex in std::mem::take(&mut self.taken_over) {
            self.detach(ifindex);
        }
        self.fence.keep_only(rows);
        if self.inherited.is_empty() {
            return;
        }
        self.inherited.clear();
        let known = self.vhosts.keys().chain(self.sent.keys()).filter_map(Result::ok);
        let known = known.chain(self.peers_of.keys().copied());
        let others: Vec<_> = known.filter(|key| !keys.contains(key)).collect();
        others.into_iter().for_each(|key| self.remove_vhost(key));
    }

    /// Attaches the program to an interface. `present` is the program that the interface has, for the message if
    /// that is in the way.
    ///
    /// # Errors
    /// Another program is there, or this mode does not work.
    pub(super) fn attach(&mut self, ifindex: u32, hook: Hook, present: Option<u32>) -> Result<(), AttachError> {
        self.detach(ifindex);
        self.try_attach(ifindex, hook).map_err(|error| match error.raw_os_error() {
            Some(EBUSY | EEXIST) => AttachError::Busy(program_name(present)),
            _ => AttachError::Refused(error),
        })
    }

    /// Whether another agent has left the program attached to this interface.
    pub(super) fn is_taken_over(&self, ifindex: u32) -> bool {
        self.taken_over.contains(&ifindex)
    }

    /// The program stays attached as another agent has left it, which is so.
    pub(super) fn keep(&mut self, ifindex: u32, hook: Hook) {
        self.taken_over.remove(&ifindex);
        self.hooks.insert(ifindex, hook);
    }

    /// Attaches the program that looks at what leaves; [`Fence::obstacle`] tells whether that worked.
    pub(super) fn attach_egress(&mut self, ifindex: u32) {
        self.fence.attach(&mut self.ebpf, ifindex, self.pins.as_ref().ok());
    }

    /// Detaches both programs from an interface.
    pub(super) fn detach(&mut self, ifindex: u32) {
        self.fence.detach(ifindex);
        self.taken_over.remove(&ifindex);
        self.hooks.remove(&ifindex);
        self.lost.remove(&ifindex);
        if let Some(link) = self.links.remove(&ifindex) {
            link.detach();
        }
    }

    /// Whether the program is where it should be, as far as [`Self::mend`] could see to that.
    pub(super) fn is_attached(&self, ifindex: u32) -> bool {
        self.links.contains_key(&ifindex) && !self.lost.contains(&ifindex)
    }

    /// The links by which both programs are attached, for another thread.
    pub(super) fn watched(&self) -> impl Iterator<Item = (u32, Arc<OwnedFd>)> {
        self.links.iter().map(|(ifindex, link)| (*ifindex, link.watched())).chain(self.fence.watched())
    }

    /// Puts the programs back on those of these interfaces from which somebody else has detached them. Where that does not
    /// work, [`Self::is_attached`] says so. (With an interface that is gone, nobody has.)
    pub(super) fn mend(&mut self, lost: &BTreeSet<u32>) {
        for ifindex in lost {
            let (Some(hook), Some(link)) = (self.hooks.get(ifindex).copied(), self.links.get(ifindex)) else {
                continue;
            };
            let Ok(name) = if_indextoname(*ifindex) else { continue };
            if link.is_attached() {
                continue;
            }
            if self.try_attach(*ifindex, hook).is_ok() {
                warn!("something else detached the XDP program from {}: it is back", name.to_string_lossy());
            } else if if_indextoname(*ifindex).is_ok() {
                self.lost.insert(*ifindex);
            }
        }
        self.fence.mend(&mut self.ebpf, self.pins.as_ref().ok(), lost);
    }

    /// Why it does not outlive this process, if so.
    pub(super) fn why_unpinned(&self) -> Option<&str> {
        self.pins.as_ref().err().map(String::as_str)
    }

    /// Puts back what somebody else has removed of the pins.
    pub(super) fn mend_pins(&mut self) {
        if let Ok(pins) = &mut self.pins {
            pins.mend(self.links.values_mut().chain(self.fence.links_mut()));
        }
    }

    /// Makes a virtual host known to the program, with its peers.
    ///
    /// # Errors
    /// The map is full.
    pub(super) fn set_vhost(&mut self, key: VhostKey, vhost: &Vhost, peers: &[SourceKey]) -> Result<(), MapAccess> {
        for former in self.peers_of.remove(&key).unwrap_or_default() {
            if !peers.contains(&former) {
                self.peers.remove(&former).ok();
            }
        }
        self.peers_of.insert(key, peers.to_vec());
        for peer in peers {
            self.peers.insert(peer, 1, 0).map_err(failed("tell the XDP program of a peer"))?;
        }
        self.vhosts.insert(key, vhost, 0).map_err(failed("tell the XDP program of the virtual host"))
    }

    /// Forgets a virtual host.
    pub(super) fn remove_vhost(&mut self, key: VhostKey) {
        for peer in self.peers_of.remove(&key).unwrap_or_default() {
            self.peers.remove(&peer).ok();
        }
        // It may never have been set.
        self.vhosts.remove(&key).ok();
        self.sent.remove(&key).ok();
    }

    /// Tells the program what we sent ourselves.
    ///
    /// # Errors
    /// The map is full.
    pub(super) fn set_sent(&mut self, key: VhostKey, sent: &Sent) -> Result<(), MapAccess> {
        self.sent.insert(key, sent, 0).map_err(failed("tell the XDP program what was sent"))
    }

    /// The next event, if one is there.
    pub(super) fn next_event(&mut self) -> Option<AdvertEvent> {
        let item = self.events.next()?;
        // SAFETY: the program writes whole AdvertEvents, for which every pattern of bits is valid; the ring
        // aligns records to 8 bytes, and read_unaligned asks for nothing.
        (item.len() == size_of::<AdvertEvent>())
            .then(|| unsafe { item.as_ptr().cast::<AdvertEvent>().read_unaligned() })
    }

    /// Forwards what the program has to say to the log.
    pub(super) fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// The last valid advert of every source of every virtual host.
    pub(super) fn last_heard(&self) -> impl Iterator<Item = (SourceKey, LastHeard)> {
        self.heard.iter().filter_map(Result::ok)
    }

    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub(super) fn counter(&self, row: u32, reason: Reason) -> Result<u64, MapAccess> {
        let per_cpu = self.counters.get(&counter_index(row, reason), 0).map_err(failed("read a counter"))?;
        Ok(per_cpu.iter().sum())
    }

    /// Sets the counters of a row back to 0.
    ///
    /// # Errors
    /// The kernel refuses to change the map.
    pub(super) fn clear_counters(&mut self, row: u32) -> Result<(), MapAccess> {
        let cpus =
            nr_cpus().map_err(|(_, error)| error).map_err(MapError::IoError).map_err(failed("count the CPUs"))?;
        for reason in Reason::ALL {
            let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(MapError::IoError);
            let cleared = zeros.and_then(|zeros| self.counters.set(counter_index(row, reason), zeros, 0));
            cleared.map_err(failed("clear a counter"))?;
        }
        Ok(())
    }

    /// The source of the last advert that was refused for this reason.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub(super) fn last_refused(&self, row: u32, reason: Reason) -> Result<Refused, MapAccess> {
        self.refused.get(&counter_index(row, reason), 0).map_err(failed("read who was refused"))
    }

    fn try_attach(&mut self, ifindex: u32, hook: Hook) -> io::Result<()> {
        let program = program(&mut self.ebpf).map_err(io::Error::other)?;
        let mut link = Link::attach(program.fd().map_err(os_error)?.as_fd(), ifindex, hook)?;
        if let Ok(pins) = &self.pins {
            pins.pin(&mut link, Kind::Xdp, ifindex);
        }
        self.links.insert(ifindex, link);
        self.hooks.insert(ifindex, hook);
        Ok(())
    }
}

impl AsRawFd for Xdp {
    /// Readable when events wait.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.events.as_raw_fd()
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut programs::Xdp, LoadError> {
    ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok()).ok_or(LoadError::Missing(PROGRAM))
}

pub(super) fn take<T: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    ebpf.take_map(name).and_then(|map| map.try_into().ok()).ok_or(LoadError::Missing(name))
}

/// Why the kernel refuses the program, in one line; the verifier's log, of hundreds, goes to the debug log.
pub(super) fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    debug!("the verifier says:\n{log}");
    let is_verdict = |line: &&str| {
        !["processed ", "verification time", "stack depth"].iter().any(|statistics| line.starts_with(statistics))
    };
    match log.lines().filter(|line| !line.is_empty()).rfind(is_verdict) {
        Some(line) => format!("{io_error}: {line}"),
        None => io_error.to_string(),
    }
}

pub(super) fn failed(what: &'static str) -> impl FnOnce(MapError) -> MapAccess {
    move |source| MapAccess { what, source }
}

fn program_name(id: Option<u32>) -> String {
    let Some(id) = id else { return "of unknown name".to_owned() };
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.as_ref().and_then(|program| program.name_as_str()).unwrap_or("?");
    format!("{name:?} (id {id})")
}

/// The system call's error, which aya wraps.
pub(super) fn os_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
