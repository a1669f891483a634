//! The mastership lease that the kernel enforces.

use carp_common::engine::{Advskew, DeadRatio};
use clap::ValueEnum;
use serde::Deserialize;

/// Whether the kernel is to stop answering for the VIPs when this host could not advertise for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fence {
    /// Where it can be done.
    #[default]
    Auto,
    /// Or not to begin at all.
    Required,
    /// No.
    Off,
}

/// See the file's keys of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Whether there is to be one.
    pub(crate) fence: Fence,
    /// How long a peer lets a master be silent, in advertisement bases; as this host does unless given.
    pub(crate) peer_dead_ratio: Option<DeadRatio>,
    /// The smallest advskew of the peers: needed at advbase 0, where it makes their dead time.
    pub(crate) peer_advskew: Option<Advskew>,
}
