//! How often a master tells its neighbours where the VIP is: gratuitous ARPs, counted against its adverts.

use anyhow::Result;
use carp_tests::{BootTime, Host, Lab, Node, VIP, Wire};

/// An advert every 117 ms.
const FAST: &str = "--advbase=0 --advskew=30";

#[test]
fn a_master_repeats_its_gratuitous_arp_as_often_as_it_was_told_and_then_refreshes_it() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let started = BootTime::now();
    let _node = Node::start(&a, &format!("{FAST} --garp-repeat=3 --garp-refresh=4"))?;
    for _ in 0..6 {
        wire.wait_for_announcement(&a, VIP, started)?;
    }
    assert_eq!(adverts_between_announcements(&wire, &a)[..5], [2, 2, 2, 4, 4]);
    Ok(())
}

#[test]
fn a_master_that_is_told_to_repeat_nothing_announces_once_and_again_when_it_hears_a_rival() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let started = BootTime::now();
    let quiet = Node::start(&a, &format!("{FAST} --garp-repeat=0 --garp-refresh=0"))?;
    quiet.wait_for("BACKUP -> MASTER")?;
    let first = wire.wait_for_announcement(&a, VIP, started)?;
    // More than enough for the defaults to show.
    wire.wait_for_adverts(a.ip(), 12)?;
    assert_eq!(wire.announcements_of(&a, VIP), [first]);

    lab.split(&[&a, &bystander], &[&b])?;
    let worse = Node::start(&b, "--advbase=0 --advskew=60")?;
    worse.wait_for("BACKUP -> MASTER")?;
    let healed = BootTime::now();
    lab.heal()?;
    wire.wait_for_advert("an advert of the rival", |at, advert| at >= healed && advert.source == b.ip())?;
    wire.wait_for_announcement(&a, VIP, healed)?;
    wire.wait_for_adverts(a.ip(), 3)?;
    let told = wire.announcements_of(&a, VIP).len();
    wire.wait_for_adverts(a.ip(), 12)?;
    assert_eq!(wire.announcements_of(&a, VIP).len(), told, "it goes on");
    Ok(())
}

/// How many adverts of a host lie between each two of its announcements.
fn adverts_between_announcements(wire: &Wire, host: &Host) -> Vec<usize> {
    let adverts = wire.adverts_of(host.ip());
    let announcements = wire.announcements_of(host, VIP);
    let between = |pair: &[BootTime]| adverts.iter().filter(|(at, _)| (pair[0]..pair[1]).contains(at)).count();
    announcements.windows(2).map(between).collect()
}
