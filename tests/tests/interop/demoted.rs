//! Demotion between carpd and OpenBSD or FreeBSD, which are models on hosts: the one has a byte for it, the other adds it to
//! advskew, and carpd does as it is told.

use anyhow::Result;
use carp_tests::adverts::{Election, SeenAdvert};
use carp_tests::configured::{self, changes, folder, virtual_host, wait_for_change};
use carp_tests::models::{Reason, State};
use carp_tests::{Agent, Folder, Host, LONG, Lab, VHID, VIP, Wire, eventually};

use crate::at_once;
use crate::bsds::{KINDS, Kind};

const NAME: &str = "eth0 vhid 1";
/// An interface whose loss demotes carpd by as much.
const TRACKED: &str = "track_interfaces = [{ name = \"t0\", demote = 120 }]";

/// A carpd of the kind's profile, with an advert a second.
fn start(kind: Kind, host: &Host, lines: &str) -> Result<(Folder, Agent)> {
    let profile = match kind {
        Kind::OpenBsd => "openbsd",
        Kind::FreeBsd => "freebsd",
    };
    let folder = folder()?;
    let lines = format!("advbase = 1\nprofile = {profile:?}\n{lines}");
    configured::write(&folder, &[virtual_host(VHID, VIP, &lines)])?;
    let agent = configured::start(host, &folder)?;
    wait_for_change(&agent, NAME, "INIT -> BACKUP")?;
    Ok((folder, agent))
}

/// Waits until a host has sent an advert with these fields.
fn wait_until_said(wire: &Wire, host: &Host, said: Election) -> Result<()> {
    let is_it = |advert: &SeenAdvert| advert.source == host.ip() && advert.election == said;
    wire.wait_for_advert(&format!("{said:?} of {}", host.name()), |_, advert| is_it(advert)).map(drop)
}

/// To be master, FreeBSD's kind has to preempt: a demoted master is but a worse one.
#[test]
fn carpd_takes_over_from_a_demoted_master_which_takes_it_back() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let peer = kind.start(&a, 0, true)?;
        peer.wait_for(State::Master)?;
        let wire = Wire::at(&bystander)?;
        let (by, said, preempt) = match kind {
            Kind::OpenBsd => (1, Election { demote: 1, ..Election::new(1, 0) }, "preempt = false"),
            Kind::FreeBsd => (120, Election::new(1, 120), "preempt = true"),
        };
        let (_folder, agent) = start(*kind, &b, &format!("advskew = 100\n{preempt}"))?;
        wire.wait_for_adverts(a.ip(), 2)?;
        assert_eq!(changes(&agent, NAME), ["INIT -> BACKUP"]);
        peer.demote(by)?;
        wait_for_change(&agent, NAME, "BACKUP -> MASTER")?;
        assert_eq!(peer.wait_for(State::Backup)?.reason, Reason::Yields);
        wait_until_said(&wire, &a, said)?;
        // Longer than its dead time.
        wire.wait_for_adverts(b.ip(), 4)?;
        assert_eq!(peer.state(), State::Backup);

        peer.demote(-by)?;
        assert_eq!(peer.wait_for(State::Master)?.reason, Reason::Preempts);
        wait_for_change(&agent, NAME, "MASTER -> BACKUP")?;
        assert_eq!(changes(&agent, NAME), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
        assert_eq!(peer.refusals(), []);
        Ok(())
    })
}

#[test]
fn an_openbsd_or_freebsd_takes_over_from_a_demoted_carpd_which_takes_it_back() -> Result<()> {
    at_once(&KINDS, |kind| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        a.ns().ip_batch("link add t0 type veth peer name t1\nlink set t0 up\nlink set t1 up\n")?;
        let has_carrier = || anyhow::Ok(a.ns().ip("-brief link show dev t0")?.contains("LOWER_UP"));
        eventually("t0 has a carrier", LONG, has_carrier)?;
        let wire = Wire::at(&bystander)?;
        let (_folder, agent) = start(*kind, &a, &format!("advskew = 0\npreempt = true\n{TRACKED}"))?;
        wait_for_change(&agent, NAME, "BACKUP -> MASTER")?;
        let (reason, said) = match kind {
            Kind::OpenBsd => (Reason::MasterDemoted, Election { demote: 120, ..Election::new(1, 0) }),
            Kind::FreeBsd => (Reason::Preempts, Election::new(1, 120)),
        };
        let peer = kind.start(&b, 100, *kind == Kind::FreeBsd)?;
        wire.wait_for_adverts(a.ip(), 2)?;
        assert_eq!(peer.changes(), [(State::Backup, Reason::Started)]);
        a.ns().ip("link set t1 down")?;
        assert_eq!(peer.wait_for(State::Master)?.reason, reason);
        wait_for_change(&agent, NAME, "MASTER -> BACKUP")?;
        wait_until_said(&wire, &a, said)?;
        wire.wait_for_adverts(b.ip(), 3)?;
        assert_eq!(peer.state(), State::Master);

        a.ns().ip("link set t1 up")?;
        assert_eq!(peer.wait_for(State::Backup)?.reason, Reason::Yields);
        let expected = ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP", "BACKUP -> MASTER"];
        eventually("it stays master", LONG, || Ok(changes(&agent, NAME) == expected))?;
        assert_eq!(peer.refusals(), []);
        Ok(())
    })
}
