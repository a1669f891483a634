//! What a virtual host has to say of itself.

use std::collections::BTreeMap;

use carp_common::{
    engine::{Profile, State},
    reason::Reason,
    time::Time,
};
use jiff::{SignedDuration, Timestamp};
use log::info;

use super::VirtualHost;
use crate::{
    agent::{refusals::mac, tracking::View},
    config::VipMac,
    control::protocol::{self, Source},
    datapath::{Datapath, Road},
    history::rfc3339,
    net::NetError,
};

impl VirtualHost {
    /// A line about the state.
    pub(in crate::agent) fn log_state(&self, datapath: &mut Datapath, now: Time) {
        let status = self.engine.status();
        let heard = status.last_arrival.map_or_else(
            || "no advert heard".to_owned(),
            |arrival| format!("last advert heard {:.3} s ago", now.since(arrival).as_secs_f64()),
        );
        let received = Reason::ALL.into_iter().map(|reason| (reason.name(), datapath.counter(self.row, reason)));
        let mut received: Vec<_> = received.collect();
        received.push(("lost", datapath.lost(self.ifindex)));
        let received: Vec<String> =
            received.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
        info!(
            "{}: {} for {:.0} s, demotion {}, {heard}; adverts sent: {}; received: {}",
            self.name,
            status.state,
            now.since(status.since).as_secs_f64(),
            status.demotion.get(),
            self.sent,
            if received.is_empty() { "none".to_owned() } else { received.join(", ") },
        );
    }

    /// How things stand.
    pub(in crate::agent) fn status(
        &self,
        datapath: &mut Datapath,
        road: Option<&Road>,
        view: View<'_>,
        now: Time,
    ) -> protocol::VirtualHost {
        let (status, settings) = (self.engine.status(), &self.settings);
        let config = self.engine.config();
        let seconds = |since: Time| now.since(since).as_secs_f64();
        let received = Reason::ALL.into_iter().map(|reason| (reason, datapath.counter(self.row, reason)));
        let received: Vec<_> = received.filter(|(_, count)| *count > 0).collect();
        let refused = received.iter().filter(|(reason, _)| reason.is_refusal()).filter_map(|(reason, _)| {
            let last = datapath.last_refused(self.ifindex, self.row, *reason)?;
            Some((reason.name().to_owned(), protocol::Refused { address: last.source(), mac: mac(last.mac()) }))
        });
        let refused: BTreeMap<_, _> = refused.collect();
        let (demotion, demoting) = (status.demotion, self.sources(view));
        let sources = self.entered.as_ref().map(|entered| &entered.sources[..]).unwrap_or_default();
        protocol::VirtualHost {
            interface: self.interface.clone(),
            vhid: settings.vhid.get(),
            state: status.state.to_string(),
            since: rfc3339(Timestamp::now() - SignedDuration::try_from(now.since(status.since)).unwrap_or_default()),
            seconds: seconds(status.since),
            cause: self.cause.map(|cause| cause.to_string()).unwrap_or_default(),
            addresses: settings.vips.iter().map(ToString::to_string).collect(),
            rollout: settings
                .present_rollout()
                .map(|rollout| protocol::Rollout { from: rollout.from.clone(), until: rfc3339(rollout.until) }),
            device: self.device.as_ref().filter(|(_, is_ours)| *is_ours).map(|(name, _)| name.clone()),
            source: sources.first().copied(),
            peers: self.peer_status(),
            advbase: config.advbase.get(),
            advskew: self.engine.fields().advskew,
            preempt: config.preempt,
            dead_seconds: self.engine.dead_time().as_secs_f64(),
            demotion: protocol::Demotion {
                total: demotion.get(),
                manual: demotion.manual(),
                maintenance: demotion.maintenance(),
                send_errors: demotion.send_errors(),
                addresses: demotion.no_vips(),
                tracked: demotion.tracked(),
                group: demotion.group(),
                sources: demoting,
            },
            profile: match settings.failover.profile {
                Profile::OpenBsd => "openbsd".to_owned(),
                Profile::FreeBsd => "freebsd".to_owned(),
            },
            failover_group: settings.failover.group.clone(),
            heard: self.heard.map(|heard| protocol::Heard {
                address: heard.source,
                // By the engine's word, which knows of repeats, too.
                seconds: seconds(status.last_arrival.unwrap_or(heard.arrival)),
                advbase: heard.advbase,
                advskew: heard.advskew,
                demote: heard.demote,
            }),
            datapath: road.map(|road| road.name().to_owned()),
            fence: self.fence(),
            seal: self.seal_status(now),
            lease_seconds: status.lease.map(|until| until.since(now).as_secs_f64()),
            sent: self.sent,
            troubles: self.troubles(&refused, now),
            hints: self.hints(now),
            refused,
            received: received.into_iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
            lost: datapath.lost(self.ifindex),
        }
    }

    fn peer_status(&self) -> Vec<protocol::Peer> {
        let neighbours = self.shared.neighbours.borrow();
        let status = |(ifindex, address)| {
            let known = neighbours.get(&(ifindex, address));
            protocol::Peer { address, mac: known.map(|address| mac(*address)) }
        };
        self.peers().map(status).collect()
    }

    /// What is wrong, in words; and who sent what was refused last, by reason.
    fn troubles(&self, refused: &BTreeMap<String, protocol::Refused>, now: Time) -> Vec<String> {
        let mut troubles = vec![];
        if let Some(fault) = self.fault {
            troubles.push(fault.to_string());
        }
        if let (VipMac::Virtual, Some((name, false))) = (self.settings.mac, &self.device) {
            troubles.push(NetError::Foreign { name: name.clone() }.to_string());
        }
        if let Some(error) = self.send_error {
            troubles.push(format!("adverts cannot be sent: {error}"));
        }
        if self.engine.status().demotion.no_vips() > 0 {
            troubles.push("its addresses cannot be added here: see the log".to_owned());
        }
        if let Some(peers) = self.unknown_peers() {
            troubles.push(format!(
                "no advert goes to {peers}: nobody answers there (ARP, neighbour discovery), or on the way"
            ));
        }
        troubles.extend(self.missing_fence());
        troubles.extend(self.seal_troubles(now));
        let demotion = self.engine.status().demotion;
        troubles
            .extend(self.wrong.iter().map(|Source { source, by, why }| format!("demoted by {by}: {source}: {why}")));
        if let Some(other) = &self.group_cause {
            troubles.push(format!("demoted by {} with its group: {other} is in trouble", demotion.group()));
        }
        if let Some((reason, since)) = self.refusals.deaf_since() {
            let from =
                refused.get(reason.name()).map(|last| format!(", the last from {} ({})", last.address, last.mac));
            let (what, why) = match reason {
                Reason::Unsealed => ("were not sealed", "a server is without `seal`, or somebody without the key"),
                Reason::UnknownKey | Reason::BadSeal => {
                    ("were sealed with another key", "seal_keys differ between the servers: `carpctl key list`")
                }
                Reason::Replayed => {
                    ("were old ones", "the clock of their server was set back, or somebody repeats what it said")
                }
                Reason::Policy => (
                    "said what no peer says by `peer_policy`",
                    "it does not fit that server's settings, a demotion for instance, or somebody changes its adverts",
                ),
                _ => ("had a wrong digest", "the passphrase or the set of VIPs differs between the servers"),
            };
            let (seconds, from) = (now.since(since).as_secs_f64(), from.unwrap_or_default());
            troubles.push(format!("deaf: for {seconds:.0} s all adverts that came in {what}{from}: {why}"));
        }
        troubles
    }

    /// What may be wrong, in words. Backups are silent, so a master that hears nobody may be all right.
    fn hints(&self, now: Time) -> Vec<String> {
        let status = self.engine.status();
        let mut hints: Vec<String> = self.profiles.wrong().map(str::to_owned).into_iter().collect();
        if let Some(until) = status.preempt_at.filter(|until| self.engine.config().preempt && now < *until) {
            hints.push(format!("preempts nobody for another {:.0} s (preempt_delay)", until.since(now).as_secs_f64()));
        }
        hints.extend(self.fence_hint());
        hints.extend(self.seal_hints(now));
        if status.state != State::Master || self.hears_others(now) || self.refusals.deaf_since().is_some() {
            return hints;
        }
        hints.push(
            "no other server is heard: all is well if the others are BACKUP; if one is MASTER too, adverts \
             do not arrive: look for a firewall, for a switch that snoops, and for the same group on all servers"
                .to_owned(),
        );
        hints
    }
    /// Whether an advert has come in within a dead time.
    pub(super) fn hears_others(&self, now: Time) -> bool {
        let last = self.engine.status().last_arrival;
        last.is_some_and(|arrival| now.since(arrival) <= self.engine.dead_time())
    }
}
