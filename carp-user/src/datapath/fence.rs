//! The fence from user space: which VIPs this host holds, until when, and the program that looks at what leaves.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
};
use carp_common::abi::{AddressKey, EGRESS_PROGRAM, Held, ending_bit, map};
use nix::net::if_::if_indextoname;

use super::xdp::{LoadError, MapAccess, failed, os_error, refusal, take};

/// The egress program with the maps that it shares with the XDP program.
pub(super) struct Fence {
    held: HashMap<MapData, AddressKey, Held>,
    /// A bit is set as long as an address in `held` ends so.
    endings: Array<MapData, u64>,
    leases: Array<MapData, u64>,
    /// Why the kernel does not take the program.
    refused: Option<String>,
    /// By interface: what detaches the program when dropped, or why it could not be attached.
    links: BTreeMap<u32, Result<SchedClassifierLink, String>>,
}

impl Fence {
    /// Takes the maps, and loads the program. That it is refused is no error: adverts come in without it.
    ///
    /// # Errors
    /// The object is not ours.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let (held, endings, leases) = (take(ebpf, map::HELD)?, take(ebpf, map::ENDINGS)?, take(ebpf, map::LEASES)?);
        let refused = program(ebpf)?.load().err().map(|error| refusal(&error));
        Ok(Self { held, endings, leases, refused, links: BTreeMap::new() })
    }

    /// Attaches the program to an interface; [`Self::obstacle`] tells whether that worked.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, ifindex: u32) {
        self.detach(ifindex);
        if self.refused.is_none() {
            self.links.insert(ifindex, try_attach(ebpf, ifindex));
        }
    }

    /// Detaches it.
    pub(super) fn detach(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
    }

    /// Why nothing looks at what leaves by this interface.
    pub(super) fn obstacle(&self, ifindex: u32) -> Option<String> {
        let refused = self.refused.as_ref().map(|why| format!("the kernel refuses the egress program: {why}"));
        refused.or_else(|| match self.links.get(&ifindex) {
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(format!("the egress program cannot be attached: {why}")),
            None => Some("the egress program is not attached".to_owned()),
        })
    }

    /// From now on this host holds a VIP.
    ///
    /// # Errors
    /// The map is full.
    pub(super) fn hold(&mut self, key: AddressKey, held: &Held) -> Result<(), MapAccess> {
        self.set_ending(key.ending(), true)
            .and_then(|()| self.held.insert(key, held, 0))
            .map_err(failed("tell the kernel of a VIP that is held"))
    }

    /// It does not hold it any more, if it did.
    pub(super) fn release(&mut self, key: AddressKey) {
        self.held.remove(&key).ok();
        if !self.held.keys().filter_map(Result::ok).any(|other| other.ending() == key.ending()) {
            // A bit that stays set costs time and nothing else.
            self.set_ending(key.ending(), false).ok();
        }
    }

    /// Until when the lease of a row lasts.
    ///
    /// # Errors
    /// There is no such row.
    pub(super) fn set_lease(&mut self, row: u32, deadline: u64) -> Result<(), MapAccess> {
        self.leases.set(row, deadline, 0).map_err(failed("tell the kernel of a lease"))
    }

    fn set_ending(&mut self, ending: [u8; 2], is_held: bool) -> Result<(), MapError> {
        let (word, bit) = ending_bit(ending);
        let bits = self.endings.get(&word, 0)?;
        self.endings.set(word, if is_held { bits | bit } else { bits & !bit }, 0)
    }
}

/// Attaches the program before all others, which could let a frame pass for good: by a link, else (before Linux 6.6) by a
/// filter, which takes the first place by itself.
fn try_attach(ebpf: &mut Ebpf, ifindex: u32) -> Result<SchedClassifierLink, String> {
    let program = program(ebpf).map_err(|error| error.to_string())?;
    let name = if_indextoname(ifindex).map_err(|error| error.to_string())?;
    let name = name.to_str().map_err(|error| error.to_string())?;
    let mut attach = |how| {
        let id = program.attach_with_options(name, TcAttachType::Egress, how)?;
        program.take_link(id)
    };
    let tcx = match attach(TcAttachOptions::TcxOrder(LinkOrder::first())) {
        Ok(link) => return Ok(link),
        Err(error) => os_error(error),
    };
    // It may be there already; what else is wrong, the next step tells. So it is with a filter of ours that a killed carpd
    // left: its leases would be over for ever.
    tc::qdisc_add_clsact(name).ok();
    tc::qdisc_detach_program(name, TcAttachType::Egress, EGRESS_PROGRAM).ok();
    attach(TcAttachOptions::Netlink(NlOptions::default()))
        .map_err(|error| format!("tcx: {tcx}; clsact: {}", text(&error)))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(EGRESS_PROGRAM).and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Missing(EGRESS_PROGRAM))
}

/// What an error says, with its cause.
fn text(error: &ProgramError) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
