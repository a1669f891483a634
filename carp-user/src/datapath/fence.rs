//! The fence from user space: which VIPs this host holds, until when, and the program that looks at what leaves.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap},
    fs, mem,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
};

use aya::{
    maps::{Array, HashMap, MapData, MapError},
    programs::{
        ProgramError, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
};
use carp_common::abi::{AddressKey, Deadline, EGRESS_PROGRAM, Held, ending_bit, map};
use log::warn;
use nix::net::if_::if_indextoname;

use super::{
    HeldVip,
    links::{Hook, Link},
    pins::{Kind, Pins},
    programs::{LoadError, Programs},
    xdp::{MapAccess, failed},
};

/// The egress program with the maps that it shares with the XDP program.
pub(super) struct Fence {
    held: HashMap<MapData, AddressKey, Held>,
    /// What is in it, by rows: to walk through a map takes a system call for each entry.
    rows: StdHashMap<AddressKey, u32>,
    /// A bit is set as long as an address in `held` ends so.
    endings: Array<MapData, u64>,
    /// How many do.
    ending: StdHashMap<[u8; 2], usize>,
    leases: Array<MapData, u64>,
    /// Why the kernel does not take the program.
    refused: Option<String>,
    /// By interface: where the program is, or why it could not be attached.
    links: BTreeMap<u32, Result<Place, String>>,
    /// Of these, those from which somebody else has detached it, and why it could not be put back so far.
    unplaced: BTreeMap<u32, String>,
    /// Of these, those that another agent has left, until they are asked for.
    taken_over: BTreeSet<u32>,
}

/// Where the program is attached.
enum Place {
    Link(Link),
    /// Detaches the program when dropped.
    Filter {
        _link: SchedClassifierLink,
    },
}

impl Fence {
    /// Takes the maps. That the kernel has refused the program is no error: adverts come in without it.
    ///
    /// # Errors
    /// The object is not ours.
    pub(super) fn new(programs: &mut Programs) -> Result<Self, LoadError> {
        let (held, endings, leases) =
            (programs.take(map::HELD)?, programs.take(map::ENDINGS)?, programs.take(map::LEASES)?);
        let refused = programs.refused_egress().map(str::to_owned);
        let (rows, ending) = (StdHashMap::new(), StdHashMap::new());
        let (links, unplaced, taken_over) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Ok(Self { held, rows, endings, ending, leases, refused, links, unplaced, taken_over })
    }

    /// Takes over what another agent has left attached, which runs the present program from now on.
    pub(super) fn take_over(&mut self, programs: &Programs, pins: &Pins) {
        self.rows = self.held.iter().filter_map(Result::ok).map(|(key, held)| (key, held.row())).collect();
        for key in self.rows.keys() {
            *self.ending.entry(key.ending()).or_default() += 1;
        }
        for (ifindex, path) in pins.links(Kind::Tc) {
            // If it is refused, the former one must not go on with leases that nobody renews.
            let Ok(program) = programs.egress() else {
                fs::remove_file(path).ok();
                continue;
            };
            if let Some(link) = pins.take_over(&path, program, ifindex) {
                self.links.insert(ifindex, Ok(Place::Link(link)));
                self.taken_over.insert(ifindex);
            }
        }
    }

    /// The VIPs that a virtual host holds, by its row, with the indices of their interfaces.
    pub(super) fn held(&self, row: u32) -> Vec<(u32, IpAddr)> {
        self.rows.iter().filter(|(_, of)| **of == row).map(|(key, _)| (key.ifindex(), key.address())).collect()
    }

    /// All VIPs that are held.
    pub(super) fn all_held(&self) -> impl Iterator<Item = HeldVip> {
        self.rows.iter().map(|(key, row)| HeldVip { row: *row, ifindex: key.ifindex(), address: key.address() })
    }

    /// The rows of all that is held.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> {
        self.rows.values().copied()
    }

    /// Detaches what another agent has left and nobody has asked for, and forgets what is not of these rows.
    pub(super) fn keep_only(&mut self, rows: &BTreeSet<u32>) {
        for ifindex in mem::take(&mut self.taken_over) {
            self.detach(ifindex);
        }
        let of_others: Vec<_> =
            self.rows.iter().filter(|(_, row)| !rows.contains(row)).map(|(key, row)| (*key, *row)).collect();
        for (key, row) in of_others {
            self.release(key, row);
            self.leases.set(row, 0, 0).ok();
        }
    }

    /// Attaches the program to an interface, unless another agent has left it there; [`Self::obstacle`] tells whether that
    /// worked.
    pub(super) fn attach(&mut self, programs: &mut Programs, ifindex: u32, pins: Option<&Pins>) {
        if self.taken_over.remove(&ifindex) {
            return;
        }
        self.detach(ifindex);
        if self.refused.is_none() {
            self.links.insert(ifindex, try_attach(programs, ifindex, pins));
        }
    }

    /// Detaches it.
    pub(super) fn detach(&mut self, ifindex: u32) {
        self.taken_over.remove(&ifindex);
        self.unplaced.remove(&ifindex);
        if let Some(Ok(Place::Link(link))) = self.links.remove(&ifindex) {
            link.detach();
        }
    }

    /// Puts the program back on those of these interfaces from which somebody else has detached it.
    pub(super) fn mend(&mut self, programs: &mut Programs, pins: Option<&Pins>, lost: &BTreeSet<u32>) {
        for (ifindex, place) in self.links.iter_mut().filter(|(ifindex, _)| lost.contains(ifindex)) {
            let Ok(Place::Link(link)) = place else { continue };
            let Ok(name) = if_indextoname(*ifindex) else { continue };
            if link.is_attached() {
                continue;
            }
            let detached = format!("something else detached the egress program from {}", name.to_string_lossy());
            match try_attach(programs, *ifindex, pins) {
                Ok(found) => {
                    *place = Ok(found);
                    self.unplaced.remove(ifindex);
                    warn!("{detached}: it is back");
                }
                // The link stays as it is, and so it is lost at the next look, too.
                Err(why) => {
                    if !self.unplaced.contains_key(ifindex) {
                        warn!("{detached}, and it cannot be put back: {why}: trying again");
                    }
                    self.unplaced.insert(*ifindex, why);
                }
            }
        }
    }

    /// The links by which it is attached, for another thread.
    pub(super) fn watched(&self) -> impl Iterator<Item = (u32, Arc<OwnedFd>)> {
        self.links.iter().filter_map(|(ifindex, place)| match place {
            Ok(Place::Link(link)) => Some((*ifindex, link.watched())),
            Ok(Place::Filter { .. }) | Err(_) => None,
        })
    }

    /// Where the program is attached by links.
    pub(super) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.values_mut().filter_map(|place| match place {
            Ok(Place::Link(link)) => Some(link),
            Ok(Place::Filter { .. }) | Err(_) => None,
        })
    }

    /// Why nothing looks at what leaves by this interface.
    pub(super) fn obstacle(&self, ifindex: u32) -> Option<String> {
        let refused = self.refused.as_ref().map(|why| format!("the kernel refuses the egress program: {why}"));
        refused.or_else(|| match self.links.get(&ifindex) {
            Some(Ok(_)) => {
                self.unplaced.get(&ifindex).map(|why| format!("the egress program cannot be put back: {why}"))
            }
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
            .map_err(failed("tell the kernel of a VIP that is held"))?;
        if self.rows.insert(key, held.row()).is_none() {
            *self.ending.entry(key.ending()).or_default() += 1;
        }
        Ok(())
    }

    /// The virtual host with this row does not hold it any more, if it did: it may be another's by now.
    pub(super) fn release(&mut self, key: AddressKey, row: u32) {
        if self.rows.get(&key) != Some(&row) {
            return;
        }
        self.rows.remove(&key);
        self.held.remove(&key).ok();
        let left = self.ending.entry(key.ending()).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.ending.remove(&key.ending());
            // A bit that stays set costs time and nothing else.
            self.set_ending(key.ending(), false).ok();
        }
    }

    /// Until when the lease of a row lasts.
    pub(super) fn lease(&self, row: u32) -> Deadline {
        self.leases.get(&row, 0).map_or(Deadline::NONE, Deadline::from_word)
    }

    /// Has the lease of a row last until then.
    ///
    /// # Errors
    /// There is no such row.
    pub(super) fn set_lease(&mut self, row: u32, deadline: Deadline) -> Result<(), MapAccess> {
        self.leases.set(row, deadline.word(), 0).map_err(failed("tell the kernel of a lease"))
    }

    fn set_ending(&mut self, ending: [u8; 2], is_held: bool) -> Result<(), MapError> {
        let (word, bit) = ending_bit(ending);
        let bits = self.endings.get(&word, 0)?;
        self.endings.set(word, if is_held { bits | bit } else { bits & !bit }, 0)
    }
}

/// Attaches the program before all others, which could let a frame pass for good: by a link, else (before Linux 6.6) by a
/// filter, which takes the first place by itself.
fn try_attach(programs: &mut Programs, ifindex: u32, pins: Option<&Pins>) -> Result<Place, String> {
    let program = programs.egress().map_err(|error| error.to_string())?;
    let tcx = match Link::attach(program, ifindex, Hook::Egress) {
        Ok(mut link) => {
            if let Some(pins) = pins {
                pins.pin(&mut link, Kind::Tc, ifindex);
            }
            return Ok(Place::Link(link));
        }
        Err(error) => error,
    };
    let name = if_indextoname(ifindex).map_err(|error| error.to_string())?;
    let name = name.to_str().map_err(|error| error.to_string())?;
    // It may be there already; what else is wrong, the next step tells. So it is with a filter of ours that a killed carpd
    // left: its leases would be over for ever.
    tc::qdisc_add_clsact(name).ok();
    tc::qdisc_detach_program(name, TcAttachType::Egress, EGRESS_PROGRAM).ok();
    let attached = programs.attach_egress(|program| {
        let options = TcAttachOptions::Netlink(NlOptions::default());
        program.attach_with_options(name, TcAttachType::Egress, options).and_then(|id| program.take_link(id))
    });
    attached.map(|link| Place::Filter { _link: link }).map_err(|error| format!("tcx: {tcx}; clsact: {}", text(&error)))
}

/// What an error says, with its cause.
fn text(error: &ProgramError) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
