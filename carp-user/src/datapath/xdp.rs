//! The XDP program and its maps, from user space.

use std::{fmt, io, os::fd::AsRawFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{self, ProgramError, XdpMode, links::FdLink, loaded_programs},
};
use aya_log::EbpfLogger;
use carp_common::{
    abi::{AdvertEvent, LastHeard, PROGRAM, Refused, Sent, SourceKey, Vhost, VhostKey, counter_index, map},
    reason::Reason,
};
use log::{debug, max_level};
use nix::libc::{EBUSY, EEXIST};
use thiserror::Error;

/// The XDP program as it was compiled.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CARP_EBPF_OBJECT"));

/// The program could not be loaded, or a map not be used.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The kernel refused the object.
    #[error("cannot load the XDP program (it needs kernel 5.18 or newer): {0}")]
    Load(String),
    /// The object is not ours.
    #[error("the XDP object has no {0}: it was not built from this source")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("cannot {what}: {source}")]
    Map {
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        source: MapError,
    },
}

/// The program could not be attached to an interface.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Another program is there, and an interface takes only one.
    #[error(
        "{interface} has an XDP program already, {program}: an interface takes one; \
         end what attached it, or look with `bpftool net` and `bpftool link`"
    )]
    Busy {
        /// Name of the interface.
        interface: String,
        /// Name and id of the program.
        program: String,
    },
    /// Neither mode works.
    #[error("cannot attach the XDP program to {interface}: native: {native}; generic: {generic}")]
    Refused {
        /// Name of the interface.
        interface: String,
        /// What native mode said.
        native: String,
        /// What generic mode said.
        generic: String,
    },
}

/// How the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// In the network stack; with what the driver said.
    Generic(String),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native XDP"),
            Self::Generic(reason) => write!(f, "generic XDP, which is slower: native XDP: {reason}"),
        }
    }
}

/// The loaded program with its maps.
pub struct Xdp {
    ebpf: Ebpf,
    vhosts: HashMap<MapData, VhostKey, Vhost>,
    sent: HashMap<MapData, VhostKey, Sent>,
    heard: HashMap<MapData, SourceKey, LastHeard>,
    counters: PerCpuArray<MapData, u64>,
    refused: Array<MapData, Refused>,
    events: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Detaches the program when dropped.
    link: Option<FdLink>,
}

impl Xdp {
    /// Loads the program. Needs CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// The kernel is too old, or refuses the program.
    pub fn load() -> Result<Self, DatapathError> {
        let level = max_level() as u8;
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &level, true)
            .load(OBJECT)
            .map_err(|error| DatapathError::Load(error.to_string()))?;
        // The program's log is a convenience: without it, it still works.
        let logger =
            EbpfLogger::init(&mut ebpf).inspect_err(|error| debug!("no log from the XDP program: {error}")).ok();
        let vhosts = take(&mut ebpf, map::VHOSTS)?;
        let sent = take(&mut ebpf, map::SENT)?;
        let heard = take(&mut ebpf, map::LAST_HEARD)?;
        let counters = take(&mut ebpf, map::COUNTERS)?;
        let refused = take(&mut ebpf, map::REFUSED)?;
        let events = take(&mut ebpf, map::EVENTS)?;
        program(&mut ebpf)?.load().map_err(|error| DatapathError::Load(refusal(&error)))?;
        Ok(Self { ebpf, vhosts, sent, heard, counters, refused, events, logger, link: None })
    }

    /// Attaches the program to an interface, in native mode if the driver can, else in generic mode.
    /// `present` is the program that the interface has, for the message if that is in the way.
    ///
    /// # Errors
    /// Another program is there, or neither mode works.
    pub fn attach(&mut self, interface: &str, ifindex: u32, present: Option<u32>) -> Result<Mode, AttachError> {
        self.link = None;
        let native = match self.attach_in(ifindex, XdpMode::Driver) {
            Ok(()) => return Ok(Mode::Native),
            Err(error) => error,
        };
        if matches!(native.raw_os_error(), Some(EBUSY | EEXIST)) {
            return Err(AttachError::Busy { interface: interface.to_owned(), program: program_name(present) });
        }
        match self.attach_in(ifindex, XdpMode::Skb) {
            Ok(()) => Ok(Mode::Generic(native.to_string())),
            Err(generic) => Err(AttachError::Refused {
                interface: interface.to_owned(),
                native: native.to_string(),
                generic: generic.to_string(),
            }),
        }
    }

    /// Detaches the program.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// Makes a virtual host known to the program.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_vhost(&mut self, key: VhostKey, vhost: &Vhost) -> Result<(), DatapathError> {
        self.vhosts.insert(key, vhost, 0).map_err(failed("tell the XDP program of the virtual host"))
    }

    /// Forgets a virtual host, whose interface is gone.
    pub fn remove_vhost(&mut self, key: VhostKey) {
        // It may never have been set.
        self.vhosts.remove(&key).ok();
        self.sent.remove(&key).ok();
    }

    /// Tells the program what we sent ourselves.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_sent(&mut self, key: VhostKey, sent: &Sent) -> Result<(), DatapathError> {
        self.sent.insert(key, sent, 0).map_err(failed("tell the XDP program what was sent"))
    }

    /// The next event, if one is there.
    pub fn next_event(&mut self) -> Option<AdvertEvent> {
        let item = self.events.next()?;
        // SAFETY: the program writes whole AdvertEvents, for which every pattern of bits is valid; the ring
        // aligns records to 8 bytes, and read_unaligned asks for nothing.
        (item.len() == size_of::<AdvertEvent>())
            .then(|| unsafe { item.as_ptr().cast::<AdvertEvent>().read_unaligned() })
    }

    /// Forwards what the program has to say to the log.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// The last valid advert of every source of a virtual host.
    pub fn last_heard(&self, key: VhostKey) -> impl Iterator<Item = (SourceKey, LastHeard)> {
        self.heard.iter().filter_map(Result::ok).filter(move |(source, _)| source.vhost() == key)
    }

    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub fn counter(&self, row: u32, reason: Reason) -> Result<u64, DatapathError> {
        let per_cpu = self.counters.get(&counter_index(row, reason), 0).map_err(failed("read a counter"))?;
        Ok(per_cpu.iter().sum())
    }

    /// The source of the last advert that was refused for this reason.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub fn last_refused(&self, row: u32, reason: Reason) -> Result<Refused, DatapathError> {
        self.refused.get(&counter_index(row, reason), 0).map_err(failed("read who was refused"))
    }

    fn attach_in(&mut self, ifindex: u32, mode: XdpMode) -> io::Result<()> {
        let program = program(&mut self.ebpf).map_err(io::Error::other)?;
        let id = program.attach_to_if_index(ifindex, mode).map_err(os_error)?;
        let link = program.take_link(id).map_err(os_error)?;
        // aya falls back to an attachment that would outlive this process: not wanted.
        self.link = Some(FdLink::try_from(link).map_err(|_| io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP))?);
        Ok(())
    }
}

impl AsRawFd for Xdp {
    /// Readable when events wait.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.events.as_raw_fd()
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut programs::Xdp, DatapathError> {
    ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok()).ok_or(DatapathError::Missing(PROGRAM))
}

fn take<T: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DatapathError> {
    ebpf.take_map(name).and_then(|map| map.try_into().ok()).ok_or(DatapathError::Missing(name))
}

/// Why the kernel refuses the program, in one line; the verifier's log, of hundreds, goes to the debug log.
fn refusal(error: &ProgramError) -> String {
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

fn failed(what: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |source| DatapathError::Map { what, source }
}

fn program_name(id: Option<u32>) -> String {
    let Some(id) = id else { return "of unknown name".to_owned() };
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.as_ref().and_then(|program| program.name_as_str()).unwrap_or("?");
    format!("{name:?} (id {id})")
}

/// The system call's error, which aya wraps.
fn os_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
