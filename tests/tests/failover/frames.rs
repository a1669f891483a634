//! Frames that must move nothing: reflected, repeated, forged, or from a master that is worse.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use carp_tests::adverts::{self, Election, Signer};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, Flood, FloodPlan, LONG, Lab, Node, PASSPHRASE, VHID, VIP, Wire, eventually, send_frame};

/// Better than any agent here.
const BEST: Election = Election { advbase: 0, advskew: 1, demote: 0 };
/// Worse than any agent here.
const WORST: Election = Election { advbase: 2, advskew: 200, demote: 0 };

const UNMOVED_MASTER: [&str; 2] = ["INIT -> BACKUP", "BACKUP -> MASTER"];

#[test]
fn an_own_advert_that_a_switch_reflects_moves_nothing_and_is_counted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, bystander] = lab.hosts(["a", "bystander"])?;
    // From another host, one with these fields would be yielded to.
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&bystander)?;
    for _ in 0..3 {
        send_frame(lab.switch(), &a.port(), &wire.next_advert(&a)?)?;
    }
    eventually("three echoes are counted", LONG, || Ok(node.report()?.count("echo") == 3))?;
    wire.wait_for_adverts(a.ip(), 2)?;
    let told = node.report()?;
    assert_eq!((told.count("echo"), told.count("ipackets")), (3, 0), "{}", told.text);
    assert_eq!(node.changes(), UNMOVED_MASTER);
    Ok(())
}

#[test]
fn a_peers_advert_that_has_adopted_our_counter_is_no_echo_and_one_of_ours_from_another_address_is_tampered_with()
-> Result<()> {
    let lab = Lab::new()?;
    let [a, peer] = lab.hosts(["a", "peer"])?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&peer)?;
    let (_, own) = wire.wait_for_adverts(a.ip(), 1)?;
    send_frame(peer.ns(), ETH0, &signer()?.advert(peer.ip(), BEST, own.counter))?;
    eventually("it is counted", LONG, || Ok(node.report()?.count("tampered") == 1))?;
    assert_eq!(node.changes(), UNMOVED_MASTER);
    // ucarp and the BSDs adopt what they hear, and add one.
    send_frame(peer.ns(), ETH0, &signer()?.advert(peer.ip(), BEST, own.counter + 1))?;
    let yields = node.wait_for("MASTER -> BACKUP")?;
    assert!(yields.cause.starts_with("10.77.0.2 ("), "{yields:?}");
    let told = node.report()?;
    assert_eq!((told.count("echo"), told.count("ipackets")), (0, 1), "{}", told.text);
    Ok(())
}

#[test]
fn an_advert_of_another_virtual_host_moves_nothing_and_is_told_in_the_report() -> Result<()> {
    let lab = Lab::new()?;
    let [a, peer] = lab.hosts(["a", "peer"])?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let stranger = Signer::new(PASSPHRASE, VHID + 1, &[VIP])?;
    send_frame(peer.ns(), ETH0, &stranger.advert(peer.ip(), BEST, 1))?;
    eventually("it is counted", LONG, || Ok(node.report()?.count("other") == 1))?;
    assert_eq!(node.report()?.count("ipackets"), 0);
    assert_eq!(node.changes(), UNMOVED_MASTER);
    Ok(())
}

#[test]
fn a_master_that_hears_a_worse_one_announces_again_once_an_interval() -> Result<()> {
    let lab = Lab::new()?;
    let [a, peer] = lab.hosts(["a", "peer"])?;
    let wire = Wire::at(&peer)?;
    let node = Node::start(&a, "--advbase=1 --deadratio=1")?;
    node.wait_for("BACKUP -> MASTER")?;
    // The second one of becoming master.
    let started = node.transitions()[0].at;
    for _ in 0..2 {
        wire.wait_for_announcement(&a, VIP, started)?;
    }

    let signer = signer()?;
    let frames = (1..=3000).map(|counter| signer.advert(peer.ip(), WORST, counter)).collect();
    let flood = FloodPlan { frames, rate: Some(1000), duration: Duration::from_millis(2500) };
    let sent = Flood::start(peer.ns(), ETH0, flood)?.wait()?;
    wire.wait_for_adverts(a.ip(), 3)?;
    let again = wire.announcements_of(&a, VIP)[2..].to_vec();
    // At once, after one and two seconds, and once more when the worse one has fallen silent.
    assert_eq!(again.len(), 4, "{again:?}");
    assert!(again.windows(2).all(|pair| pair[1].since(pair[0]) > Duration::from_millis(900)), "{again:?}");
    let told = node.report()?;
    assert!(told.count("ipackets") > sent / 2 && told.count("repeat") == 0, "{sent} sent; {}", told.text);
    assert_eq!(node.changes(), UNMOVED_MASTER);
    Ok(())
}

#[test]
fn a_flood_of_forged_adverts_moves_nobody_and_is_told_at_most_once_a_second() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Node::start_pair((&a, &format!("{PREFERRED} --debug")), (&b, &format!("{OTHER} --debug")))?;
    let wire = Wire::at(&attacker)?;
    let valid = wire.next_advert(&a)?;

    let bow_out = Election::new(255, 255);
    let stranger = Signer::new("another", VHID, &[VIP])?;
    let frames = vec![
        adverts::forge(b.ip(), VHID, BEST, 1),
        adverts::forge(a.ip(), VHID, bow_out, 2),
        stranger.advert(b.ip(), BEST, 3),
        adverts::with_ttl(&adverts::rewrite(&valid, bow_out)?, 254)?,
    ];
    let plan = FloodPlan { frames, rate: Some(10_000), duration: Duration::from_secs(2) };
    let flood = Flood::start(attacker.ns(), ETH0, plan)?;
    let sent = flood.wait()?;
    assert!(sent > 5000, "{sent}");
    wire.wait_for_adverts(a.ip(), 5)?;

    for (node, unmoved) in [(&master, &UNMOVED_MASTER[..]), (&backup, &UNMOVED_MASTER[..1])] {
        let told = node.report()?;
        assert!(told.count("badauth") > sent / 2 && told.count("badttl") > sent / 8, "{sent} sent; {}", told.text);
        assert!(told.count("badauth") + told.count("badttl") <= sent, "{sent} sent; {}", told.text);
        let lines = node.lines_with("refused adverts");
        assert!(!lines.is_empty());
        assert!(lines.windows(2).all(|pair| pair[1].at.since(pair[0].at) > Duration::from_millis(900)), "{lines:?}");
        assert_eq!(node.changes(), unmoved);
    }
    Ok(())
}

#[test]
fn exact_repeats_of_an_advert_wake_nobody_and_move_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let wire = Wire::at(&attacker)?;
    let valid = wire.next_advert(&a)?;
    let slept = times_slept(&backup)?;
    let plan = FloodPlan { frames: vec![valid], rate: Some(1000), duration: Duration::from_secs(1) };
    let sent = Flood::start(attacker.ns(), ETH0, plan)?.wait()?;
    let slept = times_slept(&backup)? - slept;
    wire.wait_for_adverts(a.ip(), 2)?;

    let told = backup.report()?;
    assert!(told.count("repeat") > sent / 2 && told.count("ringfull") == 0, "{sent} sent; {}", told.text);
    if Node::attached()?.contains("XDP") {
        assert!(slept < sent / 4, "{sent} repeats woke it {slept} times");
    }
    assert_eq!(backup.changes(), UNMOVED_MASTER[..1]);
    // To the master they are echoes.
    let told = master.report()?;
    assert!(told.count("echo") > sent / 2 && told.count("ipackets") == 0, "{sent} sent; {}", told.text);
    assert_eq!(master.changes(), UNMOVED_MASTER);
    Ok(())
}

#[test]
fn an_own_advert_from_long_ago_moves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let [a, attacker] = lab.hosts(["a", "attacker"])?;
    let node = Node::start(&a, PREFERRED)?;
    node.wait_for("BACKUP -> MASTER")?;
    let wire = Wire::at(&attacker)?;
    let own = wire.next_advert(&a)?;
    wire.wait_for_adverts(a.ip(), 12)?;
    send_frame(attacker.ns(), ETH0, &own)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(node.changes(), UNMOVED_MASTER);
    Ok(())
}

fn signer() -> Result<Signer> {
    Signer::new(PASSPHRASE, VHID, &[VIP])
}

/// How often a process has gone to sleep, and so been woken again.
fn times_slept(node: &Node<'_>) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent().pid()))?;
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(count.context("no count")?.trim().parse()?)
}
