//! As many frames as the cable carries, from a third host.

use std::time::Duration;

use anyhow::Result;
use carp_tests::adverts::{self, Election, Signer};
use carp_tests::node::{OTHER, PREFERRED};
use carp_tests::{ETH0, Flood, FloodPlan, Host, LONG, Lab, Node, PASSPHRASE, VHID, VIP, Wire};

use crate::{BEST, assert_unmoved};

/// Three dead times of the backup.
const WHILE: Duration = Duration::from_millis(2800);

#[test]
fn a_flood_of_forged_adverts_costs_no_genuine_one() -> Result<()> {
    flood(|attacker, _, _| Ok(vec![adverts::forge(attacker.ip(), VHID, BEST, 1)]), true)
}

#[test]
fn a_flood_of_forged_bow_outs_costs_no_genuine_advert() -> Result<()> {
    flood(|_, master, _| Ok(vec![adverts::forge(master.ip(), VHID, Election::new(255, 255), 1)]), true)
}

#[test]
fn a_flood_of_forged_adverts_to_each_host_alone_costs_no_genuine_one() -> Result<()> {
    let to = |host: &Host, attacker: &Host| {
        let mut frame = adverts::forge(attacker.ip(), VHID, BEST, 1);
        frame[..6].copy_from_slice(&host.mac().0);
        frame
    };
    flood(move |attacker, a, b| Ok(vec![to(a, attacker), to(b, attacker)]), true)
}

#[test]
fn a_flood_of_garbage_on_protocol_112_costs_no_genuine_advert() -> Result<()> {
    let garbage = |attacker: &Host| {
        let mut frame = adverts::forge(attacker.ip(), VHID, BEST, 1);
        frame[34..].iter_mut().zip(0u8..).for_each(|(byte, number)| *byte = number.wrapping_mul(151));
        frame
    };
    flood(move |attacker, _, _| Ok(vec![garbage(attacker)]), true)
}

#[test]
fn a_flood_of_udp_costs_no_genuine_advert() -> Result<()> {
    let udp = |attacker: &Host| {
        let mut frame = adverts::forge(attacker.ip(), VHID, BEST, 1);
        frame[14 + 9] = 17;
        frame
    };
    flood(move |attacker, _, _| Ok(vec![udp(attacker)]), true)
}

#[test]
fn a_flood_of_a_masters_own_adverts_moves_nothing() -> Result<()> {
    flood(|attacker, master, _| Wire::at(attacker)?.next_advert(master).map(|advert| vec![advert]), false)
}

/// The counters of a carpd rise: a master's captured advert, however often, does not make it live on.
#[test]
fn under_a_flood_of_an_advert_of_a_dead_master_the_backup_takes_over_once_and_in_its_dead_time() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [_master, backup] = Node::start_pair((&a, "--deadratio=1"), (&b, "--advskew=50 --deadratio=2"))?;
    let wire = Wire::at(&attacker)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    let frames = vec![wire.next_advert(&a)?];
    // Longer than the takeover is waited for.
    let flood = Flood::start(attacker.ns(), ETH0, FloodPlan { frames, rate: None, duration: 2 * LONG })?;
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP"]);

    a.kill_host()?;
    let takeover = backup.wait_for("BACKUP -> MASTER")?;
    assert!(takeover.cause.starts_with("no advert for 2."), "{takeover:?}");
    wire.wait_for_adverts(b.ip(), 3)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    flood.stop()?;
    Ok(())
}

/// OpenBSD's counter is constant until it reboots: among copies of its advert, its own cannot be told from them.
#[test]
fn a_master_with_a_constant_counter_lives_under_a_flood_of_its_adverts_from_before_and_after_its_restart() -> Result<()>
{
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let backup = Node::start(&b, OTHER)?;
    let signer = Signer::new(PASSPHRASE, VHID, &[VIP])?;
    let advert = |counter| signer.advert(a.ip(), Election::new(0, 60), counter);
    let interval = Duration::from_millis(234);
    for (counter, replayed) in [(1, None), (2, None), (2, Some(1)), (2, Some(2)), (3, Some(2)), (3, Some(3))] {
        let flood = |frame| {
            let plan = FloodPlan { frames: vec![frame], rate: Some(10_000), duration: LONG };
            Flood::start(attacker.ns(), ETH0, plan)
        };
        let flood = replayed.map(|counter| flood(advert(counter))).transpose()?;
        // Longer than the backup's dead time; by a thread of its own, which paces itself by the clock.
        let plan = FloodPlan { frames: vec![advert(counter)], rate: Some(5), duration: interval * 6 };
        Flood::start(a.ns(), ETH0, plan)?.wait()?;
        flood.map(Flood::stop).transpose()?;
        assert_eq!(backup.changes(), ["INIT -> BACKUP"], "counter {counter} under a flood of {replayed:?}");
    }
    Ok(())
}

/// Floods a pair with `frames` (made from attacker, master and backup) for some dead times.
fn flood(frames: impl FnOnce(&Host, &Host, &Host) -> Result<Vec<Vec<u8>>>, is_counted: bool) -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, attacker] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Node::start_pair((&a, PREFERRED), (&b, OTHER))?;
    let frames = frames(&attacker, &a, &b)?;
    let wire = Wire::at(&attacker)?;
    wire.wait_for_adverts(a.ip(), 1)?;
    let before = (sent_by(&master)?, backup.report()?.count("ipackets"));
    let sent = Flood::start(attacker.ns(), ETH0, FloodPlan { frames, rate: None, duration: WHILE })?.wait()?;
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_unmoved(&master, &backup);
    // A socket's buffer overflows: there some are lost, but never so many that the backup takes over.
    if is_counted && Node::attached()?.contains("XDP") {
        // In this order one may leave between the two.
        let heard = backup.report()?.count("ipackets") - before.1;
        let left = sent_by(&master)? - before.0;
        assert!(heard + 1 >= left && heard >= 8, "of {left} adverts {heard} were heard among {sent} other frames");
    }
    for node in [&master, &backup] {
        let lines = node.lines_with("refused adverts");
        assert!(lines.windows(2).all(|pair| pair[1].at.since(pair[0].at) > Duration::from_millis(900)), "{lines:?}");
    }
    Ok(())
}

/// How many adverts a node has sent, as it says.
fn sent_by(node: &Node<'_>) -> Result<u64> {
    let told = node.report()?.text;
    let sent = told.split_once("adverts sent: ").and_then(|(_, rest)| rest.split(';').next()?.parse().ok());
    Ok(sent.unwrap_or_default())
}
