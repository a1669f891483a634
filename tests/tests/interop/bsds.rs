//! carpd beside OpenBSD and FreeBSD, which are models on hosts: what becomes of the two is what the kernels' rules say.

use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::models::{Config, FreeBsd, OpenBsd, Reason, State};
use carp_tests::{BootTime, Host, LONG, Lab, LabOptions, Live, Node, VIP, Wire, eventually};

use crate::at_once;

/// Options of whoever is to be master first: a dead time of a second.
const FIRST: &str = "--advbase=1 --deadratio=1";
/// Options of the other one: 100/256 s are added to its times.
const SECOND: &str = "--advbase=1 --advskew=100";
/// Its dead time.
const DEAD_TIME: Duration = Duration::from_nanos(3_390_625_000);
/// How much later than it should somebody may be, on a machine that is busy.
const LATE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    OpenBsd,
    FreeBsd,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::OpenBsd, Kind::FreeBsd];

impl Kind {
    /// One with the lab's virtual host, which begins as a backup.
    pub(crate) fn start(self, host: &Host, advskew: u8, preempt: bool) -> Result<Live> {
        self.start_for(&[&VIP.to_string()], host, advskew, preempt)
    }

    fn start_for(self, vips: &[&str], host: &Host, advskew: u8, preempt: bool) -> Result<Live> {
        let vips = vips.iter().map(|vip| vip.parse().context("a VIP")).collect::<Result<_>>()?;
        let config = Config { vips, preempt, ..Live::config(host, advskew) };
        match self {
            Self::OpenBsd => Live::start(host, OpenBsd::new(config, Duration::ZERO)),
            Self::FreeBsd => Live::start(host, FreeBsd::new(config, Duration::ZERO)),
        }
    }
}

/// Asserts that so much time has passed, and not much more.
fn assert_took(expected: Duration, from: BootTime, to: BootTime) {
    let waited = to.since(from);
    assert!((expected..expected + LATE).contains(&waited), "{waited:?} instead of {expected:?}");
}

#[test]
fn carpd_takes_over_from_an_openbsd_or_freebsd_that_dies() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let peer = kind.start(&a, 0, false)?;
        peer.wait_for(State::Master)?;
        let wire = Wire::at(&bystander)?;
        let node = Node::start(&b, SECOND)?;
        // Longer than its dead time.
        wire.wait_for_adverts(a.ip(), 5)?;
        assert_eq!(node.changes(), ["INIT -> BACKUP"]);
        // An OpenBSD's adverts are all the same: one that comes a moment early is a repeat, and counts as the others do.
        let report = node.report()?;
        let counted: Vec<_> = report.counted().into_iter().filter(|counter| *counter != "repeat").collect();
        assert_eq!(counted, ["ipackets"]);
        drop(peer);
        let takeover = node.wait_for("BACKUP -> MASTER")?;
        assert!(takeover.cause.starts_with("no advert for "), "{takeover:?}");
        let (last, _) = wire.adverts_of(a.ip()).pop().context("no advert")?;
        assert_took(DEAD_TIME, last, takeover.at);
        eventually("the address is there", LONG, || b.has_address(VIP))
    })
}

#[test]
fn an_openbsd_or_freebsd_takes_over_from_a_carpd_that_dies() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let wire = Wire::at(&bystander)?;
        let node = Node::start(&a, FIRST)?;
        node.wait_for("BACKUP -> MASTER")?;
        let peer = kind.start(&b, 100, false)?;
        wire.wait_for_adverts(a.ip(), 5)?;
        assert_eq!(peer.changes(), [(State::Backup, Reason::Started)]);
        a.kill_host()?;
        let takeover = peer.wait_for(State::Master)?;
        assert_eq!(takeover.reason, Reason::Silence);
        let (last, _) = wire.adverts_of(a.ip()).pop().context("no advert of carpd's")?;
        assert_took(DEAD_TIME, last, takeover.at);
        assert_eq!(peer.refusals(), []);
        Ok(())
    })
}

/// OpenBSD leaves the link-local one out of its digest, FreeBSD hashes it.
#[test]
fn adverts_of_both_families_with_a_link_local_vip_are_understood_either_way() -> Result<()> {
    const VIPS: [&str; 3] = ["10.77.0.100", "fd77::100", "fe80::100"];
    at_once(&KINDS, |kind| {
        let lab = Lab::with(LabOptions { ipv6: true, ..LabOptions::default() })?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let wire = Wire::at(&bystander)?;
        let node = Node::start_for(&VIPS, &a, FIRST)?;
        node.wait_for("BACKUP -> MASTER")?;
        let peer = kind.start_for(&VIPS, &b, 100, false)?;
        wire.wait_for_adverts(a.link_local(), 5)?;
        assert_eq!((peer.changes(), peer.refusals()), (vec![(State::Backup, Reason::Started)], vec![]));
        a.kill_host()?;
        peer.wait_for(State::Master)?;

        a.set_carrier(true)?;
        let back = Node::start_for(&VIPS, &a, "--advbase=1")?;
        // Longer than its dead time of three seconds.
        wire.wait_for_adverts(b.link_local(), 4)?;
        assert_eq!(back.changes(), ["INIT -> BACKUP"]);
        let report = back.report()?;
        // An OpenBSD's advert that comes a moment early is one that was heard already.
        let counted: Vec<_> = report.counted().into_iter().filter(|counter| *counter != "repeat").collect();
        assert_eq!(counted, ["ipackets", "ipackets6"]);
        Ok(())
    })
}

#[test]
fn a_preferred_carpd_takes_over_only_if_it_preempts_and_an_openbsd_or_freebsd_yields() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let peer = kind.start(&b, 100, false)?;
        peer.wait_for(State::Master)?;
        let wire = Wire::at(&bystander)?;
        let mut patient = Node::start(&a, "--advbase=1")?;
        wire.wait_for_adverts(b.ip(), 3)?;
        assert_eq!(patient.changes(), ["INIT -> BACKUP"]);
        assert!(patient.agent_mut().stop_and_wait(LONG)?.success());

        let node = Node::start(&a, "--advbase=1 --preempt")?;
        let takeover = node.wait_for("BACKUP -> MASTER")?;
        assert!(takeover.cause.starts_with("preempting 10.77.0.2 ("), "{takeover:?}");
        let yields = peer.wait_for(State::Backup)?;
        assert_eq!(yields.reason, Reason::Yields);
        // Longer than the peer's dead time.
        wire.wait_for_adverts(a.ip(), 5)?;
        assert!(wire.adverts_of(b.ip()).iter().all(|(at, _)| *at <= yields.at));
        assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
        assert_eq!(peer.refusals(), []);
        Ok(())
    })
}

#[test]
fn a_preferred_openbsd_or_freebsd_takes_over_only_if_it_preempts_and_carpd_yields() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let node = Node::start(&b, &format!("{SECOND} --deadratio=2"))?;
        node.wait_for("BACKUP -> MASTER")?;
        let wire = Wire::at(&bystander)?;
        let patient = kind.start(&a, 0, false)?;
        wire.wait_for_adverts(b.ip(), 3)?;
        assert_eq!(patient.changes(), [(State::Backup, Reason::Started)]);
        drop(patient);

        let peer = kind.start(&a, 0, true)?;
        assert_eq!(peer.wait_for(State::Master)?.reason, Reason::Preempts);
        let yields = node.wait_for("MASTER -> BACKUP")?;
        assert!(yields.cause.starts_with("10.77.0.1 (") && yields.cause.ends_with("is preferred"), "{yields:?}");
        wire.wait_for_adverts(a.ip(), 4)?;
        assert!(wire.adverts_of(b.ip()).iter().all(|(at, _)| *at <= yields.at));
        assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
        assert_eq!((peer.state(), peer.refusals()), (State::Master, vec![]));
        eventually("it has given the address up", LONG, || Ok(!b.has_address(VIP)?))
    })
}

/// Who of two equal masters was heard last when a split heals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Carpd,
    Peer,
}

#[test]
fn of_two_equal_masters_the_first_to_hear_the_other_yields() -> Result<()> {
    let cases = KINDS.map(|kind| [(kind, Last::Carpd), (kind, Last::Peer)]).concat();
    at_once(&cases, |&(kind, last)| {
        let lab = Lab::new()?;
        let [a, b] = lab.hosts(["a", "b"])?;
        let [at_a, at_b] = [Wire::on(lab.switch(), &a.port())?, Wire::on(lab.switch(), &b.port())?];
        let node = Node::start(&a, &format!("{SECOND} --deadratio=2"))?;
        node.wait_for("BACKUP -> MASTER")?;
        let peer = kind.start(&b, 100, false)?;
        at_a.wait_for_adverts(a.ip(), 1)?;
        // Its dead time is no multiple of the interval, so their adverts do not coincide.
        lab.split(&[&a], &[&b])?;
        assert_eq!(peer.wait_for(State::Master)?.reason, Reason::Silence);
        match last {
            Last::Carpd => at_a.wait_for_adverts(a.ip(), 1)?,
            Last::Peer => at_b.wait_for_adverts(b.ip(), 1)?,
        };
        lab.heal()?;
        let winner = match last {
            Last::Carpd => {
                let yields = node.wait_for("MASTER -> BACKUP")?;
                assert!(yields.cause.starts_with("10.77.0.2 ("), "{yields:?}");
                at_a.wait_for_adverts(b.ip(), 5)?;
                assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
                State::Master
            }
            Last::Peer => {
                assert_eq!(peer.wait_for(State::Backup)?.reason, Reason::Yields);
                at_b.wait_for_adverts(a.ip(), 5)?;
                assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
                State::Backup
            }
        };
        assert_eq!((peer.state(), peer.refusals()), (winner, vec![]));
        Ok(())
    })
}

#[test]
fn when_carpd_leaves_an_openbsd_or_freebsd_takes_over_at_once() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let wire = Wire::at(&bystander)?;
        let mut node = Node::start(&a, FIRST)?;
        node.wait_for("BACKUP -> MASTER")?;
        let peer = kind.start(&b, 100, false)?;
        wire.wait_for_adverts(a.ip(), 1)?;
        assert!(node.agent_mut().stop_and_wait(LONG)?.success());
        let takeover = peer.wait_for(State::Master)?;
        assert_eq!(takeover.reason, Reason::MasterTooSlow);
        let (left, _) = wire.wait_for_advert("the bow-out", |_, advert| advert.is_bow_out())?;
        assert_took(Duration::ZERO, left, takeover.at);
        Ok(())
    })
}

#[test]
fn when_an_openbsd_leaves_carpd_takes_over_at_once_but_a_freebsd_says_nothing() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let peer = kind.start(&a, 0, false)?;
        peer.wait_for(State::Master)?;
        let wire = Wire::at(&bystander)?;
        let node = Node::start(&b, SECOND)?;
        wire.wait_for_adverts(a.ip(), 1)?;
        peer.stop()?;
        let takeover = node.wait_for("BACKUP -> MASTER")?;
        let (cause, waits) = match kind {
            Kind::OpenBsd => ("10.77.0.1 leaves", Duration::ZERO),
            Kind::FreeBsd => ("no advert for 3.39 s", DEAD_TIME),
        };
        assert_eq!(takeover.cause, cause);
        if *kind == Kind::OpenBsd {
            wire.wait_for_advert("the bow-out", |_, advert| advert.is_bow_out())?;
        }
        let (last, _) = wire.adverts_of(a.ip()).pop().context("no advert")?;
        assert_took(waits, last, takeover.at);
        Ok(())
    })
}
