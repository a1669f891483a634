//! The numbers that are read when somebody asks.

use std::collections::BTreeMap;

use carp_common::reason::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::OfHost;
use crate::control::protocol::{Source, Status, VirtualHost};

/// In the order of their places in life.
const STATES: [&str; 3] = ["INIT", "BACKUP", "MASTER"];

/// How things stood at one moment.
#[derive(Default)]
pub(super) struct Snapshot {
    builds: Family<[(&'static str, String); 1], Gauge>,
    maintenance: Gauge,
    states: Family<OfState, Gauge>,
    datapaths: Family<OfDatapath, Gauge>,
    demotions: Family<OfDemotion, Gauge>,
    sent: Family<OfHost, Counter>,
    received: Family<OfFamily, Counter>,
    dropped: Family<OfReason, Counter>,
    repeated: Family<OfHost, Counter>,
    ring_lost: Family<OfHost, Counter>,
    fenced: Family<OfDirection, Counter>,
    ignored: Family<OfHost, Counter>,
    ignored_for_none: Counter,
    socket_lost: Family<OfInterface, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    #[prometheus(flatten)]
    host: OfHost,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDatapath {
    #[prometheus(flatten)]
    host: OfHost,
    datapath: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDemotion {
    #[prometheus(flatten)]
    host: OfHost,
    by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    #[prometheus(flatten)]
    host: OfHost,
    family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    #[prometheus(flatten)]
    host: OfHost,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDirection {
    #[prometheus(flatten)]
    host: OfHost,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfInterface {
    interface: String,
}

impl Snapshot {
    /// Takes the numbers over.
    pub(super) fn of(status: &Status) -> Self {
        let snapshot = Self::default();
        snapshot.builds.get_or_create(&[("version", status.carpd.clone())]).set(1);
        snapshot.maintenance.set(status.maintenance.into());
        snapshot.ignored_for_none.inc_by(status.received_for_none.values().sum());
        status.virtual_hosts.iter().for_each(|host| snapshot.take(host));
        // Virtual hosts that share an interface are told the same number.
        let lost: BTreeMap<_, _> = status.virtual_hosts.iter().map(|host| (&host.interface, host.lost)).collect();
        for (interface, lost) in lost {
            snapshot.socket_lost.get_or_create(&OfInterface { interface: interface.clone() }).inc_by(lost);
        }
        snapshot
    }

    fn take(&self, told: &VirtualHost) {
        let host = OfHost { interface: told.interface.clone(), vhid: told.vhid };
        for state in STATES {
            self.states.get_or_create(&OfState { host: host.clone(), state }).set((told.state == state).into());
        }
        if let Some(datapath) = told.datapath.clone() {
            self.datapaths.get_or_create(&OfDatapath { host: host.clone(), datapath }).set(1);
        }
        for Source { source, by, .. } in &told.demotion.sources {
            self.demotions.get_or_create(&OfDemotion { host: host.clone(), by: source.clone() }).set((*by).into());
        }
        self.sent.get_or_create(&host).inc_by(told.sent);
        for reason in Reason::ALL {
            let counter = match reason {
                Reason::Ipackets => self.of_family(&host, "ipv4"),
                Reason::Ipackets6 => self.of_family(&host, "ipv6"),
                Reason::BadTtl
                | Reason::BadSum
                | Reason::BadAddrs
                | Reason::BadAuth
                | Reason::Echo
                | Reason::Unsealed
                | Reason::UnknownKey
                | Reason::BadSeal
                | Reason::Replayed
                | Reason::Stale
                | Reason::Tampered
                | Reason::Policy
                | Reason::Flood => {
                    self.dropped.get_or_create_owned(&OfReason { host: host.clone(), reason: reason.name() })
                }
                Reason::Other => self.ignored.get_or_create_owned(&host),
                Reason::Repeat => self.repeated.get_or_create_owned(&host),
                Reason::RingFull => self.ring_lost.get_or_create_owned(&host),
                Reason::FencedIn => self.of_direction(&host, "in"),
                Reason::FencedOut => self.of_direction(&host, "out"),
            };
            counter.inc_by(told.received.get(reason.name()).copied().unwrap_or(0));
        }
    }

    fn of_family(&self, host: &OfHost, family: &'static str) -> Counter {
        self.received.get_or_create_owned(&OfFamily { host: host.clone(), family })
    }

    fn of_direction(&self, host: &OfHost, direction: &'static str) -> Counter {
        self.fenced.get_or_create_owned(&OfDirection { host: host.clone(), direction })
    }

    /// Gives each its name and its meaning.
    pub(super) fn register(self, to: &mut Registry) {
        to.register("build_info", "The version of carpd", self.builds);
        to.register(
            "maintenance",
            "Whether this server is the last resort, by `carpctl maintenance on`",
            self.maintenance,
        );
        to.register("state", "1 for the state that the virtual host is in, 0 for the others", self.states);
        to.register(
            "datapath",
            "1 for the way that adverts take to carpd: native, generic, socket; none while they cannot be received",
            self.datapaths,
        );
        to.register("demotion", "The demotion counter, by what it is made of", self.demotions);
        to.register("adverts_sent", "Adverts that have left", self.sent);
        to.register("adverts_received", "Valid adverts of other servers", self.received);
        to.register(
            "adverts_dropped",
            "Adverts that were refused: badauth has a wrong digest, echo is one of our own that came back",
            self.dropped,
        );
        to.register(
            "adverts_repeated",
            "Valid adverts, received as well, that woke nobody: the same came within the interval",
            self.repeated,
        );
        to.register(
            "ring_lost",
            "Valid adverts, received as well, whose events found the ring full; carpd reads them late, from the map",
            self.ring_lost,
        );
        to.register(
            "frames_fenced",
            "Frames to and from the VIPs, and overdue adverts, that were dropped because the mastership lease was over",
            self.fenced,
        );
        to.register("frames_ignored", "Frames of protocol 112 that are no adverts of this virtual host", self.ignored);
        to.register(
            "frames_for_none",
            "Frames of protocol 112 for none of the virtual hosts here: VRRP, or another vhid",
            self.ignored_for_none,
        );
        to.register("socket_lost", "Frames of protocol 112 that a packet socket has lost", self.socket_lost);
    }
}
