//! The settings of a virtual host, checked: inside the agent they are valid.

pub(crate) mod failover;
pub(crate) mod file;
pub(crate) mod lease;
pub(crate) mod seal;

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{self, Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use carp_common::{
    abi::{Family, Policy, SealCheck},
    digest::{MAX_PASSPHRASE, Passphrase},
    engine::{self, Advbase, Advskew, Announcements, DeadRatio, Vhid},
    wire::{Destination, GROUP_V6, can_be_host},
};
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

use self::{
    failover::Failover,
    lease::Lease,
    seal::{PeerPolicy, Seal},
};

/// Longest name of an interface in bytes (IFNAMSIZ less its NUL).
const MAX_INTERFACE: usize = 15;

/// advbase, advskew and dead ratio, unless given: as ucarp's.
pub(crate) const ADVBASE: u8 = 1;
pub(crate) const ADVSKEW: u8 = 0;
pub(crate) const DEAD_RATIO: u8 = 3;

/// How many seconds a script may run, and how many unless given.
pub(crate) const SCRIPT_SECONDS: RangeInclusive<i64> = 1..=3600;
pub(crate) const SCRIPT_TIMEOUT: u16 = 10;

/// A virtual IP address, and the prefix length that it has on the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vip {
    /// The address.
    pub(crate) address: IpAddr,
    /// Its prefix length, 0 to 32 or 128, which it is unless given.
    pub(crate) prefix: u8,
}

impl FromStr for Vip {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok().context("no IP address")?;
        ensure!(can_be_hosts(address), "cannot be a host's address");
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).ok().filter(|prefix| *prefix <= longest);
        let prefix = prefix.with_context(|| format!("the prefix length is 0 to {longest}"))?;
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Whether this can be a host's address.
pub(crate) fn can_be_hosts(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => can_be_host(v4.octets()[0]),
        // Not one that means an IPv4 address, either.
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast() && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// The family of an address.
pub(crate) const fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Which digest is sent where there are link-local VIPs. The other one is accepted all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkLocal {
    /// Over all VIPs, as FreeBSD and NetBSD have it, and OpenBSD once had
    Hashed,
    /// Over the others only, as OpenBSD has it
    Ignored,
}

/// Which Ethernet address the VIPs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VipMac {
    /// 00:00:5e:00:01:VHID on all hosts: no neighbour need learn another at a takeover
    Virtual,
    /// That of the interface, as ucarp has it
    Interface,
}

/// Which Ethernet address adverts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AdvertMac {
    /// 00:00:5e:00:01:VHID, as the protocol has it
    Virtual,
    /// That of the interface, whatever it is at the time
    Interface,
}

impl AdvertMac {
    /// Unless one is asked for: peers are there for the sake of clouds, which drop what comes from an address that they do
    /// not know. VIPs that have the virtual one need it.
    pub(crate) fn towards(peers: &[IpAddr], mac: VipMac) -> Self {
        if peers.is_empty() || mac == VipMac::Virtual { Self::Virtual } else { Self::Interface }
    }

    /// What is wrong about this one where the VIPs have that one, if anything.
    pub(crate) fn mistake(self, mac: VipMac) -> Option<&'static str> {
        let is_wrong = mac == VipMac::Virtual && self == Self::Interface;
        is_wrong.then_some("the adverts come from the virtual MAC, too: they tell switches where it is")
    }
}

/// The road that adverts are to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice {
    /// The best that works, saying why if that is not native
    Auto,
    /// XDP in the driver
    Native,
    /// XDP in the network stack
    Generic,
    /// A packet socket
    Socket,
}

impl Choice {
    /// Whether nothing but XDP will do.
    pub(crate) const fn needs_xdp(self) -> bool {
        matches!(self, Self::Native | Self::Generic)
    }
}

/// The VIPs are being changed on one host after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rollout {
    /// What they were.
    pub(crate) from: Vec<IpAddr>,
    /// When all hosts have been changed.
    pub(crate) until: Timestamp,
}

/// The administrator's scripts. With one of them, the scripts own the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scripts {
    /// Run on becoming MASTER.
    pub(crate) up: Option<PathBuf>,
    /// Run on leaving MASTER, at the end, and (unless `neutral`) at the start.
    pub(crate) down: Option<PathBuf>,
    /// Last argument of both, after interface and VIP.
    pub(crate) xparam: Option<OsString>,
    /// How long one may run.
    pub(crate) time_limit: Duration,
}

/// A program that is told of transitions. The addresses stay carpd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notify {
    /// The program.
    pub(crate) program: PathBuf,
    /// How long it may run.
    pub(crate) time_limit: Duration,
}

/// Over which VIPs a virtual host's digests are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digests {
    /// Each advert is sent once with each of these.
    pub(crate) sent: Vec<Vec<IpAddr>>,
    /// Adverts are accepted with any of these, [`MAX_DIGESTS`](carp_common::abi::MAX_DIGESTS) at most.
    pub(crate) accepted: Vec<Vec<IpAddr>>,
}

/// A virtual host, and how to serve it.
#[derive(PartialEq, Eq)]
pub(crate) struct Settings {
    /// Name of the interface; found by source address or route if not given.
    pub(crate) interface: Option<String>,
    /// Source addresses of adverts, of each family one at most; found on the interface if not given.
    pub(crate) sources: Vec<IpAddr>,
    /// Virtual host id.
    pub(crate) vhid: Vhid,
    /// The key.
    pub(crate) passphrase: Passphrase,
    /// The VIPs, at least one, all different.
    pub(crate) vips: Vec<Vip>,
    /// What the VIPs were a short time ago, if hosts are to be expected that have not heard of the change.
    pub(crate) rollout: Option<Rollout>,
    /// Where adverts go in IPv4, but for peers.
    pub(crate) group: Ipv4Addr,
    /// Whether they go there by Ethernet broadcast.
    pub(crate) is_broadcast: bool,
    /// Who gets them instead, each for itself; in a family that has such, nobody else is heard.
    pub(crate) peers: Vec<IpAddr>,
    /// The smallest TTL or hop limit that adverts may have.
    pub(crate) min_ttl: u8,
    /// Which digest is sent where there are link-local VIPs.
    pub(crate) link_local: LinkLocal,
    /// Which Ethernet address they come from.
    pub(crate) advert_mac: AdvertMac,
    /// Which Ethernet address the VIPs have.
    pub(crate) mac: VipMac,
    /// Advertisement base interval.
    pub(crate) advbase: Advbase,
    /// Advertisement skew.
    pub(crate) advskew: Advskew,
    /// How long a master may be silent, in advertisement bases.
    pub(crate) dead_ratio: DeadRatio,
    /// Whether to take over from a less preferred master.
    pub(crate) preempt: bool,
    /// Whether to leave the down script alone at the start.
    pub(crate) neutral: bool,
    /// Whether to go on without carrier, or with the interface down.
    pub(crate) ignore_link_state: bool,
    /// The road that adverts are to take.
    pub(crate) datapath: Choice,
    /// How often a master repeats its gratuitous ARP.
    pub(crate) announcements: Announcements,
    /// The scripts, if there are any.
    pub(crate) scripts: Option<Scripts>,
    /// What is told of transitions, if anything.
    pub(crate) notify: Option<Notify>,
    /// What else decides who is master.
    pub(crate) failover: Failover,
    /// For how long this host may be, without a word from it.
    pub(crate) lease: Lease,
    /// Whether adverts are sealed.
    pub(crate) seal: Seal,
    /// What peers without a seal may say; in a family with such, nobody else is heard.
    pub(crate) policies: Vec<PeerPolicy>,
}

impl Settings {
    /// The VIPs as the digests take them.
    pub(crate) fn digests(&self) -> Digests {
        let all: Vec<_> = self.vips.iter().map(|vip| vip.address).collect();
        if let Some(rollout) = self.present_rollout() {
            let sent = [all, rollout.from.clone()].map(|vips| self.as_sent(&vips));
            return Digests { sent: sent.to_vec(), accepted: sent.to_vec() };
        }
        let sent = self.as_sent(&all);
        let mut accepted = vec![sent.clone()];
        let other = match self.link_local {
            LinkLocal::Hashed => without_link_local(&all),
            LinkLocal::Ignored => all,
        };
        if other != sent {
            accepted.push(other);
        }
        Digests { sent: vec![sent], accepted }
    }

    fn as_sent(&self, vips: &[IpAddr]) -> Vec<IpAddr> {
        match self.link_local {
            LinkLocal::Hashed => vips.to_vec(),
            LinkLocal::Ignored => without_link_local(vips),
        }
    }

    /// The change of the VIPs that is under way.
    pub(crate) fn present_rollout(&self) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|rollout| Timestamp::now() < rollout.until)
    }

    /// The families in which adverts are exchanged: those of the VIPs, and in a rollout those that they had before, too.
    pub(crate) fn families(&self) -> &'static [Family] {
        match (self.has_vips_in(Family::V4), self.has_vips_in(Family::V6)) {
            (true, true) => &[Family::V4, Family::V6],
            (false, true) => &[Family::V6],
            (_, false) => &[Family::V4],
        }
    }

    fn has_vips_in(&self, family: Family) -> bool {
        let before = self.present_rollout().into_iter().flat_map(|rollout| rollout.from.iter().copied());
        self.vips.iter().map(|vip| vip.address).chain(before).any(|address| family_of(address) == family)
    }

    /// The peers of a family.
    pub(crate) fn peers_in(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.peers.iter().copied().filter(move |peer| family_of(*peer) == family)
    }

    /// Who is heard in a family, and what each may say; everybody if this is empty.
    pub(crate) fn heard_in(&self, family: Family) -> Vec<(IpAddr, Policy)> {
        let named = self.policies.iter().filter(|peer| family_of(peer.source) == family);
        let mut heard: Vec<_> = named.map(|peer| (peer.source, peer.policy)).collect();
        let free = self.peers_in(family).filter(|peer| self.policies.iter().all(|policy| policy.source != *peer));
        heard.extend(free.map(|peer| (peer, Policy::ANY)));
        heard
    }

    /// The group that has the adverts of a family, unless there are peers.
    pub(crate) fn group_in(&self, family: Family) -> Option<Destination> {
        if self.peers_in(family).next().is_some() {
            return None;
        }
        let group = match family {
            Family::V4 => self.group.into(),
            Family::V6 => GROUP_V6.into(),
        };
        Some(if self.is_broadcast { Destination::broadcast(group) } else { Destination::group(group) })
    }

    /// The groups that have the adverts.
    pub(crate) fn groups(&self) -> impl Iterator<Item = IpAddr> {
        self.families().iter().filter_map(|family| Some(self.group_in(*family)?.ip))
    }

    /// Names of interfaces that are watched beside its own.
    pub(crate) fn tracked_interfaces(&self) -> impl Iterator<Item = &str> {
        self.failover.interfaces.iter().map(|tracked| tracked.name.as_str())
    }

    /// The part that the state machine needs.
    pub(crate) fn engine(&self, source: IpAddr) -> engine::Config {
        engine::Config {
            advbase: self.advbase,
            advskew: self.advskew,
            dead_ratio: self.dead_ratio,
            peer_dead_ratio: self.lease.peer_dead_ratio.unwrap_or(self.dead_ratio),
            peer_advskew: self.lease.peer_advskew,
            preempt: self.preempt,
            families: self.families(),
            any_family: self.present_rollout().is_some(),
            source,
            announcements: self.announcements,
            bow_out_last: self.scripts.is_some(),
            profile: self.failover.profile,
            preempt_delay: self.failover.preempt_delay,
            doubt: Duration::from_nanos(match self.seal.mode.check() {
                SealCheck::Enforce => self.seal_window(),
                SealCheck::Off | SealCheck::Permissive => 0,
            }),
        }
    }

    /// By how many nanoseconds the sequence of a sealed advert may be apart from what is expected; 0: by any number.
    pub(crate) fn seal_window(&self) -> u64 {
        let ticks = u32::from(self.advbase.get()) * 256 + u32::from(self.advskew.get());
        self.seal.window(Duration::from_secs(1) * ticks / 256)
    }
}

fn without_link_local(vips: &[IpAddr]) -> Vec<IpAddr> {
    vips.iter().copied().filter(|address| !is_link_local(*address)).collect()
}

/// Whether each link has such an address of its own.
pub(crate) const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The kernel's rule for a name (`dev_valid_name`).
pub(crate) fn is_interface_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= MAX_INTERFACE
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
}

/// A program that can be run, wherever this process goes: with --daemonize, to /.
pub(crate) fn executable(path: &Path) -> Result<PathBuf> {
    let cannot_use = || format!("cannot use the script {}", path.display());
    let metadata = path.metadata().with_context(cannot_use)?;
    ensure!(
        metadata.is_file() && metadata.permissions().mode() & 0o111 != 0,
        "{}: it is not an executable file (chmod +x?)",
        cannot_use()
    );
    path::absolute(path).with_context(cannot_use)
}

/// The key in these bytes.
pub(crate) fn passphrase(text: &[u8]) -> Result<Passphrase> {
    ensure!(!text.is_empty(), "the passphrase is empty");
    Passphrase::new(text).with_context(|| {
        format!("the passphrase has {} bytes; CARP takes 1 to {MAX_PASSPHRASE}, none of them NUL", text.len())
    })
}

/// What stands in the first line of a file: a passphrase or a key.
pub(crate) fn first_line(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let cannot_read = || format!("cannot read the secret in {}", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    // A passphrase has 19 bytes, a key 64: no need to swallow a device.
    BufReader::new(file.take(256)).read_until(b'\n', &mut line).with_context(cannot_read)?;
    // The newline only: ucarp takes a carriage return for part of the passphrase.
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Args;

    fn settings(words: &[&str]) -> Settings {
        let required = ["carpd", "--vhid=7", "--pass=secret", "--addr=10.0.0.100/24", "--addr=10.0.0.101"];
        let args = Args::try_parse_from([&required, words].concat()).unwrap_or_else(|error| panic!("{error}"));
        args.configuration().unwrap_or_else(|error| panic!("{error:#}")).hosts.remove(0)
    }

    #[test]
    fn the_digest_takes_the_vips_without_their_prefix_lengths() {
        let settings = settings(&[]);
        let told: Vec<_> = settings.vips.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["10.0.0.100/24", "10.0.0.101/32"]);
        assert_eq!(settings.digests().sent, [[[10, 0, 0, 100], [10, 0, 0, 101]].map(IpAddr::from)]);
        assert_eq!(settings.digests().accepted, settings.digests().sent);
    }

    #[test]
    fn link_local_vips_have_two_digests_of_which_either_can_be_sent() {
        let link_local = ["--addr=fe80::1", "--addr=fd00::1/64"];
        let [all, others] =
            [&["10.0.0.100", "10.0.0.101", "fe80::1", "fd00::1"][..], &["10.0.0.100", "10.0.0.101", "fd00::1"]]
                .map(|addresses| addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>());
        let hashed = settings(&link_local).digests();
        assert_eq!((hashed.sent, hashed.accepted), (vec![all.clone()], vec![all.clone(), others.clone()]));
        let ignored = settings(&[&link_local[..], &["--link-local=ignored"]].concat());
        assert_eq!(ignored.digests().accepted, [others.clone(), all]);
        assert_eq!(ignored.digests().sent, [others]);
        assert_eq!(ignored.families(), [Family::V4, Family::V6]);
    }

    #[test]
    fn the_state_machine_gets_what_was_set() {
        let source = IpAddr::from([10, 0, 0, 1]);
        let config = settings(&["-b2", "-k5", "-r4", "-P"]).engine(source);
        assert_eq!((config.advbase.get(), config.advskew.get(), config.dead_ratio.get()), (2, 5, 4));
        assert!(config.preempt);
        assert_eq!((config.families, config.source), (&[Family::V4][..], source));
        let plain = settings(&[]).engine(source);
        assert!(!plain.preempt);
        assert_eq!(plain.announcements, Announcements { repeat: 1, refresh: 5 });
        let announcing = settings(&["--garp-repeat=0", "--garp-refresh=255"]).engine(source);
        assert_eq!(announcing.announcements, Announcements { repeat: 0, refresh: 255 });
    }
}
