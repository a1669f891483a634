//! ucarp's counters: at random while it hears nobody, and then what it heard last, plus one. carpd takes them all.

use anyhow::Result;
use carp_tests::adverts::{Election, Signer};
use carp_tests::{ETH0, Flood, FloodPlan, LONG, Lab, Node, PASSPHRASE, Ucarp, VHID, VIP, Wire, eventually, is_missing};

#[test]
fn counters_at_random_are_accepted() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let ucarp = Ucarp::start(&a, "--deadratio=1")?;
    let node = Node::start(&b, "--advbase=1 --advskew=100")?;
    ucarp.wait_for("MASTER")?;
    wire.wait_for_adverts(a.ip(), 6)?;
    let counters: Vec<_> = wire.adverts_of(a.ip()).into_iter().map(|(_, advert)| advert.counter).collect();
    assert!(!counters.is_sorted(), "these are not at random: {counters:?}");
    let sent = counters.len() as u64;
    eventually("all are accepted", LONG, || Ok(node.report()?.count("ipackets") >= sent))?;
    let told = node.report()?;
    assert_eq!((told.count("echo"), told.count("repeat"), told.count("badauth")), (0, 0, 0), "{}", told.text);
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    Ok(())
}

#[test]
fn counters_that_ucarp_adopts_from_carpd_are_accepted_and_no_echo() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let node = Node::start(&b, "--advbase=1 --advskew=100 --deadratio=1")?;
    node.wait_for("BACKUP -> MASTER")?;
    let ucarp = Ucarp::start(&a, "--preempt")?;
    ucarp.wait_for("MASTER")?;
    node.wait_for("MASTER -> BACKUP")?;
    wire.wait_for_adverts(a.ip(), 4)?;

    let [ours, adopted] = [b.ip(), a.ip()]
        .map(|source| wire.adverts_of(source).into_iter().map(|(_, advert)| advert.counter).collect::<Vec<_>>());
    let first = adopted.first().copied().unwrap_or(0);
    assert!(ours.contains(&(first - 1)), "{first} is not adopted from {ours:?}");
    let told = node.report()?;
    assert!(told.count("ipackets") + 1 >= adopted.len() as u64, "{}", told.text);
    assert_eq!((told.count("echo"), told.count("repeat"), told.count("badauth")), (0, 0, 0), "{}", told.text);
    assert_eq!(node.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    Ok(())
}

/// It sends the same counter all the time then, as OpenBSD does.
#[test]
fn a_ucarp_that_answers_a_replayed_advert_of_ours_with_one_counter_is_heard_all_the_time() -> Result<()> {
    if is_missing("ucarp")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let wire = Wire::at(&attacker)?;
    let ucarp = Ucarp::start(&a, "--deadratio=1")?;
    ucarp.wait_for("MASTER")?;
    let node = Node::start(&b, "--advbase=1 --advskew=100")?;
    wire.wait_for_adverts(a.ip(), 4)?;
    let ours = Signer::new(PASSPHRASE, VHID, &[VIP])?.advert(b.ip(), Election::new(1, 100), 1000);
    let plan = FloodPlan { frames: vec![ours], rate: Some(100), duration: LONG };
    let flood = Flood::start(attacker.ns(), ETH0, plan)?;
    wire.wait_for_advert("the answer", |_, advert| advert.source == a.ip() && advert.counter == 1001)?;
    let (_, last) = wire.wait_for_adverts(a.ip(), 6)?;
    assert_eq!(last.counter, 1001);
    flood.stop()?;
    assert_eq!(node.changes(), ["INIT -> BACKUP"]);
    Ok(())
}
