//! Hosts that are as good as each other, as in tutorials: both at skew 0.

use std::thread;

use anyhow::{Context, Result};
use carp_tests::{BootTime, Host, LONG, Lab, Node, VIP, Wire, eventually, send_frame};

/// In a row without one of the other host: then the election is over.
const SETTLED: usize = 4;

#[test]
fn equal_hosts_that_start_together_agree_on_one_master() -> Result<()> {
    // Four labs at once: nearly all of the time is spent in waiting.
    let pairs = ["", "", "--advbase=0 --advskew=50", "--advbase=0 --advskew=50"];
    thread::scope(|scope| {
        let elections = pairs.map(|options| scope.spawn(move || start_together(options)));
        elections.into_iter().try_for_each(|election| election.join().expect("its panic has been told"))
    })
}

fn start_together(options: &str) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    let nodes = [Node::spawn(&a, options)?, Node::spawn(&b, options)?];
    for node in &nodes {
        node.wait_until_ready()?;
    }
    agree(&nodes, &wire)
}

#[test]
fn equal_masters_whose_adverts_cross_both_yield_and_one_of_them_takes_over() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, near_a, near_b] = lab.hosts(["a", "b", "near-a", "near-b"])?;
    let wires = [Wire::at(&near_a)?, Wire::at(&near_b)?];
    let options = "--advbase=0 --advskew=50";
    let nodes = Node::start_pair((&a, options), (&b, options))?;
    lab.split(&[&a, &near_a], &[&b, &near_b])?;
    nodes[1].wait_for("BACKUP -> MASTER")?;
    cross(&lab, &nodes, &wires)?;
    let healed = BootTime::now();
    lab.heal()?;
    agree(&nodes, &wires[0])?;
    let since = nodes.iter().flat_map(Node::transitions).filter(|transition| transition.at >= healed);
    let changes: Vec<_> = since.map(|transition| transition.change).collect();
    assert_eq!(changes, ["BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn equal_hosts_that_yield_to_each_other_wait_for_different_times() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, near_a, near_b] = lab.hosts(["a", "b", "near-a", "near-b"])?;
    let wires = [Wire::at(&near_a)?, Wire::at(&near_b)?];
    let options = "--advbase=1 --deadratio=1";
    lab.split(&[&a, &near_a], &[&b, &near_b])?;
    let nodes = [Node::start(&a, options)?, Node::start(&b, options)?];
    for node in &nodes {
        node.wait_for("BACKUP -> MASTER")?;
    }
    cross(&lab, &nodes, &wires)?;
    // The split goes on, so both will be master again: after a second and up to a quarter.
    let [one, other] = nodes.each_ref().map(|node| {
        let cause = node.wait_for("BACKUP -> MASTER")?.cause;
        let seconds = cause.strip_prefix("no advert for ").and_then(|rest| rest.strip_suffix(" s"));
        anyhow::Ok(seconds.with_context(|| cause.clone())?.parse::<f64>()?)
    });
    let (one, other) = (one?, other?);
    assert!(one >= 1.0 && other >= 1.0 && (one - other).abs() > 0.02, "{one} s and {other} s");
    Ok(())
}

/// During a split: brings each of two masters the next advert of the other, as if they crossed on the wire.
/// Both yield.
fn cross(lab: &Lab, nodes: &[Node<'_>; 2], wires: &[Wire; 2]) -> Result<()> {
    let hosts = nodes.each_ref().map(|node| node.host());
    let [of_a, of_b] = [wires[0].next_advert(hosts[0])?, wires[1].next_advert(hosts[1])?];
    send_frame(lab.switch(), &hosts[0].port(), &of_b)?;
    send_frame(lab.switch(), &hosts[1].port(), &of_a)?;
    for node in nodes {
        let yields = node.wait_for("MASTER -> BACKUP")?;
        assert!(yields.cause.ends_with("is as good and was heard first"), "{yields:?}");
    }
    Ok(())
}

#[test]
fn of_two_equal_masters_that_meet_exactly_one_yields() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let wire = Wire::at(&bystander)?;
    // Dead times are no multiple of the interval, so the adverts of the two do not coincide.
    let options = "--advbase=1 --advskew=100 --deadratio=2";
    let nodes = Node::start_pair((&a, options), (&b, options))?;
    lab.split(&[&a], &[&b, &bystander])?;
    nodes[1].wait_for("BACKUP -> MASTER")?;
    let healed = BootTime::now();
    lab.heal()?;
    agree(&nodes, &wire)?;
    let yields: Vec<_> =
        nodes.iter().flat_map(Node::transitions).filter(|transition| transition.at >= healed).collect();
    let [only] = &yields[..] else { panic!("not one transition: {yields:?}") };
    // Nobody told the winner that there was another one; it announces all the same.
    let winner = nodes.iter().find(|node| is_master(node)).context("no master")?;
    wire.wait_for_announcement(winner.host(), VIP, healed)?;
    assert_eq!(only.change, "MASTER -> BACKUP");
    assert!(only.cause.ends_with("is as good and was heard first"), "{only:?}");
    Ok(())
}

/// Waits until one of them advertises alone, and asserts that it is master, that it alone has the address,
/// and that it stays so.
fn agree(nodes: &[Node<'_>; 2], wire: &Wire) -> Result<()> {
    let now = BootTime::now();
    let (mut speaker, mut row) = (None, 0);
    let settled = wire.wait_for_advert("one host alone", |at, advert| {
        if at >= now {
            row = if speaker == Some(advert.source) { row + 1 } else { 1 };
            speaker = Some(advert.source);
        }
        row == SETTLED
    })?;
    let [winner, loser] = if settled.1.source == nodes[0].host().ip() { [0, 1] } else { [1, 0] }.map(|at| &nodes[at]);
    assert!(is_master(winner) && !is_master(loser), "{:?}\n{:?}", winner.transitions(), loser.transitions());
    eventually("the loser has no address", LONG, || has_vip(loser.host()).map(|has| !has))?;
    eventually("the winner has the address", LONG, || has_vip(winner.host()))?;

    let changes = nodes.each_ref().map(Node::changes);
    wire.wait_for_adverts(winner.host().ip(), SETTLED)?;
    assert_eq!(nodes.each_ref().map(Node::changes), changes, "it goes on");
    Ok(())
}

fn has_vip(host: &Host) -> Result<bool> {
    host.has_address(VIP)
}

fn is_master(node: &Node<'_>) -> bool {
    node.changes().last().is_some_and(|change| change.ends_with("-> MASTER"))
}
