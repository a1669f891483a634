//! The XDP program and its maps, from user space.

use std::{collections::BTreeMap, io, os::fd::AsRawFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::{self, ProgramError, XdpMode, links::FdLink, loaded_programs},
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use carp_common::{
    abi::{AdvertEvent, LastHeard, PROGRAM, Refused, Sent, SourceKey, Vhost, VhostKey, counter_index, map},
    reason::Reason,
};
use log::{debug, max_level};
use nix::libc::{EBUSY, EEXIST};
use thiserror::Error;

use super::fence::Fence;

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

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// In the network stack.
    Generic,
}

/// The loaded program with its maps.
pub(super) struct Xdp {
    ebpf: Ebpf,
    id: u32,
    vhosts: HashMap<MapData, VhostKey, Vhost>,
    peers: HashMap<MapData, SourceKey, u8>,
    sent: HashMap<MapData, VhostKey, Sent>,
    heard: HashMap<MapData, SourceKey, LastHeard>,
    counters: PerCpuArray<MapData, u64>,
    refused: Array<MapData, Refused>,
    events: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// By interface; detaches the program when dropped.
    links: BTreeMap<u32, FdLink>,
    /// What is dropped when a lease is over.
    pub(super) fence: Fence,
}

impl Xdp {
    /// Loads the program. Needs CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// The kernel is too old, or refuses the program.
    pub(super) fn load() -> Result<Self, LoadError> {
        let level = max_level() as u8;
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, true)
            .load(OBJECT)
            .map_err(|error| LoadError::Refused(error.to_string()))?;
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
        let program = program(&mut ebpf)?;
        program.load().map_err(failed)?;
        let id = program.info().map_err(failed)?.id();
        let (fence, links) = (Fence::load(&mut ebpf)?, BTreeMap::new());
        Ok(Self { ebpf, id, vhosts, peers, sent, heard, counters, refused, events, logger, links, fence })
    }

    /// The kernel's number of the program.
    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// Attaches the program to an interface. `present` is the program that the interface has, for the message if
    /// that is in the way.
    ///
    /// # Errors
    /// Another program is there, or this mode does not work.
    pub(super) fn attach(&mut self, ifindex: u32, mode: Mode, present: Option<u32>) -> Result<(), AttachError> {
        self.detach(ifindex);
        self.try_attach(ifindex, mode).map_err(|error| match error.raw_os_error() {
            Some(EBUSY | EEXIST) => AttachError::Busy(program_name(present)),
            _ => AttachError::Refused(error),
        })
    }

    /// Attaches the program that looks at what leaves; [`Fence::obstacle`] tells whether that worked.
    pub(super) fn attach_egress(&mut self, ifindex: u32) {
        self.fence.attach(&mut self.ebpf, ifindex);
    }

    /// Detaches both programs from an interface.
    pub(super) fn detach(&mut self, ifindex: u32) {
        self.fence.detach(ifindex);
        self.links.remove(&ifindex);
    }

    /// Makes a virtual host known to the program, with its peers.
    ///
    /// # Errors
    /// The map is full.
    pub(super) fn set_vhost(&mut self, key: VhostKey, vhost: &Vhost, peers: &[SourceKey]) -> Result<(), MapAccess> {
        for peer in peers {
            self.peers.insert(peer, 1, 0).map_err(failed("tell the XDP program of a peer"))?;
        }
        self.vhosts.insert(key, vhost, 0).map_err(failed("tell the XDP program of the virtual host"))
    }

    /// Forgets a virtual host.
    pub(super) fn remove_vhost(&mut self, key: VhostKey) {
        let peers: Vec<SourceKey> =
            self.peers.keys().filter_map(Result::ok).filter(|peer| peer.vhost() == key).collect();
        for peer in peers {
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

    fn try_attach(&mut self, ifindex: u32, mode: Mode) -> io::Result<()> {
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let program = program(&mut self.ebpf).map_err(io::Error::other)?;
        let id = program.attach_to_if_index(ifindex, mode).map_err(os_error)?;
        let link = program.take_link(id).map_err(os_error)?;
        // aya falls back to an attachment that would outlive this process: not wanted.
        let link = FdLink::try_from(link).map_err(|_| io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP))?;
        self.links.insert(ifindex, link);
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
