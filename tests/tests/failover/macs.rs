//! Which Ethernet address adverts come from.

use anyhow::Result;
use carp_tests::{BootTime, ETH0, Lab, MacAddr, Node, VHID, VIP, Wire};

/// An advert every 117 ms.
const FAST: &str = "--advbase=0 --advskew=30";
/// 00:00:5e:00:01:VHID.
const VIRTUAL: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, VHID]);
/// No host's.
const ANOTHER: MacAddr = MacAddr([0x02, 0, 0, 0x77, 9, 9]);

#[test]
fn adverts_come_from_the_virtual_mac_unless_the_interfaces_own_is_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    for (option, expected) in [("", VIRTUAL), ("--advert-mac=virtual", VIRTUAL), ("--advert-mac=interface", a.mac())] {
        let mut node = Node::start(&a, &format!("{FAST} {option}"))?;
        node.wait_for("BACKUP -> MASTER")?;
        let (seen, _) = wire.wait_for_adverts(a.ip(), 2)?;
        assert!(node.agent_mut().stop_and_wait(carp_tests::LONG)?.success());
        let (bowed_out, _) = wire.wait_for_advert("a bow-out", |_, advert| advert.is_bow_out())?;
        assert!(bowed_out >= seen, "the last advert too");
        let (from, last) = wire.adverts_of(a.ip()).into_iter().next_back().expect("there were some");
        assert_eq!((from, last.mac), (bowed_out, expected), "{option:?}");
    }
    Ok(())
}

#[test]
fn a_master_whose_mac_changes_tells_its_neighbours_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    let own = a.mac();
    a.ns().ip(&format!("link set dev {ETH0} address {ANOTHER}"))?;
    // No other announcement is to be expected.
    let node = Node::start(&a, &format!("{FAST} --garp-repeat=0 --garp-refresh=0"))?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 3)?;
    let changed = BootTime::now();
    a.ns().ip(&format!("link set dev {ETH0} address {own}"))?;
    wire.wait_for_announcement(&a, VIP, changed)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn adverts_from_the_interfaces_own_mac_follow_it_when_it_changes_and_are_obeyed() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let options = format!("{FAST} --advert-mac=interface");
    let [master, backup] = Node::start_pair((&a, &options), (&b, "--advbase=0 --advskew=60"))?;
    wire.wait_for_advert("an advert from the first address", |_, advert| advert.mac == a.mac())?;
    a.ns().ip_batch(&format!("link set dev {ETH0} address {ANOTHER}\n"))?;
    wire.wait_for_advert("an advert from the new address", |_, advert| advert.mac == ANOTHER)?;
    let (changed, _) = wire.wait_for_adverts(a.ip(), 5)?;
    let since = wire.adverts_of(a.ip()).into_iter().filter(|(at, advert)| *at <= changed && advert.mac == ANOTHER);
    assert!(since.count() >= 5, "it stays so");
    assert!(a.has_address(VIP)?);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);
    Ok(())
}
