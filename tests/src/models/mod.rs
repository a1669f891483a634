//! Models of CARP's other peers: OpenBSD, FreeBSD and ucarp 1.5.2, as their sources say, without sockets or clocks.
//!
//! They are written by someone who has not read carpd's engine, and share no line with it, not even the digest: a
//! rule that either misread shows when the two meet. A model gets bytes and gives bytes, so that any [`Peer`] can be
//! put on a [`Lan`] with any other.

pub mod frame;
mod freebsd;
mod lan;
mod openbsd;
#[cfg(test)]
mod testing;
mod ucarp;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use freebsd::FreeBsd;
pub use lan::{Announcement, Lan, Moment};
pub use openbsd::OpenBsd;
pub use ucarp::Ucarp;

use crate::node::{PASSPHRASE, VHID, VIP};

/// A host that takes part in CARP with one virtual host. Moments are durations since one beginning for all.
pub trait Peer {
    /// The state that it is in.
    fn state(&self) -> State;

    /// A packet of protocol 112 to its group arrives. `payload` is what follows the IP header.
    fn receive(&mut self, now: Duration, source: IpAddr, ttl: u8, payload: &[u8]);

    /// When it wants [`Peer::expire`] to be called next.
    fn next_deadline(&self) -> Option<Duration>;

    /// Does what is due by now.
    fn expire(&mut self, now: Duration);

    /// The carrier is lost.
    fn link_down(&mut self, now: Duration);

    /// The carrier is back.
    fn link_up(&mut self, now: Duration);

    /// Adds to the demotion, or takes from it, in the host's own unit: a counter for OpenBSD, skews for FreeBSD, the
    /// reasons to be demoted for ucarp.
    fn demote(&mut self, now: Duration, by: i32);

    /// Its administrator ends it in good order.
    fn stop(&mut self, now: Duration);

    /// What it has done since this was asked last, in order.
    fn take_outputs(&mut self) -> Vec<Output>;
}

/// What a peer does that others, or its administrator, see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It sends an advert.
    Advert {
        /// IP source.
        source: IpAddr,
        /// The group of its family.
        destination: IpAddr,
        /// TTL or hop limit.
        ttl: u8,
        /// What follows the IP header.
        payload: Vec<u8>,
    },
    /// It sends a gratuitous ARP, or an unsolicited neighbour advertisement, for this VIP.
    Announcement(IpAddr),
    /// It changes its state.
    Change {
        /// The state that it leaves.
        from: State,
        /// The state that it enters.
        to: State,
        /// Why.
        reason: Reason,
    },
    /// It ignores a packet.
    Refusal(Refusal),
}

/// Whether a peer has the VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It takes no part.
    Init,
    /// It listens.
    Backup,
    /// It has them.
    Master,
}

/// Why a peer changes its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It begins, or its carrier is back.
    Started,
    /// The carrier is lost.
    LinkDown,
    /// Its administrator ends it.
    Stopped,
    /// It heard no advert of one family for its master-down time.
    Silence,
    /// The master is slower, and it preempts.
    Preempts,
    /// The master is demoted more.
    MasterDemoted,
    /// The master will be silent for longer than the master-down time, or says that it leaves.
    MasterTooSlow,
    /// It heard a master that is preferred.
    Yields,
}

/// Why a peer ignores a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no VIP of this family, and so has not joined the group, or it does not run.
    Deaf,
    /// Shorter than an advert.
    Length,
    /// Not 255.
    Ttl,
    /// The checksum.
    Sum,
    /// Another virtual host.
    Vhid,
    /// Not version 2.
    Version,
    /// The digest.
    Digest,
    /// Its own: OpenBSD knows it by the counter, ucarp by the address, FreeBSD does not.
    Echo,
}

/// How a peer is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own IPv4 address.
    pub source: Ipv4Addr,
    /// Its own IPv6 address, link-local.
    pub source6: Ipv6Addr,
    /// The virtual host's number.
    pub vhid: u8,
    /// The passphrase.
    pub passphrase: String,
    /// The VIPs of both families; ucarp has one of IPv4.
    pub vips: Vec<IpAddr>,
    /// advbase in seconds.
    pub advbase: u8,
    /// advskew in 1/256 s.
    pub advskew: u8,
    /// Whether it takes over from a master that is slower.
    pub preempt: bool,
    /// ucarp's `--deadratio`; it is 3 for the others.
    pub dead_ratio: u32,
    /// A kernel's timers go off with its clock's ticks: 10 ms for OpenBSD, 1 or 10 ms for FreeBSD. Zero, and they are
    /// exact.
    pub tick: Duration,
    /// What its random numbers are made of; and when ucarp's capture hands over what has arrived, which is `seed`
    /// microseconds after it starts and once a second, and in the same way, when a kernel's clock ticks.
    pub seed: u64,
}

impl Config {
    /// Host `number` of the lab's network, and the lab's virtual host, with an advert a second.
    pub fn host(number: u8, advskew: u8) -> Self {
        Self {
            source: Ipv4Addr::new(10, 77, 0, number),
            source6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into()),
            vhid: VHID,
            passphrase: PASSPHRASE.to_owned(),
            vips: vec![VIP.into()],
            advbase: 1,
            advskew,
            preempt: false,
            dead_ratio: 3,
            tick: Duration::ZERO,
            seed: number.into(),
        }
    }

    /// The first tick that is not before this moment.
    fn on_tick(&self, moment: Duration) -> Duration {
        let tick = self.tick.as_micros() as u64;
        if tick == 0 {
            return moment;
        }
        let phase = self.seed % tick;
        let since = (moment.as_micros() as u64).saturating_sub(phase);
        Duration::from_micros(phase + since.div_ceil(tick) * tick)
    }

    fn has_vips_of(&self, family: Family) -> bool {
        self.vips.iter().any(|vip| Family::of(*vip) == family)
    }
}

/// The two kinds of adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// 224.0.0.18 or ff02::12.
    fn group(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(224, 0, 0, 18).into(),
            Self::V6 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12).into(),
        }
    }
}

/// advskew as a time: 1/256 s each, cut to microseconds.
fn skew_time(advskew: u32) -> Duration {
    Duration::from_micros(u64::from(advskew) * 1_000_000 / 256)
}

/// How often someone with these fields advertises: what all peers compare.
fn interval(advbase: u8, advskew: u8) -> Duration {
    Duration::from_secs(advbase.into()) + skew_time(advskew.into())
}

/// The two master-down timers of a kernel's peer, one for each family.
#[derive(Clone, Copy, Debug, Default)]
struct DownTimers([Option<Duration>; 2]);

impl DownTimers {
    fn set(&mut self, family: Family, deadline: Duration) {
        self.0[family as usize] = Some(deadline);
    }

    fn next(&self) -> Option<Duration> {
        self.0.iter().flatten().min().copied()
    }
}
