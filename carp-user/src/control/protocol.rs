//! What carpctl and carpd say to each other over the control socket: a line of JSON each way.
//!
//! A client sends one [`Request`] and reads [`Reply`]s until the connection closes; only [`Request::Events`] with
//! `follow` goes on for ever. `carpctl status --json` prints a [`Status`] and `carpctl events --json` [`Event`]s as
//! they are here: fields may be added, none is renamed or removed while [`VERSION`] stays.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Version of this protocol, in every [`Status`].
pub(crate) const VERSION: u32 = 1;
/// Where the socket is unless another path is given.
pub(crate) const SOCKET: &str = "/run/carp/carpd.sock";

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// How things stand.
    Status,
    /// The last transitions and alarms; with `follow`, each one from now on, too.
    Events {
        /// Whether to go on.
        follow: bool,
    },
    /// Demote virtual hosts by so much, or by 0 no longer: all, or only those named.
    Demote {
        /// The virtual hosts: all of them, an interface's, or one.
        target: Target,
        /// 0 to 254.
        demotion: u8,
    },
    /// Seal adverts with another key, of those that are configured, until the settings change.
    SealWith {
        /// The virtual hosts: all of them, an interface's, or one.
        target: Target,
        /// 1 to 255.
        id: u8,
    },
    /// Make this server the last resort, or no longer; kept over restarts.
    Maintenance {
        /// Whether it is to be.
        on: bool,
    },
    /// Read the configuration file again.
    Reload,
    /// Have the program that is on disk by now go on in this process. What that will do is [`Reply::Done`]; after it the
    /// connection ends when it goes on, or with a [`Reply::Error`].
    Upgrade,
}

/// Virtual hosts: of all interfaces and vhids, or only of those named.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Only those on this interface.
    pub(crate) interface: Option<String>,
    /// Only those with this vhid.
    pub(crate) vhid: Option<u8>,
}

/// What carpd answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Events`], one for each.
    Event(Event),
    /// Done, and what was done.
    Done(String),
    /// Not done, and why.
    Error(String),
}

/// How things stand.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// carpd's own version.
    pub(crate) carpd: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Its configuration file; `null` for a virtual host from the command line.
    pub(crate) configuration: Option<PathBuf>,
    /// Whether this server is the last resort.
    pub(crate) maintenance: bool,
    /// Whether a floor on disk has the adverts' counters rise across a reboot, also if the clock is behind after it.
    #[serde(default)]
    pub(crate) counter_floor: bool,
    /// The virtual hosts, in the order of interface and vhid.
    pub(crate) virtual_hosts: Vec<VirtualHost>,
    /// Frames of protocol 112 that were for none of them, by reason.
    pub(crate) received_for_none: BTreeMap<String, u64>,
}

/// A virtual host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VirtualHost {
    /// Its interface.
    pub(crate) interface: String,
    /// Its virtual host id.
    pub(crate) vhid: u8,
    /// `INIT`, `BACKUP` or `MASTER`.
    pub(crate) state: String,
    /// Since when, RFC 3339.
    pub(crate) since: String,
    /// For how many seconds.
    pub(crate) seconds: f64,
    /// Why, as in the log; empty before the first change of state.
    pub(crate) cause: String,
    /// The VIPs, with their prefix lengths.
    pub(crate) addresses: Vec<String>,
    /// The change of the VIPs that is under way; `null` if none is.
    #[serde(default)]
    pub(crate) rollout: Option<Rollout>,
    /// The virtual MAC's device, which has the VIPs; `null` while there is none.
    #[serde(default)]
    pub(crate) device: Option<String>,
    /// What its own adverts come from, the IPv4 address if there are two; `null` while there is no such address.
    pub(crate) source: Option<IpAddr>,
    /// The hosts that get adverts of their own, if it is not a group that does.
    #[serde(default)]
    pub(crate) peers: Vec<Peer>,
    /// advbase in seconds.
    pub(crate) advbase: u8,
    /// advskew in 1/256 s as it is advertised: 254 in maintenance; with FreeBSD's profile, more if it is demoted.
    pub(crate) advskew: u8,
    /// Whether it takes over from a less preferred master.
    pub(crate) preempt: bool,
    /// How long a silence it takes for a master's death, in seconds.
    pub(crate) dead_seconds: f64,
    /// The demotion counter.
    pub(crate) demotion: Demotion,
    /// How a demotion is told: `openbsd`, `freebsd`.
    #[serde(default)]
    pub(crate) profile: String,
    /// The virtual hosts of the same name fail over with it.
    #[serde(default)]
    pub(crate) failover_group: Option<String>,
    /// The other host that was heard last; `null` if none ever was. The master, while this host is BACKUP.
    pub(crate) heard: Option<Heard>,
    /// `native`, `generic` or `socket`; `null` while adverts cannot be received.
    pub(crate) datapath: Option<String>,
    /// `lease`, or `none` and why: whether the kernel stops answering for the VIPs when this host could not advertise.
    #[serde(default)]
    pub(crate) fence: String,
    /// What it does about seals.
    #[serde(default)]
    pub(crate) seal: Seal,
    /// MASTER: seconds until it would, if there is a lease.
    #[serde(default)]
    pub(crate) lease_seconds: Option<f64>,
    /// Adverts that have left.
    pub(crate) sent: u64,
    /// Adverts that came in, by reason (BSD's carpstats), as far as there are any.
    pub(crate) received: BTreeMap<String, u64>,
    /// Who sent the last refused advert, by reason.
    pub(crate) refused: BTreeMap<String, Refused>,
    /// Frames that a packet socket has lost on this interface.
    pub(crate) lost: u64,
    /// What is wrong, in words.
    pub(crate) troubles: Vec<String>,
    /// What may be wrong, in words.
    pub(crate) hints: Vec<String>,
}

/// The VIPs are being changed on one server after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    /// What they were: adverts for these are sent and accepted, too.
    pub(crate) from: Vec<IpAddr>,
    /// Until when, RFC 3339.
    pub(crate) until: String,
}

/// Sealed adverts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// `off`, `send`, `permissive` or `enforce`.
    pub(crate) mode: String,
    /// The ids of the keys that are known.
    pub(crate) keys: Vec<u8>,
    /// The id of the one that own adverts are sealed with; `null` if they are not.
    pub(crate) sends_with: Option<u8>,
    /// The other hosts, by their last adverts. (A BACKUP sends none.)
    pub(crate) peers: Vec<SealedPeer>,
    /// The hosts that have a key, and are not believed: their clocks are set to another time.
    pub(crate) apart: Vec<PeerClock>,
}

/// How another host's last advert was sealed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SealedPeer {
    /// Its source.
    pub(crate) address: IpAddr,
    /// The id of the key; `null` if it was not well sealed.
    pub(crate) key: Option<u8>,
    /// What was wrong, as the counters are named; `null` if nothing was.
    pub(crate) why: Option<String>,
}

/// The clock of another host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeerClock {
    /// Its source.
    pub(crate) address: IpAddr,
    /// By how many seconds its adverts were ahead of our clock.
    pub(crate) ahead_seconds: f64,
    /// Whether it was believed before.
    pub(crate) was_believed: bool,
}

/// A host that gets adverts of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its hardware address, or that of the router on the way; `null` while it is not known, so that it gets none.
    pub(crate) mac: Option<String>,
}

/// The demotion counter and what it is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Demotion {
    /// The demote byte of its adverts; with FreeBSD's profile it is part of `advskew` instead.
    pub(crate) total: u8,
    /// The administrator's part.
    pub(crate) manual: u8,
    /// The part of being the last resort.
    #[serde(default)]
    pub(crate) maintenance: u8,
    /// The part of send errors.
    pub(crate) send_errors: u8,
    /// The part of addresses that cannot be added.
    #[serde(default)]
    pub(crate) addresses: u8,
    /// The part of what is tracked for it.
    #[serde(default)]
    pub(crate) tracked: u8,
    /// The part of its failover group.
    #[serde(default)]
    pub(crate) group: u8,
    /// All that can demote it, each by its name, and what does now.
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
}

/// Something that can demote a virtual host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Source {
    /// `administrator`, `maintenance`, `send_errors`, `addresses`, `interface NAME`, `script NAME`, `group`.
    pub(crate) source: String,
    /// By how much it does now.
    pub(crate) by: u8,
    /// Why; empty if it does not.
    pub(crate) why: String,
}

/// Another host's last advert.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Heard {
    /// Its source.
    pub(crate) address: IpAddr,
    /// How many seconds ago.
    pub(crate) seconds: f64,
    /// Its advbase in seconds.
    pub(crate) advbase: u8,
    /// Its advskew in 1/256 s.
    pub(crate) advskew: u8,
    /// Its demotion counter.
    pub(crate) demote: u8,
}

/// The sender of an advert that was refused.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Its source address.
    pub(crate) address: IpAddr,
    /// Its Ethernet source.
    pub(crate) mac: String,
}

/// A transition or an alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// From 1 since carpd started, without a gap.
    pub(crate) number: u64,
    /// When, RFC 3339.
    pub(crate) time: String,
    /// What.
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum What {
    /// A virtual host changed its state.
    Transition {
        /// Its interface.
        interface: String,
        /// Its virtual host id.
        vhid: u8,
        /// The state that was left.
        from: String,
        /// The state that was entered.
        to: String,
        /// Why.
        cause: String,
    },
    /// A line of the log that is a warning or an error.
    Alarm {
        /// `warning` or `error`.
        severity: String,
        /// The line; it begins with interface and vhid where it is about one virtual host.
        text: String,
    },
}
