//! The XDP program and its maps, from user space.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use aya::{
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::loaded_programs,
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use carp_common::{
    abi::{
        AdvertEvent, LastHeard, MAX_VHOSTS, Policy, RING_BYTES, Refused, SealId, Sent, SourceKey, Vhost, VhostKey,
        counter_index, map,
    },
    reason::Reason,
    seal::{Apart, SealKey, Sequence},
    time::Time,
};
use log::{info, warn};
use nix::{
    libc::{EBUSY, EEXIST},
    net::if_::if_indextoname,
};
use thiserror::Error;
use zeroize::Zeroize;

use super::{
    Inherited, Known,
    fence::Fence,
    links::{Hook, Link},
    pins::{Kind, Pins},
    programs::{LoadError, Programs},
};

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
    programs: Programs,
    vhosts: HashMap<MapData, VhostKey, Vhost>,
    peers: HashMap<MapData, SourceKey, Policy>,
    /// What is in it, by virtual hosts: to walk through a map takes a system call for each entry.
    peers_of: StdHashMap<VhostKey, Vec<SourceKey>>,
    seals: HashMap<MapData, SealId, SealKey>,
    seals_of: StdHashMap<VhostKey, Vec<SealId>>,
    sequences: HashMap<MapData, SourceKey, Sequence>,
    apart: HashMap<MapData, SourceKey, Apart>,
    newest: Array<MapData, u64>,
    wall: Array<MapData, u64>,
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
    /// The program, as the agent has left it that left these pins, or loaded. If there are no pins, it is known why not. Needs
    /// CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// The kernel is too old, or refuses the program.
    pub(super) fn new(mut pins: Result<Pins, String>) -> Result<Self, LoadError> {
        let mut programs = Programs::new(pins.as_mut().ok())?;
        if let Ok(pins) = &mut pins {
            pins.hold().unwrap_or_else(|error| warn!("cannot watch over what is pinned: {error}"));
        }
        let mut xdp = Self {
            vhosts: programs.take(map::VHOSTS)?,
            peers: programs.take(map::PEERS)?,
            peers_of: StdHashMap::new(),
            seals: programs.take(map::SEALS)?,
            seals_of: StdHashMap::new(),
            sequences: programs.take(map::SEQUENCES)?,
            apart: programs.take(map::APART)?,
            newest: programs.take(map::NEWEST)?,
            wall: programs.take(map::WALL)?,
            sent: programs.take(map::SENT)?,
            heard: programs.take(map::LAST_HEARD)?,
            counters: programs.take(map::COUNTERS)?,
            refused: programs.take(map::REFUSED)?,
            events: programs.take(map::EVENTS)?,
            logger: programs.logger(),
            links: BTreeMap::new(),
            hooks: BTreeMap::new(),
            lost: BTreeSet::new(),
            taken_over: BTreeSet::new(),
            inherited: StdHashMap::new(),
            fence: Fence::new(&mut programs)?,
            programs,
            pins,
        };
        xdp.take_over()?;
        Ok(xdp)
    }

    /// Goes on with what another agent has left: its links run the present program from now on.
    fn take_over(&mut self) -> Result<(), LoadError> {
        let Some(pins) = self.pins.as_ref().ok().filter(|pins| pins.is_inherited()) else { return Ok(()) };
        for (ifindex, path) in pins.links(Kind::Xdp) {
            if let Some(link) = pins.take_over(&path, self.programs.advert()?, ifindex) {
                self.links.insert(ifindex, link);
                self.taken_over.insert(ifindex);
            }
        }
        self.fence.take_over(&self.programs, pins);
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
        for seal in self.seals.keys().filter_map(Result::ok) {
            self.seals_of.entry(seal.vhost()).or_default().push(seal);
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
        let known = known.chain(self.peers_of.keys().chain(self.seals_of.keys()).copied());
        let others: Vec<_> = known.filter(|key| !keys.contains(key)).collect();
        others.into_iter().for_each(|key| self.remove_vhost(key));
        self.forget_sequences(|key| !keys.contains(key));
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
        self.fence.attach(&mut self.programs, ifindex, self.pins.as_ref().ok());
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
        self.fence.mend(&mut self.programs, self.pins.as_ref().ok(), lost);
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
    pub(super) fn set_vhost(&mut self, key: VhostKey, known: Known<'_>) -> Result<(), MapAccess> {
        let Known { vhost, peers, seals } = known;
        for former in self.peers_of.remove(&key).unwrap_or_default() {
            if peers.iter().all(|(peer, _)| *peer != former) {
                self.peers.remove(&former).ok();
            }
        }
        self.peers_of.insert(key, peers.iter().map(|(peer, _)| *peer).collect());
        for (peer, policy) in peers {
            self.peers.insert(peer, policy, 0).map_err(failed("tell the XDP program of a peer"))?;
        }
        let ids: Vec<_> = seals.iter().map(|(id, _)| SealId::new(key, *id)).collect();
        for former in self.seals_of.remove(&key).unwrap_or_default() {
            if !ids.contains(&former) {
                self.seals.remove(&former).ok();
            }
        }
        // First, so that none is overlooked when it is forgotten.
        self.seals_of.insert(key, ids.clone());
        for (id, (_, seal)) in ids.iter().zip(seals) {
            self.seals.insert(id, seal, 0).map_err(failed("tell the XDP program of a seal key"))?;
        }
        self.vhosts.insert(key, vhost, 0).map_err(failed("tell the XDP program of the virtual host"))
    }

    /// Forgets a virtual host.
    pub(super) fn remove_vhost(&mut self, key: VhostKey) {
        // First, or an advert would be judged by half of it. It may never have been set.
        self.vhosts.remove(&key).ok();
        for peer in self.peers_of.remove(&key).unwrap_or_default() {
            self.peers.remove(&peer).ok();
        }
        for seal in self.seals_of.remove(&key).unwrap_or_default() {
            self.seals.remove(&seal).ok();
        }
        self.sent.remove(&key).ok();
    }

    /// Forgets how far the sealed adverts of these virtual hosts had come.
    pub(super) fn forget_sequences(&mut self, is_one: impl Fn(&VhostKey) -> bool) {
        let known = self.sequences.keys().filter_map(Result::ok).filter(|source| is_one(&source.vhost()));
        let known: Vec<_> = known.collect();
        let apart = self.apart.keys().filter_map(Result::ok).filter(|source| is_one(&source.vhost()));
        let apart: Vec<_> = apart.collect();
        known.iter().for_each(|source| drop(self.sequences.remove(source)));
        apart.iter().for_each(|source| drop(self.apart.remove(source)));
    }

    /// Has no sequence of this source up to this one be good.
    ///
    /// # Errors
    /// The map is full.
    pub(super) fn set_sequence(&mut self, source: &SourceKey, sequence: Sequence) -> Result<(), MapAccess> {
        if self.sequences.get(source, 0).is_ok_and(|known| known.last >= sequence.last) {
            return Ok(());
        }
        self.sequences.insert(source, sequence, 0).map_err(failed("tell the XDP program of a sequence"))
    }

    /// Whether a sealed advert of this source was good.
    pub(super) fn is_known(&self, source: &SourceKey) -> bool {
        self.sequences.get(source, 0).is_ok()
    }

    /// The sources whose clocks were apart, since this was asked last.
    pub(super) fn take_apart(&mut self) -> Vec<(SourceKey, Apart)> {
        let apart: Vec<_> = self.apart.iter().filter_map(Result::ok).collect();
        apart.iter().for_each(|(source, _)| drop(self.apart.remove(source)));
        apart
    }

    /// Tells the program a counter of a row's own adverts, as if it had been heard.
    ///
    /// # Errors
    /// The kernel refuses to change the map.
    pub(super) fn note_counter(&mut self, row: u32, counter: u64) -> Result<(), MapAccess> {
        // Between the two calls the program may have heard a larger one: then some more are looked at, as in the program itself.
        let known = self.newest.get(&row, 0).map_err(failed("ask the XDP program what was heard"))?;
        if counter <= known {
            return Ok(());
        }
        self.newest.set(row, counter, 0).map_err(failed("tell the XDP program what was sent"))
    }

    /// Tells the program by how much the wall clock is ahead of CLOCK_BOOTTIME.
    pub(super) fn set_wall(&mut self, ahead: u64) {
        if let Err(error) = self.wall.set(0, ahead, 0) {
            warn!("cannot tell the XDP program what the wall clock says: {error}");
        }
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
        self.newest.set(row, 0, 0).map_err(failed("clear a counter"))
    }

    /// The source of the last advert that was refused for this reason.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub(super) fn last_refused(&self, row: u32, reason: Reason) -> Result<Refused, MapAccess> {
        self.refused.get(&counter_index(row, reason), 0).map_err(failed("read who was refused"))
    }

    fn try_attach(&mut self, ifindex: u32, hook: Hook) -> io::Result<()> {
        let mut link = Link::attach(self.programs.advert().map_err(io::Error::other)?, ifindex, hook)?;
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

pub(super) fn failed(what: &'static str) -> impl FnOnce(MapError) -> MapAccess {
    move |source| MapAccess { what, source }
}

fn program_name(id: Option<u32>) -> String {
    let Some(id) = id else { return "of unknown name".to_owned() };
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.as_ref().and_then(|program| program.name_as_str()).unwrap_or("?");
    format!("{name:?} (id {id})")
}
