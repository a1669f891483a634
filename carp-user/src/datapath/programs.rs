//! The kernel programs with their maps: as an agent that is gone has left them pinned, if they were made of the same object,
//! or else loaded, which takes several times as long as all else that a start does.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::{ProgramError, SchedClassifier, Xdp, tc::SchedClassifierLink},
};
use aya_log::EbpfLogger;
use carp_common::abi::{EGRESS_PROGRAM, PROGRAM, map};
use log::{LevelFilter, Log, debug, max_level, warn};
use thiserror::Error;

use super::{
    bpf,
    pins::{Kind, Pins},
};

/// The kernel programs as they were compiled.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CARP_EBPF_OBJECT"));

/// A digest of that file: programs that were made of another one have other names where they are pinned.
pub(super) const DIGEST: &str = env!("CARP_EBPF_DIGEST");

/// There are no programs.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    /// The kernel refused the object.
    #[error("cannot load the XDP program (it needs kernel 5.18 or newer): {0}")]
    Refused(String),
    /// The object is not ours.
    #[error("the XDP object has no {0}: it was not built from this source")]
    Missing(&'static str),
}

/// Both programs and their maps.
pub(super) enum Programs {
    /// This process has loaded them. With why the kernel does not take the one that looks at what leaves, if so.
    Loaded(Box<Ebpf>, Option<String>),
    /// As they are pinned.
    Pinned {
        /// Judges what arrives.
        advert: OwnedFd,
        /// Looks at what leaves.
        egress: OwnedFd,
        /// Where that is pinned.
        egress_path: PathBuf,
        /// By their names.
        maps: HashMap<&'static str, MapData>,
    },
}

impl Programs {
    /// Those that are pinned here, or new ones, against the maps that are pinned here.
    ///
    /// # Errors
    /// The kernel is too old, or refuses the XDP program.
    pub(super) fn new(mut pins: Option<&mut Pins>) -> Result<Self, LoadError> {
        // What they have to say can be read by who has loaded them.
        let Some(pins) = pins.as_deref_mut().filter(|_| max_level() < LevelFilter::Debug) else {
            return Self::load(pins.as_deref());
        };
        if let Some(programs) = Self::adopt(pins) {
            return Ok(programs);
        }
        let programs = Self::load(Some(pins))?;
        if let Self::Loaded(ebpf, None) = &programs {
            pins.pin_programs([(Kind::Xdp, program(ebpf, PROGRAM)?), (Kind::Tc, program(ebpf, EGRESS_PROGRAM)?)]);
        }
        Ok(programs)
    }

    /// Those that are pinned, if they are there, and work with the maps that are.
    fn adopt(pins: &Pins) -> Option<Self> {
        let [advert, egress] = [Kind::Xdp, Kind::Tc].map(|kind| bpf::open(&pins.program(kind)).ok());
        let (advert, egress) = (advert?, egress?);
        let maps: HashMap<_, _> =
            pins.maps().map(|(name, path)| Some((name, MapData::from_pin(path).ok()?))).collect::<Option<_>>()?;
        let is_one = |program: &OwnedFd, kind: Kind, names: &[&str]| {
            let (found, used) = bpf::program(program.as_fd()).ok()?;
            let works_with = |name: &&str| Some(used.contains(&maps.get(*name)?.info().ok()?.id()));
            Some(found == kind.program_type() && names.iter().all(|name| works_with(name) == Some(true)))
        };
        let all: Vec<_> = maps.keys().copied().collect();
        let of_egress = [map::VHOSTS, map::SENT, map::HELD, map::ENDINGS, map::LEASES, map::COUNTERS];
        if is_one(&advert, Kind::Xdp, &all)? && is_one(&egress, Kind::Tc, &of_egress)? {
            return Some(Self::Pinned { advert, egress, egress_path: pins.program(Kind::Tc), maps });
        }
        warn!("the programs that are pinned work with other maps than those that are: loading them anew");
        None
    }

    fn load(pins: Option<&Pins>) -> Result<Self, LoadError> {
        let level = max_level() as u8;
        let mut loader = EbpfLoader::new();
        loader.override_global(aya_log::LEVEL, &level, true);
        for (name, path) in pins.into_iter().flat_map(Pins::maps) {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| LoadError::Refused(error.to_string()))?;
        let advert: Option<&mut Xdp> = ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok());
        let advert = advert.ok_or(LoadError::Missing(PROGRAM))?;
        advert.load().map_err(|error| LoadError::Refused(refusal(&error)))?;
        let refused = egress(&mut ebpf)?.load().err().map(|error| refusal(&error));
        Ok(Self::Loaded(Box::new(ebpf), refused))
    }

    /// The program that judges what arrives.
    ///
    /// # Errors
    /// The object is not ours.
    pub(super) fn advert(&self) -> Result<BorrowedFd<'_>, LoadError> {
        match self {
            Self::Loaded(ebpf, _) => program(ebpf, PROGRAM),
            Self::Pinned { advert, .. } => Ok(advert.as_fd()),
        }
    }

    /// The program that looks at what leaves.
    ///
    /// # Errors
    /// The object is not ours, or the kernel does not take it.
    pub(super) fn egress(&self) -> Result<BorrowedFd<'_>, LoadError> {
        match self {
            Self::Loaded(ebpf, _) => program(ebpf, EGRESS_PROGRAM),
            Self::Pinned { egress, .. } => Ok(egress.as_fd()),
        }
    }

    /// Why the kernel does not take that, if so.
    pub(super) fn refused_egress(&self) -> Option<&str> {
        match self {
            Self::Loaded(_, refused) => refused.as_deref(),
            Self::Pinned { .. } => None,
        }
    }

    /// Has aya attach it.
    ///
    /// # Errors
    /// What aya says.
    pub(super) fn attach_egress(
        &mut self,
        attach: impl FnOnce(&mut SchedClassifier) -> Result<SchedClassifierLink, ProgramError>,
    ) -> Result<SchedClassifierLink, ProgramError> {
        match self {
            Self::Loaded(ebpf, _) => attach(egress(ebpf).map_err(|_| ProgramError::NotLoaded)?),
            Self::Pinned { egress_path, .. } => attach(&mut SchedClassifier::from_pin(egress_path)?),
        }
    }

    /// A map, for good.
    ///
    /// # Errors
    /// The object is not ours.
    pub(super) fn take<T: TryFrom<Map>>(&mut self, name: &'static str) -> Result<T, LoadError> {
        let map = match self {
            Self::Loaded(ebpf, _) => ebpf.take_map(name),
            Self::Pinned { maps, .. } => maps.remove(name).and_then(|map| Map::from_map_data(map).ok()),
        };
        map.and_then(|map| map.try_into().ok()).ok_or(LoadError::Missing(name))
    }

    /// What the programs have to say. It is a convenience: without it, they still work.
    pub(super) fn logger(&mut self) -> Option<EbpfLogger<&'static dyn Log>> {
        let Self::Loaded(ebpf, _) = self else { return None };
        EbpfLogger::init(ebpf).inspect_err(|error| debug!("no log from the XDP program: {error}")).ok()
    }
}

fn program<'e>(ebpf: &'e Ebpf, name: &'static str) -> Result<BorrowedFd<'e>, LoadError> {
    ebpf.program(name).and_then(|program| Some(program.fd().ok()?.as_fd())).ok_or(LoadError::Missing(name))
}

fn egress(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(EGRESS_PROGRAM).and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Missing(EGRESS_PROGRAM))
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
