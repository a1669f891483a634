//! Without a seal: what peers may say, and own adverts that somebody has changed.

use std::time::Duration;

use anyhow::Result;
use carp_tests::attacks::{Attacker, Edit};
use carp_tests::configured::wait_for_change;
use carp_tests::{LONG, Lab, Wire};

use crate::{BACKUPS, MASTERS, NAME, Server, assert_unmoved};

const WHILE: Duration = Duration::from_millis(1_500);
/// Both servers, each with what it is set to.
const POLICY: &str = "peer_policy = [\
    { source = \"10.77.0.1\", advbase = 0, advskew = 60, demote = 0, bow_out = false }, \
    { source = \"10.77.0.2\", advbase = 0, advskew = 80, demote = 0, bow_out = false }]\n";

#[test]
fn with_a_policy_no_edit_of_a_live_masters_adverts_moves_anybody() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [master, backup] = Server::pair([&a, &b], POLICY)?;
    let attacker = Attacker::on(&other)?;
    let wire = Wire::at(&other)?;
    wire.wait_for_adverts(a.ip(), 2)?;
    for edit in Edit::ALL {
        attacker.edit(edit, &a, WHILE)?;
        wire.wait_for_adverts(a.ip(), 2)?;
        assert_unmoved(&master, &backup, edit.name());
    }
    for (server, reason) in [(&backup, "policy"), (&backup, "badaddrs"), (&master, "tampered"), (&master, "badaddrs")] {
        assert!(server.count(reason)? > 0, "{reason}: {}", server.status()?);
    }
    let line =
        backup.agent.wait_for_line("policy (no peer says this, see `peer_policy`: misconfigured, or", LONG)?.text;
    assert!(line.contains("last from 10.77.0.1 ("), "{line}");
    Ok(())
}

#[test]
fn a_peer_whose_bow_out_is_allowed_hands_over_and_one_that_is_not_named_is_not_heard() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, c] = lab.hosts(["a", "b", "c"])?;
    let [mut master, backup] = Server::pair([&a, &b], &POLICY.replace("false", "true"))?;
    master.agent.stop_and_wait(LONG)?;
    wait_for_change(&backup.agent, NAME, "BACKUP -> MASTER")?;
    let line = backup.agent.wait_for_line("BACKUP -> MASTER", LONG)?.text;
    assert!(line.ends_with("10.77.0.1 leaves"), "{line}");
    let stranger = Server::start(&c, 10, "preempt = true\n", None)?;
    wait_for_change(&stranger.agent, NAME, "BACKUP -> MASTER")?;
    Wire::at(&c)?.wait_for_adverts(b.ip(), 4)?;
    assert_eq!(backup.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    assert!(backup.count("badaddrs")? > 0);
    Ok(())
}

#[test]
fn a_peer_whose_adverts_no_policy_allows_is_told_as_a_trouble() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = lab.hosts(["a", "b"])?;
    let master = Server::start(&a, MASTERS, POLICY, None)?;
    wait_for_change(&master.agent, NAME, "BACKUP -> MASTER")?;
    let deaf = Server::start(&b, BACKUPS, &POLICY.replace("advskew = 60", "advskew = 61"), None)?;
    wait_for_change(&deaf.agent, NAME, "BACKUP -> MASTER")?;
    deaf.wait_for_status("why both are master", |status| {
        let told = status["troubles"][0].as_str().unwrap_or_default();
        told.starts_with("deaf: for ")
            && told.contains(
                " s all adverts that came in said what no peer says by `peer_policy`, the last from 10.77.0.1 (",
            )
    })
}

#[test]
fn an_own_advert_that_comes_back_changed_is_an_alarm_whoever_seems_to_have_sent_it() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b, other] = lab.hosts(["a", "b", "attacker"])?;
    let [master, _backup] = Server::pair([&a, &b], "")?;
    let attacker = Attacker::on(&other)?;
    Wire::at(&other)?.wait_for_adverts(a.ip(), 2)?;
    for edit in [Edit::Preferred, Edit::PreferredElsewhere] {
        let before = master.count("tampered")?;
        attacker.edit(edit, &a, WHILE)?;
        assert!(master.count("tampered")? > before, "{}", edit.name());
    }
    master.agent.wait_for_line("tampered (somebody has changed one of our own adverts), last from 10.77.0.", LONG)?;
    assert_eq!(master.changes(), ["INIT -> BACKUP", "BACKUP -> MASTER"]);
    Ok(())
}
