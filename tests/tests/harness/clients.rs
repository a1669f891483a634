//! What a client sees: answers to pings, owners of an address.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::outage::Outage;
use carp_tests::packet::Arp;
use carp_tests::{ArpWatch, BootTime, ETH0, Lab, Probe, send_frame};

use crate::{LONG, MILLISECOND, VIP, VIP_PREFIX};

#[test]
fn hosts_reach_each_other_and_the_mac_that_answers_is_recorded() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    for host in [&a, &b] {
        let probe = Probe::start(&client, host.ip(), MILLISECOND)?;
        for _ in 0..20 {
            probe.wait_for_answer_from(host.mac(), LONG)?;
        }
        let report = probe.stop()?;
        assert!(report.answered() >= 20 && report.sent() >= report.answered());
        let turns: Vec<_> = report.answered_by().iter().map(|turn| (turn.mac, turn.answers)).collect();
        assert_eq!(turns, [(host.mac(), report.answered())]);
    }
    Ok(())
}

#[test]
fn an_address_that_nobody_has_is_one_outage_from_end_to_end() -> Result<()> {
    let lab = Lab::new()?;
    let client = lab.host("client")?;
    let probe = Probe::start(&client, VIP, MILLISECOND)?;
    let unreachable = Probe::start(&client, Ipv4Addr::new(192, 0, 2, 1), MILLISECOND)?;
    thread::sleep(50 * MILLISECOND);
    for report in [probe.stop()?, unreachable.stop()?] {
        assert_eq!(report.answered(), 0);
        let outages = report.outages();
        assert!(matches!(outages[..], [Outage { ended: false, .. }]), "{outages:?}");
    }
    Ok(())
}

#[test]
fn an_outage_lasts_from_the_loss_of_an_address_to_its_announcement_elsewhere() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    a.add_address(VIP_PREFIX)?;
    let probe = Probe::start(&client, VIP, MILLISECOND)?;
    probe.wait_for_answer_from(a.mac(), LONG)?;

    let before_loss = BootTime::now();
    a.remove_address(VIP_PREFIX)?;
    let lost = BootTime::now();
    thread::sleep(100 * MILLISECOND);
    b.add_address(VIP_PREFIX)?;
    // The watch sees the new owner, and does not cure the client's stale cache.
    let watch = ArpWatch::start(&client, VIP, 5 * MILLISECOND)?;
    watch.wait_for_owner(b.mac(), LONG)?;
    let announced = BootTime::now();
    send_frame(b.ns(), ETH0, &Arp::gratuitous(b.mac(), VIP).to_frame())?;
    probe.wait_for_answer_from(b.mac(), LONG)?;

    let report = probe.stop()?;
    let turns: Vec<_> = report.answered_by().iter().map(|turn| turn.mac).collect();
    assert_eq!(turns, [a.mac(), b.mac()]);
    let outages = report.outages();
    let outage = outages.iter().max_by_key(|outage| outage.duration()).context("no outage")?;
    assert!(outage.ended);
    assert!(outage.start <= lost, "{outage:?} began after the loss at {lost}");
    assert!(outage.end >= announced, "{outage:?} ended before the announcement at {announced}");
    assert!(outage.duration() >= announced.since(lost));
    let generous = Duration::from_secs(5);
    assert!(outage.duration() < announced.since(before_loss) + generous, "{outage:?}");
    Ok(())
}

#[test]
fn two_owners_of_an_address_are_an_overlap() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    a.add_address(VIP_PREFIX)?;
    let watch = ArpWatch::start(&client, VIP, 2 * MILLISECOND)?;
    watch.wait_for_owner(a.mac(), LONG)?;
    let alone = BootTime::now();
    b.add_address(VIP_PREFIX)?;
    watch.wait_for_owner(b.mac(), LONG)?;
    let both = BootTime::now();
    watch.wait_for_owner(b.mac(), LONG)?;
    a.remove_address(VIP_PREFIX)?;
    watch.wait_for_owner(b.mac(), LONG)?;
    let report = watch.stop()?;

    assert_eq!(report.owners_at(alone), [a.mac()]);
    assert_eq!(report.owners_at(both), [a.mac(), b.mac()]);
    let overlaps = report.overlaps();
    assert_eq!(overlaps.len(), 1, "{:?}", report.timeline());
    assert_eq!(overlaps[0].owners, [a.mac(), b.mac()]);
    assert!(overlaps[0].from >= alone && overlaps[0].from <= both);
    assert!(overlaps[0].to >= both);
    let last = report.timeline().pop().context("no timeline")?;
    assert_eq!(last.owners, [b.mac()]);
    Ok(())
}

#[test]
fn one_owner_after_the_other_is_no_overlap() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, client] = lab.hosts(["a", "b", "client"])?;
    a.add_address(VIP_PREFIX)?;
    let watch = ArpWatch::start(&client, VIP, 2 * MILLISECOND)?;
    watch.wait_for_owner(a.mac(), LONG)?;
    a.remove_address(VIP_PREFIX)?;
    thread::sleep(20 * MILLISECOND);
    b.add_address(VIP_PREFIX)?;
    watch.wait_for_owner(b.mac(), LONG)?;
    let report = watch.stop()?;
    assert_eq!(report.overlaps(), []);
    let owners: Vec<_> = report.timeline().into_iter().map(|ownership| ownership.owners).collect();
    assert_eq!(owners, [vec![a.mac()], vec![], vec![b.mac()]]);
    Ok(())
}
