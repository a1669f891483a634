//! The three states, and why they change.

use core::{fmt, net::IpAddr, time::Duration};

use super::{HeardAdvert, LinkFault};
use crate::time::Time;

/// The state of a virtual host, as the BSDs and ucarp name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Cannot work: no link, or not started, or stopped.
    Init,
    /// Another host serves the VIPs.
    Backup,
    /// This host serves the VIPs and advertises.
    Master,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "INIT",
            Self::Backup => "BACKUP",
            Self::Master => "MASTER",
        })
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    /// The state that was left.
    pub from: State,
    /// The state that was entered.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: Time,
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The link is ready.
    LinkUp,
    /// The link is not.
    LinkDown(LinkFault),
    /// The master was silent for this long.
    MasterDown(Duration),
    /// The master said that it leaves.
    BowOut(IpAddr),
    /// The master advertises less often than this host, which preempts.
    Preempt(HeardAdvert),
    /// The master is demoted more than this host.
    DemotedMaster(HeardAdvert),
    /// The master's adverts are further apart than this host's dead time.
    SlowMaster(HeardAdvert),
    /// Another master is to be preferred.
    BetterMaster(HeardAdvert),
    /// Another master is as good as this one, and was heard first.
    EqualMaster(HeardAdvert),
    /// This host could not advertise for so long that others may have taken over.
    LeaseOver,
    /// Another agent on this host was master, with a lease that ends then.
    Resumed(Time),
    /// The administrator asked for it.
    StepDown,
    /// The agent ends.
    Shutdown,
}

impl Cause {
    /// A short name without what differs from time to time, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkUp => "link_up",
            Self::LinkDown(fault) => fault.name(),
            Self::MasterDown(_) => "master_down",
            Self::BowOut(_) => "bow_out",
            Self::Preempt(_) => "preempt",
            Self::DemotedMaster(_) => "demoted_master",
            Self::SlowMaster(_) => "slow_master",
            Self::BetterMaster(_) => "better_master",
            Self::EqualMaster(_) => "equal_master",
            Self::LeaseOver => "lease_over",
            Self::Resumed(_) => "resumed",
            Self::StepDown => "step_down",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkUp => f.write_str("interface ready"),
            Self::LinkDown(fault) => fault.fmt(f),
            Self::MasterDown(silence) => write!(f, "no advert for {:.2} s", silence.as_secs_f64()),
            Self::BowOut(source) => write!(f, "{source} leaves"),
            Self::Preempt(peer) => write!(f, "preempting {}", Peer(peer)),
            Self::DemotedMaster(peer) => write!(f, "{} is demoted by {}", peer.source, peer.demote),
            Self::SlowMaster(peer) => write!(f, "{} advertises too slowly", Peer(peer)),
            Self::BetterMaster(peer) => write!(f, "{} is preferred", Peer(peer)),
            Self::EqualMaster(peer) => write!(f, "{} is as good and was heard first", Peer(peer)),
            Self::LeaseOver => f.write_str("no advert has left for so long that another host may be master"),
            Self::Resumed(_) => f.write_str("going on within the lease of the carpd before"),
            Self::StepDown => f.write_str("asked to step down"),
            Self::Shutdown => f.write_str("stopping"),
        }
    }
}

/// A peer with what decides about it.
struct Peer<'a>(&'a HeardAdvert);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HeardAdvert { source, advbase, advskew, demote, .. } = self.0;
        write!(f, "{source} (advbase {advbase}, advskew {advskew}")?;
        if *demote != 0 {
            write!(f, ", demoted by {demote}")?;
        }
        f.write_str(")")
    }
}
