//! Elections with ucarp that are not decided by skews: equals, and a ucarp that is restarted.

use anyhow::Result;
use carp_tests::{BootTime, Host, LONG, Lab, Node, Ucarp, VIP, Wire, eventually, is_missing};

use crate::at_once;

/// Adverts in a row without one of the other host: then the election is over.
const SETTLED: usize = 3;

#[test]
fn an_equal_carpd_and_ucarp_that_start_together_agree_on_one_master() -> Result<()> {
    with_either_address_lower(|carpd, ucarp, wire, _| {
        let other = Ucarp::start(ucarp, "")?;
        let node = Node::start(carpd, "--advbase=1")?;
        agree(&node, &other, wire)
    })
}

#[test]
fn an_equal_carpd_and_ucarp_that_are_both_masters_agree_on_one_when_a_split_heals() -> Result<()> {
    with_either_address_lower(|carpd, ucarp, wire, lab| {
        lab.split(&[carpd], &[ucarp])?;
        let other = Ucarp::start(ucarp, "--deadratio=2")?;
        let node = Node::start(carpd, "--advbase=1 --deadratio=2")?;
        other.wait_for("MASTER")?;
        node.wait_for("BACKUP -> MASTER")?;
        lab.heal()?;
        agree(&node, &other, wire)
    })
}

/// Whose address is lower matters to ucarp, in a way of its own, so both are tried.
fn with_either_address_lower(scenario: impl Fn(&Host, &Host, &Wire, &Lab) -> Result<()> + Sync) -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    at_once(&["carpd has the lower address", "ucarp has the lower address"], |case| {
        let lab = Lab::new()?;
        let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
        let wire = Wire::at(&bystander)?;
        let (carpd, ucarp) = if case.starts_with("carpd") { (&a, &b) } else { (&b, &a) };
        scenario(carpd, ucarp, &wire, &lab)
    })
}

/// Waits until one of them advertises alone and alone has the address, and asserts that it stays so.
fn agree(node: &Node<'_>, other: &Ucarp<'_>, wire: &Wire) -> Result<()> {
    let now = BootTime::now();
    let (mut speaker, mut row) = (None, 0);
    let (_, last) = wire.wait_for_advert("one host alone", |at, advert| {
        if at >= now {
            row = if speaker == Some(advert.source) { row + 1 } else { 1 };
            speaker = Some(advert.source);
        }
        row == SETTLED
    })?;
    let mut hosts = [node.host(), other.host()];
    hosts.sort_by_key(|host| host.ip() != last.source);
    let [winner, loser] = hosts;
    eventually("the winner has the address", LONG, || winner.has_address(VIP))?;
    eventually("the loser has no address", LONG, || Ok(!loser.has_address(VIP)?))?;
    let states = || (node.changes(), other.states());
    let settled = states();
    wire.wait_for_adverts(winner.ip(), SETTLED)?;
    assert_eq!(states(), settled, "it goes on");
    assert_eq!(node.report()?.count("echo"), 0);
    Ok(())
}

#[test]
fn a_ucarp_master_that_is_restarted_within_the_dead_time_stays_master() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    // Its own dead time of a second is over before the other one's of three.
    let first = "--advbase=1 --deadratio=1";
    let mut ucarp = Ucarp::start(&a, first)?;
    ucarp.wait_for("MASTER")?;
    let node = Node::start(&b, "--advbase=1 --advskew=200")?;
    // What was sent before, the node has not heard.
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 1)?;
    // Once in order and once without warning.
    for restart in [Ucarp::stop, Ucarp::kill] {
        restart(&mut ucarp)?;
        ucarp = Ucarp::start(&a, first)?;
        ucarp.wait_for("MASTER")?;
        wire.wait_for_adverts(a.ip(), 1)?;
    }
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    assert_eq!(wire.adverts_of(b.ip()), []);
    let told = node.report()?;
    let sent = wire.adverts_of(a.ip()).len() as u64;
    assert!(told.count("ipackets") + 1 >= sent, "{sent} sent, {}", told.text);
    assert_eq!((told.count("echo"), told.count("badauth"), told.count("repeat")), (0, 0, 0), "{}", told.text);
    Ok(())
}

#[test]
fn a_ucarp_backup_that_is_restarted_disturbs_nobody() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let node = Node::start(&a, "--advbase=1 --deadratio=1")?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&bystander)?;
    let mut ucarp = Ucarp::start(&b, "--advskew=100")?;
    for restart in [Ucarp::stop, Ucarp::kill] {
        wire.wait_for_adverts(a.ip(), 2)?;
        restart(&mut ucarp)?;
        ucarp = Ucarp::start(&b, "--advskew=100")?;
    }
    // Longer than its dead time.
    wire.wait_for_adverts(a.ip(), 5)?;
    assert_eq!(ucarp.states(), ["BACKUP"]);
    assert_eq!(wire.adverts_of(b.ip()), []);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert!(a.has_address(VIP)? && !b.has_address(VIP)?);
    Ok(())
}
