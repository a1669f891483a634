//! The keys of the mastership lease.

use carp_common::engine::{Advskew, DeadRatio};

use super::{Reader, Section};
use crate::config::lease::{Fence, Lease};

/// What can stand in `[defaults]` and in a virtual host's table.
pub(in crate::config::file) const KEYS: [&str; 3] = ["fence", "peer_dead_ratio", "peer_advskew"];

impl Reader<'_> {
    pub(super) fn lease(&mut self, section: Section<'_>) -> Option<Lease> {
        let fence = self.plain(section, "fence", Fence::Auto);
        let peer_dead_ratio = self.if_given(section, "peer_dead_ratio", DeadRatio::RANGE, DeadRatio::new);
        let peer_advskew = self.if_given(section, "peer_advskew", Advskew::RANGE, Advskew::new);
        Some(Lease { fence, peer_dead_ratio: peer_dead_ratio?, peer_advskew: peer_advskew? })
    }
}
