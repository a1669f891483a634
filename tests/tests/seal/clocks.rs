//! Clocks that are apart, and clocks that are set.

use std::time::Duration;

use anyhow::Result;
use carp_tests::configured::wait_for_change;
use carp_tests::{BootTime, LONG, Lab, Preload, Wire, eventually};

use crate::{BACKUPS, DEAD, ENFORCE, MASTERS, NAME, Server, WINDOW, assert_unmoved};

#[test]
fn at_a_first_contact_with_clocks_apart_a_server_stays_backup_says_so_and_takes_over_when_that_is_over() -> Result<()> {
    for ahead in [41, -3_600] {
        let lab = Lab::new()?;
        let [a, b] = lab.hosts(["a", "b"])?;
        let preload = Preload::new()?;
        preload.set_clock(-ahead)?;
        let master = Server::start(&a, MASTERS, ENFORCE, None)?;
        wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
        let backup = Server::start(&b, BACKUPS, ENFORCE, Some(&preload))?;
        wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
        let begun = BootTime::now();
        let direction = if ahead < 0 { "behind" } else { "ahead" };
        let clock =
            format!("peer clock is {} s {direction}: 10.77.0.1, whose sealed adverts are not believed", ahead.abs());
        let line = backup.agent.wait_for_line(&clock, LONG)?.text;
        assert!(line.contains("; this server stays BACKUP for another "), "{line}");
        assert!(
            line.contains(" s at most, and then takes the VIPs, also beside one that has them: set the clocks"),
            "{line}"
        );
        let is_told =
            |status: &serde_json::Value| status["troubles"][0].as_str().is_some_and(|told| told.starts_with(&clock));
        backup.wait_for_status("the clock is told", is_told)?;
        let apart = &backup.status()?["seal"]["apart"][0];
        let seconds = apart["ahead_seconds"].as_f64().unwrap_or_default();
        assert!((seconds - ahead as f64).abs() < 1.5 && apart["was_believed"] == false, "{apart}");

        wait_for_change(&backup.agent, NAME, "BACKUP -> MASTER")?;
        let took = BootTime::now().since(begun);
        let patience = DEAD + Duration::from_secs(WINDOW);
        assert!(took > patience - Duration::from_secs(1) && took < patience + Duration::from_secs(4), "{took:?}");
        backup.wait_for_status("what that means is told", |status| {
            status["troubles"][0].as_str().is_some_and(|told| told.contains("; both may be MASTER"))
        })?;
        // The clock is put right: the first contact is made, and one of them is master.
        preload.set_clock(0)?;
        wait_for_change(&backup.agent, NAME, "MASTER -> BACKUP")?;
        backup.wait_for_status("nothing is wrong any more", |status| {
            status["troubles"].as_array().is_some_and(Vec::is_empty)
        })?;
        assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    }
    Ok(())
}

#[test]
fn a_clock_that_is_set_on_either_side_makes_nobody_deaf() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let clocks = [Preload::new()?, Preload::new()?];
    let master = Server::start(&a, MASTERS, ENFORCE, Some(&clocks[0]))?;
    wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
    let backup = Server::start(&b, BACKUPS, ENFORCE, Some(&clocks[1]))?;
    wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
    let wire = Wire::at(&bystander)?;
    backup.wait_for_status("the master is heard", |status| status["seal"]["peers"][0]["key"] == 1)?;
    for clock in &clocks {
        for ahead in [3_600, -3_600, 0] {
            clock.set_clock(ahead)?;
            // Longer than a dead time.
            wire.wait_for_adverts(a.ip(), 6)?;
            assert_unmoved(&master, &backup, &format!("{ahead}"));
        }
    }
    assert_eq!((backup.count("stale")?, backup.count("replayed")?), (0, 0));
    Ok(())
}

#[test]
fn after_a_crash_and_after_a_stop_sequences_go_on_whatever_the_clock_was_set_to() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let clock = Preload::new()?;
    let mut master = Server::start(&a, MASTERS, &format!("preempt = true\n{ENFORCE}"), Some(&clock))?;
    wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
    let backup = Server::start(&b, BACKUPS, ENFORCE, None)?;
    wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
    let wire = Wire::at(&bystander)?;
    wire.wait_for_adverts(a.ip(), 2)?;

    clock.set_clock(-60)?;
    master.agent.kill()?;
    master.start_again(Some(&clock))?;
    wire.wait_for_adverts(a.ip(), 6)?;
    if carp_tests::Node::attached()?.contains("XDP") {
        assert_eq!(backup.changes(), ["INIT -> BACKUP"], "{:#?}", master.agent.lines());
    }
    assert_eq!(backup.count("replayed")?, 0);

    // A stop hands over; the host comes back, and is believed at once.
    master.agent.stop_and_wait(LONG)?;
    wait_for_change(&backup.agent, NAME, "BACKUP -> MASTER")?;
    clock.set_clock(-120)?;
    master.start_again(Some(&clock))?;
    // Its own clock is wrong by now: it does not believe the other at its first contact, but the other believes it.
    wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
    eventually("the other yields", LONG, || {
        Ok(backup.changes().last().is_some_and(|change| change == "MASTER -> BACKUP"))
    })?;
    assert_eq!((backup.count("replayed")?, backup.count("stale")?), (0, 0), "{:#?}", backup.agent.lines());
    Ok(())
}

/// It comes up with a wrong clock beside a master that it cannot believe, and so becomes master too. When its clock is put right it
/// hears that there is another one, which does not yield: its own adverts are still of the other time.
#[test]
fn a_preferred_server_that_has_started_with_a_wrong_clock_is_believed_when_that_is_put_right() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let clock = Preload::new()?;
    clock.set_clock(-3_600)?;
    let other = Server::start(&b, BACKUPS, ENFORCE, None)?;
    wait_for_change(&other.agent, NAME, "BACKUP -> MASTER")?;
    let preferred = Server::start(&a, MASTERS, &format!("preempt = true\n{ENFORCE}"), Some(&clock))?;
    wait_for_change(&preferred.agent, NAME, "BACKUP -> MASTER")?;
    other.wait_for_status("the clock of the other is told", |status| {
        status["seal"]["apart"][0]["address"] == "10.77.0.1"
    })?;
    clock.set_clock(0)?;
    wait_for_change(&other.agent, NAME, "MASTER -> BACKUP")?;
    assert_eq!(preferred.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

/// Its sequences are still those of the time at which its clock was wrong, as was that of the one which has heard it since. Who yields
/// to it believes it: nothing may be changed for that one.
#[test]
fn a_master_whose_clock_was_set_since_is_believed_after_a_split_as_before() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let clocks = [Preload::new()?, Preload::new()?];
    clocks.iter().try_for_each(|clock| clock.set_clock(-3_600))?;
    let master = Server::start(&a, MASTERS, ENFORCE, Some(&clocks[0]))?;
    wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
    let backup = Server::start(&b, BACKUPS, ENFORCE, Some(&clocks[1]))?;
    wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
    backup.wait_for_status("the master is heard", |status| status["seal"]["peers"][0]["key"] == 1)?;
    clocks.iter().try_for_each(|clock| clock.set_clock(0))?;
    lab.split(&[&a, &bystander], &[&b])?;
    wait_for_change(&backup.agent, NAME, "BACKUP -> MASTER")?;
    lab.heal()?;
    wait_for_change(&backup.agent, NAME, "MASTER -> BACKUP")?;
    // Longer than the window.
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 12)?;
    assert_eq!(backup.count("stale")?, 0);
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER", "MASTER -> BACKUP"]);
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}

#[test]
fn without_clocks_it_is_enough_that_sequences_rise() -> Result<()> {
    let rising = "freshness = \"rising\"\nseal = \"enforce\"\nseal_keys = [{ id = 1, file = \"key-1\" }]\n";
    let lab = Lab::new()?;
    let [a, b, bystander] = lab.hosts(["a", "b", "bystander"])?;
    let preload = Preload::new()?;
    preload.set_clock(-1_000_000)?;
    let master = Server::start(&a, MASTERS, rising, None)?;
    wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
    let backup = Server::start(&b, BACKUPS, rising, Some(&preload))?;
    wait_for_change(&backup.agent, NAME, "INIT -> BACKUP")?;
    Wire::at(&bystander)?.wait_for_adverts(a.ip(), 10)?;
    assert_unmoved(&master, &backup, "rising");
    assert_eq!(backup.count("stale")?, 0);
    Ok(())
}
