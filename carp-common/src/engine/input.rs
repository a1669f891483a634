//! What happens to a virtual host.

use core::{fmt, net::IpAddr, time::Duration};

use super::config::interval_of;
use crate::{
    abi::{Family, Heard, SourceKey},
    time::Time,
    wire::BOW_OUT,
};

/// Something that happened, handed to [`Engine::handle`](super::Engine::handle).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A valid advert of another host.
    Advert(HeardAdvert),
    /// The interface is there, up, with carrier and source address, and nothing else stands in the way.
    LinkUp,
    /// One of these is missing.
    LinkDown(LinkFault),
    /// An advert of a host that has the key, and was never heard before, arrived at this time: it may be an old one, for that
    /// host's clock and ours are apart.
    Doubtful(Time),
    /// What was sent until now could not be heard: it was no silence.
    Deaf,
    /// The interface has another hardware address.
    MacChanged,
    /// The kernel can enforce a lease on this interface, or no longer.
    Fence(bool),
    /// Goes on as MASTER in an agent's place whose lease is not over: instead of [`Input::LinkUp`].
    Resume {
        /// When that lease ends.
        until: Time,
    },
    /// An advert has left, which was not sent before this time.
    AdvertSent(Time),
    /// An advert could not be sent.
    AdvertFailed,
    /// The VIPs that [`Action::TakeVips`](super::Action::TakeVips) asked for are there, or the up script
    /// has ended or run out of time.
    VipsTaken,
    /// They cannot be added; it is tried again and again.
    VipsFailed,
    /// The VIPs that [`Action::ReleaseVips`](super::Action::ReleaseVips) gave up are gone, or the down
    /// script has ended or run out of time.
    VipsReleased,
    /// The administrator wants another host to be master for a while.
    StepDown,
    /// The administrator demotes this host by so much, or by 0 no longer; a master then steps down, too.
    Demote(u8),
    /// The administrator wants this host to be the last resort, or no longer; a master then steps down, too.
    Maintenance(bool),
    /// What the agent tracks for this virtual host demotes it by `own`, and what is wrong with others of its failover
    /// group by `group` more; a master says so at once.
    Tracked {
        /// By what is tracked for it.
        own: u8,
        /// By its group.
        group: u8,
    },
    /// The agent is about to end.
    Shutdown,
}

/// A valid advert: its fields, and when it arrived in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeardAdvert {
    /// The family it came in.
    pub family: Family,
    /// Who sent it.
    pub source: IpAddr,
    /// Its advbase in seconds.
    pub advbase: u8,
    /// Its advskew in 1/256 s.
    pub advskew: u8,
    /// Its demotion counter.
    pub demote: u8,
    /// When it arrived in the kernel.
    pub arrival: Time,
}

impl HeardAdvert {
    /// What the datapath has heard of this source.
    #[must_use]
    pub const fn new(source: SourceKey, heard: Heard) -> Self {
        Self {
            family: source.vhost().family(),
            source: source.source(),
            advbase: heard.advbase(),
            advskew: heard.advskew(),
            demote: heard.demote(),
            arrival: heard.arrival(),
        }
    }

    /// How long until its sender's next one.
    #[must_use]
    pub fn interval(&self) -> Duration {
        interval_of(self.advbase, self.advskew)
    }

    /// Whether this is a master's last advert. (The BSDs have no rule for it: it is so slow that their
    /// "master is slower than our dead time" fires; but not at advbase 0, nor from 86 up.)
    #[must_use]
    pub const fn is_bow_out(&self) -> bool {
        self.advbase == BOW_OUT && self.advskew == BOW_OUT
    }
}

/// Why a virtual host cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkFault {
    /// There is no such interface.
    NoInterface,
    /// The interface is administratively down.
    InterfaceDown,
    /// The interface has no carrier.
    NoCarrier,
    /// The source address is not on the interface, or it has none to take.
    NoAddress,
    /// Adverts could not be received: there is no road for them.
    NotAttached,
    /// The agent has not run for long enough.
    StartupDelay,
    /// What is to be served is not known to be ready.
    NotReady,
}

impl LinkFault {
    /// A short name, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoInterface => "no_interface",
            Self::InterfaceDown => "interface_down",
            Self::NoCarrier => "no_carrier",
            Self::NoAddress => "no_address",
            Self::NotAttached => "not_attached",
            Self::StartupDelay => "startup_delay",
            Self::NotReady => "not_ready",
        }
    }
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoInterface => "the interface does not exist",
            Self::InterfaceDown => "the interface is down",
            Self::NoCarrier => "no carrier",
            Self::NoAddress => "the source address is missing",
            Self::NotAttached => "adverts cannot be received",
            Self::StartupDelay => "startup_delay is not over",
            Self::NotReady => "ready_script has not succeeded yet",
        })
    }
}
