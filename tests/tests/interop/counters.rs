//! ucarp's counters: at random while it hears nobody, and then what it heard last, plus one. carpd takes them all.

use anyhow::Result;
use carp_tests::{LONG, Lab, Node, Ucarp, Wire, eventually, is_missing};

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
