//! What the agent has to do, in order.

use super::{Demotion, HeardAdvert, Lease, Transition};

/// Something to do, taken from [`Engine::poll_action`](super::Engine::poll_action).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Action {
    /// Send one advert in every family; answer with [`AdvertSent`](super::Input::AdvertSent) or
    /// [`AdvertFailed`](super::Input::AdvertFailed), before anything else is handed to the engine.
    SendAdvert(AdvertFields),
    /// Have the kernel enforce this from now on.
    SetLease(Lease),
    /// Add the VIPs or run the up script; answer with [`VipsTaken`](super::Input::VipsTaken).
    TakeVips,
    /// Remove the VIPs or run the down script; answer with [`VipsReleased`](super::Input::VipsReleased).
    /// A later one of the two overrules an earlier one that is not finished.
    ReleaseVips,
    /// Tell the network where the VIPs are now: a gratuitous ARP for each IPv4 VIP, an unsolicited neighbour advertisement for
    /// each IPv6 VIP.
    Announce,
    /// Tell the administrator that the state has changed.
    Transition(Transition),
    /// Tell the administrator that another host was heard as master, too, or as one that leaves, and that this one stays: where
    /// else it is known who has the VIPs, that may have to be said again. Once in an interval.
    Rival(HeardAdvert),
    /// Tell the administrator that the demotion counter has changed.
    Demoted(Demotion),
}

/// The election fields of an advert to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdvertFields {
    /// advbase in seconds.
    pub advbase: u8,
    /// advskew in 1/256 s.
    pub advskew: u8,
    /// Demotion counter.
    pub demote: u8,
}
