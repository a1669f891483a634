//! What an attacker who hears everything can do without the key: nothing that moves anybody.

use std::time::Duration;

use anyhow::Result;
use carp_tests::attacks::{Attacker, Edit};
use carp_tests::configured::wait_for_change;
use carp_tests::{BootTime, ETH0, Flood, FloodPlan, LONG, Lab, Node, Wire, eventually, send_frame};

use crate::{DEAD, ENFORCE, NAME, Server, WINDOW, assert_unmoved};

/// How long an attack lasts.
const WHILE: Duration = Duration::from_millis(1_500);

/// What the two servers count of it; none where they leave it alone.
const fn counted(edit: Edit) -> Option<&'static str> {
    match edit {
        Edit::Copy => Some("replayed"),
        Edit::Reflection => Some("echo"),
        // The sequence is looked at first: that of the genuine one is good once.
        Edit::Preferred | Edit::Slow | Edit::Demoted | Edit::BowOut => Some("replayed"),
        Edit::PreferredElsewhere => Some("badseal"),
        // Not sealed, and longer than an advert: it may be VRRP.
        Edit::OtherVhid | Edit::Truncated | Edit::Extended => Some("other"),
        Edit::Stripped => Some("unsealed"),
    }
}

#[test]
fn no_edit_of_a_live_masters_adverts_moves_anybody() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Server::pair([&a, &b], ENFORCE)?;
    let attacker = Attacker::on(&other)?;
    let wire = Wire::at(&other)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    for edit in Edit::ALL {
        let who = if edit == Edit::Reflection { &master } else { &backup };
        let before = counted(edit).map(|reason| who.count(reason)).transpose()?;
        attacker.edit(edit, &a, WHILE)?;
        wire.wait_for_adverts(a.ip(), 2)?;
        assert_unmoved(&master, &backup, edit.name());
        // What is for no virtual host, is counted elsewhere.
        if let (Some(reason), Some(before)) = (counted(edit).filter(|_| edit != Edit::OtherVhid), before) {
            assert!(who.count(reason)? > before, "{}: {reason}: {}", edit.name(), who.status()?);
        }
    }
    Ok(())
}

#[test]
fn replayed_after_the_masters_death_it_delays_nothing() -> Result<()> {
    for all in [false, true] {
        let lab = Lab::new()?;
        let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
        let [_master, backup] = Server::pair([&a, &b], ENFORCE)?;
        let attacker = Attacker::on(&other)?;
        Wire::at(&other)?.wait_for_adverts(a.ip(), 12)?;
        let recorded = attacker.adverts_of(&a);
        a.kill_host()?;
        let last = attacker.adverts_of(&a).last().expect("there were some").at;
        if all {
            attacker.replay(&recorded, || Ok(backup.is_master()))?;
        } else {
            attacker.repeat(&recorded, 2 * DEAD)?;
        }
        wait_for_change(&backup.agent, NAME, "BACKUP -> MASTER")?;
        let line = backup.agent.wait_for_line("BACKUP -> MASTER", LONG)?;
        let delay = line.at.since(last);
        assert!(delay < DEAD + Duration::from_millis(900), "{delay:?}");
        assert!(backup.count("replayed")? > 0);
    }
    Ok(())
}

#[test]
fn replayed_to_a_server_that_has_just_started_it_delays_a_takeover_by_the_window_at_most() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [_master, mut backup] = Server::pair([&a, &b], ENFORCE)?;
    let attacker = Attacker::on(&other)?;
    Wire::at(&other)?.wait_for_adverts(a.ip(), 60)?;
    let recorded = attacker.adverts_of(&a);
    // It forgets what it has heard.
    backup.agent.stop_and_wait(LONG)?;
    a.kill_host()?;
    eventually("what was recorded is old", LONG, || {
        Ok(BootTime::now().since(recorded[recorded.len() - 1].at) > Duration::from_secs(WINDOW))
    })?;
    backup.start_again(None)?;
    wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
    let begun = BootTime::now();
    attacker.replay(&recorded, || Ok(backup.is_master()))?;
    let line = backup.agent.wait_for_line("BACKUP -> MASTER", LONG)?;
    let took = line.at.since(begun);
    assert!(took < DEAD + Duration::from_secs(WINDOW + 2), "{took:?}");
    assert!(backup.count("stale")? > 0);
    Ok(())
}

/// What was heard outlives the agent, where the kernel's half does.
#[test]
fn replayed_to_a_server_whose_agent_was_killed_it_delays_nothing() -> Result<()> {
    if !Node::attached()?.contains("XDP") {
        return Ok(());
    }
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [_master, mut backup] = Server::pair([&a, &b], ENFORCE)?;
    let attacker = Attacker::on(&other)?;
    Wire::at(&other)?.wait_for_adverts(a.ip(), 8)?;
    backup.agent.kill()?;
    a.kill_host()?;
    let recorded = attacker.adverts_of(&a);
    backup.start_again(None)?;
    wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
    let begun = BootTime::now();
    // Younger than the window, most of them.
    attacker.replay(&recorded[recorded.len() - 6..], || Ok(backup.is_master()))?;
    let took = backup.agent.wait_for_line("BACKUP -> MASTER", LONG)?.at.since(begun);
    assert!(took < DEAD + Duration::from_millis(900), "{took:?}");
    assert!(backup.count("replayed")? > 0 && backup.count("ipackets")? <= recorded.len() as u64);
    Ok(())
}

#[test]
fn replayed_after_a_change_of_the_key_it_is_of_an_unknown_one() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Server::pair([&a, &b], ENFORCE)?;
    let attacker = Attacker::on(&other)?;
    Wire::at(&other)?.wait_for_adverts(a.ip(), 4)?;
    let recorded = attacker.adverts_of(&a);
    let keys = |ids: &[u8], with: u8| {
        let keys: Vec<_> = ids.iter().map(|id| format!("{{ id = {id}, file = \"key-{id}\" }}")).collect();
        format!("seal = \"enforce\"\nseal_keys = [{}]\nseal_with = {with}\n", keys.join(", "))
    };
    for (ids, with) in [(&[1, 2][..], 1), (&[1, 2], 2), (&[2], 2)] {
        [&master, &backup].into_iter().try_for_each(|server| server.reload(&keys(ids, with)))?;
        attacker.repeat(&recorded, Duration::from_millis(600))?;
        assert_unmoved(&master, &backup, &format!("{ids:?}"));
    }
    assert!(backup.count("replayed")? > 0 && backup.count("unknownkey")? > 0, "{}", backup.status()?);
    Ok(())
}

/// While settings change, the kernel is told of the virtual host anew: at no moment its own adverts are another's.
#[test]
fn a_flood_of_a_masters_own_adverts_moves_nothing_while_it_reloads() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Server::pair([&a, &b], ENFORCE)?;
    let wire = Wire::at(&other)?;
    let mut sent = 0;
    for round in 0..12 {
        let mut frame = wire.next_advert(&a)?;
        frame[..6].copy_from_slice(&a.mac().0);
        let plan = FloodPlan { frames: vec![frame], rate: None, duration: Duration::from_millis(400) };
        let flood = Flood::start(other.ns(), ETH0, plan)?;
        master.reload(&format!("min_ttl = {}\n{ENFORCE}", 255 - round % 2))?;
        sent += flood.wait()?;
    }
    let heard = master.count("echo")? + master.count("flood")?;
    assert!(heard > sent / 10, "{heard} of {sent} have arrived");
    wire.wait_for_adverts(a.ip(), 2)?;
    assert_unmoved(&master, &backup, "a flood while it reloads");
    Ok(())
}

#[test]
fn on_another_interface_of_the_same_server_it_says_nothing_of_the_group_there() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Server::pair([&a, &b], ENFORCE)?;
    // The backup has the same vhid and the same keys on another wire, which the attacker is on, too; other addresses.
    b.ns().ip("link add eth9 type veth peer name peer9")?;
    for link in ["eth9", "peer9"] {
        b.ns().ip(&format!("link set {link} up"))?;
    }
    b.ns().ip("addr add 10.99.0.2/24 dev eth9")?;
    let elsewhere = format!(
        "advskew = 80\n{ENFORCE}[[virtual_host]]\ninterface = \"eth9\"\nvhid = 1\naddresses = [\"10.99.0.100\"]\nadvskew = 80\n{ENFORCE}"
    );
    backup.reload(elsewhere.trim_start_matches("advskew = 80\n"))?;
    wait_for_change(&backup.agent, "eth9 vhid 1", "BACKUP -> MASTER")?;
    let attacker = Attacker::on(&other)?;
    Wire::at(&other)?.wait_for_adverts(a.ip(), 4)?;
    for frame in attacker.adverts_of(&a) {
        send_frame(b.ns(), "peer9", &frame.bytes)?;
    }
    Wire::at(&other)?.wait_for_adverts(a.ip(), 4)?;
    assert_eq!(carp_tests::configured::changes(&backup.agent, "eth9 vhid 1"), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert_unmoved(&master, &backup, "another interface");
    let status: serde_json::Value =
        serde_json::from_slice(&carp_tests::configured::carpctl(&backup.folder, &["status", "--json"])?.stdout)?;
    assert!(status["virtual_hosts"][1]["received"]["badauth"].as_u64() > Some(0), "{status:#}");
    Ok(())
}
